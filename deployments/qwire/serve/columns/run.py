"""Reads rows, has them generated and written, by Ray Data on the cluster of a running server."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import contextmanager
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

from qwire.client import GenerationOptions, InvalidRequest, Unavailable
from qwire.serve.columns.output_folder import OutputFolder, Written
from qwire.serve.columns.piece import Piece
from qwire.serve.columns.row_reader import RowReader
from qwire.serve.columns.row_result import RESULT_COLUMNS
from qwire.serve.columns.source import Source, read
from qwire.serve.config import AppConfig
from qwire.serve.environment import prepare_ray

prepare_ray()

import ray  # noqa: E402 - reads its environment when it is imported
import ray.data  # noqa: E402
from ray import serve  # noqa: E402
from ray.data.block import BlockMetadata  # noqa: E402
from ray.data.datasource import Datasource, ReadTask  # noqa: E402

from qwire.serve.columns.row_generator import GenerationPlan, RowGenerator, Tally  # noqa: E402

Progress = Callable[[int, int, int, int], None]
"""Is told of rows in all, rows with an outcome, failed ones among those, and output tokens of the others."""

_BLOCK_BYTES = 4 * 2**20
"""Rows wait between reading and generating in blocks of this size: small, as each takes long to generate."""
_LOOK_S = 0.5
_ANSWER_S = 30.0


def run(
    source: Path,
    output: Path,
    *,
    options: GenerationOptions,
    prompt_column: str | None,
    rows_per_file: int,
    workers: int,
    tenant: str,
    port: int,
    ray_address: str,
    progress: Progress,
) -> Written:
    """Generate every row of the input that the output does not hold yet, and return what it then holds.

    Args:
        source: A file that ends in `.parquet` or `.jsonl`, or a folder of such files; every machine of the cluster has
            to see it under this path.
        output: A folder, likewise.
        options: Hold for rows without their own.
        prompt_column: The column of the prompts; see `RowReader.of`.
        rows_per_file: The most rows of a file of output, which is what an interruption can lose.
        workers: Actors that read, tokenize and call the replicas.
        tenant: Under which name the models are shared fairly.
        port: Where the server listens, which tells its application from others of the cluster.
        ray_address: The cluster; `auto` = what `RAY_ADDRESS` names, else the one of this machine.
        progress: Is called about twice a second, from another thread.

    Raises:
        InvalidRequest: Input and output are not fit for it; the text says why.
        Unavailable: No such server runs.
        ServerError: The output does not hold what it should.
    """
    rows = Source(source)
    reader = RowReader.of(rows.schema, prompt_column, options)
    if taken := sorted({*RESULT_COLUMNS} & {*rows.schema.names}):
        raise InvalidRequest.of("columns", f"{', '.join(taken)} would be twice in the output: rename in the input")
    described: dict[str, Any] = {
        "input": rows.digest,
        "rows": rows.rows,
        "prompt_column": prompt_column,
        "options": json.loads(json.dumps(options)),
    }
    with OutputFolder(output, described) as folder:
        if missing := folder.missing(rows.rows):
            with _attached(ray_address):
                app, config, cache_dir = _application(port)
                tally: Any = ray.remote(num_cpus=0)(Tally).remote()
                run_id = sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()
                plan = GenerationPlan(app, config, cache_dir, folder.path, reader, run_id, tenant, tally)
                before = rows.rows - sum(map(len, missing))
                with _told(tally, progress, rows.rows, before):
                    _generate(rows.pieces(missing), plan, rows_per_file, workers)
        return folder.check(rows.rows)


def _generate(
    pieces: Sequence[tuple[Piece, list[range]]], plan: GenerationPlan, rows_per_file: int, workers: int
) -> None:
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.target_max_block_size = _BLOCK_BYTES
    read_dataset = ray.data.read_datasource(
        PieceSource(pieces),
        override_num_blocks=len(pieces),
        concurrency=workers,
        num_cpus=0,  # a laptop's replica may have taken all there are
    )
    done = read_dataset.map_batches(
        RowGenerator,
        fn_constructor_args=(plan,),
        batch_size=rows_per_file,
        batch_format="pyarrow",
        compute=ray.data.ActorPoolStrategy(size=workers),
        num_cpus=0,
        max_concurrency=2,  # the next block begins while the last rows of one are generated
    )
    for _ in done.iter_batches(batch_size=None, prefetch_batches=0):
        pass


class PieceSource(Datasource):
    """Reads pieces, each by a task of its own.

    Args:
        pieces: Each with the numbers of the rows that are wanted.
    """

    def __init__(self, pieces: Sequence[tuple[Piece, list[range]]]) -> None:
        super().__init__()
        self._pieces = pieces

    def estimate_inmemory_data_size(self) -> int:
        """Return the bytes of all pieces."""
        return sum(piece.size_bytes for piece, _ in self._pieces)

    def get_read_tasks(self, parallelism: int, *_: Any, **__: Any) -> list[ReadTask]:
        """Return a task for each piece."""
        del parallelism
        return [ReadTask(partial(_read, piece, wanted), _metadata(piece, wanted)) for piece, wanted in self._pieces]


def _read(piece: Piece, wanted: Sequence[range]) -> Iterable[Any]:
    return read(piece, wanted)


def _metadata(piece: Piece, wanted: Sequence[range]) -> BlockMetadata:
    rows = sum(map(len, wanted))
    return BlockMetadata(
        num_rows=rows,
        size_bytes=piece.size_bytes * rows // len(piece.rows),
        input_files=(str(piece.path),),
        exec_stats=None,
    )


@contextmanager
def _attached(address: str) -> Generator[None]:
    """Join a running cluster, and leave it."""
    for name in ("ray", "ray.data", "ray.serve"):
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        ray.init(address, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, ValueError) as error:
        raise Unavailable(f"no Ray cluster at {address!r}: {error}") from None
    try:
        yield
    finally:
        ray.shutdown()


def _application(port: int) -> tuple[str, AppConfig, Path]:
    """Return the application that listens on a port: its name, its configuration, where it keeps model files.

    Raises:
        Unavailable: None does.
    """
    for name, application in serve.status().applications.items():
        if "gateway" in application.deployments:
            gateway = serve.get_deployment_handle("gateway", name).application
            try:
                config, cache_dir = gateway.remote().result(timeout_s=_ANSWER_S)
            finally:
                gateway.shutdown()  # else it goes on telling its load, also when Ray is gone
            if config.gateway.server.port == port:
                return name, config, cache_dir
    raise Unavailable(f"no application of this Ray cluster listens on port {port}")


@contextmanager
def _told(tally: Any, progress: Progress, rows: int, before: int) -> Generator[None]:
    """Tell of the progress while the block runs."""
    ended = threading.Event()

    def tell() -> None:
        landed, failed, output_tokens = ray.get(tally.counts.remote())
        progress(rows, min(rows, before + landed), failed, output_tokens)

    def look() -> None:
        while not ended.wait(_LOOK_S):
            tell()

    watcher = threading.Thread(target=look, name="progress", daemon=True)
    watcher.start()
    try:
        yield
        tell()
    finally:
        ended.set()
        watcher.join()
