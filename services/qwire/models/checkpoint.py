"""A model that is on disk, verified, and ready to load."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from qwire.models.progress import PhaseTiming


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A folder whose files were verified, and the facts that identify it.

    Attributes:
        folder: Holds `config.json`, `*.safetensors` and `tokenizer.json`, and mostly `generation_config.json`,
            `tokenizer_config.json` and `chat_template.jinja`.
        model_id: Catalogue id, hub name, or the name of a local folder.
        revision: The publisher's commit; for a local folder the first 12 digits of `weights_sha256`.
        source_format: Quantization of the published file that the weights come from, such as `Q4_K_M`; empty = none.
        weights_sha256: Digest over the names and digests of all weight files.
        tokenizer_sha256: Digest of `tokenizer.json`.
        timings: What the preparation took, phase by phase; not part of what makes two checkpoints equal.
    """

    folder: Path
    model_id: str
    revision: str
    source_format: str
    weights_sha256: str
    tokenizer_sha256: str
    timings: tuple[PhaseTiming, ...] = field(default=(), compare=False)
