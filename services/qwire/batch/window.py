"""How many items a runner has under way: as many as the engines take beside what else they do."""

from __future__ import annotations


class Window:
    """A bound that grows while nothing is refused, and halves when something is.

    It doubles with each round of attempts that are taken until the first refusal, then grows by one a round: additive
    increase and multiplicative decrease, as in TCP (Chiu and Jain 1989), by which runners that share engines come to
    equal shares. An attempt counts when it is taken and not when it ends, so that long items fill engines as fast as
    short ones.

    Args:
        most: It never grows beyond.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._size = 1.0
        self._refused = False
        self._accepted = 0

    @property
    def size(self) -> int:
        """Items that may be under way, at least 1."""
        return int(self._size)

    def grow(self) -> None:
        """Take note of an attempt that was taken."""
        self._accepted += 1
        self._size = min(self._most, self._size + (1 / self._size if self._refused else 1))

    def shrink(self) -> None:
        """Take note of a refusal; those that come together count as one."""
        if self._accepted or not self._refused:
            self._size = max(1.0, self._size / 2)
        self._refused, self._accepted = True, 0
