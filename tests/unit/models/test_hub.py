"""The hub client against a small hub of our own on the loopback interface, and against none."""

from __future__ import annotations

import hashlib
import json
import shutil
import socket
from collections.abc import Generator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from qwire.models.catalogue import CatalogueEntry
from qwire.models.convert import convert
from qwire.models.errors import ChecksumMismatch, DownloadFailed, ModelNotFound, UnsafeFiles
from qwire.models.hub import HubSource
from qwire.models.manifest import MANIFEST_NAME
from qwire.models.source import SourceUnavailable
from qwire.models.store import ModelStore

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class FakeHub(ThreadingHTTPServer):
    """Answers what huggingface_hub asks for: metadata, trees, and files."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repositories: dict[str, dict[str, bytes]] = {}

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: FakeHub  # pyright: ignore[reportIncompatibleVariableOverride] # the base names the general type
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 # the base's name
        pass

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def _answer(self, *, with_body: bool) -> None:
        words = self.path.split("?")[0].strip("/").split("/")
        is_api = words[:2] == ["api", "models"]
        repo = "/".join(words[2:4] if is_api else words[:2])
        files = self.server.repositories.get(repo)
        if files is None:
            self._send(404, b"", {"X-Error-Code": "RepoNotFound"}, with_body=with_body)
        elif is_api and len(words) > 5 and words[5] not in {COMMIT, "main"}:
            self._send(404, b"", {"X-Error-Code": "RevisionNotFound"}, with_body=with_body)
        elif is_api and "tree" in words:
            tree = [
                {"type": "file", "path": name, "size": len(files[name]), "oid": _oid(files[name])} for name in files
            ]
            self._send(200, json.dumps(tree).encode(), {}, with_body=with_body)
        elif is_api:
            info = {"id": repo, "sha": COMMIT, "siblings": [{"rfilename": name} for name in files]}
            self._send(200, json.dumps(info).encode(), {}, with_body=with_body)
        else:
            content = files["/".join(words[4:])]
            large = words[-1].endswith((".safetensors", ".gguf"))
            etag = hashlib.sha256(content).hexdigest() if large else _oid(content)
            self._send(200, content, {"ETag": f'"{etag}"', "X-Repo-Commit": COMMIT}, with_body=with_body)

    def _send(self, status: int, content: bytes, headers: dict[str, str], *, with_body: bool) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if with_body:
            self.wfile.write(content)


def _oid(content: bytes) -> str:
    return hashlib.sha1(f"blob {len(content)}\0".encode() + content, usedforsecurity=False).hexdigest()


@pytest.fixture
def hub() -> Generator[FakeHub]:
    with FakeHub() as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def nowhere() -> str:
    """An address where nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}"


@pytest.fixture
def model_files(entry: CatalogueEntry, tiny_gguf: Path, tmp_path: Path) -> dict[str, bytes]:
    folder = tmp_path / "original"
    convert(entry, tiny_gguf, folder, lambda _: None)
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != MANIFEST_NAME}


def ignore(done_bytes: int) -> None:
    assert done_bytes >= 0


def test_the_pinned_file_is_fetched(hub: FakeHub, entry: CatalogueEntry, tiny_gguf: Path, tmp_path: Path) -> None:
    hub.repositories[entry.hub_repo] = {entry.file.name: tiny_gguf.read_bytes()}
    target = tmp_path / "file.bin"
    HubSource(hub.endpoint).fetch(entry, target, ignore)
    assert target.read_bytes() == tiny_gguf.read_bytes()


def test_a_file_of_another_size_is_not_even_fetched(hub: FakeHub, entry: CatalogueEntry, tmp_path: Path) -> None:
    hub.repositories[entry.hub_repo] = {entry.file.name: b"short"}
    with pytest.raises(ChecksumMismatch, match=f"offers 5 bytes, expected {entry.file.size_bytes}"):
        HubSource(hub.endpoint).fetch(entry, tmp_path / "file.bin", ignore)
    assert list(tmp_path.iterdir()) == []


def test_a_hub_without_the_repository_is_unavailable(hub: FakeHub, entry: CatalogueEntry, tmp_path: Path) -> None:
    with pytest.raises(SourceUnavailable, match="404"):
        HubSource(hub.endpoint).fetch(entry, tmp_path / "file.bin", ignore)


