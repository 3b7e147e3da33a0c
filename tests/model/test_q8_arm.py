"""The compiled kernels on Arm, emulated: with the dot products of NEON and without.

Those in 8 bits have the bits of this machine; those in float32, whose sums follow the width of a register, its numbers
but for rounding. What this machine computes is compared with double precision by other tests.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from qwire.engine.q8 import build

pytestmark = pytest.mark.model

_FOLDER, _KERNELS = Path(__file__).parent, Path(build.__file__).parent
# The kernels' sources that each program is about: all of them, each in one.
_OF_BITS, _OF_FLOATS = ("int8.cpp",), ("attention.cpp", "float32.cpp", "router.cpp")
_CROSS, _EMULATORS = "aarch64-linux-gnu-g++", ("qemu-aarch64", "qemu-aarch64-static")
_OPTIONS = {"dot-products": ("-march=armv8.2-a+dotprod",), "plain": ()}
_TIMEOUT_S = 280


def printed(
    folder: Path, program: str, sources: Sequence[str], command: Sequence[str], emulator: Sequence[str] = ()
) -> list[str]:
    """Return what a program prints that is compiled with some of the kernels' sources."""
    target = folder / Path(program).stem
    own = build._OPTIONS  # pyright: ignore[reportPrivateUsage] - compiled as the engine compiles them
    files = [_FOLDER / program, *(_KERNELS / name for name in sources)]
    compiling = [*command, *own, f"-I{_KERNELS}", *map(str, files), "-o", str(target)]
    subprocess.run(compiling, check=True, capture_output=True, timeout=_TIMEOUT_S)
    running = [*emulator, str(target)]
    return subprocess.run(running, check=True, capture_output=True, text=True, timeout=_TIMEOUT_S).stdout.splitlines()


def here(folder: Path, program: str, sources: Sequence[str]) -> list[str]:
    folder.mkdir()
    return printed(folder, program, sources, ["g++", "-march=native"])


def arm(folder: Path, program: str, sources: Sequence[str], options: Sequence[str]) -> list[str]:
    emulator = next((name for name in _EMULATORS if shutil.which(name)), None)
    if emulator is None or shutil.which(_CROSS) is None:
        pytest.skip(f"{_CROSS} or {_EMULATORS[0]} is not installed (Debian: g++-aarch64-linux-gnu, qemu-user-static)")
    folder.mkdir()
    return printed(folder, program, sources, [_CROSS, *options, "-static"], [emulator])


def numbers(line: str) -> torch.Tensor:
    return torch.tensor([float(word) for word in line.partition(":")[2].split() if word != "fits"])


def test_each_source_is_compiled() -> None:
    assert sorted((*_OF_BITS, *_OF_FLOATS)) == [source.name for source in build.SOURCES]


@pytest.mark.parametrize("options", _OPTIONS.values(), ids=_OPTIONS)
def test_arm_computes_the_same_bits(tmp_path: Path, options: tuple[str, ...]) -> None:
    found = arm(tmp_path / "arm", "q8_digests.cpp", _OF_BITS, options)
    assert len(found) == 36
    assert found == here(tmp_path / "here", "q8_digests.cpp", _OF_BITS)


@pytest.mark.parametrize("options", _OPTIONS.values(), ids=_OPTIONS)
def test_arm_computes_the_same_floats(tmp_path: Path, options: tuple[str, ...]) -> None:
    found = arm(tmp_path / "arm", "float_numbers.cpp", _OF_FLOATS, options)
    expected = here(tmp_path / "here", "float_numbers.cpp", _OF_FLOATS)
    assert [line.partition(":")[0] for line in found] == [line.partition(":")[0] for line in expected]
    assert sum(line.startswith("linear") for line in found) == 7 * 4 * 3
    assert {line for line in found if "fits" in line} == {f"form {form}: fits 1" for form in range(3)}
    for one, other in zip(found, expected, strict=True):
        if one.startswith(("rows", "keys", "values")):
            assert one == other
        # A millionth of the largest number: what sums of so many lose to their order.
        size = numbers(other).abs().max().item()
        torch.testing.assert_close(numbers(one), numbers(other), rtol=0, atol=1e-6 * size)
