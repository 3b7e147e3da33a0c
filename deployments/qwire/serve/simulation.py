"""Plays a load against the autoscaling policy: how many replicas run, how long requests wait, what it costs.

The policy and its demand are those of the cluster. The replica is a model: it fills prompts first, at a steady speed,
and in the time that is left decodes one token of each running generation per step, whose time grows with their number.
"""

from __future__ import annotations

import math
import random
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from qwire.serve.arrivals import Arrival
from qwire.serve.autoscaling import AutoscalingPolicy, ScalingLimits
from qwire.serve.demand import LoadTargets, ReplicaLoad, model_demand

_TICK_S = 0.05
_DECISION_S = 0.5  # as often as Serve's controller decides under `qwire-serve`
_REPORT_S = 1.0  # as often as replicas tell their load
_LOOK_S = 1.0  # as often as gateways look for new ones, to which they then lead some of those that wait


@dataclass(frozen=True, slots=True)
class ReplicaSpeed:
    """What was measured of one replica.

    Attributes:
        start_s: From the decision to start one until it takes requests, seconds.
        prefill_tokens_per_s: Prompt tokens per second.
        step_s: A decode step with one generation, seconds.
        step_s_per_generation: What each further generation adds to a step, seconds.
        max_running: Generations at once; more wait.
        kv_capacity_tokens: Tokens that its KV cache holds.
    """

    start_s: float
    prefill_tokens_per_s: float
    step_s: float
    step_s_per_generation: float
    max_running: int
    kv_capacity_tokens: int


@dataclass(slots=True)
class Simulation:
    """What came out.

    Attributes:
        times_s: Moments, seconds from the start.
        replicas: How many took requests at each of them.
        fleet: How many there were, starting and leaving ones included: what is paid for.
        queue_waits: When each request came and how long it waited before its prompt was begun, waking a replica
            included, seconds.
        first_tokens: When each request came and how long after that its first token did, seconds, in the order of the
            latter moments.
    """

    times_s: list[float] = field(default_factory=list[float])
    replicas: list[int] = field(default_factory=list[int])
    fleet: list[int] = field(default_factory=list[int])
    queue_waits: list[tuple[float, float]] = field(default_factory=list[tuple[float, float]])
    first_tokens: list[tuple[float, float]] = field(default_factory=list[tuple[float, float]])

    @property
    def replica_s(self) -> float:
        """What it cost, seconds of replicas."""
        return sum(self.fleet) * _TICK_S


@dataclass(slots=True)
class _Generation:
    arrival: Arrival
    filled_tokens: float = 0.0
    decoded_tokens: float = 0.0

    @property
    def held_tokens(self) -> float:
        return self.filled_tokens + self.decoded_tokens

    @property
    def limit_tokens(self) -> int:
        return self.arrival.prompt_tokens + self.arrival.output_tokens


@dataclass(slots=True)
class _Replica:
    speed: ReplicaSpeed
    ready_s: float
    waiting: deque[_Generation] = field(default_factory=deque[_Generation])
    running: list[_Generation] = field(default_factory=list[_Generation])
    leaving: bool = False
    reported: ReplicaLoad | None = None

    @property
    def requests(self) -> int:
        return len(self.waiting) + len(self.running)

    def advance(self, now_s: float, share: float, result: Simulation) -> None:
        """Work for a tick, at a share of the speed."""
        while self.waiting and len(self.running) < self.speed.max_running:
            generation = self.waiting.popleft()
            arrival_s = generation.arrival.arrival_s
            result.queue_waits.append((arrival_s, now_s - arrival_s))
            self.running.append(generation)
        left_s = self._prefill(share * _TICK_S)
        decoding = [one for one in self.running if one.filled_tokens >= one.arrival.prompt_tokens]
        if decoding:
            step_s = self.speed.step_s + (len(decoding) - 1) * self.speed.step_s_per_generation
            for generation in decoding:
                if generation.decoded_tokens < 1 <= generation.decoded_tokens + left_s / step_s:
                    arrival_s = generation.arrival.arrival_s
                    result.first_tokens.append((arrival_s, now_s + _TICK_S - arrival_s))
                generation.decoded_tokens += left_s / step_s
        self.running = [one for one in self.running if one.decoded_tokens < one.arrival.output_tokens]

    def _prefill(self, time_s: float) -> float:
        for generation in self.running:
            missing = generation.arrival.prompt_tokens - generation.filled_tokens
            filled = min(missing, time_s * self.speed.prefill_tokens_per_s)
            generation.filled_tokens += filled
            time_s -= filled / self.speed.prefill_tokens_per_s
        return max(0.0, time_s)

    def report(self, now_s: float) -> None:
        """Tell the load, as a replica does."""
        held = sum(one.held_tokens for one in self.running)
        oldest = self.waiting[0].arrival.arrival_s if self.waiting else now_s
        self.reported = ReplicaLoad(
            requests=self.requests,
            tokens=held + sum(one.limit_tokens for one in self.waiting),
            queue_wait_s=now_s - oldest,
            kv_use=min(1.0, held / self.speed.kv_capacity_tokens),
        )


