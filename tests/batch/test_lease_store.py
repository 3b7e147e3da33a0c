import asyncio
import random

from qwire.batch.database import Database
from qwire.batch.item import Checkpoint, Outcome
from qwire.batch.item_store import ItemStore
from qwire.batch.job import ItemState, JobState, Tokens
from qwire.batch.lease_store import LeaseStore
from qwire.batch.store import JobStore
from tests.batch.clock import Clock
from tests.batch.conftest import LEASE_S
from tests.batch.jobs import HOUR_NS, TENANT, append, check_counters, new_job, sealed_job, take


async def test_two_runners_never_hold_the_same_item(
    database: Database, jobs: JobStore, items: ItemStore, leases: LeaseStore
) -> None:
    job = await sealed_job(jobs, items, *(str(number) for number in range(60)))

    async def work(runner: str) -> list[str]:
        mine: list[str] = []
        while held := await take(leases, runner, 7):
            mine += [item.id for item in held]
            outcomes = [Outcome(item.lease, ItemState.SUCCEEDED, runner.encode(), Tokens(1, 2)) for item in held]
            assert await leases.record(runner, outcomes) == set()
        return mine

    taken = await asyncio.gather(*(work(f"runner-{number}") for number in range(4)))
    assert sorted(item_id for mine in taken for item_id in mine) == sorted(str(number) for number in range(60))
    ended = await jobs.get(TENANT, job.id)
    assert (ended.state, ended.tokens) == (JobState.COMPLETED, Tokens(60, 120))
    await check_counters(database)


async def test_what_a_silent_runner_held_goes_to_others_and_is_recorded_once(
    database: Database, jobs: JobStore, items: ItemStore, leases: LeaseStore, clock: Clock
) -> None:
    job = await sealed_job(jobs, items, "a")
    [old] = await take(leases, "silent", 1)
    await leases.keep("silent", [Checkpoint(old.lease, b"half")])
    clock.pass_s(LEASE_S / 2)
    await leases.sweep(HOUR_NS)
    assert await take(leases, "other", 1) == []
    clock.pass_s(LEASE_S)
    await leases.sweep(HOUR_NS)
    [new] = await take(leases, "other", 1)
    assert (new.id, new.partial, new.failures) == ("a", b"half", 0)
    assert await leases.renew("silent", [old.lease]) == {old.lease}
    assert await leases.record("silent", [Outcome(old.lease, ItemState.SUCCEEDED, b"old")]) == {old.lease}
    assert await leases.record("other", [Outcome(new.lease, ItemState.SUCCEEDED, b"new")]) == set()
    assert await leases.record("other", [Outcome(new.lease, ItemState.SUCCEEDED, b"new")]) == {new.lease}
    [item] = await items.items(TENANT, job.id, state=None, after=0, limit=1)
    assert (item.content, item.attempts) == (b"new", 2)
    await check_counters(database)


async def test_a_runner_that_gives_signs_of_life_keeps_its_items(
    jobs: JobStore, items: ItemStore, leases: LeaseStore, clock: Clock
) -> None:
    await sealed_job(jobs, items, "a")
    [held] = await take(leases, "runner", 1)
    for _ in range(4):
        clock.pass_s(LEASE_S * 0.7)
        assert await leases.renew("runner", [held.lease]) == set()
        await leases.sweep(HOUR_NS)
    assert await take(leases, "other", 1) == []


async def test_a_runner_that_leaves_gives_back_what_it_holds(
    database: Database, jobs: JobStore, items: ItemStore, leases: LeaseStore
) -> None:
    await sealed_job(jobs, items, "a", "b")
    await take(leases, "runner", 2)
    await leases.leave("runner")
    assert [item.id for item in await take(leases, "other", 2)] == ["a", "b"]
    await check_counters(database)


async def test_another_attempt_waits_for_its_time(
    database: Database, jobs: JobStore, items: ItemStore, leases: LeaseStore, clock: Clock
) -> None:
    await sealed_job(jobs, items, "a")
    [held] = await take(leases, "runner", 1)
    again = Outcome(
        held.lease, ItemState.PENDING, failed=True, available_ns=clock.now_ns + 5 * 10**9, partial=b"so far"
    )
    await leases.record("runner", [again])
    assert await take(leases, "runner", 1) == []
    clock.pass_s(6)
    [next_attempt] = await take(leases, "runner", 1)
    assert (next_attempt.failures, next_attempt.partial) == (1, b"so far")
    await check_counters(database)


