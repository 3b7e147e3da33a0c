"""The database behind the job store: SQLite in a file, or PostgreSQL."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, event, make_url
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from qwire.batch.errors import StoreUnavailable

_SQLITE_WAIT_S = 30.0
"""How long a writer of SQLite waits for another one, seconds."""
_DRIVERS = {"sqlite": "sqlite+aiosqlite", "postgresql": "postgresql+asyncpg"}


class Database:
    """Opens transactions.

    SQLite runs in WAL mode with full synchronization: what was committed outlives the loss of the process and of power,
    and readers never wait for writers. Deleted bytes are overwritten.

    Args:
        url: `sqlite:///relative.db`, `sqlite:////absolute.db` or `postgresql://user:password@host/name`.
        connections: The most connections at once.

    Raises:
        ValueError: The URL names neither of the two.
    """

    def __init__(self, url: str, connections: int = 8) -> None:
        parsed = make_url(url)
        backend = parsed.get_backend_name()
        if backend not in _DRIVERS:
            raise ValueError(f"the job store's URL names {backend!r}; it must be sqlite or postgresql")
        self.is_sqlite = backend == "sqlite"
        if self.is_sqlite:
            if not parsed.database or parsed.database == ":memory:":
                raise ValueError("the job store's URL names no file; jobs are to outlive the process")
            Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
        self._engine = create_async_engine(
            parsed.set(drivername=_DRIVERS[backend]),
            pool_size=connections,
            max_overflow=0,
            pool_pre_ping=not self.is_sqlite,
            connect_args={"timeout": _SQLITE_WAIT_S} if self.is_sqlite else {},
        )
        if self.is_sqlite:
            _set_up_sqlite(self._engine)

    @asynccontextmanager
    async def write(self) -> AsyncGenerator[AsyncConnection]:
        """Open a transaction that changes something: committed at the end, rolled back where an error is raised.

        Raises:
            StoreUnavailable: The database cannot be reached, or is too busy.
        """
        async with _available(), self._engine.begin() as connection:
            yield connection

    @asynccontextmanager
    async def read(self) -> AsyncGenerator[AsyncConnection]:
        """Open a transaction that sees one state of everything, and changes nothing.

        Raises:
            StoreUnavailable: The database cannot be reached, or is too busy.
        """
        async with _available(), self._engine.connect() as connection:
            yield await connection.execution_options(**self._reading)

    async def close(self) -> None:
        """Close the connections."""
        await self._engine.dispose()

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
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "secure_delete=ON"):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    @event.listens_for(engine.sync_engine, "begin")
    def begin(connection: Connection) -> None:  # pyright: ignore[reportUnusedFunction]
        reading = connection.get_execution_options().get("qwire_reading", False)
        connection.exec_driver_sql("BEGIN" if reading else "BEGIN IMMEDIATE")


@asynccontextmanager
async def _available() -> AsyncGenerator[None]:
    """Tell a database that is away or overloaded from a mistake of ours."""
    try:
        yield
    except (OSError, PoolTimeout) as error:
        raise StoreUnavailable from error
    except DBAPIError as error:
        if error.connection_invalidated or "locked" in str(error.orig) or "connection" in str(error.orig):
            raise StoreUnavailable from error
        raise
