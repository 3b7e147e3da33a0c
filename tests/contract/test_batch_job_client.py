from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from qwire.client import (
    AsyncClient,
    BatchItem,
    BatchItemState,
    BatchJob,
    BatchJobItem,
    BatchJobState,
    Client,
    ClientOptions,
    InvalidRequest,
    QwireError,
    ResumeOptions,
    Upload,
)
from qwire.client.jsonl import LineFormat, read_items, result_line
from qwire.engine.fake import FakeEngine
from qwire.rpc.batch_runner import BatchRunner
from qwire.rpc.config import BatchConfig, ServerConfig
from qwire.text.processor import TextProcessor
from tests.contract.edge import CALM, Edge, card_of, open_edge, served


@asynccontextmanager
async def worked_edge(
    processor: TextProcessor, folder: Path, *, step_s: float = 0.0, port: int = 0, run: bool = True
) -> AsyncGenerator[Edge]:
    """Run a server with a job store, and a runner."""
    batch = BatchConfig(store_url=f"sqlite:///{folder / 'jobs.db'}", lease_s=2.0)
    config: ServerConfig = replace(CALM, port=port, batch=batch)
    engine = FakeEngine(card=card_of(processor), step_s=step_s)
    async with open_edge([await served(processor, engine)], config=config) as edge:
        runner = BatchRunner(edge.registry, batch)
        if run:
            await runner.start()
        yield edge
        if run:
            await runner.close()


async def test_a_job_from_prompts_to_results(processor: TextProcessor, tmp_path: Path) -> None:
    async with worked_edge(processor, tmp_path) as edge, AsyncClient(f"127.0.0.1:{edge.port}") as client:
        job = await client.jobs.create(labels={"team": "red"}, request_id="mine")
        assert (await client.jobs.create(labels={"team": "red"}, request_id="mine")).id == job.id
        seen: list[Upload] = []
        prompts = [*(f"prompt {number}" for number in range(1200)), BatchItem("x", id="bad", options={"top_p": -1})]
        await client.jobs.upload(job.id, prompts, progress=seen.append, max_output_tokens=2)
        # Once more: an upload that is repeated is one.
        upload = await client.jobs.upload(job.id, prompts, progress=seen.append, max_output_tokens=2)
        assert (upload.accepted, upload.chunks, len(seen)) == (1200, 3, 6)
        [rejected] = upload.rejected
        assert (rejected.id, rejected.chunk, rejected.index) == ("bad", 2, 200)
        assert isinstance(rejected.error, InvalidRequest)
        results = [item async for item in client.jobs.results(job.id)]
        assert sorted(int(item.id) for item in results) == list(range(1200))
        assert all(item.unwrap().text for item in results)
        ended = await client.jobs.get(job.id)
        assert (ended.state, ended.succeeded, ended.landed) == (BatchJobState.COMPLETED, 1200, 1200)
        assert [one.id async for one in client.jobs.list(labels={"team": "red"})] == [job.id]
        assert [one.id async for one in client.jobs.list(state=BatchJobState.OPEN)] == []
        listed = [item.id async for item in client.jobs.items(job.id, state=BatchItemState.SUCCEEDED)]
        assert listed == [str(number) for number in range(1200)]
        await client.jobs.delete(job.id)
        with pytest.raises(QwireError, match="no such batch job"):
            await client.jobs.get(job.id)


async def test_the_blocking_client_does_the_same(processor: TextProcessor, tmp_path: Path) -> None:
    async with worked_edge(processor, tmp_path, run=False) as edge:

        def use() -> None:
            with Client(f"127.0.0.1:{edge.port}") as client:
                job = client.jobs.create()
                assert client.jobs.upload(job.id, ["a", "b", "c"], max_output_tokens=2).accepted == 3
                assert client.jobs.cancel_items(job.id, ["0"]) == 1
                assert client.jobs.cancel(job.id).cancelled == 3
                events = list(client.jobs.watch(job.id))
                assert [event.id for event in events if isinstance(event, BatchJobItem)] == ["0", "1", "2"]
                assert isinstance(events[-1], BatchJob)
                assert {item.id for item in client.jobs.items(job.id)} == {"0", "1", "2"}
                with pytest.raises(QwireError, match="cancelled"):
                    next(client.jobs.results(job.id)).unwrap()
                with pytest.raises(QwireError, match="sealed or has ended"):
                    client.jobs.retry(job.id)
                assert [one.id for one in client.jobs.list()] == [job.id]
                client.jobs.delete(job.id)

        await asyncio.to_thread(use)


async def test_a_watch_outlives_its_server(processor: TextProcessor, tmp_path: Path) -> None:
    options = ClientOptions(resume=ResumeOptions(timeout_s=60, initial_backoff_s=0.05, max_backoff_s=0.2))
    seen: list[BatchJobItem] = []
    async with worked_edge(processor, tmp_path, step_s=0.02) as edge:
        port = edge.port
        client = AsyncClient(f"127.0.0.1:{port}", options)
        job = await client.jobs.create()
        await client.jobs.upload(job.id, ["abc"] * 150, max_output_tokens=4)
        results = client.jobs.results(job.id)
        seen += [await anext(results) for _ in range(10)]
    async with worked_edge(processor, tmp_path, port=port):
        async for item in results:
            seen.append(item)
        assert sorted(int(item.id) for item in seen) == list(range(150))
        await client.close()


