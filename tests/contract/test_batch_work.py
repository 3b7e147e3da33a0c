"""What is kept of an item whose attempt is interrupted."""

from __future__ import annotations

from dataclasses import replace

import pytest

from qwire.batch.item import Lease, LeasedItem
from qwire.batch.work import Interrupted
from qwire.engine.errors import EngineUnavailable
from qwire.engine.fake import FakeEngine
from qwire.engine.protocol import AdapterInfo
from qwire.rpc.batch_workshop import BatchWorkshop
from qwire.rpc.config import HealthConfig
from qwire.rpc.monitor import HealthMonitor
from qwire.rpc.registry import ModelRegistry
from qwire.text.processor import TextProcessor
from qwire.v1 import types_pb2
from tests.contract.edge import card_of, served


@pytest.mark.parametrize(("adapter", "kept"), [("", 3), ("one", 0)])
async def test_its_output_is_kept_unless_it_may_be_of_other_files_next_time(
    processor: TextProcessor, adapter: str, kept: int
) -> None:
    card = replace(card_of(processor), adapters=True)
    engine = FakeEngine(card=card, fail_after=3, failure=EngineUnavailable())
    engine.adapter_infos = (AdapterInfo("one", 2, loaded=True, sha256="first"),)
    registry = ModelRegistry(models=[await served(processor, engine)])
    spec = types_pb2.GenerationSpec(model="tiny", adapter=adapter, text="Hello")
    item = LeasedItem(Lease("job", 0, 1), "a", "", spec.SerializeToString(), b"", 0, 3, 0, None)
    work = BatchWorkshop(registry, HealthMonitor(registry, HealthConfig())).begin(item)
    assert isinstance(await work.run(lambda: None), Interrupted)
    assert len(types_pb2.Generation.FromString(work.partial()).tokens) == kept
