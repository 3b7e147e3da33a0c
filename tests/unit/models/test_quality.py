from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from qwire.models import quality
from qwire.models.quality import GATE_KL, Measurement, failed_quantizations, find, measurements, record

DOCUMENT = Path(__file__).parents[3] / "docs" / "quality.md"
ONE = Measurement("a-model", "a" * 64, "nf4", True, "cpu", 2048, 0.02)  # noqa: FBT003 - one of its fields
DEFAULT_MODEL = "qwen2.5-coder-0.5b-instruct"


def test_a_record_keeps_the_last_measurement_of_each_kind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "quality.json"
    record([ONE, replace(ONE, quantization="q8", double_quantization=False, kl=0.0001)], path)
    record([replace(ONE, kl=0.004), replace(ONE, device="cuda", kl=0.03), replace(ONE, weights_sha256="b" * 64)], path)
    monkeypatch.setattr(quality, "RECORD", path)
    measurements.cache_clear()
    try:
        assert {one.kl for one in measurements()} == {0.0001, 0.004, 0.03, 0.02}
        # Of several devices the worst counts.
        assert find("a" * 64, "nf4", double_quantization=True) == replace(ONE, device="cuda", kl=0.03)
        assert find("a" * 64, "nf4", double_quantization=False) is None
        assert find("c" * 64, "nf4", double_quantization=True) is None
        q8 = find("a" * 64, "q8", double_quantization=True)
        assert q8 is not None
        assert q8.passes
        assert failed_quantizations() == {"nf4"}
    finally:
        monkeypatch.undo()
        measurements.cache_clear()


@pytest.mark.parametrize(
    ("kl", "passes"), [(0.0, True), (GATE_KL, True), (GATE_KL + 1e-6, False), (float("nan"), False)]
)
def test_the_gate_is_the_bound(kl: float, *, passes: bool) -> None:
    assert replace(ONE, kl=kl).passes is passes


def test_the_shipped_record_is_what_the_document_says() -> None:
    rows = re.findall(r"^\| (\w+) \| [\d.]+ \| ([\d.]+) \|.*\| (passes|fails) \|", DOCUMENT.read_text(), re.MULTILINE)
    documented = {mode: (kl, verdict == "passes") for mode, kl, verdict in rows if mode != "none"}
    shipped = {one.quantization: (f"{one.kl:.5f}", one.passes) for one in measurements() if one.model == DEFAULT_MODEL}
    assert documented == shipped
    assert {mode: passes for mode, (_, passes) in shipped.items()} == {
        "q8": True,
        "int8": True,
        "nf4": False,
        "fp4": False,
    }
