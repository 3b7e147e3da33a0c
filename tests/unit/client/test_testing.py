"""The fake server keeps the promises that tests of other programs rely on."""

from __future__ import annotations

import pytest

from qwire.client import Client
from qwire.client.testing import Answer, FakeServer
from qwire.client.testing.script import words
from qwire.v1 import generate_pb2


@pytest.mark.parametrize("text", ["", "a", " a", "a ", "a  b\n\nc", " \n ", "émile 中文"])
def test_words_add_up_to_the_text(text: str) -> None:
    assert "".join(words(text)) == text


def test_answers_come_in_order_and_the_last_one_stays() -> None:
    with FakeServer(answers=[Answer(text="a"), Answer(text="b")]) as server, Client(server.target) as client:
        assert [client.generate("hi").text for _ in range(3)] == ["a", "b", "b"]


def test_calls_are_recorded() -> None:
    with FakeServer() as server, Client(server.target) as client:
        client.generate("hi", seed=4)
        (call,) = server.calls_of("Generate")
        assert isinstance(call.request, generate_pb2.GenerateRequest)
        assert call.request.spec.sampling.seed == 4
        assert server.calls_of("ListModels") == ()


def test_nobody_hung_up_where_nobody_did() -> None:
    with FakeServer() as server, Client(server.target) as client:
        client.generate("hi")
        assert not server.wait_for_hang_up(timeout_s=0)


def test_servers_do_not_share_a_port() -> None:
    with FakeServer(reply="a") as one, FakeServer(reply="b") as other:
        assert one.target != other.target
        with pytest.raises(RuntimeError):
            FakeServer(port=int(one.target.rpartition(":")[2]))
