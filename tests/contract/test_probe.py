"""ProbeModel: one real token, or the reason why there is none."""

from __future__ import annotations

from qwire.engine.errors import NumericalError
from qwire.engine.fake import FakeEngine
from qwire.text.processor import TextProcessor
from qwire.v1 import health_pb2 as pb
from tests.contract.edge import CALM, card_of, open_edge, served
from tests.contract.failure import failure_of


async def test_probe_model(processor: TextProcessor):
    engine = FakeEngine(card=card_of(processor))
    async with open_edge([await served(processor, engine)], config=CALM) as edge:
        response = await edge.stubs.health.ProbeModel(pb.ProbeModelRequest())
        assert (response.model, response.token_id) == ("tiny", 0)
        assert response.response_time.ToNanoseconds() > 0
        engine.fail_after, engine.failure = 0, NumericalError()
        failure = await failure_of(edge.stubs.health.ProbeModel(pb.ProbeModelRequest(model="tiny")))
        assert (failure.code, failure.reason) == ("INTERNAL", "NUMERICAL")
        failure = await failure_of(edge.stubs.health.ProbeModel(pb.ProbeModelRequest(model="other")))
        assert failure.reason == "MODEL_NOT_FOUND"
