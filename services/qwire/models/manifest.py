"""The manifest of a checkpoint folder: the digest of every file, checked before anything is loaded.

The whole of every file is hashed on every start. Size and modification time would be cheaper to compare, but anybody
who can change a file can set them; and the cost is small beside loading, which has to read the same bytes: 2.5 GB take
about 1.5 s on two cores, and what was hashed is then in the page cache.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from threading import Lock
from typing import Any

from qwire.models.digest import sha256_of
from qwire.models.errors import ChecksumMismatch, IncompleteCheckpoint

MANIFEST_NAME = "manifest.json"
LOADABLE_SUFFIXES = frozenset({".safetensors", ".json", ".txt", ".jinja"})
_FORMAT = "qwire-checkpoint/1"
_HASHING_THREADS = 4


@dataclass(frozen=True, slots=True)
class FileDigest:
    """Size and SHA-256 of one file."""

    size_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Origin:
    """What the files of a folder were made from, and by what.

    Attributes:
        model_id: Catalogue id.
        revision: The publisher's commit.
        source_format: Quantization of the published file.
        source_file: Name of the published file.
        source_sha256: Its digest.
        converter_version: Version of the conversion; another version converts again.
    """

    model_id: str
    revision: str
    source_format: str
    source_file: str
    source_sha256: str
    converter_version: int


@dataclass(frozen=True, slots=True)
class Manifest:
    """The digests of a folder's files, by name; the manifest itself is not among them."""

    files: dict[str, FileDigest]
    origin: Origin | None = None

    @property
    def weights_sha256(self) -> str:
        """SHA-256 over the lines `sha256  name` of all weight files, sorted by name: as `sha256sum | sha256sum`."""
        names = sorted(name for name in self.files if name.endswith(".safetensors"))
        lines = "".join(f"{self.files[name].sha256}  {name}\n" for name in names)
        return hashlib.sha256(lines.encode()).hexdigest()

    @property
    def tokenizer_sha256(self) -> str:
        """Digest of `tokenizer.json`."""
        return self.files["tokenizer.json"].sha256

    def write(self, folder: Path) -> None:
        """Store this manifest in its folder."""
        origin = asdict(self.origin) if self.origin is not None else None
        files = {name: asdict(self.files[name]) for name in sorted(self.files)}
        text = json.dumps({"format": _FORMAT, "origin": origin, "files": files}, indent=2)
        (folder / MANIFEST_NAME).write_text(text + "\n", encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> Manifest | None:
        """The manifest stored in a folder; None = the folder has none.

        Raises:
            ChecksumMismatch: There is one, but it cannot be understood.
        """
        path = folder / MANIFEST_NAME
        if not path.is_file():
            return None
        try:
            content: dict[str, Any] = json.loads(path.read_bytes())
            if content["format"] != _FORMAT:
                raise ValueError(f"format {content['format']!r}, expected {_FORMAT!r}")  # noqa: TRY301 # one exit
            files = {name: FileDigest(**entry) for name, entry in content["files"].items()}
            origin = Origin(**content["origin"]) if content["origin"] is not None else None
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ChecksumMismatch(
                f"{path} is not a manifest of this program ({error}): remove the folder to have it made again."
            ) from error
        return cls(files=files, origin=origin)

    @classmethod
    def describe(
        cls, folder: Path, origin: Origin | None = None, report: Callable[[int], None] | None = None
    ) -> Manifest:
        """Hash the files of a folder that a loader may read, its sub-folders not included.

        Args:
            folder: What to describe.
            origin: What the files were made from; None = unknown.
            report: Called, from several threads, with the bytes hashed so far.
        """
        names = [name for name in _file_names(folder) if Path(name).suffix in LOADABLE_SUFFIXES]
        return cls(files=_digests(folder, names, report), origin=origin)

    def verify(self, folder: Path, report: Callable[[int], None] | None = None) -> None:
        """Prove that the folder holds exactly these files and that none has changed.

        Args:
            folder: The folder that this manifest belongs to.
            report: Called, from several threads, with the bytes hashed so far.

        Raises:
            ChecksumMismatch: A file differs, or there is one more.
            IncompleteCheckpoint: A file is missing.
        """
        remedy = f"Remove {folder} to have it made again."
        present = set(_file_names(folder))
        if missing := sorted(set(self.files) - present):
            raise IncompleteCheckpoint(f"{folder} lacks {', '.join(missing)}. {remedy}")
        if strangers := sorted(present - set(self.files)):
            raise ChecksumMismatch(f"{folder} holds {', '.join(strangers)}, unknown to its manifest. {remedy}")
        # Sizes first: a truncated file is told without reading gigabytes.
        for name, expected in self.files.items():
            if (size_bytes := (folder / name).stat().st_size) != expected.size_bytes:
                raise ChecksumMismatch(
                    f"{folder / name} has {size_bytes} bytes, expected {expected.size_bytes}. {remedy}"
                )
        for name, digest in _digests(folder, self.files, report).items():
            if digest != self.files[name]:
                raise ChecksumMismatch(
                    f"{folder / name} has sha256 {digest.sha256}, expected {self.files[name].sha256}. {remedy}"
                )


def _file_names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name != MANIFEST_NAME and not path.is_dir())


def _digests(folder: Path, names: Iterable[str], report: Callable[[int], None] | None) -> dict[str, FileDigest]:
    """Hash files side by side: hashing releases the interpreter, so two cores halve the time."""
    lock = Lock()
    done_bytes: dict[str, int] = {}

    def digest(name: str) -> FileDigest:
        def advanced(file_bytes: int) -> None:
            with lock:
                done_bytes[name] = file_bytes
                if report is not None:
                    report(sum(done_bytes.values()))

        path = folder / name
        return FileDigest(size_bytes=path.stat().st_size, sha256=sha256_of(path, advanced))

    ordered = list(names)
    with ThreadPoolExecutor(_HASHING_THREADS) as threads:
        return dict(zip(ordered, threads.map(digest, ordered), strict=True))
