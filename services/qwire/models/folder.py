"""What a folder must and must not hold before anything in it is loaded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from qwire.models.errors import IncompleteCheckpoint, ModelNotFound, UnsafeFiles

_PICKLED_SUFFIXES = frozenset({".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt"})
_REQUIRED = ("config.json", "tokenizer.json")


def check_folder(folder: Path) -> None:
    """Refuse a folder that is unsafe to load or lacks something.

    Args:
        folder: A model folder, or a snapshot in the hub's cache layout.

    Raises:
        ModelNotFound: It is not a folder.
        UnsafeFiles: It holds Python code, asks for code, links to the outside, or has pickled weights only.
        IncompleteCheckpoint: It lacks a file.
    """
    if not folder.is_dir():
        raise ModelNotFound(f"{folder} is not a folder.")
    _check_links(folder)
    if code := sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.py")):
        raise UnsafeFiles(f"{folder} holds Python code ({code[0]}), and a model's own code is never run: remove it.")
    names = {path.name for path in folder.iterdir() if path.is_file()}
    weights = {name for name in names if name.endswith(".safetensors")}
    if not weights:
        if pickled := sorted(name for name in names if Path(name).suffix in _PICKLED_SUFFIXES):
            raise UnsafeFiles(
                f"{folder} has pickled weights only ({pickled[0]}), and loading those can run code: "
                "convert them to safetensors first."
            )
        raise IncompleteCheckpoint(f"{folder} has no *.safetensors.")
    if missing := [name for name in _REQUIRED if name not in names]:
        raise IncompleteCheckpoint(f"{folder} lacks {' and '.join(missing)}.")
    _check_configuration(folder, names)
    _check_index(folder, weights)


def _check_links(folder: Path) -> None:
    """Links may stay inside the folder, or lead to the `blobs` of the same repository in a hub cache."""
    allowed = [folder.resolve()]
    if folder.parent.name == "snapshots":
        allowed.append((folder.parent.parent / "blobs").resolve())
    for path in folder.rglob("*"):
        if not path.is_symlink():
            continue
        target = path.resolve()
        if not any(target.is_relative_to(root) for root in allowed):
            raise UnsafeFiles(f"{path} is a link that leads out of its folder: put the file itself there.")
        if not target.exists():
            raise IncompleteCheckpoint(f"{path} is a link to nothing.")


def _check_configuration(folder: Path, names: set[str]) -> None:
    for name in ("config.json", "tokenizer_config.json"):
        if name in names and "auto_map" in _read_json(folder / name):
            raise UnsafeFiles(f"{folder / name} asks for code of its own (auto_map), which is never run.")


def _check_index(folder: Path, weights: set[str]) -> None:
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        return
    shards = _read_json(index).get("weight_map")
    if not isinstance(shards, dict):
        raise IncompleteCheckpoint(f"{index} has no weight_map.")
    # A shard's name that is a path is never among the plain names of the folder, so it is refused here too.
    if missing := sorted({str(shard) for shard in shards.values()} - weights):
        raise IncompleteCheckpoint(f"{folder} lacks {missing[0]}, which its index names.")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except ValueError as error:
        raise IncompleteCheckpoint(f"{path} is not JSON: {error}.") from error
    if not isinstance(content, dict):
        raise IncompleteCheckpoint(f"{path} is not a JSON object.")
    return content