def test_an_unreachable_hub_is_unavailable(nowhere: str, entry: CatalogueEntry, tmp_path: Path) -> None:
    with pytest.raises(SourceUnavailable, match="Connection refused"):
        HubSource(nowhere).fetch(entry, tmp_path / "file.bin", ignore)


def test_a_silent_hub_is_given_up(entry: CatalogueEntry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qwire.models.hub.REACHABLE_WITHIN_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:  # accepts, and never answers
        endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(SourceUnavailable, match=r"(?i)time"):
            HubSource(endpoint).fetch(entry, tmp_path / "file.bin", ignore)


def test_a_repository_becomes_a_checkpoint(hub: FakeHub, model_files: dict[str, bytes], tmp_path: Path) -> None:
    unwanted = {"README.md": b"# model", "pytorch_model.bin": b"pickle", "modeling.py": b"import os"}
    hub.repositories["org/name"] = model_files | unwanted

    checkpoint = ModelStore(tmp_path / "cache", hub_endpoint=hub.endpoint).resolve("org/name")

    assert (checkpoint.model_id, checkpoint.revision, checkpoint.source_format) == ("org/name", COMMIT, "")
    assert {path.name for path in checkpoint.folder.iterdir()} == set(model_files)


def test_a_cached_repository_needs_no_hub(
    hub: FakeHub, nowhere: str, model_files: dict[str, bytes], tmp_path: Path
) -> None:
    hub.repositories["org/name"] = model_files
    first = ModelStore(tmp_path / "cache", hub_endpoint=hub.endpoint).resolve(f"org/name@{COMMIT}")
    assert ModelStore(tmp_path / "cache", hub_endpoint=nowhere).resolve(f"org/name@{COMMIT}") == first
    ModelStore(tmp_path / "cache", hub_endpoint=hub.endpoint).resolve("org/name")
    assert ModelStore(tmp_path / "cache", hub_endpoint=nowhere).resolve("org/name") == first


@pytest.mark.parametrize("name", ["config.json", "model-00001-of-00001.safetensors"])
def test_a_changed_file_in_the_cache_is_refused(
    hub: FakeHub, model_files: dict[str, bytes], tmp_path: Path, name: str
) -> None:
    hub.repositories["org/name"] = model_files
    store = ModelStore(tmp_path / "cache", hub_endpoint=hub.endpoint)
    blob = (store.resolve("org/name").folder / name).resolve()
    blob.write_bytes(blob.read_bytes()[:-1] + b" ")
    with pytest.raises(ChecksumMismatch, match="is not what the hub announced"):
        store.resolve("org/name")


def test_a_file_put_beside_the_blobs_is_refused(hub: FakeHub, model_files: dict[str, bytes], tmp_path: Path) -> None:
    hub.repositories["org/name"] = model_files
    store = ModelStore(tmp_path / "cache", hub_endpoint=hub.endpoint)
    folder = store.resolve("org/name").folder
    (folder / "config.json").unlink()
    shutil.copy(folder / "tokenizer_config.json", folder / "config.json")
    with pytest.raises(ChecksumMismatch, match=r"config\.json is not what the hub announced"):
        store.resolve("org/name")


def test_a_repository_that_wants_its_own_code_is_refused(
    hub: FakeHub, model_files: dict[str, bytes], tmp_path: Path
) -> None:
    config = json.loads(model_files["config.json"]) | {"auto_map": {"AutoModel": "modeling.Model"}}
    hub.repositories["org/name"] = model_files | {"config.json": json.dumps(config).encode()}
    with pytest.raises(UnsafeFiles, match="auto_map"):
        ModelStore(tmp_path / "cache", hub_endpoint=hub.endpoint).resolve("org/name")


@pytest.mark.parametrize("name", ["org/unknown", "org/name@no-such-branch"])
def test_an_unknown_repository_or_revision_is_not_found(
    hub: FakeHub, model_files: dict[str, bytes], tmp_path: Path, name: str
) -> None:
    hub.repositories["org/name"] = model_files
    with pytest.raises(ModelNotFound, match=f"The hub has no '{name}'"):
        ModelStore(tmp_path / "cache", hub_endpoint=hub.endpoint).resolve(name)


def test_an_unreachable_hub_and_an_empty_cache_fail(nowhere: str, tmp_path: Path) -> None:
    with pytest.raises(DownloadFailed, match=r"'org/name' is not in the cache.*Connection refused"):
        ModelStore(tmp_path / "cache", hub_endpoint=nowhere).resolve("org/name")
