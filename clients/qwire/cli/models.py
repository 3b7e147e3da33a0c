"""`qwire models`: what is served; its subcommand: what could be."""

from __future__ import annotations

from dataclasses import fields
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from qwire.cli.connection import SERVER, Server, Tls, TlsCa, TlsCert, TlsKey, connect
from qwire.cli.output import write_json
from qwire.cli.recommend import recommend
from qwire.client import Model, ModelCapabilities, Quantization


def models(
    context: typer.Context,
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Write everything known as JSON.")] = False,
    server: Server = SERVER,
    tls: Tls = False,
    tls_ca: TlsCa = None,
    tls_cert: TlsCert = None,
    tls_key: TlsKey = None,
) -> None:
    """Show the served models."""
    if context.invoked_subcommand is not None:
        return
    with connect(server, tls=tls, ca=tls_ca, cert=tls_cert, key=tls_key) as client:
        served = client.models()
    if as_json:
        write_json(served)
    else:
        Console().print(_table(served))


app = typer.Typer(add_completion=False, invoke_without_command=True, callback=models)
app.command()(recommend)


def _table(served: tuple[Model, ...]) -> Table:
    table = Table()
    for heading in ("Model", "Architecture", "Weights", "Quantization", "Context", "Output", "Can", "Revision"):
        table.add_column(heading, overflow="fold")
    for model in served:
        table.add_row(
            model.id,
            model.architecture,
            f"{model.parameters / 1e6:,.0f} M",
            _quantization(model.quantization),
            f"{model.limits.context_tokens:,}",
            f"{model.limits.max_output_tokens:,}",
            ", ".join(_names(model.capabilities)) or "text",
            model.revision[:12],
        )
    return table


def _quantization(quantization: Quantization) -> str:
    source = f" from {quantization.source_format}" if quantization.source_format else ""
    return f"{quantization.method.value}, {quantization.compute_dtype}{source}"


def _names(capabilities: ModelCapabilities) -> list[str]:
    return [field.name for field in fields(capabilities) if getattr(capabilities, field.name)]
