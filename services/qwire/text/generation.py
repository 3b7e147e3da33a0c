"""The state of one generation: what the engine's chunks make of it."""

from __future__ import annotations

import time
from array import array
from collections.abc import Iterable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from hashlib import blake2b

from qwire.engine.chunk import Finish, Timings, TokenChunk, TokenLogprobs
from qwire.engine.errors import InvalidRequest
from qwire.engine.request import TokenRequest
from qwire.text.call_progress import CallFragment
from qwire.text.event import Delta, EndReason, Finished, ToolCalled, ToolCallFragment
from qwire.text.output import OutputPiece, OutputText, closed

_CALL_ID_BYTES = 12


@dataclass(frozen=True, slots=True)
class ModelEnds:
    """How a model ends what it says.

    Attributes:
        turn: Tokens, any of which ends its turn.
        thinking: Tokens, all of which end its thinking where it does not do so itself.
    """

    turn: AbstractSet[int]
    thinking: tuple[int, ...] = ()

    def up_to(self, token_id: int | None) -> ModelEnds:
        """Return the same, with nothing after this token where it is one of those that end the thinking.

        What follows has to match a constraint.
        """
        if token_id not in self.thinking:
            return self
        return replace(self, thinking=self.thinking[: self.thinking.index(token_id) + 1])


@dataclass(frozen=True, slots=True)
class _Ending:
    """How tokens end the output; timings None = by this clock."""

    reason: EndReason
    timings: Timings | None = None
    stop_string: str | None = None
    stop_token_id: int | None = None


