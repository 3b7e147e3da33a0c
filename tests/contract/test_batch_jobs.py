from __future__ import annotations

import asyncio
import uuid
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import AsyncGenerator, Awaitable
from contextlib import asynccontextmanager
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf.duration_pb2 import Duration

from qwire.engine.errors import EngineUnavailable, NumericalError
from qwire.engine.fake import FakeEngine
from qwire.engine.request import TokenRequest
from qwire.rpc.batch_runner import BatchRunner
from qwire.rpc.config import BatchConfig, ServerConfig
from qwire.rpc.method_rule import RULES
from qwire.text.processor import TextProcessor
from qwire.v1 import batch_job_pb2 as pb
from qwire.v1 import batch_pb2, types_pb2
from qwire.v1.batch_job_pb2_grpc import BatchJobServiceServicer
from tests.contract.edge import CALM, Edge, Stubs, card_of, open_edge, served, until
from tests.contract.failure import Failure


@pytest.fixture
def config(tmp_path: Path) -> ServerConfig:
    batch = BatchConfig(store_url=f"sqlite:///{tmp_path / 'jobs.db'}", lease_s=2.0, checkpoint_s=0.05)
    return replace(CALM, batch=batch)


@pytest.fixture
async def edge(processor: TextProcessor, engine: FakeEngine, config: ServerConfig) -> AsyncGenerator[Edge, None]:
    async with open_edge([await served(processor, engine)], config=config) as edge:
        yield edge


@pytest.fixture
async def runner(edge: Edge, config: ServerConfig) -> AsyncGenerator[BatchRunner, None]:
    async with running(edge, config) as runner:
        yield runner


def item(item_id: str, text: str = "abc", *, tokens: int = 5, **options: Any) -> batch_pb2.BatchItem:
    spec = types_pb2.GenerationSpec(text=text, stop=types_pb2.StopOptions(max_output_tokens=tokens), **options)
    return batch_pb2.BatchItem(id=item_id, spec=spec)


async def create(stubs: Stubs, **options: Any) -> pb.BatchJob:
    request = pb.CreateBatchJobRequest(request_id=uuid.uuid4().hex, **options)
    return (await stubs.jobs.CreateBatchJob(request)).job


async def filled(stubs: Stubs, *items: batch_pb2.BatchItem, **options: Any) -> pb.BatchJob:
    """Return a sealed job of one chunk."""
    job = await create(stubs, **options)
    appended = await stubs.jobs.AppendBatchItems(pb.AppendBatchItemsRequest(job_id=job.id, items=items))
    assert not appended.rejected
    digest = sha256(appended.digest).digest()
    return (await stubs.jobs.SealBatchJob(pb.SealBatchJobRequest(job_id=job.id, chunks=1, digest=digest))).job


async def watch(stubs: Stubs, job_id: str, cursor: int = 0) -> list[pb.WatchBatchJobResponse]:
    request = pb.WatchBatchJobRequest(job_id=job_id, cursor=cursor)
    return [response async for response in stubs.jobs.WatchBatchJob(request, timeout=30)]


async def outcomes(stubs: Stubs, job_id: str) -> list[pb.BatchJobItem]:
    return [event.item for event in await watch(stubs, job_id) if event.HasField("item")]


@asynccontextmanager
async def running(edge: Edge, config: ServerConfig) -> AsyncGenerator[BatchRunner]:
    runner = BatchRunner(edge.registry, config.batch)
    await runner.start()
    try:
        yield runner
    finally:
        await runner.close()


@pytest.mark.usefixtures("runner")
async def test_a_job_runs_and_its_watch_tells_every_outcome(stubs: Stubs) -> None:
    job = await filled(stubs, item("a", "ab"), item("b", "xyz"), item("c", "a" * 600, tokens=200))
    events = await watch(stubs, job.id)
    assert [events[0].WhichOneof("event"), events[-1].WhichOneof("event")] == ["job", "job"]
    landed = {event.item.id: event.item for event in events if event.HasField("item")}
    assert landed["a"].generation.text == "ababa"
    assert landed["b"].generation.text == "xyzxy"
    assert len(landed["b"].generation.tokens) == 5
    assert Failure.of_status(landed["c"].error).reason == "CONTEXT_LENGTH"
    ended = events[-1].job
    assert ended.state == pb.BATCH_JOB_STATE_COMPLETED
    assert (ended.counts.total, ended.counts.succeeded, ended.counts.failed) == (3, 2, 1)
    assert (ended.usage.prompt_tokens, ended.usage.output_tokens) == (5, 10)
    assert ended.HasField("delete_time")


