"""Job stores on real databases: every test runs on SQLite and on PostgreSQL."""

from __future__ import annotations

import uuid
from collections.abc import AsyncGenerator, Generator
from pathlib import Path
from typing import Literal

import asyncpg
import pytest

from qwire.batch.database import Database
from qwire.batch.item_store import ItemStore
from qwire.batch.lease_store import LeaseStore
from qwire.batch.migration import migrate
from qwire.batch.store import JobStore
from tests.batch.clock import Clock
from tests.support.postgres import postgres

LEASE_S = 10


@pytest.fixture(scope="session")
def postgres_url() -> Generator[str]:
    with postgres() as url:
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
async def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database."""
    backend: Literal["sqlite", "postgresql"] = request.param
    if backend == "sqlite":
        return f"sqlite:///{tmp_path / 'jobs.db'}"
    server: str = request.getfixturevalue("postgres_url")
    name = f"test_{uuid.uuid4().hex}"
    connection = await asyncpg.connect(server)
    await connection.execute(f"CREATE DATABASE {name}")
    await connection.close()
    return server.replace("/postgres?", f"/{name}?")


@pytest.fixture
async def database(database_url: str) -> AsyncGenerator[Database]:
    database = Database(database_url)
    await migrate(database)
    yield database
    await database.close()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def jobs(database: Database, clock: Clock) -> JobStore:
    return JobStore(database, clock)


@pytest.fixture
def items(database: Database, clock: Clock) -> ItemStore:
    return ItemStore(database, clock)


@pytest.fixture
def leases(database: Database, clock: Clock) -> LeaseStore:
    return LeaseStore(database, LEASE_S * 10**9, clock)
