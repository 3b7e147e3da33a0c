"""The wheel: what a user of the client alone installs."""

import email
import subprocess
import sys
import venv
import zipfile
from collections.abc import Iterable
from importlib.metadata import distribution, requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    # Without isolation: hatchling is installed, and a test downloads nothing.
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", "--no-deps", "--no-build-isolation"]
    subprocess.run([*command, "--quiet", "--wheel-dir", str(folder), str(ROOT)], check=True)
    (built,) = folder.glob("*.whl")
    return built


def test_it_holds_one_tree_and_nothing_beside_it(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()

    assert {name.split("/")[0] for name in names} == {"qwire", f"{wheel.name.split('-py3')[0]}.dist-info"}
    assert "qwire/__init__.py" not in names
    assert not [name for name in names if "test_" in name or name.endswith(".proto")]
    packages = {name.split("/")[1] for name in names if name.startswith("qwire/")}
    assert packages == {"batch", "cli", "client", "engine", "models", "rpc", "serve", "telemetry", "text", "v1"}
    for package in packages:
        assert f"qwire/{package}/py.typed" in names


def test_its_base_install_is_the_client(wheel: Path) -> None:
    assert _closure(_requirements(wheel)) == {
        "grpcio",
        "protobuf",
        "googleapis-common-protos",
        "typing-extensions",
    }


def test_the_client_runs_on_the_base_install_alone(wheel: Path, tmp_path: Path) -> None:
    """In an environment of its own: the wheel, and those of its requirements' files that are installed here."""
    venv.create(tmp_path, with_pip=False)
    site = tmp_path / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
    zipfile.ZipFile(wheel).extractall(site)
    for name in _closure(_requirements(wheel)):
        for file in distribution(name).files or []:
            link = site / file
            if ".." not in file.parts and not link.exists():
                link.parent.mkdir(parents=True, exist_ok=True)
                link.symlink_to(file.locate())
    program = """
import qwire.client
import qwire.client.testing
import sys

qwire.client.Client("127.0.0.1:1").close()
rooms = {name.split(".")[1] for name in sys.modules if name.startswith("qwire.")}
assert rooms == {"client", "v1"}, rooms
import qwire.models.recommendation
"""
    command = [str(tmp_path / "bin" / "python"), "-I", "-c", program]
    result = subprocess.run(command, capture_output=True, text=True, check=False)

    assert result.returncode == 0, result.stderr


def _requirements(wheel: Path) -> list[Requirement]:
    archive = zipfile.ZipFile(wheel)
    (name,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
    metadata = email.message_from_bytes(archive.read(name))
    return [Requirement(line) for line in metadata.get_all("Requires-Dist", [])]


def _closure(requirements: Iterable[Requirement]) -> set[str]:
    """Everything that requirements pull in when no extra is asked for."""
    names: set[str] = set()
    for one in requirements:
        if one.marker is None or one.marker.evaluate({"extra": ""}):
            names |= {canonicalize_name(one.name)} | _closure(map(Requirement, requires(one.name) or []))
    return names
