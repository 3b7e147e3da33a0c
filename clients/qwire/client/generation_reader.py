"""Reads the messages of a generation, across all the calls that it takes."""

from __future__ import annotations

from collections import deque
from dataclasses import replace

from qwire.client.errors import ModelChanged, StreamBroken, StreamTruncated
from qwire.client.reader import Sequence
from qwire.client.result import Channel, Delta, Finished, Generation, PromptRead, StreamEvent, TokenInfo
from qwire.client.resume_point import ResumePoint
from qwire.client.started import Started
from qwire.client.tool import ToolCall
from qwire.v1 import generate_pb2, types_pb2


class GenerationReader:
    """Reads `StreamGenerate`: one `Started`, the prompt, then deltas and tool calls, then one `Finished`.

    Where the stream broke, `rest` is the request for what is missing; what its answer repeats is left out.

    Args:
        spec: What is generated.
        hide_tokens: Leave the tokens out of the events: they were asked for only to be able to resume.

    Attributes:
        started: What the server decided; None before it is told.
        finished: How it ended; None before it has.
    """

    def __init__(self, spec: types_pb2.GenerationSpec | None = None, *, hide_tokens: bool = False) -> None:
        spec = spec or types_pb2.GenerationSpec()
        self.started: Started | None = None
        self.finished: Finished | None = None
        self._tokens_reported = spec.output.token_info or not spec.output.HasField("token_info")
        self._hide_tokens = hide_tokens
        self._sequence = Sequence(spec.resume.last_sequence)
        self._output_token_ids = list(spec.resume.output_token_ids)
        self._begun = False
        self._prompt: list[PromptRead] = []
        self._texts: dict[Channel, list[str]] = {Channel.TEXT: [], Channel.REASONING: []}
        self._tool_calls: list[ToolCall] = []
        self._tokens: list[TokenInfo] = []
        self._decided = types_pb2.GenerationStarted()
        self._generation_id = ""
        self._call_started = False
        # What came after the last token belongs to the token that is next: a server that resumes says it again.
        self._ahead: list[generate_pb2.StreamGenerateResponse] = []
        self._repeated: deque[generate_pb2.StreamGenerateResponse] = deque()
        self._repeated_text, self._repeated_ids = "", list[int]()  # of the prompt, which comes in other pieces

    @property
    def generation_id(self) -> str:
        """The id of the generation that runs now, another one after each break; empty before `Started`."""
        return self._generation_id

    @property
    def output_tokens(self) -> int:
        """Output tokens so far."""
        return len(self._output_token_ids)

    @property
    def text(self) -> str:
        """The answer so far."""
        return "".join(self._texts[Channel.TEXT])

    @property
    def resume_point(self) -> ResumePoint | None:
        """Where another call can go on; None = no token has come, tokens are not reported, or it is finished."""
        if self.started is None or self.finished or not self._tokens_reported or not self._output_token_ids:
            return None
        return ResumePoint(tuple(self._output_token_ids), self._sequence.last, self.started.sampling.seed)

    @property
    def can_go_on(self) -> bool:
        """Whether `rest` may be called: the generation was accepted, and its tokens are known."""
        return self.started is not None and self.finished is None and self._tokens_reported

    def rest(self, request: generate_pb2.StreamGenerateRequest) -> generate_pb2.StreamGenerateRequest:
        """Return the request for what is missing, with everything that the server had decided; reads its answer next.

        Args:
            request: The original request.
        """
        rest = generate_pb2.StreamGenerateRequest(spec=request.spec)
        spec = rest.spec
        spec.model = self._decided.model
        spec.sampling.CopyFrom(self._decided.sampling)
        spec.stop.CopyFrom(self._decided.stop)
        spec.ClearField("resume")
        first = 1
        if self._output_token_ids:
            spec.resume.output_token_ids.extend(self._output_token_ids)
            spec.resume.last_sequence = self._sequence.last
            first = self._sequence.last + 1
        self._sequence.restart(first)
        self._call_started = False
        self._repeated = deque(one for one in self._ahead if not one.HasField("prompt"))
        self._repeated_text = "".join(one.prompt.text for one in self._ahead)
        self._repeated_ids = [token.id for one in self._ahead for token in one.prompt.tokens]
        return rest

    def read(self, response: generate_pb2.StreamGenerateResponse) -> StreamEvent | None:
        """Take the next message; None = the reader of the stream has it already, or did not ask for it."""
        self._sequence.take(response.sequence, self.generation_id)
        kind = response.WhichOneof("event")
        if (kind == "started") == self._call_started or self.finished is not None:
            raise StreamBroken(f"event {kind!r} may not come here", generation_id=self.generation_id)
        news = self._news(response)
        event = None if news is None else self._event(news)
        if event is None:
            self._sequence.hide()
        return event

    def end(self) -> None:
        """Take the end of the stream."""
        if self.finished is None:
            raise StreamTruncated("the stream ended before it was finished", generation_id=self.generation_id)

    def generation(self) -> Generation:
        """Return all of it, once it is finished.

        Raises:
            StreamTruncated: It is not.
        """
        if self.started is None or self.finished is None:
            raise StreamTruncated("the stream is not finished", generation_id=self.generation_id)
        return Generation(
            started=self.started,
            text=self.text,
            reasoning="".join(self._texts[Channel.REASONING]),
            tool_calls=tuple(self._tool_calls),
            tokens=tuple(self._tokens),
            finished=self.finished,
            prompt=PromptRead(
                "".join(read.text for read in self._prompt), tuple(one for read in self._prompt for one in read.tokens)
            ),
        )

    def _event(self, response: generate_pb2.StreamGenerateResponse) -> StreamEvent | None:
        match response.WhichOneof("event"):
            case "started":
                return self._start(response.started)
            case "prompt":
                if self._begun:
                    raise StreamBroken("more of the prompt came after output", generation_id=self.generation_id)
                self._ahead.append(response)
                self._prompt.append(PromptRead.from_proto(response.prompt))
                return self._prompt[-1]
            case "delta":
                self._begun = True
                self._note_tokens(response)
                return self._add(Delta.from_proto(response.delta))
            case "tool_call":
                self._begun = True
                self._ahead.append(response)
                call = ToolCall.from_proto(response.tool_call)
                self._tool_calls.append(call)
                return call
            case "finished":
                self.finished = Finished.from_proto(response.finished)
                return self.finished
            case None:
                raise StreamBroken("an event that this client does not know", generation_id=self.generation_id)

    def _start(self, message: types_pb2.GenerationStarted) -> Started | None:
        started = Started.from_proto(message)
        self._call_started = True
        self._generation_id = started.generation_id
        if self.started is None:
            self.started = started
            self._decided.CopyFrom(message)
            return started
        before, after = self.started, started
        if (before.model_revision, before.prompt_tokens) != (after.model_revision, after.prompt_tokens):
            raise ModelChanged(
                f"{before.model!r} was revision {before.model_revision!r} and is {after.model_revision!r} now, or reads"
                " the prompt otherwise: what came cannot be gone on with",
                generation_id=self.generation_id,
            )
        return None

    def _news(self, response: generate_pb2.StreamGenerateResponse) -> generate_pb2.StreamGenerateResponse | None:
        """Return what the reader of the stream does not have yet; None = it has all of it."""
        if response.HasField("started"):
            return response
        if response.HasField("prompt"):
            return self._prompt_news(response)
        if self._repeated_text or self._repeated_ids:
            raise self._contradiction()
        if not self._repeated:
            return response
        due = self._repeated.popleft()
        if (response.delta, response.tool_call) != (due.delta, due.tool_call):
            raise self._contradiction()
        return None

    def _prompt_news(self, response: generate_pb2.StreamGenerateResponse) -> generate_pb2.StreamGenerateResponse | None:
        # The ids have to be the same: log-probabilities are, but for rounding.
        text, ids = response.prompt.text, [token.id for token in response.prompt.tokens]
        known_text = min(len(text), len(self._repeated_text))
        known_ids = min(len(ids), len(self._repeated_ids))
        if (text[:known_text], ids[:known_ids]) != (self._repeated_text[:known_text], self._repeated_ids[:known_ids]):
            raise self._contradiction()
        if not known_text and not known_ids:
            return response
        self._repeated_text = self._repeated_text[known_text:]
        self._repeated_ids = self._repeated_ids[known_ids:]
        if (known_text, known_ids) == (len(text), len(ids)):
            return None
        news = generate_pb2.StreamGenerateResponse(prompt=response.prompt)
        news.prompt.text = text[known_text:]
        del news.prompt.tokens[:known_ids]
        return news

    def _contradiction(self) -> StreamBroken:
        return StreamBroken("the resumed stream says something else than before", generation_id=self.generation_id)

    def _note_tokens(self, response: generate_pb2.StreamGenerateResponse) -> None:
        if not response.delta.tokens:
            self._ahead.append(response)
            return
        self._output_token_ids += (token.id for token in response.delta.tokens)
        self._ahead.clear()

    def _add(self, delta: Delta) -> Delta | None:
        texts = self._texts.get(delta.channel)
        if texts is None:
            raise StreamBroken("a channel that this client does not know", generation_id=self.generation_id)
        texts.append(delta.text)
        if self._hide_tokens:
            return replace(delta, tokens=()) if delta.text or delta.tool_call_fragments else None
        self._tokens.extend(delta.tokens)
        return delta
