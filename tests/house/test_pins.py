"""Versions: what pyproject.toml asks for and what constraints.txt gives."""

import re
import tomllib
from importlib.metadata import distributions
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def _pins() -> dict[str, Version]:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    requirements = [Requirement(line) for line in lines]
    pins = {canonicalize_name(pin.name): [*pin.specifier] for pin in requirements}
    assert len(pins) == len(lines)
    assert all(len(pin) == 1 and pin[0].operator == "==" for pin in pins.values())
    return {name: Version(pin[0].version) for name, pin in pins.items()}


def _requirements() -> list[Requirement]:
    project = PROJECT["project"]
    lists = [PROJECT["build-system"]["requires"], project["dependencies"], *project["optional-dependencies"].values()]
    return [requirement for lines in lists for requirement in map(Requirement, lines) if requirement.name != "qwire"]


def test_every_requirement_has_a_pin_within_its_bounds() -> None:
    pins = _pins()

    wrong = [str(one) for one in _requirements() if not one.specifier.contains(pins[canonicalize_name(one.name)])]
    assert wrong == []


def test_pins_name_no_local_build() -> None:
    assert [name for name, version in _pins().items() if version.local is not None] == []


def test_what_is_installed_is_what_is_pinned() -> None:
    pins = _pins()
    installed = {canonicalize_name(one.name): Version(one.version) for one in distributions()}

    required = {canonicalize_name(one.name) for one in _requirements()} & installed.keys()
    assert len(required) > 20
    different = {name: (installed[name], pins[name]) for name in required if installed[name].public != str(pins[name])}
    assert different == {}


def test_ray_is_the_same_in_every_place() -> None:
    ray = str(_pins()["ray"])
    dockerfile = (ROOT / "infra" / "docker" / "Dockerfile").read_text()
    rayservice = (ROOT / "infra" / "kubernetes" / "base" / "rayservice.yaml").read_text()

    assert re.findall(r"rayproject/ray:([\d.]+)-", dockerfile) == [ray]
    assert re.findall(r"rayVersion: ([\d.]+)", rayservice) == [ray]


def test_images_carry_the_version_of_the_distribution() -> None:
    version = PROJECT["project"]["version"]
    tags = [
        tag
        for path in (ROOT / "infra" / "kubernetes").rglob("kustomization.yaml")
        for tag in re.findall(r"newTag: (\S+)", path.read_text())
    ]

    assert tags
    assert set(tags) == {version}
    assert f"IMAGE  ?= qwire:{version}" in (ROOT / "Makefile").read_text()
