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
        self._admitted = request.envelope.admitted
        self._adapter_sha256 = request.adapter_sha256
        self._told = 0  # prompt tokens, by log-probability
        self._repeated = 0

    def rest(self) -> TokenRequest:
        """Return what another replica is to be asked for."""
        # Whoever has seen a part of it is owed the rest, however many others wait.
        begun = self._told > 0 or len(self.output_token_ids) > len(self._request.output_token_ids)
        envelope = replace(self._request.envelope, admitted=self._admitted or begun)
        request = replace(self._request, envelope=envelope, adapter_sha256=self._adapter_sha256)
        if len(self.output_token_ids) == len(self._request.output_token_ids):
            self._repeated = self._told
            return request
        # All about the prompt comes before the first token.
        return replace(request, output_token_ids=tuple(self.output_token_ids), prompt_logprobs=None)

    def admit(self) -> None:
        """Note that a replica had taken it, so that no other one refuses it."""
        self._admitted = True

    def add(self, chunk: TokenChunk) -> TokenChunk | None:
        """Return what is new in a chunk; None = nothing."""
        self.output_token_ids += chunk.token_ids
        self._adapter_sha256 = self._adapter_sha256 or chunk.adapter_sha256
        if not chunk.prompt_logprobs:
            return chunk
        news = chunk.prompt_logprobs[self._repeated :]
        self._repeated -= len(chunk.prompt_logprobs) - len(news)
        self._told += len(news)
        return replace(chunk, prompt_logprobs=news) if news else None
