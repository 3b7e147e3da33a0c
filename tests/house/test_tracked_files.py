"""What is in the repository, and what must not be."""

import re
import subprocess
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
GENERATED = re.compile(r"^(clients/qwire/v1/.*_pb2|protos/google/)|\.binpb$")
MAX_LINES = 250

# In two halves each, so that this file does not find itself.
REGISTRY_HOSTS = ["pypi." + "org", "pythonhosted." + "org", "hugging" + "face.co", "npmjs." + "org", "ghcr." + "io"]
MACHINE_PATHS = ["/ro" + "ot/", "/wo" + "rk/", "/ho" + "me/", "/op" + "t/"]


@cache
def _tracked() -> tuple[Path, ...]:
    listed = subprocess.run(["git", "-C", str(ROOT), "ls-files", "-z"], capture_output=True, text=True, check=True)
    return tuple(ROOT / name for name in listed.stdout.split("\0") if name and (ROOT / name).exists())


def _name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def _written() -> list[Path]:
    return [path for path in _tracked() if not GENERATED.search(_name(path))]


def _modules() -> list[Path]:
    rooms = ("clients/", "services/", "deployments/")
    return [path for path in _written() if path.suffix == ".py" and _name(path).startswith(rooms)]


@pytest.mark.parametrize("words", [REGISTRY_HOSTS, MACHINE_PATHS], ids=["registry hosts", "paths of a machine"])
def test_no_file_names(words: list[str]) -> None:
    found = [
        f"{_name(path)}:{number}: {line.strip()}"
        for path in _written()
        for number, line in enumerate(path.read_text().splitlines(), start=1)
        if any(re.search(rf"(?<![\w.}}]){re.escape(word)}", line) for word in words)
    ]
    assert found == []


def test_every_module_says_what_it_is_in_its_first_line() -> None:
    silent = [_name(path) for path in _modules() if not re.match(r'(# ruff: .*\n)?"""\S', path.read_text())]

    assert [name for name in silent if not name.endswith("__init__.py")] == []


def test_rooms_share_the_namespace() -> None:
    rooms = {path.parents[len(path.relative_to(ROOT).parts) - 3] for path in _modules()}

    assert {_name(room) for room in rooms} == {"clients/qwire", "services/qwire", "deployments/qwire"}
    for room in rooms:
        assert [_name(path) for path in _tracked() if path.parent == room] == []  # a module here would hide the others
        for package in {path.parent for path in _modules() if path.parent.parent == room}:
            assert (package / "py.typed").exists(), _name(package)


def test_modules_are_small() -> None:
    lengths = {_name(path): len(path.read_text().splitlines()) for path in _modules()}

    assert {name: lines for name, lines in lengths.items() if lines > MAX_LINES} == {}


def test_license_is_apache_2() -> None:
    text = (ROOT / "LICENSE").read_text()

    assert "Apache License" in text
    assert "Version 2.0, January 2004" in text


def test_links_of_documents_lead_somewhere() -> None:
    broken = [
        f"{_name(path)}: {target}"
        for path in _written()
        if path.suffix == ".md"
        for target in re.findall(r"\]\(([^)#:]+)\)", path.read_text())
        if not (path.parent / target).exists()
    ]
    assert broken == []
