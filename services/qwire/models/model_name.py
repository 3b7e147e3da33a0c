"""How a model is named: a catalogue id, a folder, or a repository on the hub."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from qwire.models.catalogue import CATALOGUE, CatalogueEntry, find
from qwire.models.errors import InvalidModelName, ModelNotFound

_WORD = r"[A-Za-z0-9][A-Za-z0-9._-]*"
_HUB_NAME = re.compile(rf"(?P<repo>{_WORD}/{_WORD})(?:@(?P<revision>{_WORD}(?:/{_WORD})*))?")


@dataclass(frozen=True, slots=True)
class HubName:
    """A repository on the hub.

    Attributes:
        repo: `org/name`.
        revision: Branch, tag or commit; None = the main branch.
    """

    repo: str
    revision: str | None


def parse(name: str) -> CatalogueEntry | HubName | Path:
    """Tell what a name means. A catalogue id wins over a folder, and a folder that exists wins over the hub.

    Raises:
        InvalidModelName: It is empty, a part of it is `..`, or no file system could hold it.
        ModelNotFound: It is none of the three.
    """
    if not name:
        raise InvalidModelName(f"The name of the model is empty. {_choices()}")
    if (entry := find(name)) is not None:
        return entry
    if ".." in re.split(r"[/@]", name):
        raise InvalidModelName(f"{name!r} has a part '..': write the folder's absolute path.")
    try:
        folder = Path(name).expanduser()
        if folder.is_dir() or name.startswith(("/", "./", "~")):
            return folder
    except (OSError, ValueError, RuntimeError) as error:  # too long, not encodable, or no such user behind ~
        raise InvalidModelName(f"{name!r} cannot be a folder: {error}. {_choices()}") from error
    if match := _HUB_NAME.fullmatch(name):
        return HubName(match["repo"], match["revision"])
    raise ModelNotFound(f"There is no model {name!r}. {_choices()}")


def _choices() -> str:
    known = ", ".join(entry.id for entry in CATALOGUE)
    return f"Known here: {known}. Or give a folder, or a name on the hub as org/name or org/name@revision."
