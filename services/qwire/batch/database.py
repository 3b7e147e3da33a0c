"""The database behind the job store: SQLite in a file, or PostgreSQL."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any, cast

from sqlalchemy import Connection, event, make_url
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import QueuePool
from sqlalchemy.util import await_only

from qwire.batch.errors import StoreUnavailable
from qwire.batch.outage import available

_DRIVERS = {"sqlite": "sqlite+aiosqlite", "postgresql": "postgresql+asyncpg"}
_POSTGRES = {"plan_cache_mode": "force_custom_plan"}
"""A plan that was made while a table was small would be kept while it grows, and read all of it."""
_SWITCH_ATTEMPTS = 5
_SWITCH_WAIT_S = 0.1
_LOOK_S = 0.01
"""How often a database that is being closed looks whether its connections are back, seconds."""


class Database:
    """Opens transactions.

    SQLite runs in WAL mode with full synchronization: what was committed outlives the loss of the process and of power,
    and readers never wait for writers. Deleted bytes are overwritten.

    Args:
        url: `sqlite:///relative.db`, `sqlite:////absolute.db` or `postgresql://user:password@host/name`.
        connections: The most connections at once.
        wait_s: How long a transaction waits for its turn, seconds: for a connection, and for another writer of SQLite.

    Raises:
        ValueError: The URL names neither of the two.
    """

    def __init__(self, url: str, connections: int = 8, wait_s: float = 30.0) -> None:
        parsed = make_url(url)
        backend = parsed.get_backend_name()
        if backend not in _DRIVERS:
            raise ValueError(f"the job store's URL names {backend!r}; it must be sqlite or postgresql")
        self.is_sqlite = backend == "sqlite"
        if self.is_sqlite:
            if not parsed.database or parsed.database == ":memory:":
                raise ValueError("the job store's URL names no file; jobs are to outlive the process")
            Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
        self._wait_s = wait_s
        self._turn = asyncio.Lock()
        self._closed = False
        self._engine = create_async_engine(
            parsed.set(drivername=_DRIVERS[backend]),
            pool_size=connections,
            max_overflow=0,
            pool_timeout=wait_s,
            pool_pre_ping=not self.is_sqlite,
            connect_args={"timeout": wait_s} if self.is_sqlite else {"timeout": wait_s, "server_settings": _POSTGRES},
        )
        if self.is_sqlite:
            _set_up_sqlite(self._engine)

    @asynccontextmanager
    async def write(self) -> AsyncGenerator[AsyncConnection]:
        """Open a transaction that changes something: committed at the end, rolled back where an error is raised.

        Raises:
            StoreUnavailable: The database cannot be reached, or is too busy.
        """
        async with available(), self._writing(), self._open().begin() as connection:
            yield connection

    @asynccontextmanager
    async def read(self) -> AsyncGenerator[AsyncConnection]:
        """Open a transaction that sees one state of everything, and changes nothing.

        Raises:
            StoreUnavailable: The database cannot be reached, or is too busy.
        """
        async with available(), self._open().connect() as connection:
            yield await connection.execution_options(**self._reading)

    async def close(self) -> None:
        """Close the connections, once transactions that are open have ended; new ones are refused."""
        self._closed = True
        pool = cast("QueuePool", self._engine.pool)
        # Not all of them have somebody who waits: who was cancelled leaves a connection that is still being closed.
        with suppress(TimeoutError):
            async with asyncio.timeout(self._wait_s):
                while pool.checkedout():  # noqa: ASYNC110 - of the pool there is no event
                    await asyncio.sleep(_LOOK_S)
        await self._engine.dispose()

    def _open(self) -> AsyncEngine:
        if self._closed:
            raise StoreUnavailable
        return self._engine

    def _writing(self) -> AbstractAsyncContextManager[None]:
        return self._own_turn() if self.is_sqlite else nullcontext()

    @asynccontextmanager
    async def _own_turn(self) -> AsyncGenerator[None]:
        """Let this process's writers of SQLite come one after the other: the file's own lock is polled, ever slower."""
        async with asyncio.timeout(self._wait_s):
            await self._turn.acquire()
        try:
            yield
        finally:
            self._turn.release()

    @property
    def _reading(self) -> dict[str, Any]:
        if self.is_sqlite:
            return {"qwire_reading": True}
        return {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}


def _set_up_sqlite(engine: AsyncEngine) -> None:
    @event.listens_for(engine.sync_engine, "connect")
    def configure(connection: Any, _: Any) -> None:  # pyright: ignore[reportUnusedFunction]
        # The driver begins transactions by itself, and too late: of two that begin by reading and go on writing, one
        # would fail.
        connection.isolation_level = None
        cursor = connection.cursor()
        _use_log(cursor)
        for pragma in ("synchronous=FULL", "foreign_keys=ON", "secure_delete=ON"):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    @event.listens_for(engine.sync_engine, "invalidate")
    def roll_back(connection: Any, *_: Any) -> None:  # pyright: ignore[reportUnusedFunction]
        # Of a caller who was cancelled. A connection that is closed with a statement left lives on, with its lock.
        with suppress(sqlite3.Error):
            connection.rollback()

    @event.listens_for(engine.sync_engine, "begin")
    def begin(connection: Connection) -> None:  # pyright: ignore[reportUnusedFunction]
        reading = connection.get_execution_options().get("qwire_reading", False)
        connection.exec_driver_sql("BEGIN" if reading else "BEGIN IMMEDIATE")


def _use_log(cursor: Any) -> None:
    """Switch to WAL mode. Of two connections that do so with a new file, SQLite may refuse one without any wait."""
    for _ in range(_SWITCH_ATTEMPTS - 1):
        try:
            cursor.execute("PRAGMA journal_mode=WAL")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY:
                raise
            await_only(asyncio.sleep(_SWITCH_WAIT_S))
        else:
            return
    cursor.execute("PRAGMA journal_mode=WAL")
