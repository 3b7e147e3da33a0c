"""Who may join the queue, and whose deadline cannot be met: judged at once, from what was measured."""

from __future__ import annotations

import math
import time
from collections import Counter

from qwire.engine.config import EngineConfig
from qwire.engine.errors import DeadlineExceeded, DeadlineUnattainable, QueueFull
from qwire.engine.pace import Pace
from qwire.engine.scheduler import Scheduler
from qwire.engine.sequence import Sequence
from qwire.engine.throughput import DecodeRate

_DEFAULT_RETRY_S = 1.0
_LEAST_RETRY_S = 0.1


class Admission:
    """Refuses what the queue has no room for and what would come too late.

    Room. Normal requests wait in `max_waiting` places, those of low priority in half of them. Where several tenants
    wait, each may take its equal part, and `reserved_waiting` places more are there for those who have not: a caller
    that floods the queue keeps nobody out. Half of them are for high priority besides. Nothing that waits is ever
    thrown out for another one.

    Deadlines. Nobody knows how much a model will say, so what is judged is the time to the first token, and each part
    of it is the least that is likely:
    - With K requests to leave before this one has a place, of R places that are each kept for S seconds in the mean,
      K * S / R is to be expected; were the ends independent of each other, their number would vary by its square root,
      so that max(0, K - 2 * sqrt(K)) * S / R is undercut once in forty times. For K <= 4 it is 0.
    - The prompt, without what the cache knows of it, at the speed of the fastest full step of the last minute.
    What has not been measured counts as 0.

    Places whose holders would give way to a request count as free for it.

    A request that was admitted before, and goes on here or in another generation, is never refused for any of this.

    Not thread-safe.

    Args:
        scheduler: What waits and runs.
        pace: How fast steps are.
        decode: How fast generations decode.
        config: Bounds.
    """

    def __init__(self, scheduler: Scheduler, pace: Pace, decode: DecodeRate, config: EngineConfig) -> None:
        self._scheduler = scheduler
        self._pace = pace
        self._decode = decode
        self._config = config
        self._next_place_s = -math.inf

    def check(self, sequence: Sequence) -> None:
        """Pass a sequence that is to be added to the scheduler.

        Raises:
            DeadlineExceeded: Its deadline has passed.
            QueueFull: It would have to wait, and there is no room for it.
            DeadlineUnattainable: Its first token cannot come before its deadline.
        """
        envelope = sequence.request.envelope
        left_s = _left_s(sequence)
        if left_s <= 0:
            raise DeadlineExceeded
        if envelope.admitted:
            return
        ahead = self._scheduler.count_before(sequence) - self._scheduler.count_giving_way(sequence)
        can_start = ahead < 0 or self._scheduler.can_start(sequence)
        if not can_start and not self._has_room(sequence):
            raise QueueFull(self._retry_after_s())
        wait_s = 0.0 if can_start else self._least_wait_s(ahead + 1)
        rate = self._pace.prefill_tokens_per_s(time.monotonic())
        prefill_s = self._least_prefill_s(sequence, left_s - wait_s, rate)
        if wait_s + prefill_s > left_s:
            # Once the queue is shorter by what is missing, another try may succeed, if the prompt alone is no longer.
            retry_after_s = max(_LEAST_RETRY_S, wait_s + prefill_s - left_s) if prefill_s < left_s else None
            raise DeadlineUnattainable(wait_s + prefill_s, left_s, retry_after_s)

    def give_up(self) -> list[Sequence]:
        """End waiting sequences whose prompt takes longer than they have, but for those that were admitted before.

        Of those something may have been computed, here or elsewhere, and told: these run to their deadlines.
        """
        late: list[Sequence] = []
        rate = self._pace.prefill_tokens_per_s(time.monotonic())
        if rate is None:
            return late
        for sequence in self._scheduler.waiting:
            if sequence.request.envelope.admitted or sequence.scheduled_unix_ns:
                continue
            left_s = _left_s(sequence)
            prefill_s = self._least_prefill_s(sequence, left_s, rate)
            if prefill_s > left_s > 0:
                self._scheduler.abort(sequence.request_id, DeadlineUnattainable(prefill_s, left_s, None))
                late.append(sequence)
        return late

    def _has_room(self, sequence: Sequence) -> bool:
        places, reserved = self._config.max_waiting, self._config.reserved_waiting
        waiting = Counter(one.request.envelope.tenant for one in self._scheduler.waiting)
        tenant, priority = sequence.request.envelope.tenant, sequence.request.envelope.priority
        tenants = len(waiting.keys() | {tenant})
        if priority < 0:
            places, reserved = math.ceil(places / 2), 0
        elif priority > 0:
            places += reserved // 2
            reserved -= reserved // 2
        total = places + (reserved if tenants > 1 else 0)
        return waiting.total() < total and waiting[tenant] < math.ceil(places / tenants)

    def _least_wait_s(self, ahead: int) -> float:
        place_s = self._pace.place_s(time.monotonic())
        running = len(self._scheduler.running)
        if place_s is None or running < self._config.max_running:  # else it waits for pages, nobody knows how long
            return 0.0
        return max(0.0, ahead - 2 * math.sqrt(ahead)) * place_s / running

    def _least_prefill_s(self, sequence: Sequence, left_s: float, rate: float | None) -> float:
        """Return the least time until the first token once it has a place; exact only where it is more than is left."""
        if rate is None or left_s == math.inf:
            return 0.0
        prefill_s = sequence.pending_tokens / rate
        if prefill_s <= left_s:  # to look in the cache is not worth it
            return prefill_s
        return (sequence.pending_tokens - self._scheduler.reusable_tokens(sequence)) / rate

    def _retry_after_s(self) -> float:
        """Estimate when there is a place for who is refused now: each gets the next one that becomes free.

        Those who were told the places before will come for them. No more than what is here now can go before, though:
        who does not come back is not waited for.
        """
        running, waiting = self._scheduler.running, self._scheduler.waiting
        now_s = time.monotonic()
        gap_s = self._departure_gap_s(now_s)
        if gap_s is None:
            return _DEFAULT_RETRY_S
        latest_s = now_s + gap_s * (len(running) + len(waiting))
        self._next_place_s = min(max(now_s, self._next_place_s) + gap_s, latest_s)
        return max(_LEAST_RETRY_S, self._next_place_s - now_s)

    def _departure_gap_s(self, now_s: float) -> float | None:
        """Return the time until the next generation ends: as in the mean of late, or when the first is at its limit."""
        running = self._scheduler.running
        gaps: list[float] = []
        if running and (place_s := self._pace.place_s(now_s)) is not None:
            gaps.append(place_s / len(running))
        if running and (rate := self._decode.tokens_per_s(now_s)):
            left = min(one.request.stop.max_output_tokens - len(one.output_token_ids) for one in running)
            gaps.append(left / rate)
        return min(gaps, default=None)


def _left_s(sequence: Sequence) -> float:
    deadline = sequence.request.envelope.deadline_unix_ns
    return math.inf if deadline is None else (deadline - time.time_ns()) / 1e9
