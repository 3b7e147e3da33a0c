"""Gives a step up that is under way, when something comes that must not wait for its end."""

from __future__ import annotations

from torch import Tensor

from qwire.engine.attention import RaggedBatch
from qwire.engine.kv_pool import KVPool
from qwire.engine.paged_attention import PagedAttention
from qwire.engine.segment import Segment


class StepInterrupted(Exception):
    """A step was given up. What it wrote into the KV cache lies behind what counts there, and is written again."""


class Interruption:
    """Whether the step under way is to be given up. May be asked for from any thread.

    The one after a step that was given up is not: else callers who come and go faster than steps would stop everybody.
    """

    def __init__(self) -> None:
        self._requested = False
        self._given_up = False
        self._spared = False

    def request(self) -> None:
        """Have the step given up."""
        self._requested = True

    def clear(self) -> None:
        """Begin with another step."""
        self._spared = self._given_up
        self._requested = self._given_up = False

    def check(self) -> None:
        """Raise StepInterrupted where the step is to be given up."""
        if self._requested and not self._spared:
            self._given_up = True
            raise StepInterrupted


class InterruptibleBatch(RaggedBatch):
    """A batch whose step can be given up before each layer's attention.

    Args:
        pool: As of `RaggedBatch`.
        segments: As of `RaggedBatch`.
        paged: As of `RaggedBatch`.
        interruption: Asked before each layer.
    """

    def __init__(
        self, pool: KVPool, segments: list[Segment], paged: PagedAttention | None, interruption: Interruption
    ) -> None:
        super().__init__(pool, segments, paged)
        self.interruption = interruption

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
        """Attend as `RaggedBatch` does.

        Raises:
            StepInterrupted: The step is to be given up.
        """
        self.interruption.check()
        return super().attend(layer, query, key, value, scaling)