@pytest.mark.usefixtures("runner")
async def test_a_watch_goes_on_from_its_cursor(stubs: Stubs) -> None:
    job = await filled(stubs, *(item(str(number)) for number in range(20)))
    seen: list[str] = []
    cursor = 0
    while True:  # a connection that breaks after every third outcome
        call = stubs.jobs.WatchBatchJob(pb.WatchBatchJobRequest(job_id=job.id, cursor=cursor), timeout=30)
        landed = 0
        async for event in call:
            cursor = event.cursor
            if event.HasField("item"):
                seen.append(event.item.id)
                landed += 1
            if landed == 3:
                call.cancel()
                break
        else:
            break
    assert sorted(seen, key=int) == [str(number) for number in range(20)]


@pytest.mark.usefixtures("runner")
async def test_results_come_in_pages_in_the_order_of_the_items(stubs: Stubs) -> None:
    job = await filled(stubs, *(item(f"i{number}") for number in range(7)))
    await watch(stubs, job.id)
    found: list[str] = []
    token = ""
    while True:
        request = pb.ListBatchResultsRequest(
            job_id=job.id, state=pb.BATCH_ITEM_STATE_SUCCEEDED, page_size=3, page_token=token
        )
        page = await stubs.jobs.ListBatchResults(request)
        found += [one.id for one in page.items]
        token = page.next_page_token
        if not token:
            break
    assert found == [f"i{number}" for number in range(7)]


async def test_what_is_wrong_with_items_is_told_item_by_item(stubs: Stubs) -> None:
    job = await create(stubs)
    items = [
        item("good"),
        item("good"),
        item("", "a"),
        item("hot", sampling=types_pb2.SamplingOptions(temperature=-1)),
        item("other", model="nobody"),
        item("urgent", priority=types_pb2.PRIORITY_HIGH),
        batch_pb2.BatchItem(id="empty"),
    ]
    request = pb.AppendBatchItemsRequest(job_id=job.id, items=items)
    first = await stubs.jobs.AppendBatchItems(request)
    assert first.accepted == 1
    told = {(one.index, one.id): one.error for one in first.rejected}
    failures = {place: Failure.of_status(error) for place, error in told.items()}
    assert {place: (failure.reason, list(failure.fields)) for place, failure in failures.items()} == {
        (1, "good"): ("ITEM_ID_TAKEN", []),
        (2, ""): ("INVALID_FIELD", ["items[2].id"]),
        (3, "hot"): ("INVALID_FIELD", ["items[3].spec.sampling.temperature"]),
        (4, "other"): ("MODEL_NOT_FOUND", []),
        (5, "urgent"): ("INVALID_FIELD", ["items[5].spec.priority"]),
        (6, "empty"): ("INVALID_FIELD", ["items[6].spec"]),
    }
    assert await stubs.jobs.AppendBatchItems(request) == first


async def test_repeats_are_one_and_conflicts_are_refused(stubs: Stubs) -> None:
    request = pb.CreateBatchJobRequest(request_id="mine", labels={"a": "b"}, completion_window=Duration(seconds=3600))
    job = (await stubs.jobs.CreateBatchJob(request)).job
    assert (await stubs.jobs.CreateBatchJob(request)).job.id == job.id
    request.labels["a"] = "c"
    await _refused(stubs.jobs.CreateBatchJob(request), "REQUEST_CONFLICT")
    chunk = pb.AppendBatchItemsRequest(job_id=job.id, items=[item("a")])
    appended = [await stubs.jobs.AppendBatchItems(chunk) for _ in range(5)]
    assert {(one.accepted, one.digest) for one in appended} == {(1, appended[0].digest)}
    other = pb.AppendBatchItemsRequest(job_id=job.id, items=[item("b")])
    await _refused(stubs.jobs.AppendBatchItems(other), "CHUNK_CONFLICT")
    seal = pb.SealBatchJobRequest(job_id=job.id, chunks=2)
    await _refused(stubs.jobs.SealBatchJob(seal), "SEAL_MISMATCH")


async def test_a_digest_is_what_the_contract_says(stubs: Stubs) -> None:
    job = await create(stubs)
    items = [item("a"), item("b", "text")]
    appended = await stubs.jobs.AppendBatchItems(pb.AppendBatchItemsRequest(job_id=job.id, items=items))
    encoded = [one.SerializeToString(deterministic=True) for one in items]
    expected = b"".join(len(one).to_bytes(4, "big") + one for one in encoded)
    assert appended.digest == sha256(expected).digest()


