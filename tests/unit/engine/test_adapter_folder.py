"""Which files an adapter's name leads to, and which it never does."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import pytest

from qwire.engine.adapter_folder import AdapterFolder
from qwire.engine.errors import AdapterNotFound, AdapterUnusable

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


def write(folder: Path, config: str = "{}", weights: bytes = b"w") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CONFIG).write_text(config)
    (folder / WEIGHTS).write_bytes(weights)
    return folder


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return (tmp_path / "adapters").resolve()


def test_an_adapter_is_found_by_its_name_as_it_is_now(root: Path):
    root.mkdir()
    folder = AdapterFolder(root)
    assert folder.names() == []
    with pytest.raises(AdapterNotFound):
        folder.find("v1.2-b_c")
    write(root / "v1.2-b_c")
    source = folder.find("v1.2-b_c")
    assert (folder.names(), source.read().weights, source.read_config()) == (["v1.2-b_c"], b"w", b"{}")
    assert folder.find("v1.2-b_c").stamp == source.stamp


def test_files_that_change_have_another_stamp_and_digest(root: Path):
    write(root / "a")
    folder = AdapterFolder(root)
    first = folder.find("a")
    digest = first.read().sha256
    write(root / "a", weights=b"x")
    os.utime(root / "a" / WEIGHTS, ns=(1, 1))
    second = folder.find("a")
    assert second.stamp != first.stamp
    assert second.read().sha256 != digest
    with pytest.raises(AdapterUnusable, match="changed while they were read"):
        first.read()
    write(root / "b", config="{}w", weights=b"")
    write(root / "c", config="{}", weights=b"w")
    assert folder.find("b").read().sha256 != folder.find("c").read().sha256 == digest


@pytest.mark.parametrize(
    "adapter_id", ["", ".", "..", "../outside", "a/b", "/etc", "a\0", ".hidden", "a\n", "x" * 129, "ä", "a b"]
)
def test_a_name_leads_nowhere_else(root: Path, adapter_id: str):
    for name in ("a", "a/b", "a b", ".hidden", "../outside"):
        write(root / name)
    with pytest.raises(AdapterNotFound):
        AdapterFolder(root).find(adapter_id)
    assert AdapterFolder(root).names() == ["a"]


def test_links_lead_nowhere_else(root: Path, tmp_path: Path):
    outside = write(tmp_path / "outside")
    write(root / "inside")
    (root / "folder").symlink_to(outside)
    (root / "alias").symlink_to(root / "inside")
    write(root / "file")
    (root / "file" / WEIGHTS).unlink()
    (root / "file" / WEIGHTS).symlink_to(outside / WEIGHTS)
    folder = AdapterFolder(root)
    with pytest.raises(AdapterNotFound):
        folder.find("folder")
    with pytest.raises(AdapterUnusable, match="link out of"):
        folder.find("file")
    assert folder.find("alias").read().weights == b"w"
    (root / "circle").symlink_to(root / "circle")
    with pytest.raises((AdapterNotFound, AdapterUnusable)):
        folder.find("circle")


def test_the_folder_may_be_a_link_that_is_turned(root: Path, tmp_path: Path):
    for version in ("v1", "v2"):
        write(tmp_path / version / "a", weights=version.encode())
    root.symlink_to(tmp_path / "v1")
    folder = AdapterFolder(root)
    assert folder.find("a").read().weights == b"v1"
    root.unlink()
    root.symlink_to(tmp_path / "v2")
    assert folder.find("a").read().weights == b"v2"


def test_what_is_missing_or_no_file_is_told(root: Path):
    for name, gone in (("a", CONFIG), ("b", WEIGHTS)):
        write(root / name)
        (root / name / gone).unlink()
        with pytest.raises(AdapterUnusable, match=gone):
            AdapterFolder(root).find(name)
    (root / "b" / "adapter_model.bin").write_bytes(b"pickled")
    with pytest.raises(AdapterUnusable, match="other formats are not loaded"):
        AdapterFolder(root).find("b")
    os.mkfifo(root / "b" / WEIGHTS)
    with pytest.raises(AdapterUnusable, match="no file"):
        AdapterFolder(root).find("b")


def test_a_folder_that_is_none_has_no_adapters(root: Path):
    for folder in (AdapterFolder(None), AdapterFolder(root / "gone")):
        assert folder.names() == []
        with pytest.raises(AdapterNotFound):
            folder.find("a")


def test_failures_cross_processes():
    for error in (AdapterNotFound("a"), AdapterUnusable("a", "why")):
        copy = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own
        assert vars(copy) == vars(error)
