"""The Makefile says what it can do, and the documents name only what it can."""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MAKEFILE = (ROOT / "Makefile").read_text()
TARGETS = set(re.findall(r"^([a-z][a-z-]*):", MAKEFILE, re.MULTILINE))


def _make(*arguments: str) -> str:
    command = ["make", "--no-print-directory", "-C", str(ROOT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_bare_make_prints_every_target_with_its_help() -> None:
    lines = _make().splitlines()

    assert {line.split()[1] for line in lines} == TARGETS
    assert all(len(line.split(maxsplit=2)) == 3 for line in lines)


def test_ci_runs_check_and_nothing_else() -> None:
    script = (ROOT / ".ci" / "run").read_text().splitlines()
    workflow = (ROOT / ".github" / "workflows" / "ci.yml").read_text()

    assert [line for line in script if line and not line.startswith("#")] == [
        "set -eu",
        'cd "$(dirname "$0")/.."',
        "exec make check",
    ]
    assert "- run: .ci/run" in workflow


@pytest.mark.parametrize("document", ["README.md", "CONTRIBUTING.md", "docs/operating.md"])
def test_documents_name_targets_that_exist(document: str) -> None:
    named = set(re.findall(r"`make ([a-z-]+)", (ROOT / document).read_text()))

    assert named
    assert named <= TARGETS


def test_contributing_names_every_target() -> None:
    named = set(re.findall(r"`make ([a-z-]+)", (ROOT / "CONTRIBUTING.md").read_text()))

    assert named == TARGETS - {"help"}


def test_check_is_what_contributing_says() -> None:
    (prerequisites,) = re.findall(r"^check: (.*?) ##", MAKEFILE, re.MULTILINE)
    text = (ROOT / "CONTRIBUTING.md").read_text()
    (sentence,) = re.findall(r"`make check` is (.*?), in this order", text, re.DOTALL)

    assert re.findall(r"`make ([a-z-]+)`", sentence) == prerequisites.split()
