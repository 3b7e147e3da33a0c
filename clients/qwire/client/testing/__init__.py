"""A server for tests of programs that use `qwire.client`: real gRPC, no model.

Example:
    from qwire.client import Client
    from qwire.client.testing import FakeServer

    def test_greets() -> None:
        with FakeServer(reply="hello") as server, Client(server.target) as client:
            assert client.generate("hi").text == "hello"
"""

from qwire.client.testing.script import Answer, Failure
from qwire.client.testing.server import FakeServer
from qwire.client.testing.state import RecordedCall

__all__ = ["Answer", "Failure", "FakeServer", "RecordedCall"]
