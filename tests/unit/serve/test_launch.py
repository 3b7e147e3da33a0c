from __future__ import annotations

import signal
from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from qwire.engine.config import EngineConfig
from qwire.models import quality
from qwire.models.quality import Measurement
from qwire.models.store import ModelStore
from qwire.serve.config import AppConfig, ModelSettings
from qwire.serve.launch import Launcher
from qwire.serve.startup import StartError, Startup
from tests.support.tiny_checkpoint import write_tiny_checkpoint

pytestmark = pytest.mark.model


def test_a_quantization_that_fails_the_gate_is_refused_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def keep(*_: object) -> None:
        """Leave the handlers of the test's own process alone."""

    monkeypatch.setattr(signal, "signal", keep)
    folder = tmp_path / "tiny"
    folder.mkdir()
    write_tiny_checkpoint(folder)
    weights = ModelStore(tmp_path / "cache").resolve(str(folder)).weights_sha256
    failed = Measurement("tiny", weights, "nf4", True, "cpu", 100, 0.5)  # noqa: FBT003 - one of its fields
    monkeypatch.setattr(quality, "measurements", lambda: (failed,))

    def fetch(engine: EngineConfig) -> None:
        config = AppConfig(models=(ModelSettings(source=str(folder), engine=engine),), cache_dir=tmp_path / "cache")
        Launcher(config, Startup(Console(file=StringIO()))).fetch_models()

    nf4 = EngineConfig(quantization="nf4")
    with pytest.raises(StartError, match=r"tiny: quantization nf4 fails the quality gate .*0\.50000 nats"):
        fetch(nf4)
    fetch(replace(nf4, allow_failed_quality=True))
    fetch(EngineConfig(quantization="int8"))
