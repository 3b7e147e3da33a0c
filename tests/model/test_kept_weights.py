"""Quantized weights that are kept from one start to the next."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from qwire.engine.checkpoint_config import UnsupportedCheckpoint
from qwire.engine.config import EngineConfig
from qwire.engine.feed_forward import DenseFeedForward, SparseFeedForward
from qwire.engine.lean_decoder import LeanDecoder
from qwire.engine.loader import LoadedModel, load_model
from qwire.engine.q8 import kept
from qwire.engine.q8.kernel import Q8Matrix
from qwire.engine.weight_files import WeightFiles
from tests.support.log_lines import collected_log_lines
from tests.support.qwen_families import write_family

pytestmark = pytest.mark.model

SHA256 = "a1" * 32

Load = Callable[..., LoadedModel]


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the matrices that were read."""
    names: list[str] = []
    read = WeightFiles.read

    def noted(files: WeightFiles, name: str) -> Tensor:
        tensor = read(files, name)
        if tensor.dim() > 1 and "mlp.gate.weight" not in name:  # the router is not quantized
            names.append(name)
        return tensor

    monkeypatch.setattr(WeightFiles, "read", noted)
    return names


@pytest.fixture
def load(library_folder: Path, tmp_path: Path) -> Load:
    """Load a checkpoint that keeps its weights in `packed`."""

    config = EngineConfig(device="cpu", quantization="q8", kernel_dir=library_folder, packed_dir=tmp_path / "packed")

    def load(folder: Path, sha256: str | None = SHA256, **options: Any) -> LoadedModel:
        return load_model(folder, "", replace(config, **options), weights_sha256=sha256)

    return load


def folders(tmp_path: Path) -> list[Path]:
    return sorted(path for path in (tmp_path / "packed").iterdir() if path.is_dir())


def matrices(loaded: LoadedModel) -> list[Q8Matrix]:
    decoder = loaded.decoder
    assert isinstance(decoder, LeanDecoder)
    found = [decoder.embedding, decoder.head]
    for layer in decoder.layers:
        part = layer.feed_forward
        assert isinstance(part, DenseFeedForward | SparseFeedForward)
        pairs = part.experts if isinstance(part, SparseFeedForward) else [part.network]
        found += [
            layer.query_key_value,
            layer.attention_output,
            *(m for pair in pairs for m in (pair.gate_up, pair.down)),
        ]
    assert all(isinstance(matrix, Q8Matrix) for matrix in found)
    return [matrix for matrix in found if isinstance(matrix, Q8Matrix)]


def assert_same(first: LoadedModel, second: LoadedModel) -> None:
    for one, other in zip(matrices(first), matrices(second), strict=True):
        assert torch.equal(one.values, other.values)
        assert torch.equal(one.scales.view(torch.int16), other.scales.view(torch.int16))  # NaN is equal to none
        assert (one.rows, one.columns) == (other.rows, other.columns)
        assert (one.bias is None) == (other.bias is None)
        assert one.bias is None or other.bias is None or torch.equal(one.bias, other.bias)
    facts = ("parameters", "non_finite_weights", "linear_shapes", "quantization")
    assert all(getattr(first, name) == getattr(second, name) for name in facts)


@pytest.mark.parametrize("family", ["qwen2-small", "qwen2-large", "qwen3-large", "qwen3-moe-mixed"])
def test_the_next_start_takes_them(tmp_path: Path, load: Load, read: list[str], family: str) -> None:
    folder = write_family(family, tmp_path)
    first = load(folder)
    assert read
    read.clear()
    second = load(folder)
    assert not read
    assert_same(first, second)
    assert len(folders(tmp_path)) == 1


def test_they_are_kept_for_the_weights_that_they_are_of(
    tmp_path: Path, load: Load, tiny_qwen2: Path, tiny_qwen3: Path, read: list[str]
) -> None:
    load(tiny_qwen2)
    other = load(tiny_qwen3, "b2" * 32)
    assert len(folders(tmp_path)) == 2
    read.clear()
    assert_same(load(tiny_qwen3, "b2" * 32), other)
    assert not read
    load(tiny_qwen2, None)
    assert read
    assert len(folders(tmp_path)) == 2


def changed(folder: Path) -> None:
    path = max(folder.glob("*.safetensors"), key=lambda path: path.stat().st_size)
    content = bytearray(path.read_bytes())
    content[-9] ^= 1
    path.write_bytes(content)


def cut(folder: Path) -> None:
    path = max(folder.iterdir(), key=lambda path: path.stat().st_size)
    path.write_bytes(path.read_bytes()[:-1])


def without_one(folder: Path) -> None:
    next(folder.glob("*.safetensors")).unlink()


def with_one_more(folder: Path) -> None:
    (folder / "more.safetensors").write_bytes(b"")


def without_manifest(folder: Path) -> None:
    (folder / "manifest.json").write_text("{}")


@pytest.mark.parametrize("damage", [changed, cut, without_one, with_one_more, without_manifest])
def test_what_is_damaged_is_made_again(
    tmp_path: Path, load: Load, tiny_qwen2: Path, read: list[str], damage: Callable[[Path], None]
) -> None:
    first = load(tiny_qwen2)
    damage(folders(tmp_path)[0])
    with collected_log_lines() as lines:
        assert_same(load(tiny_qwen2), first)
    assert lines.of("packed_weights_unusable")
    read.clear()
    assert_same(load(tiny_qwen2), first)
    assert not read
    assert len(folders(tmp_path)) == 1


