"""Refuses a quantization that is known to make another model of the weights."""

from __future__ import annotations

from qwire.engine.config import EngineConfig
from qwire.models.quality import GATE_KL, find
from qwire.telemetry.logging import get_logger

log = get_logger(__name__)


def check_quality(weights_sha256: str, quantization: str, config: EngineConfig) -> None:
    """Look up what a quantization of these weights was measured to cost; what was not measured is allowed and logged.

    Args:
        weights_sha256: `Checkpoint.weights_sha256`.
        quantization: What the weights are going to be held in.
        config: How the engine runs.

    Raises:
        ValueError: It fails the gate, and the operator does not insist.
    """
    if (text := refusal(weights_sha256, quantization, config)) is not None:
        raise ValueError(text)
    measured = find(weights_sha256, quantization, double_quantization=config.double_quantization)
    if measured is None:
        log.warning("quantization_not_measured", quantization=quantization, advice="make eval measures what it costs")
    elif not measured.passes:
        log.warning("quantization_failed_quality", quantization=quantization, kl=measured.kl, gate=GATE_KL)


def refusal(weights_sha256: str, quantization: str, config: EngineConfig) -> str | None:
    """Return why weights are not served in a quantization; None = they are. See `check_quality`."""
    measured = find(weights_sha256, quantization, double_quantization=config.double_quantization)
    if measured is None or measured.passes or config.allow_failed_quality:
        return None
    return (
        f"quantization {quantization} fails the quality gate on these weights: its KL divergence from float32 is "
        f"{measured.kl:.5f} nats a token, the gate is {GATE_KL}; take another one, or set allow_failed_quality to true "
        f"to serve it all the same"
    )
