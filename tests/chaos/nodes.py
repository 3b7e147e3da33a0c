"""A Ray cluster of two nodes on this machine; one of them can be lost and come back."""

from __future__ import annotations

import asyncio
from typing import Any

import psutil

from tests.chaos import process

ROOM: dict[str, Any] = {"num_cpus": 0.0, "num_gpus": 1.0}
"""What a replica has to ask for so that each node has one: there is one GPU on a node, which nobody computes on."""
HEAD_ONLY = 1.0
"""CPUs that a gateway has to ask for so that it runs on the head, which is not lost."""


class Nodes:
    """The head, where the driver is, and the other node."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster  # noqa: PLC0415 - Ray reads its environment when it is imported

        # Without its exit hook, which sets a signal handler: nodes come back in another thread than the main one.
        self._cluster = Cluster(shutdown_at_exit=False)
        self._cluster.add_node(num_cpus=4, num_gpus=1, include_dashboard=False)
        self._other = self._add()

    @property
    def address(self) -> str:
        """What `ray.init` connects to."""
        return str(self._cluster.address)

    async def lose(self) -> list[psutil.Process]:
        """Kill every process of the other node at once, as a power cut does; return them."""
        raylet = psutil.Process(self._other.all_processes["raylet"][0].process.pid)
        lost = [raylet, *raylet.children(recursive=True)]
        for one in lost:
            one.kill()
        for one in lost:
            await process.gone(one)
        await asyncio.to_thread(self._cluster.remove_node, self._other, allow_graceful=False)
        return lost

    async def restore(self) -> None:
        """Start another one in its place."""
        self._other = await asyncio.to_thread(self._add)

    def close(self) -> None:
        """Stop both."""
        self._cluster.shutdown()

    def _add(self) -> Any:
        return self._cluster.add_node(num_cpus=0, num_gpus=1)