@pytest.mark.parametrize(
    ("request_message", "field"),
    [
        (pb.CreateBatchJobRequest(), "request_id"),
        (pb.CreateBatchJobRequest(request_id="a" * 65), "request_id"),
        (pb.CreateBatchJobRequest(request_id="a", labels={"": "x"}), "labels"),
        (pb.CreateBatchJobRequest(request_id="a", max_attempts=0), "max_attempts"),
        (pb.CreateBatchJobRequest(request_id="a", max_attempts=21), "max_attempts"),
        (pb.CreateBatchJobRequest(request_id="a", priority=9), "priority"),  # pyright: ignore[reportArgumentType]
        (pb.CreateBatchJobRequest(request_id="a", completion_window=Duration(seconds=1)), "completion_window"),
        (pb.CreateBatchJobRequest(request_id="a", retention=Duration(seconds=10**9)), "retention"),
    ],
)
async def test_a_bad_job_names_its_field(stubs: Stubs, request_message: pb.CreateBatchJobRequest, field: str) -> None:
    failure = await _refused(stubs.jobs.CreateBatchJob(request_message), "INVALID_FIELD")
    assert failure.fields == {field: "INVALID_FIELD"}


async def test_a_page_token_belongs_to_its_list(stubs: Stubs) -> None:
    for _ in range(3):
        await create(stubs, labels={"a": "b"})
    page = await stubs.jobs.ListBatchJobs(pb.ListBatchJobsRequest(page_size=2))
    rest = await stubs.jobs.ListBatchJobs(pb.ListBatchJobsRequest(page_size=5, page_token=page.next_page_token))
    assert (len(page.jobs), len(rest.jobs), rest.next_page_token) == (2, 1, "")
    for request in (
        pb.ListBatchJobsRequest(labels={"a": "b"}, page_token=page.next_page_token),
        pb.ListBatchJobsRequest(page_token="garbage"),  # noqa: S106 - no secret
        *(pb.ListBatchJobsRequest(page_token=token) for token in spoiled(page.next_page_token)),
    ):
        await _refused(stubs.jobs.ListBatchJobs(request), "INVALID_FIELD")


async def test_a_page_token_of_items_is_taken_as_it_was_told(stubs: Stubs) -> None:
    job = await filled(stubs, *(item(str(number)) for number in range(3)))
    page = await stubs.jobs.ListBatchResults(pb.ListBatchResultsRequest(job_id=job.id, page_size=1))
    for token in spoiled(page.next_page_token):
        request = pb.ListBatchResultsRequest(job_id=job.id, page_token=token)
        await _refused(stubs.jobs.ListBatchResults(request), "INVALID_FIELD")


async def test_a_cursor_that_no_store_has_is_refused(stubs: Stubs) -> None:
    job = await create(stubs)
    failure = await _refused(
        anext(aiter(stubs.jobs.WatchBatchJob(pb.WatchBatchJobRequest(job_id=job.id, cursor=2**63)))), "INVALID_FIELD"
    )
    assert failure.fields == {"cursor": "INVALID_FIELD"}


def spoiled(token: str) -> list[str]:
    """Return what may become of a token on its way: it is cut, or its place is another one."""
    told = urlsafe_b64decode(token).decode()
    others = told[:16], told[:-1], told + "9", told[:16] + "x", told[:16] + str(2**70)
    return [token[:-4], *(urlsafe_b64encode(other.encode()).decode() for other in others)]


async def test_a_cancelled_job_stops_what_runs(processor: TextProcessor, config: ServerConfig) -> None:
    engine = FakeEngine(card=card_of(processor), step_s=0.05)
    async with open_edge([await served(processor, engine)], config=config) as edge:
        stubs, runner = edge.stubs, BatchRunner(edge.registry, config.batch)
        await runner.start()
        job = await filled(stubs, *(item(str(number), tokens=200) for number in range(4)))
        await until(lambda: runner.running > 0)
        cancelled = (await stubs.jobs.CancelBatchJob(pb.CancelBatchJobRequest(job_id=job.id))).job
        assert cancelled.counts.cancelled == 4
        await until(lambda: not runner.running)
        assert set(engine.started) == set(engine.ended)
        await runner.close()


async def test_an_interrupted_item_goes_on_where_it_was(processor: TextProcessor, config: ServerConfig) -> None:
    engine = FakeEngine(card=card_of(processor), step_s=0.02)
    async with open_edge([await served(processor, engine)], config=config) as edge:
        stubs, runner = edge.stubs, BatchRunner(edge.registry, config.batch)
        await runner.start()
        job = await filled(stubs, item("a", "abcdef", tokens=60))
        await asyncio.sleep(0.6)
        await runner.close()
        runner = BatchRunner(edge.registry, config.batch)
        await runner.start()
        [outcome] = await outcomes(stubs, job.id)
        assert outcome.generation.text == ("abcdef" * 10)
        assert len(outcome.generation.tokens) == 60
        assert outcome.generation.finished.usage.output_tokens == 60
        resumed = [len(request.output_token_ids) for request in _attempts(engine, 60)]
        assert resumed[0] == 0
        assert resumed[-1] > 0
        await runner.close()


