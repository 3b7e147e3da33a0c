"""A client that resumes, against a real server: nothing is lost, repeated or changed by any number of breaks."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import grpc.aio
import pytest

from qwire.client import AsyncClient, ClientOptions, GenerationOptions, ResumeOptions, Unavailable
from qwire.client.generation_reader import GenerationReader
from qwire.engine.errors import EngineUnavailable
from qwire.engine.fake import FakeEngine
from qwire.text.processor import TextProcessor
from qwire.text.request import TextPrompt
from qwire.v1 import generate_pb2 as pb
from qwire.v1.types_pb2 import GenerationSpec, OutputOptions, ResumePoint, SamplingOptions, StopOptions
from tests.contract.edge import Edge, Stubs, card_of, open_edge, served
from tests.contract.failure import collect, failure_of
from tests.contract.thinker import chat, open_thinker, tools
from tests.support.http2_relay import http2_relay, reset_stream

OPTIONS = ClientOptions(resume=ResumeOptions(initial_backoff_s=0.01, max_backoff_s=0.02))
SAID = "<think>\n🤔 hm 你\n</think>\n\n你好 🙂 QUI " + "".join(
    f'<tool_call>\n{{"name": "weather", "arguments": {{"city": "{city}"}}}}\n</tool_call>\n' for city in ("Köln", "Rom")
)


QUIET: GenerationOptions = {"token_info": False, "max_output_tokens": 60, "ignore_eos": True}
STOPS: dict[str, tuple[str, StopOptions]] = {
    "stop string": ("你好 🙂 QUI 🙂 i 🙂 QUIT and more", StopOptions(stop_strings=["i 🙂 QUIT"])),
    "limit within a character": ("你好 🙂 QUI 🙂", StopOptions(max_output_tokens=20, stop_strings=["QUIT"])),
}


def same(reader: GenerationReader, whole: list[pb.StreamGenerateResponse]) -> None:
    """What was read is what a stream without breaks says, but for ids and times."""
    undisturbed = GenerationReader()
    for event in whole:
        undisturbed.read(event)
    read, expected = reader.generation(), undisturbed.generation()
    for name in ("text", "reasoning", "tool_calls", "tokens", "usage"):
        assert getattr(read, name) == getattr(expected, name), name
    assert replace(read.finished, timings=expected.timings) == expected.finished


async def broken_everywhere(stubs: Stubs, spec: GenerationSpec) -> None:
    """Break a stream after each of its events; and one more time, right after it went on."""
    request = pb.StreamGenerateRequest(spec=spec)
    whole = await collect(stubs.generate.StreamGenerate(request))
    request.spec.sampling.seed = whole[0].started.sampling.seed
    whole = await collect(stubs.generate.StreamGenerate(request))
    for cut in range(1, len(whole)):
        reader = GenerationReader()
        for event in whole[:cut]:
            reader.read(event)
        for event in (await collect(stubs.generate.StreamGenerate(reader.rest(request))))[:2]:
            reader.read(event)
        if reader.finished is None:
            for event in await collect(stubs.generate.StreamGenerate(reader.rest(request))):
                reader.read(event)
        same(reader, whole)


async def test_thinking_characters_and_calls_survive_a_break_anywhere(processor: TextProcessor):
    async with open_thinker(processor, SAID) as model:
        spec = chat(tools=tools(), output=OutputOptions(top_logprobs=1))
        whole = await model.whole(spec)
        assert len(whole.tool_calls) == 2
        assert "🤔" in whole.reasoning
        assert "🙂" in whole.text
        await broken_everywhere(model.stubs, spec)


@pytest.mark.parametrize("kind", STOPS)
async def test_stops_and_limits_hold_across_a_break_anywhere(processor: TextProcessor, kind: str):
    text, stop = STOPS[kind]
    engine = FakeEngine(lambda _: processor.encode(TextPrompt(text)), card=card_of(processor))
    stop.max_output_tokens = stop.max_output_tokens or 200
    async with open_edge([await served(processor, engine)]) as edge:
        await broken_everywhere(edge.stubs, GenerationSpec(text="hi", stop=stop))


async def test_a_stream_that_is_cut_again_and_again_is_one_stream(processor: TextProcessor):
    engine = FakeEngine(card=card_of(processor), step_s=0.02)
    async with open_edge([await served(processor, engine)]) as edge:
        with http2_relay(target(edge), reset_stream(2)) as relay:
            async with AsyncClient(relay.target, OPTIONS) as client:
                stream, seen = client.stream("你好 🙂", **QUIET), 0
                async for _ in stream:
                    if seen % 5 == 0:
                        relay.cut()
                    seen += 1
                generation = await stream.generation()
                undisturbed = await client.stream("你好 🙂", **QUIET).generation()
    assert (generation.text, generation.usage, generation.tokens) == (undisturbed.text, undisturbed.usage, ())
    # The seed was the server's choice: it is kept.
    asked = [request for request in engine.requests if request.output_token_ids]
    assert len(asked) >= 2
    assert {request.sampling.seed for request in asked} == {generation.started.sampling.seed}


async def test_unavailable_tells_where_a_stream_stood(stubs: Stubs, engine: FakeEngine):
    engine.fail_after, engine.failure = 5, EngineUnavailable(0.25)
    spec = GenerationSpec(text="abc", sampling=SamplingOptions(seed=1), stop=StopOptions(max_output_tokens=9))
    call = stubs.generate.StreamGenerate(pb.StreamGenerateRequest(spec=spec))
    events: list[pb.StreamGenerateResponse] = []
    failure = await failure_of(collect_into(call, events))
    tokens = [token.id for event in events for token in event.delta.tokens]
    assert len(tokens) == 5
    assert failure.metadata["output_tokens"] == "5"
    assert failure.metadata["last_sequence"] == str(events[-1].sequence)
    assert failure.retry_after_s == 0.25
    spec.resume.CopyFrom(ResumePoint(output_token_ids=tokens, last_sequence=events[-1].sequence))
    failure = await failure_of(collect(stubs.generate.StreamGenerate(pb.StreamGenerateRequest(spec=spec))))
    assert (failure.metadata["output_tokens"], failure.metadata["last_sequence"]) == ("5", str(events[-1].sequence))
    engine.fail_after = None
    rest = await collect(stubs.generate.StreamGenerate(pb.StreamGenerateRequest(spec=spec)))
    assert rest[-1].finished.usage.output_tokens == 9
    quiet = GenerationSpec(text="abc", output=OutputOptions(token_info=False))
    engine.fail_after = 5
    failure = await failure_of(collect(stubs.generate.StreamGenerate(pb.StreamGenerateRequest(spec=quiet))))
    assert "output_tokens" not in failure.metadata


async def test_the_client_gives_up_with_the_point_to_resume_at(edge: Edge, engine: FakeEngine):
    engine.fail_after = 5
    options = ClientOptions(resume=ResumeOptions(initial_backoff_s=0.01, max_attempts=1), retry=None)
    async with AsyncClient(target(edge), options) as client:
        with pytest.raises(Unavailable) as broken:
            await client.stream("hello there").generation()
        point = broken.value.resume_point
        assert point is not None
        assert broken.value.metadata["output_tokens"] == str(len(point.output_token_ids)) == "5"
        engine.fail_after = None
        rest = await client.stream("hello there", resume=point).generation()
        assert rest.usage.output_tokens == 16
        assert len(rest.tokens) == 11


async def test_output_that_is_complete_is_finished(stubs: Stubs):
    spec = GenerationSpec(text="abc", sampling=SamplingOptions(seed=1), stop=StopOptions(max_output_tokens=9))
    whole = await collect(stubs.generate.StreamGenerate(pb.StreamGenerateRequest(spec=spec)))
    spec.resume.output_token_ids.extend(token.id for event in whole for token in event.delta.tokens)
    started, finished = await collect(stubs.generate.StreamGenerate(pb.StreamGenerateRequest(spec=spec)))
    assert started.HasField("started")
    assert finished.finished.usage == whole[-1].finished.usage
    assert finished.finished.reason == whole[-1].finished.reason


def target(edge: Edge) -> str:
    """Where a server listens."""
    return f"127.0.0.1:{edge.port}"


async def collect_into(call: Any, events: list[pb.StreamGenerateResponse]) -> None:
    """Keep what comes before the failure."""
    while (event := await call.read()) is not grpc.aio.EOF:
        events.append(event)
