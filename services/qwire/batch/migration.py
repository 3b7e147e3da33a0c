"""Brings the tables of a database to the version that this code works with."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.util import CommandError
from sqlalchemy import Connection, text

from qwire.batch.database import Database

_LOCK = 7_391_552_017
"""Any number: who holds it migrates, and nobody else meanwhile."""


async def migrate(database: Database, revision: str = "head") -> None:
    """Make or change the tables, in one transaction. Several processes may do so at the same time.

    Args:
        database: Where.
        revision: The version; the latest unless a test wants another.

    Raises:
        ValueError: The tables are newer than this code.
    """
    async with database.write() as connection:
        await connection.run_sync(_upgrade, revision)


def _upgrade(connection: Connection, revision: str) -> None:
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).with_name("migrations")))
    config.attributes["connection"] = connection
    try:
        command.upgrade(config, revision)
    except CommandError as error:
        raise ValueError(f"the job store was made by a newer version of qwire: {error}") from error
