"""Rows are tried again as a job's items are, and no more of them are under way than the window lets."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from qwire.batch.item import Lease, LeasedItem
from qwire.batch.job import ItemState
from qwire.batch.work import Ended, Interrupted
from qwire.serve.columns.row_runner import RowRunner

BUSY = Interrupted(b"busy", failed=False, overloaded=True, retry_after_s=0.001)
LOST = Interrupted(b"lost", failed=True, retry_after_s=0.001)
DONE = Ended(ItemState.SUCCEEDED, b"done")


@dataclass
class Attempt:
    shop: Shop
    item: LeasedItem

    async def run(self, taken: Callable[[], None]) -> Ended | Interrupted:
        self.shop.running += 1
        self.shop.most = max(self.shop.most, self.shop.running)
        try:
            await asyncio.sleep(self.shop.step_s)
            script = self.shop.scripts.get(self.item.id, [])
            ended = script.pop(0) if script else DONE
            if ended is not BUSY:
                taken()
            return ended
        finally:
            self.shop.running -= 1

    def partial(self) -> bytes:
        return self.item.partial + b"."


@dataclass
class Shop:
    scripts: dict[str, list[Ended | Interrupted]] = field(default_factory=dict[str, list[Ended | Interrupted]])
    step_s: float = 0.0
    begun: list[LeasedItem] = field(default_factory=list[LeasedItem])
    running: int = 0
    most: int = 0

    def begin(self, item: LeasedItem) -> Attempt:
        self.begun.append(item)
        return Attempt(self, item)


def item(number: int) -> LeasedItem:
    return LeasedItem(Lease("run", number, 1), str(number), "", b"", b"", 0, 3, -1, None)


async def test_an_interrupted_row_goes_on_from_where_it_was() -> None:
    shop = Shop({"0": [BUSY, LOST]})
    assert (await RowRunner(shop, 4).run(item(0))).state is ItemState.SUCCEEDED
    assert [(one.partial, one.failures) for one in shop.begun] == [(b"", 0), (b".", 0), (b"..", 1)]


async def test_failures_come_to_an_end() -> None:
    shop = Shop({"0": [LOST, BUSY, LOST, LOST]})
    outcome = await RowRunner(shop, 4).run(item(0))
    assert (outcome.state, outcome.content) == (ItemState.FAILED, b"lost")
    assert len(shop.begun) == 4


async def test_no_more_are_under_way_than_the_window_lets() -> None:
    shop = Shop(step_s=0.001)
    runner = RowRunner(shop, 5)
    outcomes = await asyncio.gather(*(runner.run(item(number)) for number in range(60)))
    assert {outcome.state for outcome in outcomes} == {ItemState.SUCCEEDED}
    assert shop.most == 5
    assert [int(one.id) for one in shop.begun] == list(range(60))


async def test_places_of_the_cancelled_go_to_others() -> None:
    shop = Shop(step_s=60.0)
    runner = RowRunner(shop, 1)
    tasks = [asyncio.create_task(runner.run(item(number))) for number in range(3)]
    await asyncio.sleep(0.01)
    assert shop.running == 1
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert shop.running == 0
    shop.step_s = 0.0
    async with asyncio.timeout(5):
        assert (await runner.run(item(3))).state is ItemState.SUCCEEDED


@pytest.mark.parametrize("when", [0, 1])
async def test_a_defect_gives_its_place_back(when: int) -> None:
    shop = Shop()
    runner = RowRunner(shop, 1)
    broken = Shop.begin

    def begin(self: Shop, given: LeasedItem) -> Attempt:
        if given.id == str(when):
            raise RuntimeError
        return broken(self, given)

    shop.begin = begin.__get__(shop)
    with pytest.raises(RuntimeError):
        await runner.run(item(when))
    assert (await runner.run(item(5))).state is ItemState.SUCCEEDED
