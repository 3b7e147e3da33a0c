"""`qwire models recommend`: which models fit into a memory. It asks no server."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Annotated, TypeVar

import typer
from rich.table import Table

from qwire.cli.output import table_console, write_json
from qwire.models.recommendation import (
    DEFAULT_CONTEXT_TOKENS,
    DEVICES,
    TASKS,
    Recommendation,
    parse_memory,
    parse_tokens,
)
from qwire.models.recommendation import (
    recommend as recommended,
)

GIB = 2**30
_Value = TypeVar("_Value")

Device = Annotated[str, typer.Option("--device", help=f"Whose memory it is: {', '.join(DEVICES)}.")]
Context = Annotated[
    str | None,
    typer.Option(
        "--context",
        help="Prompt and output tokens of each request, such as 32k. "
        f"Default: {DEFAULT_CONTEXT_TOKENS:,}, or what the model can where that is less.",
    ),
]
Concurrency = Annotated[int, typer.Option("--concurrency", help="Requests at once with so much context.")]


def recommend(
    *,
    task: Annotated[str, typer.Option("--task", help=f"What for: {', '.join(TASKS)}.")],
    memory: Annotated[str, typer.Option("--memory", help="What may be used in all, such as 24GiB.")],
    device: Device = "gpu",
    context: Context = None,
    concurrency: Concurrency = 1,
    as_json: Annotated[bool, typer.Option("--json", help="Write everything known as JSON.")] = False,
) -> None:
    """Show the models that fit into a memory, without asking a server.

    Models that were made for the task come first, larger ones before smaller ones, and quantizations that failed the
    quality gate last. It is no measure of how well a model does the task.
    """
    memory_bytes = valid(parse_memory, memory, "--memory")
    context_tokens = None if context is None else valid(parse_tokens, context, "--context")
    try:
        found = recommended(task, memory_bytes, device=device, context_tokens=context_tokens, sequences=concurrency)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    if as_json:
        write_json([{"needed_bytes": one.need.total_bytes, **asdict(one)} for one in found])
    elif found:
        _show(found, concurrency)
    if not found:
        typer.echo(f"error: no model for {task} fits into {memory} on a {device} with so much context", err=True)
        raise typer.Exit(1)


def valid(parse: Callable[[str], _Value], text: str, option: str) -> _Value:
    """Return the value of an option; one that cannot be read ends the command with what is wrong."""
    try:
        return parse(text)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint=option) from None


def _show(found: tuple[Recommendation, ...], concurrency: int) -> None:
    table = Table()
    for heading in ("Model", "Weights", "Quantization", "Needs", "Context", "License", "Why"):
        table.add_column(heading, overflow="fold")
    for one in found:
        table.add_row(
            one.model,
            f"{one.parameters / 1e9:.1f} B",
            one.quantization,
            f"{one.need.total_bytes / GIB:.1f} GiB",
            f"{one.context_tokens:,} of {one.model_context_tokens:,}",
            one.license,
            one.why,
        )
    console = table_console()
    console.print(table)
    best = found[0]
    console.print(
        f"To serve the first: source: {best.model}, engine: {{quantization: {best.quantization}, "
        f"kv_capacity_tokens: {best.context_tokens * concurrency}}}",
        soft_wrap=True,
        highlight=False,
    )
