"""How many tokens each caller got while others waited, so that the one with the fewest goes first."""

from __future__ import annotations

from collections.abc import Iterable

_MOST_TENANTS = 1024


class TokenCounters:
    """Virtual token counters: who has been given the fewest tokens is served next.

    Prompt tokens that were computed and output tokens that were drawn count alike. A tenant that comes back after it
    wanted nothing for a while starts level with the least served of those who wait: time without a wish is no credit.
    While nobody waits nobody goes without, so nothing is counted. Source: Sheng et al. 2024, "Fairness in Serving Large
    Language Models" (VTC), with equal weights.
    """

    def __init__(self) -> None:
        self._tokens: dict[str, int] = {}

    def of(self, tenant: str) -> int:
        """Return what a tenant has been given."""
        return self._tokens.get(tenant, 0)

    def arrive(self, tenant: str, waiting: Iterable[str]) -> None:
        """Note that a tenant wants something.

        Args:
            tenant: Who.
            waiting: The tenants that wait already, itself included where it does.
        """
        others = set(waiting)
        if tenant in others:
            return
        least = min(map(self.of, others), default=0)
        self._tokens[tenant] = max(self.of(tenant), least)
        if len(self._tokens) > _MOST_TENANTS:  # so that many names cannot fill the memory
            self._tokens = {name: tokens for name, tokens in self._tokens.items() if name in others or name == tenant}

    def charge(self, tenant: str, tokens: int) -> None:
        """Count tokens that a tenant was given."""
        self._tokens[tenant] = self.of(tenant) + tokens

    def clear(self) -> None:
        """Forget everything, as nobody waits."""
        self._tokens.clear()
