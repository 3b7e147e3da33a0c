"""How many replicas shall run: bounds, delays and hysteresis around what the load needs.

No Ray in here: the controller and the simulator decide with the same object.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ScalingLimits:
    """How far and how fast the number of replicas may change.

    Attributes:
        min_replicas: Replicas that always run, >= 0.
        max_replicas: The most replicas, >= 1.
        upscale_delay_s: How long more must be needed before replicas are added, seconds.
        downscale_delay_s: How long fewer must be enough before replicas are taken away, seconds.
        scale_to_zero_delay_s: The same for the last replica, seconds.
    """

    min_replicas: int
    max_replicas: int
    upscale_delay_s: float
    downscale_delay_s: float
    scale_to_zero_delay_s: float


@dataclass(frozen=True, slots=True)
class Demand:
    """What a load needs.

    Attributes:
        least: Fewer replicas are too few.
        enough: More replicas idle. Above `least` by some slack, so that a load at a border does not flap; 0 = nobody
            asks for anything.
    """

    least: int
    enough: int


class AutoscalingPolicy:
    """Follows the demand, within the limits. Times are of one clock, seconds.

    Args:
        limits: How far and how fast.
    """

    def __init__(self, limits: ScalingLimits) -> None:
        self._limits = limits
        self._direction = 0
        self._since_s = 0.0
        self._most = 0

    def decide(self, now_s: float, target: int, running: int, demand: Demand) -> int:
        """Return how many replicas shall run from now on.

        Args:
            now_s: The present time.
            target: How many shall run so far.
            running: How many of them do; the others are starting.
            demand: What the load needs.
        """
        limits = self._limits
        wanted = min(max(self._wanted(target, running, demand), limits.min_replicas), limits.max_replicas)
        direction = (wanted > target) - (wanted < target)
        if direction != self._direction:
            self._direction, self._since_s, self._most = direction, now_s, wanted
        if direction < 0:
            # A load moves up and down: what was enough at every moment of the delay is enough.
            wanted = self._most = max(self._most, wanted)
        if direction == 0 or now_s - self._since_s < self._delay_s(target, wanted):
            return target
        self._direction = 0
        return wanted

    def _wanted(self, target: int, running: int, demand: Demand) -> int:
        if demand.least > target:
            return demand.least
        if running < target or demand.enough >= target:  # nothing is taken away while something starts
            return target
        # The last replica goes alone, after a delay of its own.
        return demand.enough if target == 1 else max(1, demand.enough)

    def _delay_s(self, target: int, wanted: int) -> float:
        if wanted > target:
            # Somebody waits at a model without a replica.
            return self._limits.upscale_delay_s if target else 0.0
        return self._limits.downscale_delay_s if wanted else self._limits.scale_to_zero_delay_s
