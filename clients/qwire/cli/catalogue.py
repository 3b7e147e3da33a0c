"""`qwire models catalogue`: the published models, and what each quantization of them needs. It asks no server."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer
from rich.table import Table

from qwire.cli.output import table_console, write_json
from qwire.cli.recommend import GIB, Concurrency, Context, Device, valid
from qwire.models.published_needs import QUANTIZATIONS, PublishedNeeds, published_needs
from qwire.models.quality import failed_quantizations
from qwire.models.recommendation import TASKS, parse_tokens


def catalogue(
    *,
    task: Annotated[
        str | None, typer.Option("--task", help=f"Only models that can do it: {', '.join(TASKS)}. Default: all.")
    ] = None,
    device: Device = "gpu",
    context: Context = None,
    concurrency: Concurrency = 1,
    as_json: Annotated[bool, typer.Option("--json", help="Write everything known as JSON.")] = False,
) -> None:
    """Show the published models, and the memory that each quantization of them needs, without asking a server.

    Memory is all that a server takes: weights, KV cache of all requests at once, a step, and the process.
    """
    context_tokens = None if context is None else valid(parse_tokens, context, "--context")
    try:
        found = published_needs(task, device=device, context_tokens=context_tokens, sequences=concurrency)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    if as_json:
        write_json([_as_json(one) for one in found])
    elif found:
        _show(found, QUANTIZATIONS[device])
    if not found:
        typer.echo(f"error: no model for {task or 'any task'} takes so much context", err=True)
        raise typer.Exit(1)


def _as_json(one: PublishedNeeds) -> dict[str, object]:
    needs = {name: {"needed_bytes": need.total_bytes, **asdict(need)} for name, need in one.needs.items()}
    return {**asdict(one), "needs": needs}


def _show(found: tuple[PublishedNeeds, ...], quantizations: tuple[str, ...]) -> None:
    table = Table()
    for heading in ("Model", "Weights", "Context", "Tasks", "License"):
        table.add_column(heading, overflow="fold")
    for quantization in quantizations:
        table.add_column(quantization, justify="right", no_wrap=True)
    for one in found:
        table.add_row(
            one.model,
            f"{one.parameters / 1e9:.1f} B",
            f"{one.context_tokens:,} of {one.model_context_tokens:,}",
            ", ".join(one.tasks),
            one.license,
            *(_gib(one, quantization) for quantization in quantizations),
        )
    console = table_console()
    console.print(table)
    if failed := [quantization for quantization in quantizations if quantization in failed_quantizations()]:
        console.print(f"{' and '.join(failed)} failed the quality gate on some weights.", soft_wrap=True)


def _gib(one: PublishedNeeds, quantization: str) -> str:
    need = one.needs.get(quantization)
    return "-" if need is None else f"{need.total_bytes / GIB:.1f} GiB"
