"""Which model a gateway and a replica mean: only the same one may go on with each other's tokens."""

from __future__ import annotations

import hashlib

from qwire.engine.errors import EngineUnavailable
from qwire.models.checkpoint import Checkpoint
from qwire.serve.config import ModelSettings

_DIGITS = 16


class ModelReplaced(EngineUnavailable):
    """The replicas run another version of the model than the gateway: another gateway, or this one later, may answer.

    What was generated so far cannot go on here: its text would be of two models.
    """


def model_version(model: ModelSettings, checkpoint: Checkpoint) -> str:
    """Return what distinguishes two versions of a model: its files, and how its weights are held.

    Gateways and replicas work it out alike, each from its own configuration and files. Limits such as `max_running`
    are no part of it: they can change while streams go on.
    """
    engine = model.engine
    parts = (
        checkpoint.weights_sha256,
        checkpoint.tokenizer_sha256,
        engine.quantization,
        str(engine.double_quantization),
        engine.compute_dtype,
    )
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:_DIGITS]
