"""`qwire batch`: jobs that outlive the command."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from datetime import timedelta
from hashlib import file_digest, sha256
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Column, Table

from qwire.cli.batch_progress import JobProgress
from qwire.cli.connection import SERVER, ModelId, Server, Tenant, Tls, TlsCa, TlsCert, TlsKey, connect
from qwire.cli.output import table_console
from qwire.cli.result_file import ResultFile
from qwire.client import BatchJob, BatchJobItem, Client, GenerationOptions, InvalidRequest
from qwire.client.jsonl import LineFormat, read_items

app = typer.Typer(add_completion=False, no_args_is_help=True)

Input = Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="Lines of JSON: prompts, or OpenAI's form.")]
JobId = Annotated[str, typer.Argument(help="The job's id.")]
Output = Annotated[Path, typer.Option("--output", "-o", help="Where results are written, a line for each.")]
OutputFormat = Annotated[LineFormat, typer.Option("--format", help="How results are written.")]
Label = Annotated[list[str] | None, typer.Option(help="key=value to find the job by; may be repeated.")]


@app.callback()
def batch() -> None:
    """Run many prompts as a job that outlives the command."""


@app.command()
def run(
    prompts: Input,
    output: Output,
    *,
    line_format: OutputFormat = LineFormat.QWIRE,
    model: ModelId = "",
    system: Annotated[
        str | None, typer.Option(help="Instructions for the model, for prompts without messages.")
    ] = None,
    max_tokens: Annotated[int | None, typer.Option(help="The most tokens of an answer.")] = None,
    temperature: Annotated[float | None, typer.Option(help="0 = always the most likely token.")] = None,
    within: Annotated[float | None, typer.Option(help="Hours; what has no outcome then expires.")] = None,
    label: Label = None,
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
    """
    options = GenerationOptions(model=model, system=system, max_output_tokens=max_tokens, temperature=temperature)
    with prompts.open("rb") as file:
        content = file_digest(file, "sha256").digest()
    given = (content, repr(sorted(options.items())).encode(), repr((within, label)).encode())
    request_id = sha256(b"".join(sha256(part).digest() for part in given)).hexdigest()
    with connect(server, tls=tls, ca=tls_ca, cert=tls_cert, key=tls_key, tenant=tenant) as client:
        job = client.jobs.create(
            request_id=request_id,
            labels=_labels(label),
            completion_window=None if within is None else timedelta(hours=within),
        )
        typer.echo(f"job {job.id}", err=True)
        with JobProgress() as progress:
            refused = 0
            if job.sealed is None:
                refused = _upload(client, job, prompts, options, progress)
            ended = _follow(client, job.id, output, line_format, progress)
    _tell(ended)
    if refused or ended.succeeded < ended.total:
        raise typer.Exit(1)


@app.command(name="list")
def list_jobs(
    *,
    label: Label = None,
    server: Server = SERVER,
    tls: Tls = False,
    tls_ca: TlsCa = None,
    tls_cert: TlsCert = None,
    tls_key: TlsKey = None,
    tenant: Tenant = "",
) -> None:
    """List your jobs, newest first."""
    whole = [Column(heading, no_wrap=True) for heading in ("job", "state")]
    table = Table(*whole, "items", "succeeded", "failed", "created", "labels")
    with connect(server, tls=tls, ca=tls_ca, cert=tls_cert, key=tls_key, tenant=tenant) as client:
        for job in client.jobs.list(labels=_labels(label)):
            created = f"{job.created:%Y-%m-%d %H:%M}" if job.created else ""
            labels = " ".join(f"{key}={value}" for key, value in job.labels.items())
            numbers = (str(job.total), str(job.succeeded), str(job.failed))
            table.add_row(job.id, job.state.value, *numbers, created, labels)
    table_console().print(table)


@app.command()
def show(
    job_id: JobId,
    *,
    server: Server = SERVER,
    tls: Tls = False,
    tls_ca: TlsCa = None,
    tls_cert: TlsCert = None,
    tls_key: TlsKey = None,
    tenant: Tenant = "",
) -> None:
    """Show a job as it is now."""
    with connect(server, tls=tls, ca=tls_ca, cert=tls_cert, key=tls_key, tenant=tenant) as client:
        _tell(client.jobs.get(job_id))


