"""A real gateway in front of a scripted engine, for clients that are not ours."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import pytest

from qwire.engine.fake import FakeEngine
from qwire.text.processor import TextProcessor
from qwire.text.request import TextPrompt
from qwire.v1 import health_pb2
from tests.contract.conftest import processor as processor  # noqa: PLC0414 - a fixture
from tests.contract.conftest import tokenizer_folder as tokenizer_folder  # noqa: PLC0414 - what it needs
from tests.contract.edge import card_of, open_edge, served

ANSWER = "Grüße, 世界! <b>two\nlines</b>"


@pytest.fixture
async def server_address(processor: TextProcessor) -> AsyncGenerator[str, None]:
    """The address of a server that answers ANSWER, token by token."""
    card = card_of(processor)
    script = [*processor.encode(TextPrompt(ANSWER)), *card.eos_token_ids]
    engine = FakeEngine(lambda _: script, card=card, step_s=0.002)
    async with open_edge([await served(processor, engine)]) as edge:
        await edge.wait_state(health_pb2.SERVING_STATE_READY)
        yield f"127.0.0.1:{edge.port}"
