"""What goes wrong: each fault strikes once and says what shows that it did."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from typing import Protocol

import psutil

from tests.chaos import process
from tests.chaos.cluster import Fleet
from tests.chaos.nodes import Nodes
from tests.chaos.wire import Wire


class Fault(Protocol):
    """Something that goes wrong."""

    @property
    def name(self) -> str:
        """What it is called in the report."""
        ...

    async def strike(self) -> str:
        """Let it go wrong; return what shows that it did. Empty = it did not."""
        ...


class Kill:
    """SIGKILL of one of several processes.

    Args:
        name: What it is called.
        victims: Where to choose from, now.
        choose: Chooses.
    """

    def __init__(self, name: str, victims: Callable[[], list[psutil.Process]], choose: random.Random) -> None:
        self.name = name
        self._victims = victims
        self._choose = choose

    async def strike(self) -> str:
        """Kill one."""
        victims = self._victims()
        if not victims:
            return ""
        victim = self._choose.choice(victims)
        await process.kill(victim)
        return f"process {victim.pid} gone"


class Stall:
    """A replica that stands still for a while, and keeps its connections.

    Args:
        fleet: Where.
        choose: Chooses the replica.
        duration_s: For how long, seconds.
    """

    name = "stall of a replica"

    def __init__(self, fleet: Fleet, choose: random.Random, duration_s: float = 5.0) -> None:
        self._fleet = fleet
        self._choose = choose
        self._duration_s = duration_s

    async def strike(self) -> str:
        """Stop it and let it go on."""
        victim = self._choose.choice(self._fleet.replicas)
        stood = await process.freeze(victim, self._duration_s)
        return f"process {victim.pid} stood still for {self._duration_s:g} s" if stood else ""


class Cut:
    """The network between clients and gateway is cut.

    Args:
        wire: The network.
        outage_s: For how long nobody can connect, seconds.
    """

    name = "network cut"

    def __init__(self, wire: Wire, outage_s: float = 2.0) -> None:
        self._wire = wire
        self._outage_s = outage_s

    async def strike(self) -> str:
        """Cut it and mend it."""
        cut = self._wire.cut()
        await asyncio.sleep(self._outage_s)
        self._wire.mend()
        return f"{cut} connections reset" if cut else ""


class NodeLoss:
    """A node with a replica is lost, and comes back when streams have finished without it.

    Args:
        nodes: The nodes.
        finished: How many streams have finished so far.
        streams: How many have to finish before it comes back.
    """

    name = "loss of a node"

    def __init__(self, nodes: Nodes, finished: Callable[[], int], streams: int) -> None:
        self._nodes = nodes
        self._finished = finished
        self._streams = streams

    async def strike(self) -> str:
        """Lose it, wait, and bring it back."""
        lost, before, began = await self._nodes.lose(), self._finished(), time.monotonic()
        try:
            async with asyncio.timeout(300):
                while self._finished() < before + self._streams:  # noqa: ASYNC110 - a count of other tasks
                    await asyncio.sleep(0.1)
        finally:
            await self._nodes.restore()
        finished, away_s = self._finished() - before, time.monotonic() - began
        return f"{len(lost)} processes gone for {away_s:.0f} s, in which {finished} streams finished"


class Deploy:
    """A new configuration is deployed in the middle: every process is replaced.

    Args:
        fleet: Where.
    """

    name = "deploy"

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet

    async def strike(self) -> str:
        """Deploy, and wait until the old ones are gone."""
        before = {one.pid for one in (*self._fleet.replicas, *self._fleet.gateways)}
        await self._fleet.redeploy()
        await self._fleet.whole()
        async with asyncio.timeout(300):
            while before & {one.pid for one in (*self._fleet.replicas, *self._fleet.gateways)}:  # noqa: ASYNC110
                await asyncio.sleep(0.2)
        return f"{len(before)} processes replaced"
