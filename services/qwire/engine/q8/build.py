"""Compiles the kernel for the CPU of this machine, once."""

from __future__ import annotations

import hashlib
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

SOURCES = tuple(sorted(Path(__file__).parent.glob("*.cpp")))
HEADERS = tuple(sorted(Path(__file__).parent.glob("*.h")))
NATIVE = ("-march=native",)
"""Compiler options that take every instruction of the machine that compiles."""

_COMPILERS = ("c++", "g++", "clang++")
_OPTIONS = (
    *("-std=c++17", "-O3", "-fPIC", "-fopenmp"),
    # Lets loops be vectorized, and changes no result: nobody here looks at errno or traps.
    *("-fno-math-errno", "-fno-trapping-math"),
)
_TIMEOUT_S = 120


class BuildFailed(Exception):
    """The operator's: no compiler, or one that cannot compile the kernel. The text says what it said."""


def build(folder: Path, options: Sequence[str] = NATIVE) -> Path:
    """Return the shared library; compiles it where the folder has none of this source, compiler, options and CPU.

    Args:
        folder: Where libraries are kept; made when needed. Several processes and machines may share it.
        options: What the compiler is told about the CPU.

    Raises:
        BuildFailed: There is no compiler, or it fails.
    """
    compiler = next((path for name in _COMPILERS if (path := shutil.which(name))), None)
    if compiler is None:
        raise BuildFailed(f"no compiler found: none of {', '.join(_COMPILERS)} is installed")
    library = folder / f"q8-{_key(compiler, options)}.so"
    if not library.exists():
        folder.mkdir(parents=True, exist_ok=True)
        _compile(compiler, options, library)
    return library


def sources_sha256() -> str:
    """Return the digest of the kernel's source code."""
    return hashlib.sha256(b"".join(path.read_bytes() for path in (*SOURCES, *HEADERS))).hexdigest()


def _key(compiler: str, options: Sequence[str]) -> str:
    """Return a name for everything that the library depends on."""
    facts = (_run([compiler, "--version"]), *_OPTIONS, *options, _cpu())
    return hashlib.sha256("\0".join((sources_sha256(), *facts)).encode()).hexdigest()[:16]


def _cpu() -> str:
    """Return what tells this CPU from others that compile to other instructions."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.machine() + platform.processor()
    # x86 says `flags`, Arm says `Features`.
    return platform.machine() + next((line for line in lines if line.startswith(("flags", "Features"))), "")


def _compile(compiler: str, options: Sequence[str], library: Path) -> None:
    with tempfile.TemporaryDirectory(dir=library.parent) as scratch:
        compiled, linked = [Path(scratch) / f"{source.stem}.o" for source in SOURCES], Path(scratch) / "kernel.so"
        commands = [
            [compiler, *_OPTIONS, *options, "-c", str(source), "-o", str(target)]
            for source, target in zip(SOURCES, compiled, strict=True)
        ]
        with ThreadPoolExecutor() as compilers:  # each waits for a process of its own
            list(compilers.map(_run, commands))
        # Without -fopenmp: the threads must be those of torch's own OpenMP, whose symbols are there when this is
        # loaded. Two OpenMP libraries would fight for the cores.
        _run([compiler, "-shared", *map(str, compiled), "-o", str(linked)])
        linked.replace(library)  # another process may have been faster; both are the same


def _run(command: list[str]) -> str:
    """Return what a command prints."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_TIMEOUT_S)  # noqa: S603 - the operator's compiler
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BuildFailed(f"{command[0]} could not be run: {error}") from error
    if done.returncode != 0:
        raise BuildFailed(f"{command[0]} failed with {done.returncode}: {done.stderr[-2000:]}")
    return done.stdout
