from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace

import pytest

from qwire.engine.chunk import MAX_PROMPT_RECORDS, Finish, FinishReason, Timings, TokenChunk, TokenLogprobs
from qwire.engine.errors import DeadlineExceeded, EngineUnavailable
from qwire.engine.sequence import Sequence
from qwire.engine.stream import TokenStream

FINISH = Finish(FinishReason.LENGTH, Timings(1, 2, 3, 4))


@pytest.fixture
def stream(make_sequence: Callable[..., Sequence]) -> TokenStream:
    return TokenStream(make_sequence())


async def test_a_waiting_consumer_gets_the_token_at_once(stream: TokenStream) -> None:
    taken = asyncio.create_task(stream.next())
    await asyncio.sleep(0)
    assert not taken.done()
    stream.put(7, None)
    assert (await taken).token_ids == (7,)


async def test_tokens_that_came_meanwhile_are_one_chunk(stream: TokenStream) -> None:
    for token_id in (1, 2):
        stream.put(token_id, None)
    assert (await stream.next()).token_ids == (1, 2)
    stream.put(3, None)
    stream.put(4, FINISH)
    assert await stream.next() == TokenChunk((3, 4), FINISH)


async def test_log_probabilities_travel_with_their_tokens(stream: TokenStream) -> None:
    records = [TokenLogprobs(-0.1 * token_id, ((token_id, -0.1),)) for token_id in range(3)]
    stream.put(0, None, records[0])
    assert (await stream.next()).logprobs == (records[0],)
    stream.put(1, None, records[1])
    stream.put(2, FINISH, records[2])
    assert (await stream.next()).logprobs == (records[1], records[2])


async def test_a_failure_comes_after_the_tokens_and_the_first_one_stays(stream: TokenStream) -> None:
    stream.put(1, None)
    stream.fail(DeadlineExceeded())
    stream.fail(EngineUnavailable())
    assert (await stream.next()).token_ids == (1,)
    for _ in range(2):
        with pytest.raises(DeadlineExceeded):
            await stream.next()


async def test_the_first_chunk_has_the_timings_so_far(stream: TokenStream) -> None:
    stream.sequence.scheduled_unix_ns = stream.sequence.arrived_unix_ns + 5
    stream.sequence.append(1, stream.sequence.arrived_unix_ns + 9)
    stream.put(1, None)
    timings = (await stream.next()).timings
    assert timings is not None
    stations = (timings.arrived_unix_ns, timings.scheduled_unix_ns, timings.first_token_unix_ns)
    assert [station - timings.arrived_unix_ns for station in stations] == [0, 5, 9]
    assert timings.finished_unix_ns > timings.first_token_unix_ns
    stream.put(2, None)
    assert (await stream.next()).timings is None


async def test_what_was_asked_about_the_prompt_comes_first_in_chunks_of_bounded_size(
    make_sequence: Callable[..., Sequence],
) -> None:
    sequence = make_sequence()
    sequence.request = replace(sequence.request, prompt_logprobs=1)
    stream = TokenStream(sequence)
    records = [TokenLogprobs(-float(place)) for place in range(MAX_PROMPT_RECORDS + 1)]
    stream.put_prompt(records)
    stream.put(7, FINISH)
    first, second = await stream.next(), await stream.next()
    assert first.prompt_logprobs == (None, *records[: MAX_PROMPT_RECORDS - 1])
    assert second.prompt_logprobs == tuple(records[MAX_PROMPT_RECORDS - 1 :])
    assert (first.token_ids, first.timings, second.token_ids) == ((), None, ())
    last = await stream.next()
    assert (last.token_ids, last.finish, last.prompt_logprobs) == ((7,), FINISH, ())
    assert last.timings is not None
