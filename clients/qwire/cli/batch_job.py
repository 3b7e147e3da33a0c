"""A batch job as commands tell of it: its labels, its outcomes, its end."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from qwire.cli.batch_progress import JobProgress
from qwire.cli.result_file import ResultFile
from qwire.client import BatchJob, BatchJobItem, Client
from qwire.client.jsonl import LineFormat

Output = Annotated[Path, typer.Option("--output", "-o", help="Where results are written, a line for each.")]
OutputFormat = Annotated[LineFormat, typer.Option("--format", help="How results are written.")]
Label = Annotated[list[str] | None, typer.Option(help="key=value to find the job by; may be repeated.")]


def follow(client: Client, job_id: str, output: Path, line_format: LineFormat, progress: JobProgress) -> BatchJob:
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


def labels_of(given: list[str] | None) -> dict[str, str]:
    """Return labels as they were given.

    Raises:
        typer.BadParameter: One is not key=value.
    """
    pairs = [text.partition("=") for text in given or []]
    if any(not separator for _, separator, _ in pairs):
        raise typer.BadParameter("a label is key=value")
    return {key: value for key, _, value in pairs}


def tell(job: BatchJob) -> None:
    """Print a line about a job."""
    counts = ", ".join(
        f"{count} {name}"
        for name in ("succeeded", "failed", "cancelled", "expired", "running", "pending")
        if (count := getattr(job, name))
    )
    tokens = f"{job.usage.prompt_tokens} prompt and {job.usage.output_tokens} output tokens"
    typer.echo(f"{job.id} {job.state.value}: {job.total} items{': ' if counts else ''}{counts}; {tokens}")
