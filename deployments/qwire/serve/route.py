"""Where one call of a model went."""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from dataclasses import dataclass


@dataclass(slots=True)
class Route:
    """Goes with a call as an argument: the router of this process reads it and writes into it, the replica gets a copy.

    Attributes:
        lost: Replicas that were lost under the same generation. While there are others these are not asked: until Ray
            has noticed that a node is gone, its replicas look like idle ones.
        replica: The id of the replica that took the call, as that replica itself tells it; empty = none did.
    """

    lost: AbstractSet[str] = frozenset()
    replica: str = ""
