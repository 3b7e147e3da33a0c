"""The files of infra/ as the tests see them."""

from pathlib import Path
from typing import Any

import pytest
import yaml

INFRA = Path(__file__).parents[2] / "infra"


def documents(path: Path) -> list[dict[str, Any]]:
    """The documents of a YAML file."""
    return [document for document in yaml.safe_load_all(path.read_text()) if document]


@pytest.fixture(scope="session")
def rayservice() -> dict[str, Any]:
    """The RayService of the base, before an overlay."""
    (document,) = documents(INFRA / "kubernetes" / "base" / "rayservice.yaml")
    return document