class Generation:
    """Turns the chunks of one generation into events, and knows how it ended.

    Output that the request came with is replayed at construction, so that the rest continues it within a character and
    within a possible stop string, tag or tool call.

    Where the budget of thinking is spent, the tokens that end it are put in the model's mouth. The engine's generation
    is worth nothing from there on: the rest comes from a new one, which starts from the output so far.

    Args:
        request: What the engine is asked for.
        output: The output's text, new.
        ends: How the model ends its turn and its thinking.

    Attributes:
        request: What the engine is to be asked for; another one once tokens were put in the model's mouth.
        opening: What there is to say before the engine is asked: the end of a thinking whose budget is spent already.
        finished: How the generation ended; None = it goes on. Set from the start where the output that the request
            came with is complete.

    Raises:
        InvalidRequest: The output that the request came with ended earlier than with its last token, or thinks beyond
            its budget; or log-probabilities of the prompt are asked for where output comes before the engine is asked.
    """

    def __init__(self, request: TokenRequest, output: OutputText, ends: ModelEnds) -> None:
        now = time.time_ns()
        self.request = request
        self.finished: Finished | None = None
        self.opening: Sequence[Delta | ToolCalled] = ()
        self._output = output
        self._ends = ends
        self._token_ids: list[int] = []
        self._calls = 0
        self._begun_call_id = ""  # of a call that is told of, and is not complete
        # Until the engine tells: arrived, and nothing computed yet.
        self._timings = Timings(now, now, now, now)
        self._timed = False
        self._cached_prompt_tokens = 0
        self._adapter_sha256 = request.adapter_sha256
        self._timed_ns = time.monotonic_ns()
        self._replay(request.output_token_ids)

    def advance(self, chunk: TokenChunk) -> list[Delta | ToolCalled]:
        """Return what a chunk adds; `finished` is set where it is the last, `request` where its generation is over."""
        if chunk.timings is not None and not self._timed:
            self._timings, self._timed, self._timed_ns = chunk.timings, True, time.monotonic_ns()
            self._cached_prompt_tokens = chunk.cached_prompt_tokens
            self._adapter_sha256 = chunk.adapter_sha256
        events = self._take(chunk.token_ids, self._ending(chunk.finish), chunk.logprobs)
        if self.finished is None and self._output.budget_spent:
            events += self._end_thinking(self._ends.thinking)
        return events

    def _ending(self, finish: Finish | None) -> _Ending | None:
        if finish is None:
            return None
        timings = finish.timings
        if self._timed:  # by the first of the engine's generations, where there are several
            timings = replace(self._timings, finished_unix_ns=timings.finished_unix_ns)
        else:
            self._cached_prompt_tokens = finish.cached_prompt_tokens
        return _Ending(EndReason(finish.reason.value), timings, None, finish.stop_token_id)

    def _replay(self, token_ids: tuple[int, ...]) -> None:
        self._take_given(token_ids)
        if self.finished is None and self._output.budget_spent:
            if self.request.prompt_logprobs is not None:
                raise InvalidRequest(
                    "output.prompt_logprobs", "is not possible where thinking is ended before it begins: see reasoning"
                )
            rest, closing = token_ids[len(self._token_ids) :], self._ends.thinking
            given = min(len(rest), len(closing))
            if rest[:given] != closing[:given]:
                raise InvalidRequest(
                    "resume.output_token_ids",
                    f"goes on thinking after its token {len(self._token_ids)}, the budget's last",
                )
            self._output.lift_budget()
            self._take_given(rest)
            if self.finished is None and given < len(closing):
                self.opening = self._end_thinking(closing[given:])
        if len(self._token_ids) < len(token_ids):
            raise InvalidRequest(
                "resume.output_token_ids",
                f"the output ended with its token {len(self._token_ids)}; nothing can follow it",
            )

    def _end_thinking(self, token_ids: tuple[int, ...]) -> list[Delta | ToolCalled]:
        """Put the end of thinking in the model's mouth, as far as the output's limit lets it."""
        self._output.lift_budget()
        events = self._take_given(token_ids[: self.request.stop.max_output_tokens - len(self._token_ids)])
        if self.finished is None:
            request_id = answer_id(self.request.envelope.request_id)
            # Not where the caller brought all of its thinking along: nobody has admitted that yet.
            admitted = self.request.envelope.admitted or self._timed
            envelope = replace(self.request.envelope, request_id=request_id, admitted=admitted)
            self.request = replace(self.request, envelope=envelope, output_token_ids=tuple(self._token_ids))
            self.request = replace(self.request, prompt_logprobs=None, adapter_sha256=self._adapter_sha256)
        return events

    def _take_given(self, token_ids: tuple[int, ...]) -> list[Delta | ToolCalled]:
        """Take tokens that were not drawn here, so that nobody has told whether they end the output."""
        stop = self.request.stop
        end = self._first_end(token_ids)
        ending = None
        if end is not None:
            is_stop_token = token_ids[end] in stop.stop_token_ids
            reason = EndReason.STOP_TOKEN if is_stop_token else EndReason.END_OF_TURN
            ending = _Ending(reason, stop_token_id=token_ids[end])
            token_ids = token_ids[: end + 1]
        elif len(self._token_ids) + len(token_ids) >= stop.max_output_tokens:
            ending = _Ending(EndReason.LENGTH)
        return self._take(token_ids, ending)

    def _take(
        self, token_ids: tuple[int, ...], ending: _Ending | None, logprobs: tuple[TokenLogprobs, ...] = ()
    ) -> list[Delta | ToolCalled]:
        """Take tokens, up to where a stop string appears or the budget is spent."""
        by_token = ending is not None and ending.stop_token_id is not None
        pieces = self._output.push(token_ids[:-1] if by_token else token_ids)
        if pieces and (stop_string := pieces[-1].stop_string) is not None:
            ending = _Ending(EndReason.STOP_STRING, ending and ending.timings, stop_string)
        elif self._output.budget_spent:
            ending = None
        elif ending is not None:
            pieces = closed(pieces, self._output.finish(), int(by_token))
        events = list(self._events(pieces, token_ids, logprobs))
        if ending is not None:
            self._finish(ending)
        return events

    def _events(
        self, pieces: Iterable[OutputPiece], token_ids: tuple[int, ...], logprobs: tuple[TokenLogprobs, ...]
    ) -> Iterable[Delta | ToolCalled]:
        start = 0
        for piece in pieces:
            if piece.call is not None:
                call_id = self._begun_call_id or self._call_id()
                self._begun_call_id = ""
                self._calls += 1
                yield ToolCalled(call_id, piece.call.name, piece.call.arguments_json)
            elif piece.tokens or piece.text or piece.fragments:
                fragments = tuple(map(self._fragment, piece.fragments))
                end = start + piece.tokens
                self._token_ids += token_ids[start:end]
                yield Delta(piece.text, token_ids[start:end], logprobs[start:end], piece.channel, fragments)
                start = end

    def _fragment(self, fragment: CallFragment) -> ToolCallFragment:
        if fragment.name:
            self._begun_call_id = self._call_id()
        elif fragment.retracted:
            self._begun_call_id = ""
        call_id = self._begun_call_id if fragment.name else ""
        return ToolCallFragment(self._calls, fragment.arguments_json, call_id, fragment.name, fragment.retracted)

    def _call_id(self) -> str:
        """Return an id that depends on what led to the call only, so that a resumed generation gives the same."""
        led_to_it = array("Q", (*self.request.prompt_token_ids, *self._token_ids, self._calls))
        return f"call_{blake2b(led_to_it.tobytes(), digest_size=_CALL_ID_BYTES).hexdigest()}"

    def _first_end(self, token_ids: tuple[int, ...]) -> int | None:
        """Return the position of the first token that ends the output, of tokens that follow it."""
        stop = self.request.stop
        ends = stop.stop_token_ids if stop.ignore_eos else stop.stop_token_ids | self._ends.turn
        first = max(stop.min_output_tokens - 1 - len(self._token_ids), 0)
        return next((n for n in range(first, len(token_ids)) if token_ids[n] in ends), None)

    def _timings_now(self) -> Timings:
        """Return the timings of a generation that is ended here: by the engine's clock, plus what went by since."""
        since_ns = time.monotonic_ns() - self._timed_ns if self._timed else 0
        return replace(self._timings, finished_unix_ns=self._timings.finished_unix_ns + since_ns)

    def _finish(self, ending: _Ending) -> None:
        called = self._calls > 0 and ending.reason is EndReason.END_OF_TURN
        self.finished = Finished(
            reason=EndReason.TOOL_CALLS if called else ending.reason,
            timings=ending.timings or self._timings_now(),
            prompt_tokens=len(self.request.prompt_token_ids),
            output_tokens=len(self._token_ids),
            cached_prompt_tokens=self._cached_prompt_tokens,
            stop_string=ending.stop_string,
            stop_token_id=ending.stop_token_id,
            reasoning_tokens=self._output.reasoning_tokens,
        )


def answer_id(request_id: str) -> str:
    """Return the id of the engine's generation that goes on after thinking was ended.

    It is another one since the first may still be on its way out of an engine that is elsewhere.
    """
    return f"{request_id}-answer"
