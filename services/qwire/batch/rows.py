"""From rows of the tables to what they mean."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sqlalchemy import RowMapping, select
from sqlalchemy.ext.asyncio import AsyncConnection

from qwire.batch.errors import JobNotFound
from qwire.batch.item import Item
from qwire.batch.job import ItemState, Job, JobState, Tokens
from qwire.batch.schema import jobs, labels


async def read_job(connection: AsyncConnection, tenant: str, job_id: str) -> Job:
    """Return a job as it is now.

    Raises:
        JobNotFound: The tenant has no such job.
    """
    query = select(jobs).where(jobs.c.id == job_id, jobs.c.tenant == tenant)
    row = (await connection.execute(query)).mappings().first()
    if row is None:
        raise JobNotFound
    return job_of(row, (await read_labels(connection, [job_id])).get(job_id, {}))


async def read_labels(connection: AsyncConnection, job_ids: Sequence[str]) -> dict[str, dict[str, str]]:
    """Return the labels of jobs that have any."""
    found: dict[str, dict[str, str]] = {}
    for row in await connection.execute(select(labels).where(labels.c.job_id.in_(job_ids)).order_by(labels.c.key)):
        found.setdefault(row.job_id, {})[row.key] = row.value
    return found


def job_of(row: RowMapping, told: Mapping[str, str]) -> Job:
    """Return the job of a row of `jobs`, with the labels that were found for it.

    One that is being ended has not ended yet, see `end_job`.
    """
    state = JobState(row["state"])
    if state.ended and row["ended_ns"] is None:
        state = JobState.OPEN if row["sealed_ns"] is None else JobState.RUNNING
    return Job(
        id=row["id"],
        tenant=row["tenant"],
        request_id=row["request_id"],
        labels=told,
        priority=row["priority"],
        state=state,
        counts={state: row[state.name.lower()] for state in ItemState},
        chunks=row["chunks"],
        tokens=Tokens(row["prompt_tokens"], row["output_tokens"], row["cached_prompt_tokens"], row["reasoning_tokens"]),
        landed=row["landed"],
        created_ns=row["created_ns"],
        sealed_ns=row["sealed_ns"],
        ended_ns=row["ended_ns"],
        expires_ns=row["expires_ns"],
        delete_ns=row["delete_ns"],
    )


def item_of(row: RowMapping) -> Item:
    """Return the item of a row of `items`."""
    return Item(
        number=row["number"],
        id=row["item_id"],
        state=ItemState(row["state"]),
        attempts=row["attempts"],
        content=bytes(row["content"] or b""),
        landed=row["landed"] or 0,
        ended_ns=row["ended_ns"],
    )
