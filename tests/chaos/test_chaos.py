"""A short run of every fault on a real cluster; `make chaos` is the long one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FAULTS = {
    "replica-kills": 2,
    "gateway-kills": 1,
    "controller-kills": 1,
    "stalls": 1,
    "cuts": 1,
    "deploys": 1,
    "node-losses": 1,
}


@pytest.mark.cluster
@pytest.mark.timeout(1200)
def test_streams_under_every_fault_say_what_they_say_undisturbed() -> None:
    faults = [argument for fault, number in FAULTS.items() for argument in (f"--{fault}", str(number))]
    # In float32, where rounding is smallest: two tokens that are as good as equal must not decide the outcome.
    options = ["--streams", "8", "--floor", "2", "--seed", "1", "--quantization", "none"]
    command = [sys.executable, "-m", "tests.chaos", *faults, *options]
    # In a process of its own: Ray runs once in a process, and other tests have one that nothing strikes.
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, f"{run.stdout}\n{run.stderr[-4000:]}"
    assert "**passed**" in run.stdout
