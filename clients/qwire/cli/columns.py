"""`qwire batch run --engine ray-data`: columns in, columns out, without a job. What does it is part of the server."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import typer

from qwire.cli.batch_progress import JobProgress
from qwire.cli.connection import describe
from qwire.client import GenerationOptions, InvalidRequest, QwireError

_NEEDS = ("ray", "pandas", "pyarrow")
_INTERRUPTED = 130


class _Written(Protocol):
    rows: int
    failed: int
    prompt_tokens: int
    output_tokens: int


def run_columns(
    prompts: Path,
    output: Path,
    *,
    options: GenerationOptions,
    prompt_column: str | None,
    rows_per_file: int,
    workers: int,
    ray_address: str,
    server: str,
    tenant: str,
) -> None:
    """Generate every row of the input, and tell what the output then holds.

    Raises:
        typer.BadParameter: Input or output is not fit for it.
        typer.Exit: 1 = rows failed, or the server cannot be reached; 130 = interrupted.
    """
    port = server.rpartition(":")[2]
    if not port.isdecimal():
        raise typer.BadParameter("--server must be host:port: the port tells the server from others of its cluster")
    run = _implementation()
    try:
        with JobProgress() as progress:
            written = run(
                prompts,
                output,
                options=options,
                prompt_column=prompt_column,
                rows_per_file=rows_per_file,
                workers=workers,
                tenant=tenant,
                port=int(port),
                ray_address=ray_address,
                progress=progress.rows,
            )
    except InvalidRequest as error:
        raise typer.BadParameter(error.message) from None
    except QwireError as error:
        typer.echo(describe(error, server), err=True)
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        typer.echo("interrupted; the same command goes on after the files that are written", err=True)
        raise typer.Exit(_INTERRUPTED) from None
    typer.echo(
        f"{written.rows} rows: {written.rows - written.failed} succeeded, {written.failed} failed; "
        f"{written.prompt_tokens} prompt and {written.output_tokens} output tokens"
    )
    if written.failed:
        raise typer.Exit(1)


def _implementation() -> Callable[..., _Written]:
    missing = [name for name in _NEEDS if find_spec(name) is None]
    if missing:
        typer.echo(
            f"error: {' and '.join(missing)} not installed; --engine ray-data needs: pip install 'qwire[data]'",
            err=True,
        )
        raise typer.Exit(1)
    module: Any = import_module("qwire.serve.columns.run")  # the command line is a client, and imports no server
    return module.run
