"""What an engine does with a quantization that was measured to fail, or not measured at all."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from qwire.engine.config import EngineConfig
from qwire.engine.local import LocalEngine
from qwire.models import quality
from qwire.models.checkpoint import Checkpoint
from qwire.models.quality import Measurement

pytestmark = pytest.mark.model

StartEngine = Callable[..., Awaitable[LocalEngine]]
Measured = Callable[..., None]


@pytest.fixture
def kernels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where kernels are compiled, once for all tests."""
    return tmp_path_factory.getbasetemp() / "q8-kernels"


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> Measured:
    """Record a measurement of the tiny models' weights."""

    def measure(quantization: str, kl: float, *, double_quantization: bool = False) -> None:
        one = Measurement("tiny", "w" * 64, quantization, double_quantization, "cpu", 2048, kl)
        monkeypatch.setattr(quality, "measurements", lambda: (one,))

    return measure


@pytest.mark.parametrize(("quantization", "double"), [("q8", False), ("int8", False), ("nf4", True), ("fp4", True)])
async def test_a_failed_quantization_is_refused_unless_the_operator_insists(
    tiny_qwen2: Path,
    start_engine: StartEngine,
    measured: Measured,
    kernels: Path,
    *,
    caplog: pytest.LogCaptureFixture,
    quantization: str,
    double: bool,
) -> None:
    measured(quantization, 0.0644, double_quantization=double)
    options = {"quantization": quantization, "kernel_dir": kernels}
    with pytest.raises(ValueError, match=r"0\.06440 nats.* gate is 0\.005.* allow_failed_quality"):
        await start_engine(tiny_qwen2, **options)
    engine = await start_engine(tiny_qwen2, allow_failed_quality=True, **options)
    assert (await engine.card()).quantization.method == quantization
    assert "quantization_failed_quality" in caplog.text


async def test_the_default_is_held_to_the_gate_as_well(
    tiny_qwen2: Path, start_engine: StartEngine, measured: Measured, kernels: Path
) -> None:
    measured("q8", 0.01)
    with pytest.raises(ValueError, match="quantization q8 fails the quality gate"):
        await start_engine(tiny_qwen2, quantization="auto", kernel_dir=kernels)


async def test_what_was_measured_otherwise_says_nothing(
    tiny_qwen2: Path, start_engine: StartEngine, measured: Measured, caplog: pytest.LogCaptureFixture
) -> None:
    measured("nf4", 0.0644, double_quantization=True)
    await start_engine(tiny_qwen2, quantization="nf4", double_quantization=False)
    assert "quantization_not_measured" in caplog.text


async def test_a_quantization_that_passes_is_served_without_a_word(
    tiny_qwen2: Path, start_engine: StartEngine, measured: Measured, kernels: Path, caplog: pytest.LogCaptureFixture
) -> None:
    measured("q8", 0.0002)
    await start_engine(tiny_qwen2, quantization="q8", kernel_dir=kernels)
    await start_engine(tiny_qwen2, quantization="none")
    assert "quantization_" not in caplog.text


@pytest.mark.default_model
@pytest.mark.parametrize("quantization", ["nf4", "fp4"])
async def test_four_bits_of_the_default_model_are_refused(default_checkpoint: Checkpoint, quantization: str) -> None:
    with pytest.raises(ValueError, match=f"quantization {quantization} fails the quality gate"):
        await LocalEngine.start(default_checkpoint, EngineConfig(device="cpu", quantization=quantization))
