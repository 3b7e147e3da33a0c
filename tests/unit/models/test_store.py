from __future__ import annotations

import json
import multiprocessing
import os
import shutil
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from threading import Barrier, Thread

import pytest

from qwire.models.catalogue import DEFAULT_MODEL_ID, CatalogueEntry
from qwire.models.checkpoint import Checkpoint
from qwire.models.errors import ChecksumMismatch, IncompleteCheckpoint, ModelNotFound, UnsafeFiles
from qwire.models.manifest import MANIFEST_NAME
from qwire.models.progress import Phase
from qwire.models.source import SourceUnavailable
from qwire.models.store import ModelStore
from qwire.models.wheel_mirror import PipDownloader, WheelMirror


class Disk:
    """Copies the file from a folder, and leaves a mark each time."""

    name = "disk"

    def __init__(self, path: Path, marks: Path) -> None:
        self._path = path
        self._marks = marks

    def fetch(self, entry: CatalogueEntry, target: Path, report: Callable[[int], None]) -> None:
        self._marks.mkdir(exist_ok=True)
        (self._marks / f"{os.getpid()}-{len(list(self._marks.iterdir()))}").touch()
        shutil.copy(self._path, target)
        report(entry.file.size_bytes)


class Broken:
    name = "broken"

    def fetch(self, entry: CatalogueEntry, target: Path, report: Callable[[int], None]) -> None:
        report(0)
        raise SourceUnavailable(f"no {entry.file.name} for {target.name}")


@pytest.fixture
def marks(tmp_path: Path) -> Path:
    return tmp_path / "marks"


@pytest.fixture
def store(tiny_gguf: Path, tmp_path: Path, marks: Path) -> ModelStore:
    return ModelStore(tmp_path / "cache", [Disk(tiny_gguf, marks)])


def test_the_first_time_fetches_and_converts(store: ModelStore, entry: CatalogueEntry) -> None:
    checkpoint = store.resolve_entry(entry)

    assert checkpoint.model_id == "tiny"
    assert checkpoint.revision == entry.hub_revision
    assert checkpoint.source_format == "Q8_0"
    assert {timing.phase for timing in checkpoint.timings} == {Phase.FETCH, Phase.CONVERT, Phase.VERIFY}
    assert {path.name for path in checkpoint.folder.iterdir()} == {
        "chat_template.jinja",
        "config.json",
        "generation_config.json",
        "manifest.json",
        "model-00001-of-00001.safetensors",
        "model.safetensors.index.json",
        "tokenizer.json",
        "tokenizer_config.json",
    }


def test_the_second_time_uses_the_cache(store: ModelStore, entry: CatalogueEntry, tmp_path: Path) -> None:
    first = store.resolve_entry(entry)
    second = ModelStore(tmp_path / "cache", [Broken()]).resolve_entry(entry)

    assert second == first
    assert [timing.phase for timing in second.timings] == [Phase.VERIFY]


def test_a_lost_conversion_is_made_again_from_the_kept_file(
    store: ModelStore, entry: CatalogueEntry, tmp_path: Path
) -> None:
    first = store.resolve_entry(entry)
    shutil.rmtree(first.folder)
    assert ModelStore(tmp_path / "cache", [Broken()]).resolve_entry(entry) == first


def test_a_changed_weight_is_refused(store: ModelStore, entry: CatalogueEntry) -> None:
    weights = store.resolve_entry(entry).folder / "model-00001-of-00001.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(ChecksumMismatch, match=r"model-00001-of-00001\.safetensors has sha256"):
        store.resolve_entry(entry)


def test_a_checkpoint_without_manifest_is_refused(store: ModelStore, entry: CatalogueEntry) -> None:
    (store.resolve_entry(entry).folder / MANIFEST_NAME).unlink()
    with pytest.raises(ChecksumMismatch, match="was not made from the published"):
        store.resolve_entry(entry)


def test_a_checkpoint_of_another_file_is_refused(store: ModelStore, entry: CatalogueEntry) -> None:
    path = store.resolve_entry(entry).folder / MANIFEST_NAME
    manifest = json.loads(path.read_text())
    manifest["origin"]["source_sha256"] = "0" * 64
    path.write_text(json.dumps(manifest))
    with pytest.raises(ChecksumMismatch, match="was not made from the published"):
        store.resolve_entry(entry)


def test_processes_share_one_preparation(entry: CatalogueEntry, wheelhouse: Path, tmp_path: Path) -> None:
    mirror = WheelMirror(PipDownloader(("--no-index", "--find-links", str(wheelhouse))))
    store = ModelStore(tmp_path / "cache", [mirror])
    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as processes:
        pending = [processes.submit(store.resolve_entry, entry) for _ in range(2)]
        checkpoints = [future.result() for future in pending]

    assert checkpoints[0] == checkpoints[1]
    fetched = [Phase.FETCH in {timing.phase for timing in checkpoint.timings} for checkpoint in checkpoints]
    assert sorted(fetched) == [False, True]


def test_threads_share_one_preparation(store: ModelStore, entry: CatalogueEntry, marks: Path) -> None:
    barrier = Barrier(4)
    checkpoints: list[Checkpoint] = []

    def resolve() -> None:
        barrier.wait()
        checkpoints.append(store.resolve_entry(entry))

    threads = [Thread(target=resolve) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(checkpoints) == 4
    assert len(set(checkpoints)) == 1
    assert len(list(marks.iterdir())) == 1


def test_a_converted_folder_can_be_given_by_its_path(store: ModelStore, entry: CatalogueEntry, tmp_path: Path) -> None:
    first = store.resolve_entry(entry)
    moved = first.folder.rename(tmp_path / "elsewhere")
    again = store.resolve(str(moved))
    assert (again.model_id, again.revision, again.weights_sha256) == ("tiny", first.revision, first.weights_sha256)


def test_a_folder_without_manifest_is_named_after_itself(
    store: ModelStore, entry: CatalogueEntry, tmp_path: Path
) -> None:
    first = store.resolve_entry(entry)
    moved = first.folder.rename(tmp_path / "my-model")
    (moved / MANIFEST_NAME).unlink()

    checkpoint = store.resolve(str(moved))

    assert checkpoint.model_id == "my-model"
    assert checkpoint.revision == first.weights_sha256[:12]
    assert checkpoint.weights_sha256 == first.weights_sha256
    assert checkpoint.tokenizer_sha256 == first.tokenizer_sha256
    assert checkpoint.source_format == ""


def test_an_unsafe_folder_is_refused(store: ModelStore, entry: CatalogueEntry, tmp_path: Path) -> None:
    moved = store.resolve_entry(entry).folder.rename(tmp_path / "my-model")
    (moved / MANIFEST_NAME).unlink()
    (moved / "modeling.py").touch()
    with pytest.raises(UnsafeFiles):
        store.resolve(str(moved))


def test_an_empty_folder_is_refused(store: ModelStore, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(IncompleteCheckpoint, match=r"no \*\.safetensors"):
        store.resolve(str(tmp_path / "empty"))


def test_a_name_that_nothing_answers_to_lists_what_there_is(store: ModelStore) -> None:
    with pytest.raises(ModelNotFound, match=DEFAULT_MODEL_ID):
        store.resolve("gpt-5")
    with pytest.raises(ModelNotFound, match="is not a folder"):
        store.resolve("/no/such/folder")