def test_what_vanishes_while_it_is_read_is_quantized(
    load: Load, tiny_qwen2: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = load(tiny_qwen2)
    verify = kept.Manifest.verify

    def and_removed(manifest: kept.Manifest, folder: Path) -> None:
        verify(manifest, folder)
        for path in list(folder.glob("*.safetensors"))[::2]:
            path.unlink()

    monkeypatch.setattr(kept.Manifest, "verify", and_removed)
    assert_same(load(tiny_qwen2), first)
    monkeypatch.undo()
    assert_same(load(tiny_qwen2), first)


def test_where_nothing_can_be_written_nothing_is_kept(tmp_path: Path, load: Load, tiny_qwen2: Path) -> None:
    (tmp_path / "packed").write_text("no folder")
    with collected_log_lines() as lines:
        load(tiny_qwen2)
    assert lines.of("packed_weights_not_kept")


def test_where_the_disk_is_full_nothing_is_left(
    tmp_path: Path, load: Load, tiny_qwen2: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved: list[Path] = []

    def full(_tensors: dict[str, Tensor], path: Path, _metadata: dict[str, str]) -> None:
        saved.append(path)
        path.write_bytes(b"half")
        raise OSError("No space left on device")

    expected = load(tiny_qwen2, None)
    monkeypatch.setattr(kept, "save_file", full)
    with collected_log_lines() as lines:
        assert_same(load(tiny_qwen2), expected)
    assert lines.of("packed_weights_not_kept")
    assert len(saved) == 1
    assert not folders(tmp_path)


def test_what_others_left_goes_when_it_is_old(tmp_path: Path, load: Load, tiny_qwen2: Path) -> None:
    old, new, strange = (tmp_path / "packed" / name for name in (f"{SHA256[:16]}-old", f"{SHA256[:16]}-new", "c3-old"))
    for folder in (old, new, strange):
        folder.mkdir(parents=True)
    long_ago = time.time() - 8 * 86400
    os.utime(old, (long_ago, long_ago))
    os.utime(strange, (long_ago, long_ago))
    load(tiny_qwen2)
    assert not old.exists()
    assert new.exists()
    assert strange.exists()


def test_two_that_make_them_at_once_do_no_harm(
    tmp_path: Path, load: Load, tiny_qwen2: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    describe = kept.Manifest.describe

    def and_another_one_comes(folder: Path) -> kept.Manifest:
        monkeypatch.undo()
        load(tiny_qwen2)
        return describe(folder)

    monkeypatch.setattr(kept.Manifest, "describe", and_another_one_comes)
    with collected_log_lines() as lines:
        first = load(tiny_qwen2)
    assert [line["reason"] for line in lines.of("packed_weights_not_kept")] == ["another process makes them"]
    assert len(folders(tmp_path)) == 1
    assert_same(load(tiny_qwen2), first)


def test_what_a_killed_start_left_is_replaced(tmp_path: Path, load: Load, tiny_qwen2: Path, read: list[str]) -> None:
    load(tiny_qwen2)
    (folder,) = folders(tmp_path)
    next(folder.glob("lm_head*")).unlink()
    folder.rename(folder.with_suffix(".making"))
    first = load(tiny_qwen2)
    assert folders(tmp_path) == [folder]
    read.clear()
    assert_same(load(tiny_qwen2), first)
    assert not read


def test_a_start_that_fails_leaves_nothing(
    tmp_path: Path, load: Load, tiny_qwen2: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = WeightFiles.read

    def broken(files: WeightFiles, name: str) -> Tensor:
        if name == "lm_head.weight":
            raise UnsupportedCheckpoint("it is broken")
        return read(files, name)

    monkeypatch.setattr(WeightFiles, "read", broken)
    with pytest.raises(UnsupportedCheckpoint):
        load(tiny_qwen2)
    assert not folders(tmp_path)
    monkeypatch.undo()
    load(tiny_qwen2)
    assert len(folders(tmp_path)) == 1


def test_another_user_can_read_them(
    tmp_path: Path, load: Load, tiny_qwen2: Path, read: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def forbidden(_path: Path) -> None:
        raise PermissionError

    load(tiny_qwen2)
    modes = {path.stat().st_mode & 0o777 for path in folders(tmp_path)[0].iterdir()}
    assert modes == {folders(tmp_path)[0].stat().st_mode & 0o666}
    read.clear()
    monkeypatch.setattr("qwire.engine.q8.kept.os.utime", forbidden)
    load(tiny_qwen2)
    assert not read


def test_of_another_configuration_they_are_others(
    tmp_path: Path, load: Load, tiny_qwen2: Path, copy_checkpoint: Callable[..., Path], read: list[str]
) -> None:
    load(tiny_qwen2)
    other = copy_checkpoint(tiny_qwen2, without="config.json")
    config = json.loads((tiny_qwen2 / "config.json").read_bytes())
    (other / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 2, "layer_types": None}))
    read.clear()
    assert load(other).parameters < load(tiny_qwen2).parameters
    assert read
    assert len(folders(tmp_path)) == 2


def test_they_need_not_be_kept(tmp_path: Path, load: Load, tiny_qwen2: Path) -> None:
    load(tiny_qwen2, keep_packed=False)
    assert not (tmp_path / "packed").exists()
