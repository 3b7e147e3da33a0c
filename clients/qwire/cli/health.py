"""`qwire health`: whether the models can answer."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from qwire.cli.connection import SERVER, ModelId, Server, Tls, TlsCa, TlsCert, TlsKey, connect
from qwire.cli.interrupt import cancelled_by_interrupt
from qwire.cli.output import table_console
from qwire.client import Client, Health, HealthCheck, HealthCheckKind, ServingState

_STYLES = {ServingState.READY: "green", ServingState.DEGRADED: "yellow", ServingState.STARTING: "cyan"}
_FORMATS = {
    HealthCheckKind.RESPONSE_TIME: "{:.3f} s",
    HealthCheckKind.GENERATION_SPEED: "{:.1f} tokens/s",
    HealthCheckKind.MEMORY: "{:.0%}",
    HealthCheckKind.QUEUE: "{:.0%}",
    HealthCheckKind.WEIGHTS_FINITE: "{:.0f}",
}


def health(
    *,
    model: ModelId = "",
    watch: Annotated[bool, typer.Option("--watch", help="Go on showing every change, until Ctrl-C.")] = False,
    probe: Annotated[bool, typer.Option("--probe", help="Have each model generate one real token.")] = False,
    server: Server = SERVER,
    tls: Tls = False,
    tls_ca: TlsCa = None,
    tls_cert: TlsCert = None,
    tls_key: TlsKey = None,
) -> None:
    """Show whether the models can answer, and why not.

    Exit codes: 0 = ready (degraded included: it serves), 1 = not ready, not reachable, or a probe failed.
    """
    console = table_console()
    with connect(server, tls=tls, ca=tls_ca, cert=tls_cert, key=tls_key) as client:
        state = client.health(model)
        console.print(_table(state))
        if probe:
            _probe(client, state, console)
        if watch:
            state = _watch(client, model, state, console)
    if not state.state.serves:
        raise typer.Exit(1)


def _probe(client: Client, state: Health, console: Console) -> None:
    for known in state.models:
        probed = client.probe(known.model)
        console.print(f"probe: {probed.model} gave token {probed.token_id} after {probed.response_time_s:.3f} s")


def _watch(client: Client, model: str, shown: Health, console: Console) -> Health:
    """Show every change until the server ends the watch."""
    with cancelled_by_interrupt(lambda: client.watch_health(model)) as changes:
        for state in changes:
            if _states(state) != _states(shown):
                console.print(_table(state))
            shown = state
    return shown


def _states(state: Health) -> list[ServingState]:
    checks = [check.state for model in state.models for check in model.checks]
    return [state.state, *(model.state for model in state.models), *checks]


def _table(health: Health) -> Table:
    title = f"{health.state.value} at {health.observed_at.astimezone():%H:%M:%S}"
    table = Table("Model", "Check", "Measured", "Threshold", "State", "Advice", title=title)
    for model in health.models:
        table.add_row(model.model, "", "", "", _state(model.state), "")
        for check in model.checks:
            table.add_row("", check.kind.value, _measured(check), _threshold(check), _state(check.state), check.advice)
    return table


def _measured(check: HealthCheck) -> str:
    return "-" if check.measured is None else _FORMATS.get(check.kind, "{:g}").format(check.measured)


def _threshold(check: HealthCheck) -> str:
    bound = ">=" if check.kind is HealthCheckKind.GENERATION_SPEED else "<="
    return f"{bound} {_FORMATS.get(check.kind, '{:g}').format(check.threshold)}"


def _state(state: ServingState) -> Text:
    return Text(state.value, style=_STYLES.get(state, "red"))
