"""What a replica records of generations that nobody needs to their end."""

from __future__ import annotations

import asyncio

import pytest

from qwire.engine.chunk import Timings, TokenChunk
from qwire.engine.request import Envelope, StopParams, TokenRequest
from qwire.serve.recorder import GenerationRecorder
from qwire.telemetry.setup import Telemetry
from tests.support.otlp_receiver import OtlpReceiver, attributes

REQUEST = TokenRequest((1, 2, 3), Envelope("g-1"), StopParams(10))
FIRST = TokenChunk((4,), timings=Timings(1, 2, 3, 3), cached_prompt_tokens=2, drafted_tokens=3)
LAST = TokenChunk((5, 6), drafted_tokens=8, accepted_tokens=5, preemptions=1)


@pytest.mark.parametrize("ends", [GeneratorExit, asyncio.CancelledError])
def test_what_was_drafted_counts_where_the_consumer_closes(
    receiver: OtlpReceiver, telemetry: Telemetry, ends: type[BaseException]
):
    recorder = GenerationRecorder(telemetry, "m", "replica-1")
    with pytest.raises(ends), recorder.generation(REQUEST) as record:  # noqa: PT012 - the block is the generation
        record.add(TokenChunk((), prompt_logprobs=(None,)))
        record.add(FIRST)
        record.add(LAST)
        raise ends
    assert telemetry.flush()
    drafted = {
        attributes(point.attributes)["qwire.draft.outcome"]: point.as_int
        for point in receiver.counts("qwire.server.draft.tokens")
    }
    assert drafted == {"accepted": 5, "rejected": 3}
    (preempted,) = receiver.counts("qwire.server.preemptions")
    assert preempted.as_int == 1


def test_one_that_is_closed_before_its_first_token_was_cancelled(receiver: OtlpReceiver, telemetry: Telemetry):
    recorder = GenerationRecorder(telemetry, "m", "replica-1")
    with pytest.raises(GeneratorExit), recorder.generation(REQUEST) as record:  # noqa: PT012 - likewise
        record.add(TokenChunk((), prompt_logprobs=(None,)))
        raise GeneratorExit
    assert telemetry.flush()
    metrics = {metric.name for metric in receiver.metrics}
    assert "gen_ai.server.request.duration" in metrics
    assert "gen_ai.server.time_to_first_token" not in metrics
