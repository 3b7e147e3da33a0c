"""The adapters in memory: loaded when a request names them, and given up for others when nobody uses them."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from qwire.engine.adapter import Adapter
from qwire.engine.adapter_config import AdapterConfig
from qwire.engine.adapter_folder import AdapterFolder, AdapterSource, Stamp
from qwire.engine.errors import AdapterNotFound, AdapterUnusable, QueueFull
from qwire.engine.protocol import AdapterInfo
from qwire.telemetry.logging import get_logger

_logger = get_logger(__name__)

_RETRY_S = 1.0
_LINE_S = 5.0  # how long others may still begin with what is in memory while someone waits: a load costs, too

_REPLACED = "its files were replaced while the generation ran; begin a new one"

_Key = tuple[str, Stamp]
"""An adapter whose files change is another one; the old one stays as long as it is used."""


@dataclass(slots=True)
class _Place:
    """Where an adapter is, or will be once it is loaded.

    Attributes:
        loading: Ends with the adapter, or with why there is none.
        users: Generations that use it or wait for it.
        is_closed: Whether it takes no more of them, since someone waits for the place.
    """

    loading: asyncio.Task[Adapter]
    users: set[object] = field(default_factory=set[object])
    is_closed: bool = False

    @property
    def is_loaded(self) -> bool:
        """Whether the adapter is there."""
        return self.loading.done() and not self.loading.cancelled() and self.loading.exception() is None


@dataclass(slots=True, eq=False)
class _Waiter:
    """Someone in line for a place.

    Attributes:
        closed: Places that take nobody new until it has one.
    """

    closed: list[_Place] = field(default_factory=list[_Place])


class AdapterCache:
    """Lends adapters to generations. Belongs to one event loop.

    Args:
        folder: Where they are.
        load: Loads one; called in a thread of its own.
        capacity: The most in memory, at least 1.
        max_waiting: The most generations that wait until one of those in memory is not used any more.
    """

    def __init__(
        self, folder: AdapterFolder, load: Callable[[AdapterSource], Adapter], *, capacity: int, max_waiting: int
    ) -> None:
        self._folder = folder
        self._load = load
        self._capacity = capacity
        self._max_waiting = max_waiting
        self._places: OrderedDict[_Key, _Place] = OrderedDict()  # the least recently used first
        self._lent: dict[object, _Place] = {}
        self._line: list[_Waiter] = []
        self._freed = asyncio.Event()

    async def acquire(self, adapter_id: str, user: object, sha256: str = "", *, admitted: bool = False) -> Adapter:
        """Return an adapter as its files are now. It stays in memory until `release`, also where this fails.

        Args:
            adapter_id: Its name.
            user: Whom it is lent to, any hashable thing; it is lent no other one.
            sha256: The digest that it must have, be it in memory only; empty = any.
            admitted: No bound refuses the generation, see `Envelope`.

        Raises:
            AdapterNotFound: There is none of this name.
            AdapterUnusable: It cannot be applied to this model, or has another digest.
            QueueFull: All adapters in memory are used, and too many generations wait for that to change.
        """
        key = self._in_memory(adapter_id, sha256) if sha256 else None
        if key is None:
            try:
                source = await asyncio.to_thread(self._folder.find, adapter_id)
            except AdapterNotFound:
                if sha256:
                    raise AdapterUnusable(adapter_id, _REPLACED) from None
                raise
            key = adapter_id, source.stamp
            place = self._place(key, source, is_first=not self._line)
            if place is None:
                if len(self._line) >= self._max_waiting and not admitted:
                    raise QueueFull(_RETRY_S)
                place = await self._wait(key, source)
        else:
            place = self._places[key]
        self._places.move_to_end(key)
        place.users.add(user)
        self._lent[user] = place
        # The load goes on when this one leaves: another one may wait for it, or will come.
        adapter = await asyncio.shield(place.loading)
        if sha256 not in ("", adapter.sha256):
            raise AdapterUnusable(adapter_id, _REPLACED)
        return adapter

    def release(self, user: object) -> None:
        """Take back what a user was lent, if anything."""
        place = self._lent.pop(user, None)
        if place is not None:
            place.users.discard(user)
            self._freed.set()

    def _in_memory(self, adapter_id: str, sha256: str) -> _Key | None:
        """Return which adapter in memory has a digest, whatever its files are by now; None = none has."""
        loaded = ((key, place.loading.result()) for key, place in self._places.items() if place.is_loaded)
        return next((key for key, one in loaded if key[0] == adapter_id and one.sha256 == sha256), None)

    async def infos(self) -> tuple[AdapterInfo, ...]:
        """Return what there is, in memory and not, in order of the names."""
        found = await asyncio.to_thread(self._look)
        return tuple(self._info(adapter_id, rank, stamp, problem) for adapter_id, rank, stamp, problem in found)

    def _look(self) -> list[tuple[str, int, Stamp, str]]:
        """Return name, rank, stamp and problem of each adapter in the folder."""
        found: list[tuple[str, int, Stamp, str]] = []
        for adapter_id in self._folder.names():
            try:
                source = self._folder.find(adapter_id)
                config = AdapterConfig.parse(adapter_id, source.read_config())
                found.append((adapter_id, config.rank, source.stamp, ""))
            except AdapterUnusable as error:
                found.append((adapter_id, 0, (), error.description))
            except AdapterNotFound:
                continue  # it was taken away meanwhile, or is a link to elsewhere
        return found

    def _info(self, adapter_id: str, rank: int, stamp: Stamp, problem: str) -> AdapterInfo:
        place = self._places.get((adapter_id, stamp))
        if place is None or not place.is_loaded:
            return AdapterInfo(adapter_id, rank, problem=problem)
        adapter = place.loading.result()
        return AdapterInfo(adapter_id, adapter.rank, loaded=True, sha256=adapter.sha256)

    async def _loaded(self, source: AdapterSource) -> Adapter:
        # In a thread that ends, as its OpenMP threads would be counted beside those of the steps.
        thread = ThreadPoolExecutor(1, "qwire-adapter")
        began_s = time.monotonic()
        try:
            adapter = await asyncio.get_running_loop().run_in_executor(thread, self._load, source)
        finally:
            thread.shutdown(wait=False)
        seconds = round(time.monotonic() - began_s, 3)
        _logger.info("adapter_loaded", adapter=source.adapter_id, sha256=adapter.sha256, seconds=seconds)
        return adapter

    def _settle(self, key: _Key, task: asyncio.Task[Adapter]) -> None:
        """Forget what could not be loaded: its files may be better the next time."""
        place = self._places.get(key)
        if (task.cancelled() or task.exception() is not None) and place is not None and place.loading is task:
            del self._places[key]
        self._freed.set()

    def _evict(self) -> bool:
        """Give up the least recently used adapter that nobody uses; False = there is none."""
        for key, place in self._places.items():
            if not place.users and place.loading.done():
                del self._places[key]
                _logger.info("adapter_evicted", adapter=key[0])
                return True
        return False

    def _place(self, key: _Key, source: AdapterSource, *, is_first: bool) -> _Place | None:
        """Return the adapter's place, or for the first in line one that is free; None = it has to wait.

        A place may be closed by whoever waits, also for the first in line, who takes it all the same.
        """
        place = self._places.get(key)
        if place is None and is_first and (len(self._places) < self._capacity or self._evict()):
            place = self._places[key] = _Place(asyncio.create_task(self._loaded(source)))
            place.loading.add_done_callback(lambda task: self._settle(key, task))
        return None if place is None or (place.is_closed and not is_first) else place

    async def _wait(self, key: _Key, source: AdapterSource) -> _Place:
        """Wait in line. Places are closed meanwhile, one by one, so that steady traffic on what is in memory ends."""
        waiter, closes_at_s = _Waiter(), time.monotonic() + _LINE_S
        self._line.append(waiter)
        try:
            while (place := self._place(key, source, is_first=self._line[0] is waiter)) is None:
                self._freed.clear()
                try:
                    async with asyncio.timeout(closes_at_s - time.monotonic()):
                        await self._freed.wait()
                except TimeoutError:
                    self._close_one(waiter)
                    closes_at_s = time.monotonic() + _LINE_S
            return place
        finally:
            self._line.remove(waiter)
            for closed in waiter.closed:
                closed.is_closed = False
            self._freed.set()

    def _close_one(self, waiter: _Waiter) -> None:
        """Close the least recently used place that is open, if any is."""
        place = next((one for one in self._places.values() if not one.is_closed), None)
        if place is not None:
            place.is_closed = True
            waiter.closed.append(place)
