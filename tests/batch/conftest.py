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
from tests.batch.stores import PostgresStore, SqliteStore, Store
from tests.support.postgres import PostgresServer, postgres

LEASE_S = 10


@pytest.fixture(scope="session")
def postgres_server() -> Generator[PostgresServer]:
    with postgres() as server:
        yield server


@pytest.fixture(params=["sqlite", "postgresql"])
async def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database."""
    backend: Literal["sqlite", "postgresql"] = request.param
    if backend == "sqlite":
        return f"sqlite:///{tmp_path / 'jobs.db'}"
    server: PostgresServer = request.getfixturevalue("postgres_server")
    name = f"test_{uuid.uuid4().hex}"
    connection = await asyncpg.connect(server.url)
    await connection.execute(f"CREATE DATABASE {name}")
    await connection.close()
    return server.url.replace("/postgres?", f"/{name}?")


@pytest.fixture
def store(request: pytest.FixtureRequest, database_url: str) -> Store:
    """The same, as something to break."""
    if database_url.startswith("sqlite"):
        return SqliteStore(database_url)
    return PostgresStore(database_url, request.getfixturevalue("postgres_server"))


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
