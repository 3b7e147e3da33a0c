"""What came of a generation so far, and what another replica is to be asked for."""

from __future__ import annotations

from dataclasses import replace

from qwire.engine.chunk import TokenChunk
from qwire.engine.request import TokenRequest


class Received:
    """What came of one generation so far, from whichever replica.

    Attributes:
        output_token_ids: Output so far, that included which the request came with.

    Args:
        request: The generation.
    """

    def __init__(self, request: TokenRequest) -> None:
        self._request = request
        self.output_token_ids = list(request.output_token_ids)
        self._told = 0  # prompt tokens, by log-probability
        self._repeated = 0

    def rest(self) -> TokenRequest:
        """Return what another replica is to be asked for."""
        envelope = self._request.envelope
        if len(self.output_token_ids) == len(self._request.output_token_ids):
            self._repeated = self._told
            # Whoever has seen a part of it is owed the rest, however many others wait.
            return replace(self._request, envelope=replace(envelope, admitted=envelope.admitted or self._told > 0))
        # All about the prompt comes before the first token.
        return replace(
            self._request,
            envelope=replace(envelope, admitted=True),
            output_token_ids=tuple(self.output_token_ids),
            prompt_logprobs=None,
        )

    def add(self, chunk: TokenChunk) -> TokenChunk | None:
        """Return what is new in a chunk; None = nothing."""
        self.output_token_ids += chunk.token_ids
        if not chunk.prompt_logprobs:
            return chunk
        news = chunk.prompt_logprobs[self._repeated :]
        self._repeated -= len(chunk.prompt_logprobs) - len(news)
        self._told += len(news)
        return replace(chunk, prompt_logprobs=news) if news else None
