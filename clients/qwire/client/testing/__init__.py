"""A server for tests of programs that use `qwire.client`: real gRPC, no model.

Example:
    from qwire.client import Client
    from qwire.client.testing import FakeServer

    def test_greets() -> None:
        with FakeServer(reply="hello") as server, Client(server.target) as client:
            assert client.generate("hi").text == "hello"

    def test_survives_a_lost_connection() -> None:
        broken = Answer(text="hello dear world", drop_after=(1,))
        with FakeServer(answers=[broken]) as server, Client(server.target) as client:
            assert client.stream("hi").generation().text == "hello dear world"
            assert len(server.calls) == 2
"""

from qwire.client.testing.script import Answer, Failure
from qwire.client.testing.server import FakeServer
from qwire.client.testing.state import RecordedCall

__all__ = ["Answer", "Failure", "FakeServer", "RecordedCall"]
