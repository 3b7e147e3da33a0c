"""The Hugging Face hub: one pinned file, or the snapshot of a repository.

An unreachable hub must cost seconds: huggingface_hub retries a failed request five times with growing pauses (23 s,
measured), and looking up a name can hang in the resolver beyond any timeout of the request. So one request without
retries goes ahead of every download, in a thread that is left behind when its time is over.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from queue import Empty, Queue
from threading import Thread
from typing import Any, TypeVar

from huggingface_hub import HfApi, get_hf_file_metadata, hf_hub_download, hf_hub_url, snapshot_download
from huggingface_hub.errors import (
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.file_download import repo_folder_name
from huggingface_hub.utils import tqdm

from qwire.models.catalogue import CatalogueEntry
from qwire.models.errors import ChecksumMismatch, DownloadFailed, ModelNotFound
from qwire.models.growth import watched
from qwire.models.source import SourceUnavailable

REACHABLE_WITHIN_S = 3.0
# Never *.py and never pickled weights: what is not fetched cannot be loaded by mistake.
SNAPSHOT_PATTERNS = ("*.safetensors", "*.json", "*.txt", "*.jinja")

_Answer = TypeVar("_Answer")


class _NoBar(tqdm):
    """The library's own bar, switched off: progress is reported through `Progress`."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{**kwargs, "disable": True})


class HubSource:
    """Fetches the pinned file of a catalogue entry from the hub.

    Args:
        endpoint: Base address of the hub; None = the public one, or what the library's own settings say.
    """

    name = "Hugging Face hub"

    def __init__(self, endpoint: str | None = None) -> None:
        self._endpoint = endpoint

    def fetch(self, entry: CatalogueEntry, target: Path, report: Callable[[int], None]) -> None:
        """Deliver the file; an interrupted download goes on where it ended. See `Source.fetch`."""
        url = hf_hub_url(entry.hub_repo, entry.file.name, revision=entry.hub_revision, endpoint=self._endpoint)
        try:
            offered = _promptly(lambda: get_hf_file_metadata(url, timeout=REACHABLE_WITHIN_S))
        except Exception as error:
            raise SourceUnavailable(_reason(error)) from error
        if offered.size not in {None, entry.file.size_bytes}:
            raise ChecksumMismatch(
                f"{url} offers {offered.size} bytes, expected {entry.file.size_bytes}; nothing was downloaded."
            )
        folder = target.parent / "hub"
        try:
            with watched(folder, report):
                path = hf_hub_download(
                    entry.hub_repo,
                    entry.file.name,
                    revision=entry.hub_revision,
                    endpoint=self._endpoint,
                    local_dir=folder,
                    etag_timeout=REACHABLE_WITHIN_S,
                    tqdm_class=_NoBar,
                )
        except Exception as error:
            raise SourceUnavailable(_reason(error)) from error
        Path(path).replace(target)


class HubSnapshots:
    """Fetches whole repositories, safetensors and configuration only.

    Args:
        cache_dir: Keeps the snapshots, in the library's own layout: files are named by their digests there.
        endpoint: As for `HubSource`.
    """

    def __init__(self, cache_dir: Path, endpoint: str | None = None) -> None:
        self._cache_dir = cache_dir
        self._endpoint = endpoint

    def fetch(self, repo: str, revision: str | None, report: Callable[[int], None]) -> Path:
        """The folder of a snapshot; its name is the commit.

        Args:
            repo: `org/name`.
            revision: Branch, tag or commit; None = the main branch.
            report: Called with the bytes that are there so far.

        Raises:
            ModelNotFound: The hub says that there is no such repository or revision.
            DownloadFailed: The hub cannot be reached, and the snapshot is not in the cache.
        """
        try:
            api = HfApi(endpoint=self._endpoint)
            _promptly(lambda: api.model_info(repo, revision=revision, timeout=REACHABLE_WITHIN_S))
            with watched(self._cache_dir / repo_folder_name(repo_id=repo, repo_type="model"), report):
                return self._snapshot(repo, revision, offline=False)
        except (RepositoryNotFoundError, RevisionNotFoundError, HFValidationError) as error:
            wanted = f"{repo}@{revision}" if revision else repo
            raise ModelNotFound(
                f"The hub has no {wanted!r} that may be read without a login: check the name and the revision."
            ) from error
        except Exception as error:  # noqa: BLE001 # whatever stops the library, the cache may still have it
            return self._cached(repo, revision, error)

    def _cached(self, repo: str, revision: str | None, error: Exception) -> Path:
        try:
            return self._snapshot(repo, revision, offline=True)
        except LocalEntryNotFoundError:
            raise DownloadFailed(
                f"{repo!r} is not in the cache, and the hub did not deliver it ({_reason(error)}): "
                "check the network, or name a local folder."
            ) from error

    def _snapshot(self, repo: str, revision: str | None, *, offline: bool) -> Path:
        folder = snapshot_download(
            repo,
            revision=revision,
            endpoint=self._endpoint,
            cache_dir=self._cache_dir,
            allow_patterns=list(SNAPSHOT_PATTERNS),
            etag_timeout=REACHABLE_WITHIN_S,
            local_files_only=offline,
            tqdm_class=_NoBar,
        )
        return Path(folder)


def _promptly(call: Callable[[], _Answer]) -> _Answer:
    """Make one call, but wait for it only a little longer than its own timeout."""
    answers: Queue[tuple[_Answer | None, BaseException | None]] = Queue()

    def run() -> None:
        try:
            answers.put((call(), None))
        except BaseException as error:  # noqa: BLE001 # carried to the caller's thread
            answers.put((None, error))

    Thread(target=run, name="hub-probe", daemon=True).start()
    try:
        answer, error = answers.get(timeout=REACHABLE_WITHIN_S + 1.0)
    except Empty:
        raise TimeoutError(f"no answer within {REACHABLE_WITHIN_S + 1.0:.0f} s") from None
    if error is not None:
        raise error
    return answer  # pyright: ignore[reportReturnType] # None only with an error


def _reason(error: Exception) -> str:
    """The first line of an error: the library's texts go on with advice for its own users."""
    lines = str(error).splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
