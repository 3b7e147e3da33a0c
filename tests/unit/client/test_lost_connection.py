"""Connections and streams that are really cut, as dying peers and proxies do it: which of them go on."""

from __future__ import annotations

import pytest

from qwire.client import AsyncClient, Client, ClientOptions, QwireError, ResumeOptions
from qwire.client.testing import Answer, FakeServer
from tests.support.http2_relay import Cut, close, end_stream, go_away, http2_relay, reset, reset_stream

TEXT = " ".join(f"word{number}" for number in range(30))
ANSWER = Answer(text=TEXT, delay_s=0.05)
CUT_AT = (0, 4, 9)
OPTIONS = ClientOptions(resume=ResumeOptions(initial_backoff_s=0.01, max_backoff_s=0.1))

CUTS = {
    "connection closed": close,
    "connection reset": reset,
    "goaway": go_away,
    "end without trailers": end_stream,
    "RST_STREAM NO_ERROR": reset_stream(0),
    "RST_STREAM INTERNAL_ERROR": reset_stream(2),
    "RST_STREAM REFUSED_STREAM": reset_stream(7),
    "RST_STREAM CANCEL": reset_stream(8),
}
FINAL = {
    "RST_STREAM ENHANCE_YOUR_CALM": reset_stream(11),
    "RST_STREAM INADEQUATE_SECURITY": reset_stream(12),
}


@pytest.mark.parametrize("cut", CUTS.values(), ids=CUTS)
def test_a_stream_that_is_cut_goes_on(cut: Cut) -> None:
    with FakeServer(answers=[ANSWER]) as server, http2_relay(server.target, cut) as relay:
        with Client(relay.target, OPTIONS) as client:
            stream = client.stream("hi")
            for number, _ in enumerate(stream):
                if number in CUT_AT:
                    relay.cut()
            generation = stream.generation()
        assert len(server.calls) == 4
    assert generation.text == TEXT
    assert [token.id for token in generation.tokens] == list(range(30))
    assert generation.usage.output_tokens == 31


@pytest.mark.parametrize("cut", CUTS.values(), ids=CUTS)
async def test_a_stream_that_is_cut_goes_on_with_asyncio(cut: Cut) -> None:
    with FakeServer(answers=[ANSWER]) as server, http2_relay(server.target, cut) as relay:
        async with AsyncClient(relay.target, OPTIONS) as client:
            stream, number = client.stream("hi"), 0
            async for _ in stream:
                if number in CUT_AT:
                    relay.cut()
                number += 1
            generation = await stream.generation()
        assert len(server.calls) == 4
    assert generation.text == TEXT
    assert [token.id for token in generation.tokens] == list(range(30))


@pytest.mark.parametrize("cut", FINAL.values(), ids=FINAL)
def test_what_a_peer_forbids_is_not_tried_again(cut: Cut) -> None:
    with FakeServer(answers=[ANSWER]) as server, http2_relay(server.target, cut) as relay:
        with Client(relay.target, OPTIONS) as client:
            stream = client.stream("hi")
            next(stream)
            relay.cut()
            with pytest.raises(QwireError):
                stream.generation()
        assert len(server.calls) == 1
