"""Writes what runners say of the items of one job. A statement serves any number of them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from sqlalchemy import RowMapping, and_, bindparam, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from qwire.batch.item import Checkpoint, Lease, Outcome
from qwire.batch.job import ItemState, Tokens
from qwire.batch.schema import items, jobs
from qwire.batch.settle import settle

# An item that a runner still has under its lease.
_HELD = and_(
    items.c.job_id == bindparam("job"),
    items.c.number == bindparam("item"),
    items.c.attempts == bindparam("token"),
    items.c.runner_id == bindparam("runner"),
    items.c.state == ItemState.RUNNING,
)
_END = (
    update(items)
    .where(_HELD)
    .values(
        state=bindparam("ended"),
        content=bindparam("said"),
        landed=bindparam("cursor"),
        ended_ns=bindparam("now"),
        runner_id=None,
        partial=None,
    )
)
_WAIT = (
    update(items)
    .where(_HELD)
    .values(
        state=ItemState.PENDING,
        available_ns=bindparam("begin"),
        failures=items.c.failures + bindparam("failed"),
        partial=bindparam("kept"),
        runner_id=None,
    )
)
_FREE = update(items).where(_HELD).values(state=ItemState.PENDING, available_ns=0, runner_id=None)
_KEEP = update(items).where(_HELD).values(partial=bindparam("kept"))


async def record_outcomes(
    connection: AsyncConnection, job: RowMapping, runner_id: str, outcomes: Sequence[Outcome], now_ns: int
) -> set[Lease]:
    """Record outcomes of items of one locked job.

    Args:
        connection: The transaction.
        job: The job's row.
        runner_id: Who tells.
        outcomes: What became of its items.
        now_ns: When.

    Returns:
        The leases that were lost before, so that nothing was recorded for them.
    """
    job_id, landed = job["id"], job["landed"]
    held = await _held(connection, job_id, runner_id)
    ended: list[dict[str, Any]] = []
    waiting: list[dict[str, Any]] = []
    tokens, moved, lost = Tokens(), dict.fromkeys(ItemState, 0), set[Lease]()
    for outcome in outcomes:
        if outcome.lease not in held:
            lost.add(outcome.lease)
            continue
        held.remove(outcome.lease)
        moved[outcome.state] += 1
        tokens += outcome.tokens
        place = _place(runner_id, outcome.lease)
        if outcome.state is ItemState.PENDING:
            again = {"begin": outcome.available_ns, "failed": int(outcome.failed), "kept": outcome.partial or None}
            waiting.append(place | again)
        else:
            landed += 1
            ended.append(place | {"ended": outcome.state, "said": outcome.content, "cursor": landed, "now": now_ns})
    if ended:
        await connection.execute(_END, ended)
    if waiting:
        await connection.execute(_WAIT, waiting)
    counts: dict[str, Any] = {
        state.name.lower(): jobs.c[state.name.lower()] + count for state, count in moved.items() if count
    }
    counts |= {
        "running": jobs.c.running - sum(moved.values()),
        "landed": landed,
        "prompt_tokens": jobs.c.prompt_tokens + tokens.prompt,
        "output_tokens": jobs.c.output_tokens + tokens.output,
        "cached_prompt_tokens": jobs.c.cached_prompt_tokens + tokens.cached_prompt,
        "reasoning_tokens": jobs.c.reasoning_tokens + tokens.reasoning,
    }
    await connection.execute(update(jobs).where(jobs.c.id == job_id).values(counts))
    await settle(connection, job_id, now_ns)
    return lost


async def free_unknown(connection: AsyncConnection, job_id: str, runner_id: str, known: Collection[Lease]) -> None:
    """Let items of one locked job wait again that a runner holds and does not know of.

    Args:
        connection: The transaction.
        job_id: The job.
        runner_id: The runner.
        known: What it knows to hold.
    """
    unknown = (await _held(connection, job_id, runner_id)).difference(known)
    if unknown:
        await connection.execute(_FREE, [_place(runner_id, lease) for lease in unknown])
        counts = {"running": jobs.c.running - len(unknown), "pending": jobs.c.pending + len(unknown)}
        await connection.execute(update(jobs).where(jobs.c.id == job_id).values(counts))


async def keep_partials(connection: AsyncConnection, runner_id: str, checkpoints: Sequence[Checkpoint]) -> None:
    """Keep what running items of one locked job have said; nothing for leases that were lost.

    Args:
        connection: The transaction.
        runner_id: Who tells.
        checkpoints: What they have said.
    """
    await connection.execute(_KEEP, [_place(runner_id, one.lease) | {"kept": one.partial} for one in checkpoints])


async def _held(connection: AsyncConnection, job_id: str, runner_id: str) -> set[Lease]:
    """Return what a runner holds of a locked job: nobody else changes that until the end of the transaction."""
    held = and_(items.c.runner_id == runner_id, items.c.job_id == job_id, items.c.state == ItemState.RUNNING)
    rows = await connection.execute(select(items.c.job_id, items.c.number, items.c.attempts).where(held))
    return {Lease(*row) for row in rows}


def _place(runner_id: str, lease: Lease) -> dict[str, Any]:
    return {"job": lease.job_id, "item": lease.number, "token": lease.token, "runner": runner_id}