async def test_lines_of_both_forms_become_results(processor: TextProcessor, tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.jsonl"
    lines = [
        "plain",
        {"id": "mine", "prompt": [{"role": "user", "content": "hi"}], "max_output_tokens": 3, "temperature": 0},
        {
            "custom_id": "theirs",
            "method": "POST",
            "url": "/v1/chat/completions",
            "body": {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 3, "n": 1, "stop": "never"},
        },
    ]
    prompts.write_text("\n".join(json.dumps(line) for line in lines) + "\n\n", encoding="utf-8")
    assert [item.id for item in read_items(prompts)] == ["1", "mine", "theirs"]
    async with worked_edge(processor, tmp_path) as edge, AsyncClient(f"127.0.0.1:{edge.port}") as client:
        job = await client.jobs.create()
        await client.jobs.upload(job.id, read_items(prompts))
        items = {item.id: item async for item in client.jobs.results(job.id)}
    own = json.loads(result_line(items["mine"], LineFormat.QWIRE))
    assert (own["state"], own["finish_reason"], own["usage"]["output_tokens"]) == ("succeeded", "length", 3)
    theirs = json.loads(result_line(items["theirs"], LineFormat.OPENAI))
    body = theirs["response"]["body"]
    assert (theirs["custom_id"], body["object"], body["usage"]["completion_tokens"]) == ("theirs", "chat.completion", 3)
    assert body["choices"][0]["finish_reason"] == "length"


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("{", "line 1"),
        ("3", "line 1"),
        ('{"prompt": "a", "tempreature": 1}', "tempreature"),
        ('{"prompt": "a", "logit_bias": {"one": 1}}', "line 1.logit_bias"),
        ('{"prompt": "a", "logit_bias": [1]}', "line 1.logit_bias"),
        ('{"custom_id": "a", "url": "/v1/embeddings", "body": {}}', "/v1/chat/completions"),
        ('{"custom_id": "a", "body": {"messages": [], "n": 2}}', "line 1.body.n"),
        ('{"custom_id": "a", "body": {"messages": [], "audio": {}}}', "line 1.body.audio"),
        (
            '{"custom_id": "a", "body": {"messages": [], "max_tokens": 3, "max_completion_tokens": 3}}',
            "line 1.body.max_completion_tokens.*max_tokens",
        ),
        (
            '{"custom_id": "a", "body": {"messages": [], "max_completion_tokens": 3, "max_tokens": 4}}',
            "line 1.body.max_tokens.*max_completion_tokens",
        ),
        ('{"custom_id": "a", "body": {"messages": [], "logprobs": true}}', "line 1.body.logprobs"),
        ('{"custom_id": "a", "body": {"messages": [], "top_logprobs": 0}}', "line 1.body.top_logprobs"),
        ('{"custom_id": "a", "url": "/v1/completions", "body": {"prompt": "", "logprobs": 0}}', "line 1.body.logprobs"),
    ],
)
def test_a_line_that_cannot_be_read_is_named(tmp_path: Path, line: str, told: str) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text(line, encoding="utf-8")
    with pytest.raises(InvalidRequest, match=told):
        list(read_items(path))


async def _qwire(edge: Edge, *arguments: object) -> tuple[int, str, str]:
    command = [sys.executable, "-c", "from qwire.cli.app import main; main()", "batch", *map(str, arguments)]
    process = await asyncio.create_subprocess_exec(
        *command, "--server", f"127.0.0.1:{edge.port}", stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, err = await process.communicate()
    return process.returncode or 0, out.decode(), err.decode()


async def test_the_command_line_runs_a_file_and_comes_back_to_it(processor: TextProcessor, tmp_path: Path) -> None:
    prompts, results = tmp_path / "prompts.jsonl", tmp_path / "results.jsonl"
    prompts.write_text("\n".join(f'"prompt {number}"' for number in range(40)), encoding="utf-8")
    async with worked_edge(processor, tmp_path) as edge:
        code, out, err = await _qwire(edge, "run", prompts, "-o", results, "--max-tokens", 3)
        assert code == 0, err
        assert "40 items: 40 succeeded" in out
        whole = results.read_bytes().splitlines(keepends=True)
        assert len(whole) == 40
        results.write_bytes(b"".join(whole[:7]) + whole[7][:5])  # stopped in the middle of a line
        code, out, err = await _qwire(edge, "run", prompts, "-o", results, "--max-tokens", 3)
        assert code == 0, err
        assert results.read_bytes() == b"".join(whole)
        code, listed, _ = await _qwire(edge, "list")
        assert listed.count("completed") == 1
        job_id = out.split()[0]
        assert (await _qwire(edge, "show", job_id))[1].startswith(f"{job_id} completed")
        assert (await _qwire(edge, "delete", job_id))[0] == 0
        code, _, err = await _qwire(edge, "show", job_id)
        assert (code, "JOB_NOT_FOUND" in err) == (1, True)


async def test_a_file_of_something_else_is_not_written_to(processor: TextProcessor, tmp_path: Path) -> None:
    prompts, results = tmp_path / "prompts.jsonl", tmp_path / "notes.txt"
    prompts.write_text('"a"', encoding="utf-8")
    results.write_text("my notes\n", encoding="utf-8")
    async with worked_edge(processor, tmp_path) as edge:
        code, _, err = await _qwire(edge, "run", prompts, "-o", results)
    assert (code, "something else" in err) == (2, True)
    assert results.read_text(encoding="utf-8") == "my notes\n"
