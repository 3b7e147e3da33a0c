"""The 8-bit kernel on Arm, emulated: with the dot products of NEON and without, the bits are those of this machine."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from qwire.engine.q8 import build

pytestmark = pytest.mark.model

_PROGRAM = Path(__file__).with_name("q8_digests.cpp")
_CROSS, _EMULATOR = "aarch64-linux-gnu-g++", "qemu-aarch64"


def digests(folder: Path, compiler: str, options: Sequence[str], emulator: Sequence[str] = ()) -> list[str]:
    folder.mkdir()
    program, kernel = folder / "digests", Path(build.__file__).with_name("int8.cpp")
    include = f"-I{kernel.parent}"
    command = [compiler, "-std=c++17", "-O3", "-fopenmp", *options, include, str(_PROGRAM), str(kernel), "-o", program]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    return subprocess.run(
        [*emulator, program], check=True, capture_output=True, text=True, timeout=120
    ).stdout.splitlines()


@pytest.mark.parametrize("options", [("-march=armv8.2-a+dotprod",), ()], ids=["dot-products", "plain"])
def test_arm_computes_the_same_bits(tmp_path: Path, options: tuple[str, ...]) -> None:
    for needed in (_CROSS, _EMULATOR):
        if shutil.which(needed) is None:
            pytest.skip(f"{needed} is not installed (Debian: g++-aarch64-linux-gnu, qemu-user)")
    here = digests(tmp_path / "here", "g++", ["-march=native"])
    assert len(here) == 36
    assert digests(tmp_path / "arm", _CROSS, [*options, "-static"], [_EMULATOR]) == here
