"""The prompt and its log-probabilities, told over the wire."""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator
from dataclasses import replace

import pytest

from qwire.engine.fake import FakeEngine
from qwire.text.processor import TextProcessor
from qwire.text.request import TextPrompt
from qwire.v1 import batch_pb2, generate_pb2, types_pb2
from qwire.v1.types_pb2 import ChatInput, ChatMessage, GenerationSpec, OutputOptions, StopOptions
from tests.contract.edge import CONFIG, Edge, Stubs, card_of, open_edge, served
from tests.contract.failure import Failure, collect, failure_of

LIMIT = 64 * 1024
PROMPT_TOKENS = 400


def spec_of(text: str = "abc", **output: object) -> GenerationSpec:
    options = OutputOptions(**output)  # pyright: ignore[reportArgumentType] - any field
    return GenerationSpec(text=text, output=options, stop=StopOptions(max_output_tokens=4))


async def whole(stubs: Stubs, spec: GenerationSpec) -> types_pb2.Generation:
    return (await stubs.generate.Generate(generate_pb2.GenerateRequest(spec=spec))).generation


async def stream(stubs: Stubs, spec: GenerationSpec) -> list[generate_pb2.StreamGenerateResponse]:
    return await collect(stubs.generate.StreamGenerate(generate_pb2.StreamGenerateRequest(spec=spec)))


@pytest.fixture
async def narrow(processor: TextProcessor) -> AsyncGenerator[Edge, None]:
    """A server whose responses are small."""
    engine = FakeEngine(card=card_of(processor))
    async with open_edge([await served(processor, engine)], config=replace(CONFIG, max_response_bytes=LIMIT)) as edge:
        yield edge


async def test_the_prompt_is_told_after_started_and_before_the_first_delta(stubs: Stubs, processor: TextProcessor):
    spec = spec_of("abä", echo=True, prompt_logprobs=2)
    responses = await stream(stubs, spec)
    assert [response.sequence for response in responses] == list(range(1, len(responses) + 1))
    kinds = [response.WhichOneof("event") for response in responses]
    assert kinds == ["started", "prompt", *["delta"] * (len(kinds) - 3), "finished"]
    prompt = responses[1].prompt
    assert prompt.text == "abä"
    assert [token.id for token in prompt.tokens] == processor.encode(TextPrompt("abä"))
    first, *others = prompt.tokens
    assert not first.HasField("logprob")
    assert not first.top
    for token in others:
        assert token.logprob == pytest.approx(math.log(0.5))
        assert [one.id for one in token.top] == [token.id, token.id + 1]
    assert (await whole(stubs, spec)).prompt == prompt


async def test_each_is_told_only_where_it_is_asked_for(stubs: Stubs):
    silent = await whole(stubs, spec_of())
    assert not silent.HasField("prompt")
    echoed = (await whole(stubs, spec_of(echo=True))).prompt
    assert (echoed.text, [token.HasField("logprob") for token in echoed.tokens]) == ("abc", [False] * 3)
    scored = (await whole(stubs, spec_of(prompt_logprobs=0))).prompt
    assert (scored.text, [token.HasField("logprob") for token in scored.tokens]) == ("", [False, True, True])
    assert not any(token.top for token in scored.tokens)
    untold = await whole(stubs, spec_of(echo=True, token_info=False))
    assert (len(untold.prompt.tokens), len(untold.tokens)) == (3, 0)


async def test_a_conversation_is_told_as_its_template_renders_it(stubs: Stubs):
    chat = ChatInput(messages=[ChatMessage(role=types_pb2.ROLE_USER, text="Hi <|im_end|>")])
    generation = await whole(stubs, GenerationSpec(chat=chat, output=OutputOptions(echo=True)))
    assert "Hi <|im_end|>" in generation.prompt.text
    assert generation.prompt.text.count("<|im_end|>") == 2
    assert len(generation.prompt.tokens) == generation.started.prompt_tokens


async def test_a_resumed_stream_does_not_tell_it_again(stubs: Stubs):
    spec = spec_of(echo=True, prompt_logprobs=1)
    spec.sampling.seed = 1
    responses = await stream(stubs, spec)
    cut = next(place for place, one in enumerate(responses) if one.HasField("delta")) + 1
    spec.resume.output_token_ids.extend(token.id for one in responses[:cut] for token in one.delta.tokens)
    spec.resume.last_sequence = responses[cut - 1].sequence
    rest = await stream(stubs, spec)
    assert not any(response.HasField("prompt") for response in rest)
    assert [one.sequence for one in rest] == list(range(cut + 1, cut + 1 + len(rest)))


async def test_a_stream_tells_a_large_prompt_in_small_messages(narrow: Edge):
    spec = spec_of("x" * PROMPT_TOKENS, echo=True, prompt_logprobs=20)
    responses = await stream(narrow.stubs, spec)
    assert max(response.ByteSize() for response in responses) < 64 * 1024
    told = [response.prompt for response in responses if response.HasField("prompt")]
    assert len(told) > 1
    assert sum(len(prompt.tokens) for prompt in told) == PROMPT_TOKENS
    assert "".join(prompt.text for prompt in told) == "x" * PROMPT_TOKENS


async def test_an_answer_that_is_too_large_for_a_message_is_refused_whole(narrow: Edge):
    spec = spec_of("x" * PROMPT_TOKENS, prompt_logprobs=20)
    failure = await failure_of(narrow.stubs.generate.Generate(generate_pb2.GenerateRequest(spec=spec)))
    assert (failure.code, failure.reason) == ("RESOURCE_EXHAUSTED", "MESSAGE_TOO_LARGE")
    assert failure.metadata["limit_bytes"] == str(LIMIT)
    assert failure.retry_after_s is None
    assert (await whole(narrow.stubs, spec_of("x" * 100, prompt_logprobs=20))).ByteSize() > LIMIT // 4


async def test_items_of_a_batch_share_a_message_and_fail_alone_where_there_is_no_room(narrow: Edge):
    large = spec_of("x" * PROMPT_TOKENS, prompt_logprobs=20)
    some = spec_of("x" * 100, prompt_logprobs=20)
    specs = [large, some, spec_of(), some, some, some, spec_of(), spec_of("")]
    items = [batch_pb2.BatchItem(id=str(index), spec=spec) for index, spec in enumerate(specs)]
    response = await narrow.stubs.batch.BatchGenerate(batch_pb2.BatchGenerateRequest(items=items))
    assert response.ByteSize() <= LIMIT
    outcomes = [result.WhichOneof("outcome") for result in response.results]
    assert outcomes[2] == outcomes[6] == "generation"
    assert [outcomes[place] for place in (1, 3, 4, 5)].count("generation") == 3
    for place, outcome in enumerate(outcomes[:-1]):
        if outcome == "error":
            assert Failure.of_status(response.results[place].error).reason == "MESSAGE_TOO_LARGE"
    assert Failure.of_status(response.results[-1].error).reason == "INVALID_FIELD"
    responses = await collect(narrow.stubs.batch.StreamBatchGenerate(batch_pb2.StreamBatchGenerateRequest(items=items)))
    assert (responses[-1].finished.succeeded, responses[-1].finished.failed) == (6, 2)
