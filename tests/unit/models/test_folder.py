from __future__ import annotations

import json
from pathlib import Path

import pytest

from qwire.models.errors import IncompleteCheckpoint, ModelNotFound, UnsafeFiles
from qwire.models.folder import check_folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "qwen2"}')
    (folder / "tokenizer.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"weights")
    return folder


def test_a_complete_folder_passes(folder: Path) -> None:
    check_folder(folder)


def test_pickled_weights_beside_safetensors_are_left_alone(folder: Path) -> None:
    (folder / "pytorch_model.bin").write_bytes(b"pickle")
    check_folder(folder)


@pytest.mark.parametrize("suffix", ["bin", "pt", "pth", "pkl", "pickle", "ckpt"])
def test_pickled_weights_alone_are_refused(folder: Path, suffix: str) -> None:
    (folder / "model.safetensors").rename(folder / f"pytorch_model.{suffix}")
    with pytest.raises(UnsafeFiles, match=f"pickled weights only .pytorch_model.{suffix}"):
        check_folder(folder)


@pytest.mark.parametrize("name", ["modeling_qwen.py", "code/modeling.py"])
def test_python_code_is_refused(folder: Path, name: str) -> None:
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text("import os")
    with pytest.raises(UnsafeFiles, match=name):
        check_folder(folder)


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json"])
def test_a_wish_for_own_code_is_refused(folder: Path, name: str) -> None:
    (folder / name).write_text('{"auto_map": {"AutoModelForCausalLM": "org/other--modeling.Model"}}')
    with pytest.raises(UnsafeFiles, match="auto_map"):
        check_folder(folder)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(IncompleteCheckpoint, match=name.removeprefix("model")):
        check_folder(folder)


@pytest.mark.parametrize("shard", ["model-00002-of-00002.safetensors", "../model.safetensors", "/etc/passwd"])
def test_an_index_may_name_shards_of_the_folder_only(folder: Path, shard: str) -> None:
    index = {"weight_map": {"a": "model.safetensors", "b": shard}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(IncompleteCheckpoint, match="which its index names"):
        check_folder(folder)


@pytest.mark.parametrize("content", ["", "[]", '{"weight_map": 3}'])
def test_an_index_that_makes_no_sense_is_refused(folder: Path, content: str) -> None:
    (folder / "model.safetensors.index.json").write_text(content)
    with pytest.raises(IncompleteCheckpoint):
        check_folder(folder)


def test_a_link_out_of_the_folder_is_refused(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere.safetensors").write_bytes(b"weights")
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").symlink_to("../elsewhere.safetensors")
    with pytest.raises(UnsafeFiles, match="leads out of its folder"):
        check_folder(folder)


def test_a_link_inside_the_folder_passes(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "weights.safetensors")
    (folder / "model.safetensors").symlink_to("weights.safetensors")
    check_folder(folder)


def test_a_link_to_nothing_is_refused(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").symlink_to("gone.safetensors")
    with pytest.raises(IncompleteCheckpoint, match="link to nothing"):
        check_folder(folder)


def test_links_to_the_blobs_of_a_hub_snapshot_pass(tmp_path: Path, folder: Path) -> None:
    repository = tmp_path / "models--org--name"
    snapshot = repository / "snapshots" / "c0ffee"
    (repository / "blobs").mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for path in folder.iterdir():
        path.rename(repository / "blobs" / path.name)
        (snapshot / path.name).symlink_to(f"../../blobs/{path.name}")
    check_folder(snapshot)


def test_a_file_is_not_a_folder(folder: Path) -> None:
    with pytest.raises(ModelNotFound, match="is not a folder"):
        check_folder(folder / "config.json")
