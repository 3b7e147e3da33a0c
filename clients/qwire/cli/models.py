"""`qwire models`: what is served; its subcommands: what could be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from typing import Annotated

import typer
from rich.table import Table

from qwire.cli.catalogue import catalogue
from qwire.cli.connection import SERVER, Server, Tls, TlsCa, TlsCert, TlsKey, connect
from qwire.cli.output import table_console, write_json
from qwire.cli.recommend import recommend
from qwire.client import Adapter, Model, ModelCapabilities, Quantization


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
    """Show the served models, and their adapters."""
    if context.invoked_subcommand is not None:
        return
    with connect(server, tls=tls, ca=tls_ca, cert=tls_cert, key=tls_key) as client:
        served = client.models()
        adapters = {model.id: client.adapters(model.id) for model in served if model.capabilities.adapters}
    if as_json:
        write_json([{**asdict(model), "adapters": adapters.get(model.id, ())} for model in served])
    else:
        table_console().print(_table(served, adapters))


app = typer.Typer(add_completion=False, invoke_without_command=True, callback=models)
app.command()(recommend)
app.command()(catalogue)


def _table(served: Sequence[Model], adapters: Mapping[str, Sequence[Adapter]]) -> Table:
    table = Table()
    for heading in ("Model", "Architecture", "Weights", "Quantization", "Context", "Output", "Can", "Revision"):
        table.add_column(heading, overflow="fold")
    if adapters:
        table.add_column("Adapters", overflow="fold")
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
            *([", ".join(map(_adapter, adapters.get(model.id, ())))] if adapters else []),
        )
    return table


def _adapter(adapter: Adapter) -> str:
    return f"{adapter.id} (unusable: {adapter.problem})" if adapter.problem else adapter.id


def _quantization(quantization: Quantization) -> str:
    source = f" from {quantization.source_format}" if quantization.source_format else ""
    return f"{quantization.method.value}, {quantization.compute_dtype}{source}"


def _names(capabilities: ModelCapabilities) -> list[str]:
    return [field.name for field in fields(capabilities) if getattr(capabilities, field.name)]
