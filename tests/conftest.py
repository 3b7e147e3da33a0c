"""What tests of several rooms share."""

from __future__ import annotations

from collections.abc import Generator

import pytest

from qwire.models.catalogue import DEFAULT_MODEL_ID
from qwire.models.checkpoint import Checkpoint
from qwire.models.store import ModelStore
from qwire.serve.environment import cache_dir


@pytest.fixture(scope="session", autouse=True)
def state(tmp_path_factory: pytest.TempPathFactory) -> Generator[None]:
    """No server that a test starts, in a process of its own or in this one, keeps anything where a person's is kept."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("QWIRE_STATE", str(tmp_path_factory.mktemp("state")))
        yield


@pytest.fixture(scope="session")
def default_checkpoint() -> Checkpoint:
    """The default model, fetched and converted on first use."""
    return ModelStore(cache_dir(None)).resolve(DEFAULT_MODEL_ID)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let one run be longer than the suite has time for."""
    parser.addoption(
        "--engine-requests", type=int, default=300, help="random requests to each of the workload test's engines"
    )
    parser.addoption("--job-items", type=int, default=300, help="items of the job whose processes and store are lost")
    parser.addoption("--job-faults", type=int, default=2, help="how often each of them is lost")
