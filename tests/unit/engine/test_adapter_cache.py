"""Which adapters are in memory, for whom, and who waits."""

from __future__ import annotations

import asyncio
import json
import os
import threading
import time
from collections.abc import Awaitable
from pathlib import Path

import pytest

from qwire.engine import adapter_cache
from qwire.engine.adapter import Adapter
from qwire.engine.adapter_cache import AdapterCache
from qwire.engine.adapter_folder import AdapterFolder, AdapterSource
from qwire.engine.errors import AdapterNotFound, AdapterUnusable, QueueFull

CONFIG = json.dumps({"peft_type": "LORA", "r": 2, "lora_alpha": 1, "target_modules": ["q_proj"]})


class Folder:
    """Adapters `a` to `e`, a loader that counts, and that waits as long as `gate` is closed."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.loads: list[str] = []
        self.gate = threading.Event()
        self.gate.set()
        for name in "abcde":
            self.write(name, name)

    def write(self, name: str, weights: str) -> None:
        folder = self.root / name
        folder.mkdir(exist_ok=True)
        (folder / "adapter_config.json").write_text(CONFIG)
        (folder / "adapter_model.safetensors").write_text(weights)
        os.utime(folder / "adapter_model.safetensors", ns=(0, len(self.loads) + 1))

    def load(self, source: AdapterSource) -> Adapter:
        self.loads.append(source.adapter_id)
        assert self.gate.wait(20)
        files = source.read()
        if files.weights == b"broken":
            raise AdapterUnusable(source.adapter_id, "it is broken")
        return Adapter(source.adapter_id, files.sha256, 2, {})

    def cache(self, capacity: int = 2, max_waiting: int = 2) -> AdapterCache:
        return AdapterCache(AdapterFolder(self.root), self.load, capacity=capacity, max_waiting=max_waiting)


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


async def started(awaitable: Awaitable[Adapter]) -> asyncio.Task[Adapter]:
    """Return a task that has come as far as it can for now."""
    task = asyncio.ensure_future(awaitable)
    await asyncio.wait({task}, timeout=0.2)
    return task


async def loaded(cache: AdapterCache) -> list[str]:
    return [info.adapter_id for info in await cache.infos() if info.loaded]


async def test_one_is_loaded_once_for_all_and_kept(folder: Folder):
    cache = folder.cache()
    first = await asyncio.gather(*(cache.acquire("a", f"user {index}") for index in range(5)))
    for index in range(5):
        cache.release(f"user {index}")
    assert [await cache.acquire("a", "later")] * 5 == first
    assert folder.loads == ["a"]


async def test_the_one_unused_for_the_longest_time_goes(folder: Folder):
    cache = folder.cache(capacity=2)
    for name in ("a", "b", "a", "c"):
        await cache.acquire(name, "user")
        cache.release("user")
    assert await loaded(cache) == ["a", "c"]
    await cache.acquire("b", "user")
    assert (await loaded(cache), folder.loads) == (["b", "c"], ["a", "b", "c", "b"])


async def test_one_that_is_used_stays_and_others_wait(folder: Folder):
    cache = folder.cache(capacity=2, max_waiting=2)
    await cache.acquire("a", "1")
    await cache.acquire("b", "2")
    waiting = [await started(cache.acquire(name, name)) for name in ("c", "d")]
    assert not any(task.done() for task in waiting)
    assert folder.loads == ["a", "b"]
    assert await cache.acquire("a", "3")  # what is there waits for nobody
    with pytest.raises(QueueFull):
        await cache.acquire("e", "e")
    cache.release("1")
    assert not (await started(waiting[0])).done()
    cache.release("3")
    await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    assert [task.done() for task in waiting].count(True) == 1
    cache.release("2")
    assert [(await task).adapter_id for task in waiting] == ["c", "d"]
    assert await loaded(cache) == ["c", "d"]


async def test_steady_traffic_on_others_keeps_nobody_out(folder: Folder, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(adapter_cache, "_LINE_S", 0.3)
    cache = folder.cache(capacity=2, max_waiting=20)
    served = dict.fromkeys("abcd", 0)

    async def ask_for_ever(name: str, number: int) -> None:
        while min(served.values()) < 3:
            await cache.acquire(name, (name, number))
            await asyncio.sleep(0.1)
            cache.release((name, number))
            served[name] += 1

    async with asyncio.timeout(15), asyncio.TaskGroup() as group:
        for number, name in enumerate("aaaaaaaabbbbbbbbcd"):  # so many that somebody always uses a and b
            group.create_task(ask_for_ever(name, number))
            await asyncio.sleep(0.02)
    assert await cache.acquire("e", "e")  # nobody waits, and everything is open again


async def test_what_was_closed_for_one_who_left_is_open_for_others(folder: Folder, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(adapter_cache, "_LINE_S", 0.05)
    cache = folder.cache(capacity=1, max_waiting=4)
    await cache.acquire("a", "1")
    closes = await started(cache.acquire("b", "b"))
    again = await started(cache.acquire("a", "2"))
    assert not again.done()
    closes.cancel()
    await asyncio.wait({closes})
    assert (await asyncio.wait_for(again, 20)).adapter_id == "a"
    assert folder.loads == ["a"]


async def test_who_closed_its_own_place_gets_it_when_its_turn_comes(folder: Folder, monkeypatch: pytest.MonkeyPatch):
    """The second one in line gives up waiting for a moment just when the first one is given what both want."""
    monkeypatch.setattr(adapter_cache, "_LINE_S", 0.4)
    cache = folder.cache(capacity=1, max_waiting=4)
    await cache.acquire("a", "1")
    first = await started(cache.acquire("b", "2"))  # looks again after 0.4 s, 0.2 s of which have passed
    second = asyncio.ensure_future(cache.acquire("b", "3"))
    await asyncio.sleep(0.3)
    cache.release("1")
    time.sleep(0.2)  # noqa: ASYNC251 - the loop is busy until the second one looks
    async with asyncio.timeout(20):
        assert (await first) == (await second)
    cache.release("2")
    cache.release("3")
    assert (await asyncio.wait_for(cache.acquire("c", "4"), 20)).adapter_id == "c"


async def test_who_comes_later_does_not_go_first(folder: Folder):
    cache = folder.cache(capacity=1, max_waiting=4)
    await cache.acquire("a", "1")
    first = await started(cache.acquire("b", "b"))
    cache.release("1")
    later = asyncio.ensure_future(cache.acquire("c", "c"))
    assert (await first).adapter_id == "b"
    assert not (await started(later)).done()
    cache.release("b")
    assert (await later).adapter_id == "c"


async def test_one_who_waits_can_leave(folder: Folder):
    cache = folder.cache(capacity=1, max_waiting=1)
    await cache.acquire("a", "1")
    for name in "bcde":
        waiting = await started(cache.acquire(name, name))
        waiting.cancel()
        await asyncio.wait({waiting})
        cache.release(name)
    cache.release("1")
    assert (await cache.acquire("c", "c")).adapter_id == "c"
    assert folder.loads == ["a", "c"]


async def test_a_load_goes_on_when_the_one_who_asked_leaves(folder: Folder):
    cache = folder.cache()
    folder.gate.clear()
    first, second = await started(cache.acquire("a", "1")), await started(cache.acquire("a", "2"))
    first.cancel()
    await asyncio.wait({first})
    cache.release("1")
    folder.gate.set()
    assert (await second).adapter_id == "a"
    assert folder.loads == ["a"]


async def test_what_is_being_loaded_takes_its_place_already(folder: Folder):
    cache = folder.cache(capacity=1)
    folder.gate.clear()
    first = await started(cache.acquire("a", "1"))
    second = await started(cache.acquire("b", "2"))
    first.cancel()
    await asyncio.wait({first})
    cache.release("1")
    assert not (await started(second)).done()
    assert folder.loads == ["a"]
    folder.gate.set()
    assert (await second).adapter_id == "b"


async def test_one_that_fails_takes_no_place_and_may_be_better_the_next_time(folder: Folder):
    cache = folder.cache(capacity=1)
    folder.write("a", "broken")
    for user in ("1", "2"):
        with pytest.raises(AdapterUnusable, match="broken"):
            await cache.acquire("a", user)
        cache.release(user)
    assert (await cache.acquire("b", "3")).adapter_id == "b"
    cache.release("3")
    folder.write("a", "good")
    assert (await cache.acquire("a", "4")).adapter_id == "a"
    with pytest.raises(AdapterNotFound):
        await cache.acquire("z", "5")


async def test_one_whose_files_changed_is_another_one(folder: Folder):
    cache = folder.cache(capacity=2)
    old = await cache.acquire("a", "1")
    folder.write("a", "new")
    new = await cache.acquire("a", "2")
    assert (old.sha256 != new.sha256, old.cache_root != new.cache_root) == (True, True)
    assert [info.sha256 for info in await cache.infos() if info.loaded] == [new.sha256]
    assert not (await started(cache.acquire("b", "3"))).done(), "both are in memory as long as both are used"
    cache.release("1")
    assert await cache.acquire("a", "4") is new


async def test_one_that_is_in_memory_is_lent_by_its_digest_whatever_its_files_are(folder: Folder):
    cache = folder.cache(capacity=2)
    old = await cache.acquire("a", "1")
    cache.release("1")
    folder.write("a", "new")
    assert await cache.acquire("a", "2", old.sha256) is old
    (folder.root / "a" / "adapter_config.json").unlink()
    assert await cache.acquire("a", "3", old.sha256) is old
    assert folder.loads == ["a"]


async def test_one_whose_digest_is_gone_is_refused(folder: Folder):
    cache = folder.cache(capacity=1)
    old = await cache.acquire("a", "1")
    cache.release("1")
    await cache.acquire("b", "2")
    cache.release("2")
    assert (await cache.acquire("a", "3", old.sha256)).sha256 == old.sha256
    cache.release("3")
    await cache.acquire("b", "4")
    cache.release("4")
    folder.write("a", "new")
    with pytest.raises(AdapterUnusable, match="replaced while the generation ran"):
        await cache.acquire("a", "5", old.sha256)
    cache.release("5")
    assert (await cache.acquire("a", "6")).sha256 != old.sha256
    (folder.root / "c").rename(folder.root / ".c")
    with pytest.raises(AdapterUnusable, match="replaced while the generation ran"):
        await cache.acquire("c", "7", old.sha256)


async def test_adapters_are_listed_with_what_is_wrong(folder: Folder):
    (folder.root / "b" / "adapter_config.json").write_text("{")
    (folder.root / "c" / "adapter_model.safetensors").unlink()
    (folder.root / "d").rename(folder.root / ".d")
    (folder.root / "note").write_text("no folder")
    cache = folder.cache()
    adapter = await cache.acquire("a", "1")
    told = {info.adapter_id: (info.loaded, info.rank, info.sha256, bool(info.problem)) for info in await cache.infos()}
    assert told == {
        "a": (True, 2, adapter.sha256, False),
        "b": (False, 0, "", True),
        "c": (False, 0, "", True),
        "e": (False, 2, "", False),
    }
