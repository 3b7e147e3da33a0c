"""Tells a database that is away, overloaded or full from a mistake of ours."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from qwire.batch.errors import StoreUnavailable

_SQLITE_CODES = frozenset(
    {
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_NOMEM,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_CANTOPEN,
    }
)
_POSTGRES_CLASSES = ("08", "40", "53", "57")
"""Of SQLSTATE: connection, rollback (deadlock), resources, intervention (shutdown, still starting up)."""


@asynccontextmanager
async def available() -> AsyncGenerator[None]:
    """Raise `StoreUnavailable` where the database is to blame and another try may succeed."""
    try:
        yield
    except (OSError, PoolTimeout) as error:
        raise StoreUnavailable from error
    except DBAPIError as error:
        if error.connection_invalidated or _is_outage(error.orig):
            raise StoreUnavailable from error
        raise


def _is_outage(error: BaseException | None) -> bool:
    if isinstance(error, sqlite3.Error):
        return getattr(error, "sqlite_errorcode", 0) & 0xFF in _SQLITE_CODES  # the rest of the code tells details
    return str(getattr(error, "sqlstate", None)).startswith(_POSTGRES_CLASSES)
