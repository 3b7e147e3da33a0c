"""What quantizations were measured to cost in quality: the record that is shipped, and the gate that it is held to.

`make eval` measures on a machine's weights and adds to the record, `quality.json` beside this file.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

GATE_KL = 0.005
"""A quantization that costs more than this is another model; nats a token."""
RECORD = Path(__file__).with_name("quality.json")

_NESTED = ("nf4", "fp4")


@dataclass(frozen=True, slots=True, order=True)
class Measurement:
    """One quantization of one model's weights, against float32.

    Attributes:
        model: Catalogue id or hub name of the model.
        weights_sha256: `Checkpoint.weights_sha256` of what was measured.
        quantization: `q8`, `int8`, `nf4` or `fp4`.
        double_quantization: Whether scales were quantized as well; False where a quantization has no such choice.
        device: `cpu` or `cuda`.
        positions: Tokens of text that were compared.
        kl: Mean Kullback-Leibler divergence of the next token's distribution from float32's, nats a token.
    """

    model: str
    weights_sha256: str
    quantization: str
    double_quantization: bool
    device: str
    positions: int
    kl: float

    @property
    def passes(self) -> bool:
        """Whether it stays within the gate; what was not a number does not."""
        return self.kl <= GATE_KL


@cache
def measurements() -> tuple[Measurement, ...]:
    """Return the shipped record."""
    return _read(RECORD)


def find(weights_sha256: str, quantization: str, *, double_quantization: bool) -> Measurement | None:
    """Return the worst measurement of a quantization of these weights on any device; None = not measured.

    Args:
        weights_sha256: `Checkpoint.weights_sha256`.
        quantization: `q8`, `int8`, `nf4` or `fp4`.
        double_quantization: As it is configured; no matter where a quantization has no such choice.
    """
    key = (weights_sha256, quantization, nested(quantization, double_quantization=double_quantization))
    found = [one for one in measurements() if (one.weights_sha256, one.quantization, one.double_quantization) == key]
    return max(found, key=lambda one: one.kl, default=None)


def failed_quantizations() -> frozenset[str]:
    """Return the quantizations that failed the gate on some weights."""
    return frozenset(one.quantization for one in measurements() if not one.passes)


def nested(quantization: str, *, double_quantization: bool) -> bool:
    """Say whether scales are quantized as well."""
    return double_quantization and quantization in _NESTED


def record(found: Iterable[Measurement], path: Path = RECORD) -> None:
    """Add measurements to a record, in place of earlier ones of the same weights, quantization and device."""
    kept = {_key(one): one for one in (*_read(path), *found)}
    content = {"written_by": "make eval", "measurements": [asdict(one) for one in sorted(kept.values())]}
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _read(path: Path) -> tuple[Measurement, ...]:
    if not path.exists():
        return ()
    return tuple(Measurement(**one) for one in json.loads(path.read_text(encoding="utf-8"))["measurements"])


def _key(one: Measurement) -> tuple[str, str, bool, str]:
    return one.weights_sha256, one.quantization, one.double_quantization, one.device
