"""Chooses the replica of a generation: one of the same model version, with the prompt's beginning, or with little load.

Each gateway has a router of its own for each model, and learns from its own requests alone: no state is shared.
Ray's `PrefixCacheAffinityRouter` reads text and keeps a tree in an actor of its own; here tokens are at hand.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from ray.serve.request_router import PendingRequest, ReplicaID, RequestRouter, RunningReplica
from typing_extensions import override

from qwire.engine.request import TokenRequest
from qwire.serve.prefix_map import PrefixMap, page_hashes
from qwire.serve.route import Route

VERSION = "version"
"""Where a replica's metadata tells its model's version."""

_PAGES = 131_072
"""Places for pages of prompts, 16 bytes each."""


class ReplicaRouter(RequestRouter):
    """Of two replicas at random the less loaded one; before these, the one that has the prompt's beginning."""

    @override
    def initialize_state(  # pyright: ignore[reportIncompatibleMethodOverride] - its base takes anything, and Serve ours
        self, *, by_prefix: bool, slack: int, page_tokens: int
    ) -> None:
        """Take the arguments of the deployment's `request_router_kwargs`.

        Args:
            by_prefix: Prefer the replica with the prompt's beginning; else load alone decides.
            slack: See `PrefixMap`.
            page_tokens: Tokens of a page of the engine's KV cache.
        """
        self._by_prefix = by_prefix
        self._page_tokens = page_tokens
        self._prefixes: PrefixMap[ReplicaID] = PrefixMap(_PAGES, slack)

    @override
    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        """Return whom to try, in order."""
        if pending_request is not None:
            pending_request.routing_context.should_backoff = True  # everybody is asked already: if all are full, wait
        request, version, route = _asked(pending_request)
        # Where none is left of the version, any one will say so.
        same = [one for one in candidate_replicas if one.replica_metadata.get(VERSION) == version]
        candidates = [one for one in same if one.replica_id.unique_id not in route.lost] or same or candidate_replicas
        # One that comes from another replica does not come by chance: it is to find one that is new, or idle.
        two = min(2, len(candidates))
        by_load = sorted(candidates, key=self._load)[:two] if route.lost else random.sample(candidates, two)
        preferred = self._preferred(request, candidates)
        return [by_load] if preferred is None else [[preferred], by_load]

    @override
    def on_request_routed(self, pending_request: PendingRequest, replica_id: ReplicaID, result: Any) -> None:
        """Tell the caller where its request went, and remember where its prompt's beginning is now."""
        request, _, route = _asked(pending_request)
        route.replica = replica_id.unique_id
        if self._by_prefix and request is not None:
            self._prefixes.learn(page_hashes(request.prompt_token_ids, self._page_tokens), replica_id)

    def _load(self, replica: RunningReplica) -> int:
        return self.replica_queue_len_cache.get(replica.replica_id) or 0

    def _preferred(self, request: TokenRequest | None, candidates: Sequence[RunningReplica]) -> RunningReplica | None:
        if not self._by_prefix or request is None or len(candidates) < 2:  # noqa: PLR2004 - one needs no choice
            return None
        loads = {one.replica_id: self._load(one) for one in candidates}
        found = self._prefixes.find(page_hashes(request.prompt_token_ids, self._page_tokens), loads)
        return next((one for one in candidates if one.replica_id == found), None)


def _asked(pending: PendingRequest | None) -> tuple[TokenRequest | None, str, Route]:
    """Return the generation, the model version and the route that a call of a `ModelReplica` comes with."""
    request, version, route = None, "", Route()
    for argument in () if pending is None else pending.args:
        match argument:
            case TokenRequest():
                request = argument
            case str():
                version = argument
            case Route():
                route = argument
            case _:
                pass
    return request, version, route
