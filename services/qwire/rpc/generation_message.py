"""Turns the events of a generation into messages."""

from __future__ import annotations

from google.protobuf.duration_pb2 import Duration

from qwire.engine.chunk import Timings, TokenLogprobs
from qwire.engine.protocol import ModelCard
from qwire.engine.request import SamplingParams, StopParams
from qwire.text.event import EndReason, Finished, PromptRead, Started, ToolCalled, ToolCallFragment
from qwire.text.splitter import Channel
from qwire.v1 import types_pb2 as pb

_REASONS = {
    EndReason.END_OF_TURN: pb.FINISH_REASON_END_OF_TURN,
    EndReason.STOP_STRING: pb.FINISH_REASON_STOP_STRING,
    EndReason.STOP_TOKEN: pb.FINISH_REASON_STOP_TOKEN,
    EndReason.LENGTH: pb.FINISH_REASON_LENGTH,
    EndReason.TOOL_CALLS: pb.FINISH_REASON_TOOL_CALLS,
}

CHANNELS = {Channel.TEXT: pb.CHANNEL_TEXT, Channel.REASONING: pb.CHANNEL_REASONING}


def started_message(started: Started, card: ModelCard, generation_id: str) -> pb.GenerationStarted:
    """Return what the server decided at the start."""
    return pb.GenerationStarted(
        generation_id=generation_id,
        model=card.model_id,
        model_revision=card.revision,
        prompt_tokens=started.prompt_tokens,
        sampling=sampling_message(started.sampling, seed=started.sampling.seed),
        stop=_stop_message(started.stop, started.stop_strings),
    )


def sampling_message(params: SamplingParams, *, seed: int | None) -> pb.SamplingOptions:
    """Return sampling parameters with every scalar set; the seed only where there is one."""
    return pb.SamplingOptions(
        temperature=params.temperature,
        top_k=params.top_k,
        top_p=params.top_p,
        min_p=params.min_p,
        repetition_penalty=params.repetition_penalty,
        presence_penalty=params.presence_penalty,
        frequency_penalty=params.frequency_penalty,
        logit_bias=[pb.LogitBias(token_id=token_id, bias=bias) for token_id, bias in params.logit_bias],
        seed=seed,
    )


def finished_message(finished: Finished, total_ns: int, first_token_ns: int | None) -> pb.GenerationFinished:
    """Return how a generation ended.

    Args:
        finished: How it ended, by the engine.
        total_ns: From the call's arrival to the last token, nanoseconds.
        first_token_ns: From the call's arrival to the first token, nanoseconds; None = no token came.
    """
    return pb.GenerationFinished(
        reason=_REASONS[finished.reason],
        match=_match_message(finished),
        usage=pb.Usage(
            prompt_tokens=finished.prompt_tokens,
            output_tokens=finished.output_tokens,
            cached_prompt_tokens=finished.cached_prompt_tokens,
            reasoning_tokens=finished.reasoning_tokens,
        ),
        timings=_timings_message(finished.timings, total_ns, first_token_ns),
    )


def call_message(called: ToolCalled) -> pb.ToolCall:
    """Return a call that the model asks for."""
    return pb.ToolCall(id=called.id, name=called.name, arguments_json=called.arguments_json)


def prompt_message(prompt: PromptRead) -> pb.GenerationPrompt:
    """Return more of the prompt."""
    return pb.GenerationPrompt(text=prompt.text, tokens=token_messages(prompt.token_ids, prompt.logprobs))


def fragment_message(fragment: ToolCallFragment) -> pb.ToolCallFragment:
    """Return more of a call that is not complete."""
    return pb.ToolCallFragment(
        index=fragment.index,
        id=fragment.id,
        name=fragment.name,
        arguments_json=fragment.arguments_json,
        retracted=fragment.retracted,
    )


def token_messages(token_ids: tuple[int, ...], logprobs: tuple[TokenLogprobs | None, ...]) -> list[pb.TokenInfo]:
    """Return one record per token, with its log-probabilities where there are any."""
    if not logprobs:
        return [pb.TokenInfo(id=token_id) for token_id in token_ids]
    return [_token_message(token_id, record) for token_id, record in zip(token_ids, logprobs, strict=True)]


def duration_message(nanoseconds: int) -> Duration:
    """Return a duration. Clocks of two machines may disagree by a little: less than nothing is nothing."""
    seconds, nanos = divmod(max(0, nanoseconds), 1_000_000_000)
    return Duration(seconds=seconds, nanos=nanos)


def _token_message(token_id: int, record: TokenLogprobs | None) -> pb.TokenInfo:
    if record is None:
        return pb.TokenInfo(id=token_id)
    top = [pb.TokenAlternative(id=other, logprob=logprob) for other, logprob in record.top]
    return pb.TokenInfo(id=token_id, logprob=record.logprob, top=top)


def _match_message(finished: Finished) -> pb.StopMatch:
    if finished.stop_string is not None:
        return pb.StopMatch(stop_string=finished.stop_string)
    if finished.stop_token_id is not None:
        return pb.StopMatch(stop_token_id=finished.stop_token_id)
    return pb.StopMatch()


def _stop_message(stop: StopParams, stop_strings: tuple[str, ...]) -> pb.StopOptions:
    return pb.StopOptions(
        max_output_tokens=stop.max_output_tokens,
        min_output_tokens=stop.min_output_tokens,
        stop_strings=stop_strings,
        stop_token_ids=sorted(stop.stop_token_ids),
        ignore_eos=stop.ignore_eos,
    )


def _timings_message(timings: Timings, total_ns: int, first_token_ns: int | None) -> pb.Timings:
    return pb.Timings(
        queue=duration_message(timings.scheduled_unix_ns - timings.arrived_unix_ns),
        prefill=duration_message(timings.first_token_unix_ns - timings.scheduled_unix_ns),
        decode=duration_message(timings.finished_unix_ns - timings.first_token_unix_ns),
        total=duration_message(total_ns),
        time_to_first_token=None if first_token_ns is None else duration_message(first_token_ns),
    )
