"""Builds sequences without a model."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest

from qwire.engine.request import Envelope, StopParams, TokenRequest
from qwire.engine.sequence import Sequence


@pytest.fixture
def make_sequence() -> Callable[..., Sequence]:
    """Make sequences in order of arrival: `request-0` with the prompt 1, 2, 3, and so on; 0 ends their turn."""
    arrivals = itertools.count()

    def make(
        prompt_tokens: int = 3,
        stop: StopParams | None = None,
        *,
        output_token_ids: tuple[int, ...] = (),
        priority: int = 0,
        deadline_unix_ns: int | None = None,
        tenant: str = "",
        admitted: bool = False,
        is_probe: bool = False,
    ) -> Sequence:
        arrival = next(arrivals)
        request = TokenRequest(
            prompt_token_ids=tuple(range(1, prompt_tokens + 1)),
            envelope=Envelope(
                f"request-{arrival}",
                priority=priority,
                deadline_unix_ns=deadline_unix_ns,
                tenant=tenant,
                admitted=admitted,
                is_probe=is_probe,
            ),
            stop=stop or StopParams(max_output_tokens=4),
            output_token_ids=output_token_ids,
        )
        return Sequence(request, frozenset({0}), arrival, arrived_unix_ns=10 + arrival)

    return make
