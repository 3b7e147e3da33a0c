"""`qwire batch run`: a file of prompts, as a job or by Ray Data."""

from __future__ import annotations

from datetime import timedelta
from enum import Enum
from hashlib import file_digest, sha256
from pathlib import Path
from typing import Annotated

import typer

from qwire.cli.batch_job import Label, Output, OutputFormat, follow, labels_of, tell
from qwire.cli.batch_progress import JobProgress
from qwire.cli.columns import run_columns
from qwire.cli.connection import SERVER, ModelId, Server, Tenant, Tls, TlsCa, TlsCert, TlsKey, connect
from qwire.client import BatchJob, Client, GenerationOptions
from qwire.client.jsonl import LineFormat, read_items


class Engine(Enum):
    """What has the prompts generated."""

    JOBS = "jobs"
    RAY_DATA = "ray-data"


Input = Annotated[
    Path,
    typer.Argument(
        exists=True,
        help="Lines of JSON: prompts, or OpenAI's form. With ray-data also .parquet, or a folder of either.",
    ),
]
_OF_JOBS = ("line_format", "within", "label", "tls", "tls_ca", "tls_cert", "tls_key")
_OF_RAY_DATA = ("prompt_column", "rows_per_file", "workers", "ray_address")
_SPELT = {"line_format": "format"}


def run(
    prompts: Input,
    output: Output,
    context: typer.Context,
    *,
    engine: Annotated[
        Engine, typer.Option(help="jobs: the server keeps it. ray-data: Parquet out, for sets too large for that.")
    ] = Engine.JOBS,
    line_format: OutputFormat = LineFormat.QWIRE,
    model: ModelId = "",
    system: Annotated[
        str | None, typer.Option(help="Instructions for the model, for prompts without messages.")
    ] = None,
    max_tokens: Annotated[int | None, typer.Option(help="The most tokens of an answer.")] = None,
    temperature: Annotated[float | None, typer.Option(help="0 = always the most likely token.")] = None,
    within: Annotated[float | None, typer.Option(help="Hours; what has no outcome then expires.")] = None,
    label: Label = None,
    prompt_column: Annotated[
        str | None,
        typer.Option(help="ray-data: the column of the prompts. Default: prompt, messages, or OpenAI's body."),
    ] = None,
    rows_per_file: Annotated[int, typer.Option(min=1, help="ray-data: the most rows of a file of output.")] = 1000,
    workers: Annotated[int, typer.Option(min=1, help="ray-data: processes that tokenize and call the engines.")] = 1,
    ray_address: Annotated[
        str, typer.Option(help="ray-data: the server's Ray cluster. Default: RAY_ADDRESS, else that of this machine.")
    ] = "auto",
    server: Server = SERVER,
    tls: Tls = False,
    tls_ca: TlsCa = None,
    tls_cert: TlsCert = None,
    tls_key: TlsKey = None,
    tenant: Tenant = "",
) -> None:
    """Run every prompt of a file, and write results as they land.

    The job goes on without this command: Ctrl-C leaves it, and the same command with the same file comes back to it and
    writes what is missing. Exit codes: 0 = every item succeeded, 1 = items failed or were refused, or a call failed.

    With --engine ray-data there is no job: the command itself joins the server's Ray cluster and keeps its engines busy
    at low priority. Rows come from Parquet (a column prompt or messages, or OpenAI's columns; a column options for
    settings of a row) or from lines of JSON, and go to Parquet files in the folder OUTPUT: the columns of the input,
    the row's number, and what became of it; a row that fails is a row with its error. Ctrl-C stops it, and the same
    command generates what no file holds yet.
    """
    options = GenerationOptions(model=model, system=system, max_output_tokens=max_tokens, temperature=temperature)
    _refuse_given(context, _OF_JOBS if engine is Engine.RAY_DATA else _OF_RAY_DATA, engine)
    if engine is Engine.RAY_DATA:
        run_columns(
            prompts,
            output,
            options=options,
            prompt_column=prompt_column,
            rows_per_file=rows_per_file,
            workers=workers,
            ray_address=ray_address,
            server=server,
            tenant=tenant,
        )
        return
    if prompts.is_dir() or prompts.suffix == ".parquet":
        raise typer.BadParameter("folders and Parquet need --engine ray-data")
    with prompts.open("rb") as file:
        content = file_digest(file, "sha256").digest()
    given = (content, repr(sorted(options.items())).encode(), repr((within, label)).encode())
    request_id = sha256(b"".join(sha256(part).digest() for part in given)).hexdigest()
    with connect(server, tls=tls, ca=tls_ca, cert=tls_cert, key=tls_key, tenant=tenant) as client:
        job = client.jobs.create(
            request_id=request_id,
            labels=labels_of(label),
            completion_window=None if within is None else timedelta(hours=within),
        )
        typer.echo(f"job {job.id}", err=True)
        with JobProgress() as progress:
            refused = 0
            if job.sealed is None:
                refused = _upload(client, job, prompts, options, progress)
            ended = follow(client, job.id, output, line_format, progress)
    tell(ended)
    if refused or ended.succeeded < ended.total:
        raise typer.Exit(1)


def _upload(client: Client, job: BatchJob, prompts: Path, options: GenerationOptions, progress: JobProgress) -> int:
    """Append the file's items; return how many were refused."""
    upload = client.jobs.upload(job.id, read_items(prompts), progress=progress.uploaded, **options)
    for item in upload.rejected:
        typer.echo(f"refused: {item.id}: {item.error.message}", err=True)
    return len(upload.rejected)


def _refuse_given(context: typer.Context, names: tuple[str, ...], engine: Engine) -> None:
    """Refuse options that the engine would not heed."""
    for name in names:
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            raise typer.BadParameter(f"--{_SPELT.get(name, name).replace('_', '-')} says nothing to {engine.value}")
