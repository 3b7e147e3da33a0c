from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from qwire.models.errors import ChecksumMismatch, IncompleteCheckpoint
from qwire.models.manifest import MANIFEST_NAME, Manifest


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "tokenizer.json").write_text('{"model": {}}')
    (folder / "model-00001-of-00002.safetensors").write_bytes(bytes(1000))
    (folder / "model-00002-of-00002.safetensors").write_bytes(bytes(2000))
    Manifest.describe(folder).write(folder)
    return folder


def stored(folder: Path) -> Manifest:
    manifest = Manifest.read(folder)
    assert manifest is not None
    return manifest


def test_an_untouched_folder_passes(folder: Path) -> None:
    reported: list[int] = []
    stored(folder).verify(folder, reported.append)
    assert max(reported) == sum(entry.size_bytes for entry in stored(folder).files.values())


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model-00002-of-00002.safetensors"])
def test_one_changed_byte_is_found(folder: Path, name: str) -> None:
    path = folder / name
    before = path.stat()
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))

    with pytest.raises(ChecksumMismatch, match=f"{name} has sha256 .*Remove"):
        stored(folder).verify(folder)


def test_a_truncated_file_is_found(folder: Path) -> None:
    (folder / "model-00001-of-00002.safetensors").write_bytes(bytes(999))
    with pytest.raises(ChecksumMismatch, match="999 bytes, expected 1000"):
        stored(folder).verify(folder)


def test_a_missing_file_is_found(folder: Path) -> None:
    (folder / "model-00001-of-00002.safetensors").unlink()
    with pytest.raises(IncompleteCheckpoint, match="lacks model-00001"):
        stored(folder).verify(folder)


@pytest.mark.parametrize("name", ["special_tokens_map.json", "pytorch_model.bin", "modeling.py", ".hidden"])
def test_a_file_too_many_is_found(folder: Path, name: str) -> None:
    (folder / name).write_text("{}")
    with pytest.raises(ChecksumMismatch, match="unknown to its manifest"):
        stored(folder).verify(folder)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\xfe",
        b"[]",
        b"{}",
        b'{"format": "qwire-checkpoint/2", "files": {}, "origin": null}',
        b'{"format": "qwire-checkpoint/1", "files": {"a": {"sha256": "x"}}, "origin": null}',
        b'{"format": "qwire-checkpoint/1", "files": {}, "origin": {"surprise": 1}}',
    ],
)
def test_a_manifest_that_makes_no_sense_is_refused(folder: Path, content: bytes) -> None:
    (folder / MANIFEST_NAME).write_bytes(content)
    with pytest.raises(ChecksumMismatch, match="is not a manifest of this program"):
        Manifest.read(folder)


def test_no_manifest_is_none(folder: Path) -> None:
    (folder / MANIFEST_NAME).unlink()
    assert Manifest.read(folder) is None


def test_the_weights_digest_can_be_computed_by_hand(folder: Path) -> None:
    lines = "".join(
        f"{hashlib.sha256(bytes(size)).hexdigest()}  model-0000{number}-of-00002.safetensors\n"
        for number, size in ((1, 1000), (2, 2000))
    )
    assert stored(folder).weights_sha256 == hashlib.sha256(lines.encode()).hexdigest()


def test_the_weights_digest_knows_weights_only(folder: Path) -> None:
    before = stored(folder).weights_sha256
    (folder / "config.json").write_text('{"a": 1}')
    assert Manifest.describe(folder).weights_sha256 == before
    (folder / "model-00001-of-00002.safetensors").write_bytes(bytes(1001))
    assert Manifest.describe(folder).weights_sha256 != before
