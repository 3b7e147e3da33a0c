from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwire.models.catalogue import DEFAULT_MODEL_ID, CatalogueEntry
from qwire.models.errors import InvalidModelName, ModelError, ModelNotFound
from qwire.models.model_name import HubName, parse


def test_a_catalogue_id_is_its_entry() -> None:
    entry = parse(DEFAULT_MODEL_ID)
    assert isinstance(entry, CatalogueEntry)
    assert entry.id == DEFAULT_MODEL_ID


@pytest.mark.parametrize(
    ("name", "repo", "revision"),
    [
        ("Qwen/Qwen3-0.6B", "Qwen/Qwen3-0.6B", None),
        ("Qwen/Qwen2.5-Coder-1.5B-Instruct@main", "Qwen/Qwen2.5-Coder-1.5B-Instruct", "main"),
        ("org/name@refs/pr/1", "org/name", "refs/pr/1"),
    ],
)
def test_a_hub_name_has_a_revision_or_not(name: str, repo: str, revision: str | None) -> None:
    assert parse(name) == HubName(repo, revision)


def test_a_folder_that_exists_wins_over_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "org" / "name").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert parse("org/name") == Path("org/name")
    assert parse(str(tmp_path)) == tmp_path


@pytest.mark.parametrize("name", ["/no/such/folder", "./no-such-folder", "~/no/such/folder"])
def test_what_looks_like_a_path_is_one(name: str) -> None:
    assert isinstance(parse(name), Path)


@pytest.mark.parametrize("name", ["..", "../x", "a/..", "./../x", "/models/../etc", "org/..@main", "org/name@../x"])
def test_a_name_that_climbs_is_refused(name: str) -> None:
    with pytest.raises(InvalidModelName, match=r"has a part '\.\.'"):
        parse(name)


@pytest.mark.parametrize("name", ["", "/" + "a" * 300, "~nobody-of-that-name/x"])
def test_a_name_that_no_file_system_holds_is_refused(name: str) -> None:
    with pytest.raises(InvalidModelName):
        parse(name)


@pytest.mark.parametrize(
    "name",
    ["qwen", "a/b/c", "org/name@", "org/na me", "@main", "org/-name", "-x/name", "org/name@a@b", "a\0b", "\ud800"],
)
def test_an_unknown_name_lists_what_there_is(name: str) -> None:
    with pytest.raises(ModelNotFound, match=f"(?s){DEFAULT_MODEL_ID}.*org/name@revision"):
        parse(name)


@given(name=st.text())
def test_any_text_is_understood_or_refused(name: str) -> None:
    try:
        meaning = parse(name)
    except ModelError:
        return
    if isinstance(meaning, HubName):
        assert ".." not in meaning.repo.split("/")
        assert ".." not in (meaning.revision or "").split("/")