@app.command()
def watch(
    job_id: JobId,
    output: Output,
    *,
    line_format: OutputFormat = LineFormat.QWIRE,
    server: Server = SERVER,
    tls: Tls = False,
    tls_ca: TlsCa = None,
    tls_cert: TlsCert = None,
    tls_key: TlsKey = None,
    tenant: Tenant = "",
) -> None:
    """Follow a job to its end, and write results as they land; goes on where the file ends."""
    with (
        connect(server, tls=tls, ca=tls_ca, cert=tls_cert, key=tls_key, tenant=tenant) as client,
        JobProgress() as progress,
    ):
        ended = _follow(client, job_id, output, line_format, progress)
    _tell(ended)


@app.command()
def cancel(
    job_id: JobId,
    *,
    server: Server = SERVER,
    tls: Tls = False,
    tls_ca: TlsCa = None,
    tls_cert: TlsCert = None,
    tls_key: TlsKey = None,
    tenant: Tenant = "",
) -> None:
    """End a job, and everything in it that has no outcome."""
    with connect(server, tls=tls, ca=tls_ca, cert=tls_cert, key=tls_key, tenant=tenant) as client:
        _tell(client.jobs.cancel(job_id))


@app.command()
def retry(
    job_id: JobId,
    *,
    server: Server = SERVER,
    tls: Tls = False,
    tls_ca: TlsCa = None,
    tls_cert: TlsCert = None,
    tls_key: TlsKey = None,
    tenant: Tenant = "",
) -> None:
    """Let the items that failed run again."""
    with connect(server, tls=tls, ca=tls_ca, cert=tls_cert, key=tls_key, tenant=tenant) as client:
        typer.echo(f"{client.jobs.retry(job_id)} items run again")


@app.command()
def delete(
    job_id: JobId,
    *,
    server: Server = SERVER,
    tls: Tls = False,
    tls_ca: TlsCa = None,
    tls_cert: TlsCert = None,
    tls_key: TlsKey = None,
    tenant: Tenant = "",
) -> None:
    """Remove a job that has ended, with all its prompts and results."""
    with connect(server, tls=tls, ca=tls_ca, cert=tls_cert, key=tls_key, tenant=tenant) as client:
        client.jobs.delete(job_id)


def _upload(client: Client, job: BatchJob, prompts: Path, options: GenerationOptions, progress: JobProgress) -> int:
    """Append the file's items; return how many were refused."""
    with _wrong_usage():
        upload = client.jobs.upload(job.id, read_items(prompts), progress=progress.uploaded, **options)
    for item in upload.rejected:
        typer.echo(f"refused: {item.id}: {item.error.message}", err=True)
    return len(upload.rejected)


def _follow(client: Client, job_id: str, output: Path, line_format: LineFormat, progress: JobProgress) -> BatchJob:
    """Write outcomes until the job has ended; return it."""
    job = client.jobs.get(job_id)
    with ResultFile(output, line_format) as results:
        for event in client.jobs.watch(job_id, cursor=results.cursor):
            if isinstance(event, BatchJobItem):
                results.write(event)
                progress.landed(event)
            else:
                job = event
                progress.seen(job)
    return job


def _labels(given: list[str] | None) -> dict[str, str]:
    pairs = [text.partition("=") for text in given or []]
    if any(not separator for _, separator, _ in pairs):
        raise typer.BadParameter("a label is key=value")
    return {key: value for key, _, value in pairs}


def _tell(job: BatchJob) -> None:
    counts = ", ".join(
        f"{count} {name}"
        for name in ("succeeded", "failed", "cancelled", "expired", "running", "pending")
        if (count := getattr(job, name))
    )
    tokens = f"{job.usage.prompt_tokens} prompt and {job.usage.output_tokens} output tokens"
    typer.echo(f"{job.id} {job.state.value}: {job.total} items{': ' if counts else ''}{counts}; {tokens}")


@contextmanager
def _wrong_usage() -> Generator[None]:
    """Tell what is wrong with the file as wrong usage."""
    try:
        yield
    except InvalidRequest as error:
        if error.reason != "INVALID_FIELD" or error.code is not None:
            raise
        raise typer.BadParameter(error.message) from None
