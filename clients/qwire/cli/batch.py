"""`qwire batch`: jobs that outlive the command."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.table import Column, Table

from qwire.cli.batch_job import Label, Output, OutputFormat, follow, labels_of, tell
from qwire.cli.batch_progress import JobProgress
from qwire.cli.batch_run import run
from qwire.cli.connection import SERVER, Server, Tenant, Tls, TlsCa, TlsCert, TlsKey, connect
from qwire.cli.output import table_console
from qwire.client.jsonl import LineFormat

app = typer.Typer(add_completion=False, no_args_is_help=True)
JobId = Annotated[str, typer.Argument(help="The job's id.")]


@app.callback()
def batch() -> None:
    """Run many prompts as a job that outlives the command."""


app.command()(run)


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
        for job in client.jobs.list(labels=labels_of(label)):
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
        tell(client.jobs.get(job_id))


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
        ended = follow(client, job_id, output, line_format, progress)
    tell(ended)


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
        tell(client.jobs.cancel(job_id))


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