def simulate(
    arrivals: Sequence[Arrival],
    speed: ReplicaSpeed,
    limits: ScalingLimits,
    targets: LoadTargets,
    *,
    seconds: float,
    begin_with: int | None = None,
    full_speed_replicas: float = math.inf,
) -> Simulation:
    """Play a load; each request goes to the replica with the fewest, and waits at the gateway where none runs.

    Args:
        arrivals: The load, in order of time.
        speed: What a replica can do.
        limits: How far and how fast their number changes.
        targets: What each one shall carry.
        seconds: When to stop.
        begin_with: Replicas at the start; None = `limits.min_replicas`.
        full_speed_replicas: As many compute at full speed; when more are busy, they share it. Unset: each has a machine
            of its own.
    """
    policy = AutoscalingPolicy(limits)
    target = limits.min_replicas if begin_with is None else begin_with
    fleet = [_Replica(speed, ready_s=0.0) for _ in range(target)]
    known, chance = 0, random.Random(0)  # noqa: S311 - a simulation, no secret
    at_gateway: deque[_Generation] = deque()
    coming = deque(arrivals)
    result = Simulation()
    for tick in range(round(seconds / _TICK_S)):
        now_s = tick * _TICK_S
        while coming and coming[0].arrival_s <= now_s:
            at_gateway.append(_Generation(coming.popleft()))
        ready = [one for one in fleet if one.ready_s <= now_s and not one.leaving]
        if _is_due(tick, _LOOK_S):
            if 0 < known < len(ready):
                at_gateway.extend(_leaving(ready, 1 - known / len(ready), chance))
            known = len(ready)
        while ready and at_gateway:
            min(ready, key=lambda one: one.requests).waiting.append(at_gateway.popleft())
        awake = [one for one in fleet if one.ready_s <= now_s]
        busy = sum(one.requests > 0 for one in awake)
        for replica in awake:
            replica.advance(now_s, min(1.0, full_speed_replicas / max(1, busy)), result)
        fleet = [one for one in fleet if not (one.leaving and one.requests == 0)]
        if _is_due(tick, _REPORT_S):
            for replica in ready:
                replica.report(now_s)
        if _is_due(tick, _DECISION_S):
            target = _decide(policy, now_s, target, ready, targets, waiting=len(at_gateway))
            _resize(fleet, target, speed, now_s)
        result.times_s.append(now_s)
        result.replicas.append(len(ready))
        result.fleet.append(len(fleet))
    return result


def _leaving(replicas: Sequence[_Replica], share: float, chance: random.Random) -> list[_Generation]:
    """Take a share of those that wait out of their queues, as `RemoteEngine` does."""
    left: list[_Generation] = []
    for replica in replicas:
        goes = {id(one) for one in replica.waiting if chance.random() < share}
        left += [one for one in replica.waiting if id(one) in goes]
        replica.waiting = deque(one for one in replica.waiting if id(one) not in goes)
    return left


def _is_due(tick: int, every_s: float) -> bool:
    return tick % round(every_s / _TICK_S) == 0


def _decide(
    policy: AutoscalingPolicy, now_s: float, target: int, ready: list[_Replica], targets: LoadTargets, *, waiting: int
) -> int:
    if not ready and waiting:
        return max(1, target)  # what Serve does alone
    return policy.decide(now_s, target, len(ready), model_demand([one.reported for one in ready], targets))


def _resize(fleet: list[_Replica], target: int, speed: ReplicaSpeed, now_s: float) -> None:
    staying = [one for one in fleet if not one.leaving]
    fleet.extend(_Replica(speed, ready_s=now_s + speed.start_s) for _ in range(target - len(staying)))
    for replica in sorted(staying, key=lambda one: one.requests)[: max(0, len(staying) - target)]:
        replica.leaving = True