async def test_the_more_urgent_job_goes_first_and_equals_take_turns(
    jobs: JobStore, items: ItemStore, leases: LeaseStore
) -> None:
    low, other = [await sealed_job(jobs, items, *"abcd", request_id=name) for name in ("low", "other")]
    urgent = await jobs.create(TENANT, new_job("urgent", priority=1))
    await append(items, urgent, 0, "u")
    taken = [(await take(leases, "runner", 1))[0].lease.job_id for _ in range(5)]
    assert taken == [urgent.id, low.id, other.id, low.id, other.id]
    rest = await take(leases, "runner", 10)
    assert len(rest) == 4


async def test_the_window_ends_what_has_no_outcome(
    database: Database, jobs: JobStore, items: ItemStore, leases: LeaseStore, clock: Clock
) -> None:
    job = await jobs.create(TENANT, new_job(window_ns=HOUR_NS))
    await append(items, job, 0, "a", "b", "c")
    first, _ = await take(leases, "runner", 2)
    await leases.record("runner", [Outcome(first.lease, ItemState.SUCCEEDED, b"in time")])
    clock.pass_s(3601)
    assert await take(leases, "runner", 1) == []
    await leases.sweep(24 * HOUR_NS)
    ended = await jobs.get(TENANT, job.id)
    assert ended.state is JobState.EXPIRED
    assert (ended.counts[ItemState.SUCCEEDED], ended.counts[ItemState.EXPIRED]) == (1, 2)
    await check_counters(database)


async def test_a_job_that_nobody_seals_expires(jobs: JobStore, leases: LeaseStore, clock: Clock) -> None:
    job = await jobs.create(TENANT, new_job())
    clock.pass_s(3601)
    await leases.sweep(HOUR_NS)
    assert (await jobs.get(TENANT, job.id)).state is JobState.EXPIRED


async def test_what_was_kept_long_enough_is_deleted(
    database: Database, jobs: JobStore, items: ItemStore, leases: LeaseStore, clock: Clock
) -> None:
    job = await sealed_job(jobs, items, "a")
    await jobs.cancel(TENANT, job.id)
    clock.pass_s(3500)
    await leases.sweep(HOUR_NS)
    assert (await jobs.get(TENANT, job.id)).state is JobState.CANCELLED
    clock.pass_s(200)
    await leases.sweep(HOUR_NS)
    assert await jobs.jobs(TENANT, state=None, wanted={}, limit=10, after=None) == []
    await check_counters(database)


async def test_any_order_of_work_and_faults_leaves_one_outcome_for_each_item(
    database: Database, jobs: JobStore, items: ItemStore, leases: LeaseStore, clock: Clock
) -> None:
    draw = random.Random(7)  # noqa: S311 - a workload, not a secret
    made = [await sealed_job(jobs, items, *map(str, range(40)), request_id=f"r{number}") for number in range(3)]
    held: dict[str, list[Outcome]] = {}
    for _ in range(200):
        runner = f"runner-{draw.randrange(4)}"
        match draw.randrange(7):
            case 0 | 1:
                for item in await take(leases, runner, draw.randrange(1, 6)):
                    state = draw.choice([ItemState.SUCCEEDED, ItemState.SUCCEEDED, ItemState.FAILED, ItemState.PENDING])
                    held.setdefault(runner, []).append(Outcome(item.lease, state, b"content"))
            case 2 | 3:
                await leases.record(runner, held.pop(runner, []))
            case 4:
                job = draw.choice(made)
                await items.cancel_items(TENANT, job.id, [str(draw.randrange(40))])
            case 5:
                await items.retry_items(TENANT, draw.choice(made).id, [])
            case _:
                clock.pass_s(LEASE_S * draw.random())
                await leases.sweep(HOUR_NS)
    await check_counters(database)
    clock.pass_s(LEASE_S + 1)
    await leases.sweep(HOUR_NS)
    while left := await take(leases, "last", 10):
        await leases.record("last", [Outcome(item.lease, ItemState.SUCCEEDED, b"end") for item in left])
    for job in made:
        assert (await jobs.get(TENANT, job.id)).state is JobState.COMPLETED
    await check_counters(database)
