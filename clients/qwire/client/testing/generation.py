"""Plays an answer as the events of a generation."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator

import grpc
from google.protobuf.duration_pb2 import Duration

from qwire.client.testing.script import Answer, Failure, words
from qwire.client.testing.state import RunningGeneration, ServerState
from qwire.client.tool import ToolCall
from qwire.v1 import generate_pb2, types_pb2

END_OF_TURN_TOKEN_ID = 151_645
_LOST = Failure(reason="", message="connection lost")
_CANCELLED = Failure(code=grpc.StatusCode.CANCELLED, reason="CANCELLED", message="cancelled by CancelGeneration")


class ScriptedFailure(Exception):
    """Ends a generation with a scripted status."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


def play(
    state: ServerState, spec: types_pb2.GenerationSpec, context: grpc.ServicerContext, *, streams: bool = False
) -> Iterator[generate_pb2.StreamGenerateResponse]:
    """Yield the events of the next answer, or the rest of one that is resumed.

    Raises:
        ScriptedFailure: Its failure, a break where it `streams`, or a cancel by id.
    """
    answer, generation = state.answer_to(spec), state.begin(context)
    began = time.monotonic()
    started = _started(state, spec, generation)
    resumed, sequence = len(spec.resume.output_token_ids), spec.resume.last_sequence + 1
    yield generate_pb2.StreamGenerateResponse(sequence=sequence, started=started)
    if spec.output.echo or spec.output.HasField("prompt_logprobs"):
        sequence += 1
        yield generate_pb2.StreamGenerateResponse(sequence=sequence, prompt=_prompt(spec))
    deltas = _deltas(answer, spec)
    for position, delta in enumerate(deltas[resumed : _last(answer, len(deltas))], start=resumed):
        if streams and resumed < position in answer.drop_after:
            generation.done = True
            raise ScriptedFailure(_LOST)
        sequence += 2 if position == answer.skip_sequence_after else 1
        if generation.ended.wait(answer.delay_s):
            if generation.cancelled:
                raise ScriptedFailure(_CANCELLED)
            return
        yield generate_pb2.StreamGenerateResponse(sequence=sequence, delta=delta)
    generation.done = True
    if streams and resumed < len(deltas) in answer.drop_after:
        raise ScriptedFailure(_LOST)
    if answer.failure:
        raise ScriptedFailure(answer.failure)
    if answer.truncate_after is None:
        calls = answer.tool_calls if len(deltas) == _words(answer) else ()
        for response in _calls(calls, written=spec.output.tool_call_fragments):
            sequence += 1
            response.sequence = sequence
            yield response
        finished = _finished(answer, spec, started, len(deltas), time.monotonic() - began)
        yield generate_pb2.StreamGenerateResponse(sequence=sequence + 1, finished=finished)


def _calls(calls: Iterable[ToolCall], *, written: bool) -> Iterator[generate_pb2.StreamGenerateResponse]:
    for index, call in enumerate(calls):
        if written:
            yield generate_pb2.StreamGenerateResponse(delta=_written(index, call))
        yield generate_pb2.StreamGenerateResponse(tool_call=_call(call))


def _last(answer: Answer, deltas: int) -> int:
    """Return how many deltas come before the end."""
    ends = (answer.failure_after if answer.failure else None, answer.truncate_after)
    return min((end for end in ends if end is not None), default=deltas)


def gather(events: Iterator[generate_pb2.StreamGenerateResponse]) -> types_pb2.Generation:
    """Return the whole generation."""
    whole = types_pb2.Generation()
    for event in events:
        match event.WhichOneof("event"):
            case "started":
                whole.started.CopyFrom(event.started)
            case "prompt":
                whole.prompt.CopyFrom(event.prompt)
            case "delta":
                whole.tokens.extend(event.delta.tokens)
                if event.delta.channel == types_pb2.CHANNEL_REASONING:
                    whole.reasoning += event.delta.text
                else:
                    whole.text += event.delta.text
            case "tool_call":
                whole.tool_calls.append(event.tool_call)
            case _:
                whole.finished.CopyFrom(event.finished)
    return whole


def prompt_tokens(message: types_pb2.GenerationSpec | generate_pb2.CountTokensRequest) -> int:
    """Count a prompt: a token per word."""
    if isinstance(message, types_pb2.GenerationSpec) and message.HasField("tokens"):
        return len(message.tokens.ids)
    return sum(len(words(text)) for text in _texts(message))


def _texts(message: types_pb2.GenerationSpec | generate_pb2.CountTokensRequest) -> list[str]:
    return [message.text] if message.HasField("text") else [said.text for said in message.chat.messages]


