"""When which fault strikes."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from tests.chaos.fault import Fault
from tests.chaos.load import Load

_TRAFFIC_S = 60.0


@dataclass(frozen=True, slots=True)
class Strike:
    """A fault that was to strike.

    Attributes:
        fault: Its name.
        evidence: What shows that it struck; empty = it did not.
        open_streams: Streams that were open then.
        recovery_s: Until everything was whole again, seconds.
    """

    fault: str
    evidence: str
    open_streams: int
    recovery_s: float


class Schedule:
    """Strikes one fault after the other, in an order and with gaps that a seed decides.

    The next one strikes when the fleet is whole and traffic flows again: each of them meets what it is to break.

    Args:
        faults: What strikes.
        seed: Of order and gaps.
        gap_s: The shortest and the longest gap, seconds.
    """

    def __init__(self, faults: Sequence[Fault], seed: int, gap_s: tuple[float, float] = (0.5, 3.0)) -> None:
        self._choose = random.Random(seed)  # noqa: S311 - no secret
        self._faults = self._choose.sample(faults, len(faults))
        self._gap_s = gap_s

    async def run(
        self, load: Load, streams: int, whole: Callable[[], Awaitable[None]], told: Callable[[Strike], None]
    ) -> None:
        """Strike.

        Args:
            load: The traffic.
            streams: How many streams have to be open before a fault strikes; it does after a minute in any case.
            whole: Waits until everything is whole.
            told: Is told of each strike.
        """
        for fault in self._faults:
            await whole()
            await asyncio.sleep(self._choose.uniform(*self._gap_s))
            patience = time.monotonic() + _TRAFFIC_S
            while load.open < streams and time.monotonic() < patience:  # noqa: ASYNC110 - a minute at most
                await asyncio.sleep(0.05)
            open_streams, began = load.open, time.monotonic()
            evidence = await fault.strike()
            await whole()
            told(Strike(fault.name, evidence, open_streams, time.monotonic() - began))
