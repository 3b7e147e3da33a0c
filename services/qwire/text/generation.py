"""The state of one generation: what the engine's chunks make of it."""

from __future__ import annotations

import time
from collections.abc import Set as AbstractSet
from dataclasses import replace

from qwire.engine.chunk import Timings, TokenChunk
from qwire.engine.errors import InvalidRequest
from qwire.engine.request import TokenRequest
from qwire.text.event import Delta, EndReason, Finished
from qwire.text.output import OutputText


class Generation:
    """Turns the chunks of one generation into deltas, and knows how it ended.

    Output that the request came with is replayed at construction, so that the rest continues it within a character and
    within a possible stop string.

    Args:
        request: What the engine is asked for.
        output: The output's text, new.
        eos_token_ids: Tokens that end the model's turn.

    Attributes:
        finished: How the generation ended; None = it goes on. Set from the start where the output that the request
            came with is complete.

    Raises:
        InvalidRequest: The output that the request came with ended earlier than with its last token.
    """

    def __init__(self, request: TokenRequest, output: OutputText, eos_token_ids: AbstractSet[int]) -> None:
        now = time.time_ns()
        self.finished: Finished | None = None
        self._request = request
        self._output = output
        self._eos_token_ids = eos_token_ids
        self._tokens = 0
        # Until the engine tells: arrived, and nothing computed yet.
        self._timings = Timings(now, now, now, now)
        self._timed_ns = time.monotonic_ns()
        self._replay()

    def advance(self, chunk: TokenChunk) -> Delta:
        """Return the output that a chunk adds; `finished` is set where it is the last."""
        if chunk.timings is not None:
            self._timings = chunk.timings
            self._timed_ns = time.monotonic_ns()
        finish = chunk.finish
        ended_by_token = finish is not None and finish.stop_token_id is not None
        piece = self._output.push(chunk.token_ids[:-1] if ended_by_token else chunk.token_ids)
        if piece.stop_string is not None:
            token_ids = chunk.token_ids[: piece.tokens]
            self._tokens += piece.tokens
            timings = self._timings_now() if finish is None else finish.timings
            self._finish(EndReason.STOP_STRING, timings, stop_string=piece.stop_string)
            return Delta(piece.text, token_ids, chunk.logprobs[: piece.tokens])
        self._tokens += len(chunk.token_ids)
        if finish is None:
            return Delta(piece.text, chunk.token_ids, chunk.logprobs)
        self._finish(
            EndReason(finish.reason.value),
            finish.timings,
            stop_token_id=finish.stop_token_id,
            cached_prompt_tokens=finish.cached_prompt_tokens,
        )
        return Delta(piece.text + self._output.finish(), chunk.token_ids, chunk.logprobs)

    def _replay(self) -> None:
        token_ids = self._request.output_token_ids
        end = self._first_end(token_ids)
        piece = self._output.push(token_ids if end is None else token_ids[:end])
        if piece.stop_string is not None:
            self._tokens = piece.tokens
            self._finish(EndReason.STOP_STRING, self._timings, stop_string=piece.stop_string)
        elif end is not None:
            self._tokens = end + 1
            is_stop_token = token_ids[end] in self._request.stop.stop_token_ids
            reason = EndReason.STOP_TOKEN if is_stop_token else EndReason.END_OF_TURN
            self._finish(reason, self._timings, stop_token_id=token_ids[end])
        else:
            self._tokens = len(token_ids)
        if self._tokens < len(token_ids):
            raise InvalidRequest(
                "resume.output_token_ids", f"the output ended with its token {self._tokens}; nothing can follow it"
            )

    def _first_end(self, token_ids: tuple[int, ...]) -> int | None:
        """Return the position of the first token that ends the output."""
        stop = self._request.stop
        ends = stop.stop_token_ids if stop.ignore_eos else stop.stop_token_ids | self._eos_token_ids
        first = max(stop.min_output_tokens - 1, 0)
        return next((n for n in range(first, len(token_ids)) if token_ids[n] in ends), None)

    def _timings_now(self) -> Timings:
        """Return the timings of a generation that is ended here: by the engine's clock, plus what went by since."""
        since_ns = time.monotonic_ns() - self._timed_ns
        return replace(self._timings, finished_unix_ns=self._timings.finished_unix_ns + since_ns)

    def _finish(
        self,
        reason: EndReason,
        timings: Timings,
        *,
        stop_string: str | None = None,
        stop_token_id: int | None = None,
        cached_prompt_tokens: int = 0,
    ) -> None:
        self.finished = Finished(
            reason=reason,
            timings=timings,
            prompt_tokens=len(self._request.prompt_token_ids),
            output_tokens=self._tokens,
            cached_prompt_tokens=cached_prompt_tokens,
            stop_string=stop_string,
            stop_token_id=stop_token_id,
        )
