"""The folder whose subfolders are adapters. It may change at any time: it is looked at whenever it is asked."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from stat import S_ISREG

from qwire.engine.adapter import ADAPTER_ID
from qwire.engine.adapter_config import CONFIG_FILE
from qwire.engine.errors import AdapterNotFound, AdapterUnusable

WEIGHTS_FILE = "adapter_model.safetensors"

Stamp = tuple[tuple[int, int, int], ...]


@dataclass(frozen=True, slots=True)
class AdapterFiles:
    """The content of an adapter's files.

    Attributes:
        config: Of `adapter_config.json`.
        weights: Of `adapter_model.safetensors`.
    """

    config: bytes
    weights: bytes

    @property
    def sha256(self) -> str:
        """Digest of both, hexadecimal."""
        return sha256(sha256(self.config).digest() + sha256(self.weights).digest()).hexdigest()


@dataclass(frozen=True, slots=True)
class AdapterSource:
    """Where an adapter lies.

    Attributes:
        adapter_id: Its name.
        stamp: Changes when its files do: inode, size and time of change of each.
    """

    adapter_id: str
    stamp: Stamp
    _paths: tuple[Path, Path]

    def read_config(self) -> bytes:
        """Return the content of its configuration.

        Raises:
            AdapterUnusable: It cannot be read.
        """
        return _read(self.adapter_id, self._paths[0])

    def read(self) -> AdapterFiles:
        """Return the content of its files, all of one moment.

        Raises:
            AdapterUnusable: They cannot be read, or changed meanwhile.
        """
        # As a whole and before anything is looked at: what a file is mapped to would change, or end, with it.
        files = AdapterFiles(*(_read(self.adapter_id, path) for path in self._paths))
        if _stamp(self.adapter_id, self._paths) != self.stamp:
            raise AdapterUnusable(self.adapter_id, "its files changed while they were read; try again")
        return files


class AdapterFolder:
    """Finds adapters by name, and nothing outside the folder, whatever it is asked and whatever links it holds.

    Args:
        folder: Each of its subfolders is an adapter as peft saves it. None = there are no adapters.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder

    def find(self, adapter_id: str) -> AdapterSource:
        """Return where an adapter lies. Reads the disk.

        Raises:
            AdapterNotFound: There is none of this name.
            AdapterUnusable: One of its files is missing.
        """
        if self._folder is None or not ADAPTER_ID.fullmatch(adapter_id):
            raise AdapterNotFound(adapter_id)
        try:
            root = self._folder.resolve()
            folder = (root / adapter_id).resolve()
            if not folder.is_dir() or not folder.is_relative_to(root):
                raise AdapterNotFound(adapter_id)
            paths = (folder / CONFIG_FILE).resolve(), (folder / WEIGHTS_FILE).resolve()
        except (OSError, RuntimeError):  # it is forbidden, or a link that leads to itself
            raise AdapterUnusable(adapter_id, "its folder cannot be read") from None
        for path, name in zip(paths, (CONFIG_FILE, WEIGHTS_FILE), strict=True):
            if not path.is_relative_to(root):
                raise AdapterUnusable(adapter_id, f"its {name} is a link out of the folder of adapters")
        return AdapterSource(adapter_id, _stamp(adapter_id, paths), paths)

    def names(self) -> list[str]:
        """Return the names of all subfolders that can be adapters, in order. Reads the disk."""
        if self._folder is None or not self._folder.is_dir():
            return []
        return sorted(path.name for path in self._folder.iterdir() if ADAPTER_ID.fullmatch(path.name) and path.is_dir())


def _read(adapter_id: str, path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise AdapterUnusable(adapter_id, f"its {path.name} cannot be read: {error.strerror}") from None


def _stamp(adapter_id: str, paths: tuple[Path, Path]) -> Stamp:
    marks: list[tuple[int, int, int]] = []
    for path, name in zip(paths, (CONFIG_FILE, WEIGHTS_FILE), strict=True):
        try:
            status = path.stat()
        except OSError:
            raise AdapterUnusable(adapter_id, f"it has no {name}; other formats are not loaded") from None
        if not S_ISREG(status.st_mode):  # reading a pipe would never end
            raise AdapterUnusable(adapter_id, f"its {name} is no file")
        marks.append((status.st_ino, status.st_size, status.st_mtime_ns))
    return tuple(marks)
