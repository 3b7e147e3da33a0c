"""What an adapter is: low-rank changes to a model's linear layers, by the name that requests give."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

ADAPTER_ID = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}")
"""What an adapter's name must match as a whole. None begins with a dot, so none leads out of a folder or into a hidden
one."""
ADAPTER_ID_RULE = "must have 1 to 128 letters, digits, dots, underscores and dashes, the first one no dot"

Projections = tuple[str, ...]
"""Linear layers of one decoder layer, by their paths in it, that are computed as one product of the same input."""

QUERY_KEY_VALUE: Projections = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
ATTENTION_OUTPUT: Projections = ("self_attn.o_proj",)
GATE_UP: Projections = ("mlp.gate_proj", "mlp.up_proj")
DOWN: Projections = ("mlp.down_proj",)
ADAPTABLE: Projections = (*QUERY_KEY_VALUE, *ATTENTION_OUTPUT, *GATE_UP, *DOWN)
"""The linear layers that an adapter may change."""


@dataclass(frozen=True, slots=True, eq=False)
class Adapter:
    """An adapter in memory.

    Attributes:
        adapter_id: Its name.
        sha256: Digest of its files, hexadecimal: two of the same digest are the same.
        rank: The largest rank of its changes.
        changes: By layer and product, each a `qwire.engine.arithmetic.Product`; this module knows no torch, as it is on
            the way to sequences.
    """

    adapter_id: str
    sha256: str
    rank: int
    changes: Mapping[tuple[int, Projections], Any]

    @property
    def cache_root(self) -> bytes:
        """What the keys of pages are chained to that were computed with it."""
        return sha256(b"adapter " + self.sha256.encode()).digest()
