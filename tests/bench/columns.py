"""Rows per second of the two ways through a file of prompts: a batch job, and columns by Ray Data.

Both are the command that a person types, one after the other in alternation, on one server: lines in and lines out, and
Parquet in and Parquet out, of the same rows, greedy and of fixed length, so that their texts must be equal. Times are
those of the whole command, its start included; what a command of one row takes is told apart.

    python -m tests.bench.columns --echo --rows 20000 --tokens 16     # an engine that costs nothing: the path itself
    python -m tests.bench.columns --rows 48 --tokens 32               # the default model
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from qwire.client import AsyncClient
from qwire.engine.config import EngineConfig
from qwire.engine.fake import FakeEngine, fake_card
from qwire.engine.protocol import Engine
from qwire.models.checkpoint import Checkpoint
from qwire.models.store import ModelStore
from qwire.rpc.config import BatchConfig, ServerConfig
from qwire.serve.config import AppConfig, GatewaySettings, ModelSettings
from qwire.serve.environment import cache_dir
from qwire.text.processor import TextProcessor
from tests.bench.local_ray import local_ray
from tests.cluster.conftest import free_port, ready

QWIRE = Path(sys.executable).with_name("qwire")
PLACES = 64
"""Generations at once: as many as a runner has under way."""


@dataclass(frozen=True, slots=True)
class Way:
    """One of the two commands.

    Attributes:
        name: What it is called.
        arguments: Of the command, for an input of so many rows and an output of this name.
        texts: Reads the output.
    """

    name: str
    arguments: Callable[[int, Path], list[str | Path]]
    texts: Callable[[Path], list[str]]

    def run(self, rows: int, output: Path) -> float:
        """Run the command; return the seconds that it took."""
        began = time.perf_counter()
        subprocess.run([QWIRE, "batch", "run", *self.arguments(rows, output), "-o", output], check=True)
        return time.perf_counter() - began


def ways(folder: Path, target: str, ray_address: str) -> tuple[Way, Way]:
    """Return the two ways; their input is in the folder."""

    def job(rows: int, output: Path) -> list[str | Path]:
        return [folder / f"{rows}.jsonl", "--server", target, "--label", f"output={output.name}"]  # a new job each time

    def columns(rows: int, _: Path) -> list[str | Path]:
        where: list[str | Path] = ["--server", target, "--ray-address", ray_address]
        return [folder / f"{rows}.parquet", "--engine", "ray-data", *where]

    def lines(output: Path) -> list[str]:
        found = [json.loads(line) for line in output.read_text().splitlines()]
        return [line["text"] for line in sorted(found, key=lambda line: int(line["id"]))]

    def parquet(output: Path) -> list[str]:
        return pq.read_table(output, columns=["output_text"]).column(0).to_pylist()

    return Way("job", job, lines), Way("ray-data", columns, parquet)


def write_rows(folder: Path, rows: int, tokens: int) -> None:
    """Write the same rows in both forms."""
    prompts = [f"Write a Python function, variant {number}. Explain each step." for number in range(rows)]
    options = {"max_output_tokens": tokens, "ignore_eos": True, "temperature": 0.0}
    with (folder / f"{rows}.jsonl").open("w") as file:
        file.writelines(json.dumps({"prompt": prompt, **options}) + "\n" for prompt in prompts)
    pq.write_table(pa.table({"prompt": prompts, "options": [options] * rows}), folder / f"{rows}.parquet")


def compare(both: tuple[Way, Way], folder: Path, rows: int, tokens: int, pairs: int) -> None:
    """Run the ways in alternation and print what came out."""
    for way in both:
        print(f"{way.name}, one row: {way.run(1, folder / f'warm-{way.name}'):.1f} s", flush=True)
    print("\n| pair | way | seconds | rows/s | tokens/s |\n|---|---|---|---|---|")
    ratios: list[float] = []
    for pair in range(pairs):
        elapsed: dict[str, float] = {}
        texts: list[list[str]] = []
        for way in both if pair % 2 == 0 else both[::-1]:
            output = folder / f"{way.name}-{pair}"
            elapsed[way.name] = taken = way.run(rows, output)
            texts.append(way.texts(output))
            print(
                f"| {pair} | {way.name} | {taken:.1f} | {rows / taken:,.1f} | {rows * tokens / taken:,.0f} |",
                flush=True,
            )
        assert len(texts[0]) == rows
        assert texts[0] == texts[1], "the ways disagree"
        ratios.append(elapsed["job"] / elapsed["ray-data"])
    print(
        f"\nray-data does {statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f}) times the rows of a job"
    )


async def echo(model: ModelSettings, checkpoint: Checkpoint, _: Path) -> Engine:
    """Start an engine that repeats the prompt for ever, at no cost; stands for `qwire.serve.model_engine`."""
    tokens = TextProcessor.from_folder(checkpoint.folder).vocabulary_tokens
    card = fake_card(model.served_id, vocabulary_tokens=tokens, context_tokens=4096)
    return FakeEngine(card=replace(card, weights_sha256="a" * 64), max_running=PLACES, max_waiting=256)


def deploy(config: AppConfig, *, echoes: bool) -> None:
    """Deploy the application, with an engine that echoes instead of its model's."""
    from ray import serve  # noqa: PLC0415 - reads its environment when it is imported

    from qwire.serve import app  # noqa: PLC0415 - likewise
    from qwire.serve.replica import ModelReplica  # noqa: PLC0415 - likewise

    class EchoReplica(ModelReplica):
        async def __init__(self, *arguments: Any) -> None:
            from qwire.serve import replica  # noqa: PLC0415 - in the replica's own process

            replica.start_engine = echo
            await super().__init__(*arguments)

    if echoes:
        app.ModelReplica = EchoReplica
    serve.run(app.build(config), name="qwire", route_prefix=None)


async def serves(target: str) -> None:
    """Wait until the server answers."""
    async with AsyncClient(target) as client:
        await ready(client)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--echo", action="store_true", help="an engine that costs nothing instead of the default model")
    parser.add_argument("--rows", type=int, default=48)
    parser.add_argument("--tokens", type=int, default=32, help="output tokens of each row")
    parser.add_argument("--pairs", type=int, default=3)
    arguments = parser.parse_args()
    ModelStore(cache_dir(None)).resolve(ModelSettings().source)
    with tempfile.TemporaryDirectory(prefix="qwire-columns-") as name, local_ray():
        import ray  # noqa: PLC0415 - as above

        folder = Path(name)
        batch = BatchConfig(store_url=f"sqlite:///{folder / 'jobs.db'}")
        config = AppConfig(
            # The same prompts come again and again, and each is to be computed.
            models=(ModelSettings(engine=EngineConfig(prefix_reuse=False)),),
            gateway=GatewaySettings(server=ServerConfig(port=free_port(), batch=batch)),
        )
        deploy(config, echoes=arguments.echo)
        target = f"127.0.0.1:{config.gateway.server.port}"
        asyncio.run(serves(target))
        for rows in (1, arguments.rows):
            write_rows(folder, rows, arguments.tokens)
        both = ways(folder, target, ray.get_runtime_context().gcs_address)
        compare(both, folder, arguments.rows, arguments.tokens, arguments.pairs)


if __name__ == "__main__":
    main()