def _started(
    state: ServerState, spec: types_pb2.GenerationSpec, generation: RunningGeneration
) -> types_pb2.GenerationStarted:
    sampling = types_pb2.SamplingOptions(
        temperature=0.7,
        top_k=20,
        top_p=0.8,
        min_p=0.0,
        repetition_penalty=1.0,
        presence_penalty=0.0,
        frequency_penalty=0.0,
        seed=1,
    )
    sampling.MergeFrom(spec.sampling)
    stop = types_pb2.StopOptions(max_output_tokens=512, min_output_tokens=0, ignore_eos=False)
    stop.MergeFrom(spec.stop)
    return types_pb2.GenerationStarted(
        generation_id=generation.id,
        model=spec.model or state.models[0],
        model_revision="fake",
        prompt_tokens=prompt_tokens(spec),
        sampling=sampling,
        stop=stop,
    )


def _deltas(answer: Answer, spec: types_pb2.GenerationSpec) -> list[generate_pb2.GenerationDelta]:
    """Return one delta and one token per word, as many as the request allows."""
    parts = [(types_pb2.CHANNEL_REASONING, word) for word in words(answer.reasoning)]
    parts += [(types_pb2.CHANNEL_TEXT, word) for word in words(answer.text)]
    top = spec.output.top_logprobs if spec.output.HasField("top_logprobs") else None
    wants_tokens = spec.output.token_info if spec.output.HasField("token_info") else True
    return [
        generate_pb2.GenerationDelta(channel=channel, text=word, tokens=[_token(position, top)] if wants_tokens else [])
        for position, (channel, word) in enumerate(parts[: spec.stop.max_output_tokens or None])
    ]


def _token(token_id: int, top: int | None) -> types_pb2.TokenInfo:
    """Pretend that the token has half of the probability, the one after it half of the rest, and so on."""
    if top is None:
        return types_pb2.TokenInfo(id=token_id)
    alternatives = [
        types_pb2.TokenAlternative(id=token_id + place, logprob=-math.log(2) * (place + 1)) for place in range(top)
    ]
    return types_pb2.TokenInfo(id=token_id, logprob=-math.log(2), top=alternatives)


def _prompt(spec: types_pb2.GenerationSpec) -> types_pb2.GenerationPrompt:
    """Return the prompt: texts as they are, and a token per word."""
    output = spec.output
    top = output.prompt_logprobs if output.HasField("prompt_logprobs") else None
    ids = spec.tokens.ids if spec.HasField("tokens") else range(prompt_tokens(spec))
    tokens = [_token(token_id, top if position else None) for position, token_id in enumerate(ids)]
    return types_pb2.GenerationPrompt(text="".join(_texts(spec)) if output.echo else "", tokens=tokens)


def _words(answer: Answer) -> int:
    return len(words(answer.reasoning)) + len(words(answer.text))


def _call(call: ToolCall) -> types_pb2.ToolCall:
    return types_pb2.ToolCall(id=call.id, name=call.name, arguments_json=call.arguments_json)


def _written(index: int, call: ToolCall) -> generate_pb2.GenerationDelta:
    """Return a call while it is written: a fragment for each half of its arguments."""
    half = len(call.arguments_json) // 2
    return generate_pb2.GenerationDelta(
        channel=types_pb2.CHANNEL_TEXT,
        tool_call_fragments=[
            types_pb2.ToolCallFragment(
                index=index, id=call.id, name=call.name, arguments_json=call.arguments_json[:half]
            ),
            types_pb2.ToolCallFragment(index=index, arguments_json=call.arguments_json[half:]),
        ],
    )


def _finished(
    answer: Answer, spec: types_pb2.GenerationSpec, started: types_pb2.GenerationStarted, deltas: int, elapsed_s: float
) -> types_pb2.GenerationFinished:
    thoughts = len(words(answer.reasoning))
    cut = deltas < _words(answer) or deltas == spec.stop.max_output_tokens
    ended = types_pb2.FINISH_REASON_TOOL_CALLS if answer.tool_calls else types_pb2.FINISH_REASON_END_OF_TURN
    elapsed, nothing = Duration(), Duration()
    elapsed.FromNanoseconds(int(elapsed_s * 1e9))
    return types_pb2.GenerationFinished(
        reason=types_pb2.FINISH_REASON_LENGTH if cut else ended,
        match=None if cut else types_pb2.StopMatch(stop_token_id=END_OF_TURN_TOKEN_ID),
        usage=types_pb2.Usage(
            prompt_tokens=started.prompt_tokens,
            output_tokens=deltas if cut else deltas + 1,
            reasoning_tokens=min(thoughts, deltas),
        ),
        timings=types_pb2.Timings(
            queue=nothing, prefill=nothing, decode=elapsed, total=elapsed, time_to_first_token=nothing
        ),
    )
