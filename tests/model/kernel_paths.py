"""The paths of the compiled kernel that a CPU may run."""

from __future__ import annotations

import platform
from pathlib import Path

from qwire.engine.q8.build import NATIVE

_AVX2 = ("-mavx2", "-mfma", "-mf16c")
_AVX512 = (*_AVX2, "-mavx512f", "-mavx512bw", "-mavx512vl")
PATHS = {
    "plain": ((), ""),
    "avx2": (_AVX2, "avx2"),
    "avx2-vnni": ((*_AVX2, "-mavxvnni"), "avx_vnni"),
    "avx512": (_AVX512, "avx512bw"),
    "avx512-vnni": ((*_AVX512, "-mavx512vnni"), "avx512_vnni"),
    "native": (NATIVE, ""),
}
"""Compiler options of each, and the instructions that it needs beyond the plain ones."""


def can_run(instructions: str) -> bool:
    if not instructions:
        return True
    if platform.machine() != "x86_64":
        return False
    return instructions in Path("/proc/cpuinfo").read_text().split()
