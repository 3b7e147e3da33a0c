"""Databases that tests take away from whoever uses them."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Protocol

import asyncpg

from tests.support.postgres import PostgresServer


class Store(Protocol):
    url: str

    def outage(self) -> AbstractAsyncContextManager[None]:
        """Take it away as long as the context lasts; in a SQLite file one can still read."""
        ...

    async def cut(self) -> None:
        """Break every connection to it that can be broken."""
        ...


class SqliteStore:
    def __init__(self, url: str) -> None:
        self.url = url

    @asynccontextmanager
    async def outage(self) -> AsyncGenerator[None]:
        path = self.url.removeprefix("sqlite:///")
        connection = sqlite3.connect(path, isolation_level=None, timeout=60, check_same_thread=False)
        try:
            await asyncio.to_thread(connection.execute, "BEGIN IMMEDIATE")
            yield
        finally:
            connection.close()

    async def cut(self) -> None:
        """A file has no connections."""


class PostgresStore:
    def __init__(self, url: str, server: PostgresServer) -> None:
        self.url = url
        self._server = server

    @asynccontextmanager
    async def outage(self) -> AsyncGenerator[None]:
        await asyncio.to_thread(self._server.stop)
        try:
            yield
        finally:
            await asyncio.to_thread(self._server.start)

    async def cut(self) -> None:
        connection = await asyncpg.connect(self.url)
        others = "datname = current_database() AND pid <> pg_backend_pid()"
        await connection.execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {others}")  # noqa: S608
        await connection.close()