async def test_an_engine_that_comes_back_costs_no_attempt(processor: TextProcessor, config: ServerConfig) -> None:
    engine = FakeEngine(card=card_of(processor), fail_after=2, failure=EngineUnavailable(0.01))
    async with open_edge([await served(processor, engine)], config=config) as edge, running(edge, config):
        job = await filled(edge.stubs, item("a", tokens=6), max_attempts=1)
        await until(lambda: len(_attempts(engine, 6)) > 1)
        engine.fail_after = None
        [outcome] = await outcomes(edge.stubs, job.id)
        assert outcome.state == pb.BATCH_ITEM_STATE_SUCCEEDED
        assert outcome.attempts > 1


async def test_an_item_fails_after_its_attempts_and_can_be_retried(
    processor: TextProcessor, config: ServerConfig
) -> None:
    engine = FakeEngine(card=card_of(processor), fail_after=2, failure=NumericalError())
    async with open_edge([await served(processor, engine)], config=config) as edge, running(edge, config):
        job = await filled(edge.stubs, item("a", tokens=6), max_attempts=1)
        [outcome] = await outcomes(edge.stubs, job.id)
        assert Failure.of_status(outcome.error).reason == "NUMERICAL"
        engine.fail_after = None
        retried = await edge.stubs.jobs.RetryBatchItems(pb.RetryBatchItemsRequest(job_id=job.id))
        assert retried.retried == 1
        [again] = await outcomes(edge.stubs, job.id)
        assert again.state == pb.BATCH_ITEM_STATE_SUCCEEDED


@pytest.mark.usefixtures("runner")
async def test_a_deleted_job_is_gone(stubs: Stubs) -> None:
    job = await filled(stubs, item("a"))
    await watch(stubs, job.id)
    await stubs.jobs.DeleteBatchJob(pb.DeleteBatchJobRequest(job_id=job.id))
    await _refused(stubs.jobs.GetBatchJob(pb.GetBatchJobRequest(job_id=job.id)), "JOB_NOT_FOUND")
    await stubs.jobs.DeleteBatchJob(pb.DeleteBatchJobRequest(job_id=job.id))


async def test_a_job_belongs_to_the_caller_who_created_it(stubs: Stubs) -> None:
    mine, theirs = (("x-qwire-tenant", "mine"),), (("x-qwire-tenant", "theirs"),)
    created = await stubs.jobs.CreateBatchJob(pb.CreateBatchJobRequest(request_id="a"), metadata=mine)
    assert (
        await stubs.jobs.GetBatchJob(pb.GetBatchJobRequest(job_id=created.job.id), metadata=mine)
    ).job == created.job
    for metadata in (theirs, ()):
        request = pb.GetBatchJobRequest(job_id=created.job.id)
        await _refused(stubs.jobs.GetBatchJob(request, metadata=metadata), "JOB_NOT_FOUND")
        assert not (await stubs.jobs.ListBatchJobs(pb.ListBatchJobsRequest(), metadata=metadata)).jobs
    every_method = {name for name in dir(BatchJobServiceServicer) if not name.startswith("_")}
    ruled = {name.rsplit("/", 1)[1] for name, rule in RULES.items() if rule.belongs_to_tenant}
    assert ruled == every_method


async def test_a_server_that_drains_ends_its_watches(edge: Edge, stubs: Stubs) -> None:
    job = await filled(stubs, item("a"))
    call = stubs.jobs.WatchBatchJob(pb.WatchBatchJobRequest(job_id=job.id), timeout=30)
    assert (await call.read()).HasField("job")  # pyright: ignore[reportAttributeAccessIssue]
    await edge.server.drain(0)
    with pytest.raises(grpc.aio.AioRpcError) as ended:
        await call.read()
    assert ended.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_without_a_store_there_is_no_such_service(processor: TextProcessor, engine: FakeEngine) -> None:
    async with open_edge([await served(processor, engine)]) as edge:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await edge.stubs.jobs.ListBatchJobs(pb.ListBatchJobsRequest())
        assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED


def _attempts(engine: FakeEngine, max_output_tokens: int) -> list[TokenRequest]:
    """Return what the engine was asked for, probes left out."""
    return [request for request in engine.requests if request.stop.max_output_tokens == max_output_tokens]


async def _refused(call: Awaitable[object], reason: str) -> Failure:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await call
    failure = Failure.of_call(refused.value)
    assert failure.reason == reason
    return failure
