import asyncio
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, text

from qwire.batch.database import Database
from qwire.batch.migration import migrate
from qwire.batch.schema import metadata
from qwire.batch.store import JobStore
from tests.batch.jobs import TENANT, new_job


def _differences(connection: Connection) -> list[object]:
    return list(compare_metadata(MigrationContext.configure(connection), metadata))


async def test_the_steps_make_the_tables_that_the_code_works_with(database: Database) -> None:
    async with database.read() as connection:
        assert await connection.run_sync(_differences) == []


async def test_jobs_of_the_first_version_are_read_by_the_latest(database_url: str) -> None:
    database = Database(database_url)
    await migrate(database, "0001")
    async with database.write() as connection:
        await connection.execute(
            text(
                "INSERT INTO jobs (id, tenant, request_id, request_digest, priority, state, max_attempts, retention_ns,"
                " created_ns) VALUES ('job-1', :tenant, 'old', :digest, -1, 1, 5, 1, 1)"
            ),
            {"tenant": TENANT, "digest": b"\0" * 32},
        )
    await migrate(database)
    assert (await JobStore(database).get(TENANT, "job-1")).request_id == "old"
    await database.close()


async def test_several_processes_may_migrate_at_once(database_url: str) -> None:
    databases = [Database(database_url) for _ in range(4)]
    await asyncio.gather(*map(migrate, databases))
    assert (await JobStore(databases[0]).create(TENANT, new_job())).items == 0
    for database in databases:
        await database.close()


async def test_tables_of_a_newer_version_are_refused(database: Database) -> None:
    async with database.write() as connection:
        await connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(ValueError, match="newer version"):
        await migrate(database)


@pytest.mark.parametrize("url", ["mysql://host/name", "sqlite://", "sqlite:///:memory:"])
def test_a_url_that_cannot_hold_jobs_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="job store's URL"):
        Database(url)


def test_the_folder_of_a_new_file_is_made(tmp_path: Path) -> None:
    Database(f"sqlite:///{tmp_path / 'a' / 'b' / 'jobs.db'}")
    assert (tmp_path / "a" / "b").is_dir()
