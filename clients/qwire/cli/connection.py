"""How a command reaches its server: the options that all commands share, and how errors are told."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from qwire.client import (
    DEFAULT_TARGET,
    Client,
    ClientOptions,
    InvalidRequest,
    QwireError,
    TLSOptions,
    Unavailable,
)
from qwire.client.timeout import check_timeout


def _check_timeout(timeout_s: float | None) -> float | None:
    try:
        return timeout_s if timeout_s is None else check_timeout(timeout_s)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


Server = Annotated[str, typer.Option("--server", envvar="QWIRE_SERVER", help="The server's address, host:port.")]
Tls = Annotated[bool, typer.Option("--tls", help="Encrypt, trusting gRPC's own list of authorities.")]
TlsCa = Annotated[
    Path | None,
    typer.Option("--tls-ca", exists=True, dir_okay=False, help="Encrypt, trusting these authorities (PEM)."),
]
TlsCert = Annotated[
    Path | None, typer.Option("--tls-cert", exists=True, dir_okay=False, help="The client's certificate (PEM).")
]
TlsKey = Annotated[Path | None, typer.Option("--tls-key", exists=True, dir_okay=False, help="Its private key (PEM).")]
Tenant = Annotated[
    str, typer.Option("--tenant", envvar="QWIRE_TENANT", help="The name under which a busy model is shared fairly.")
]
ModelId = Annotated[str, typer.Option("--model", help="Which served model; needed where there are several.")]
AdapterId = Annotated[str | None, typer.Option("--adapter", help="Which adapter to apply; `qwire models` lists them.")]
Think = Annotated[
    bool | None,
    typer.Option("--think/--no-think", help="Whether the model thinks before it answers. Default: its own way."),
]
Timeout = Annotated[
    float | None, typer.Option("--timeout", callback=_check_timeout, help="Seconds that the call may take in all.")
]

SERVER = DEFAULT_TARGET


@contextmanager
def connect(
    server: str, *, tls: bool, ca: Path | None, cert: Path | None, key: Path | None, tenant: str = ""
) -> Generator[Client]:
    """Yield a client; an error of a call becomes one line on standard error and exit code 1.

    Raises:
        typer.BadParameter: The options do not fit together.
    """
    try:
        tls_options = TLSOptions.from_files(root_certificates=ca, client_certificate=cert, client_key=key)
        encrypted = tls or ca or cert or key
        opened = Client(server, ClientOptions(tls=tls_options if encrypted else None, tenant=tenant))
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    with opened as client:
        try:
            yield client
        except QwireError as error:
            typer.echo(describe(error, server), err=True)
            raise typer.Exit(1) from None


def describe(error: QwireError, server: str) -> str:
    """Return an error as one line: the field or the fact first, then the status for those who look it up."""
    text = error.message
    if isinstance(error, InvalidRequest) and error.violations:
        text = "; ".join(map(str, error.violations))
    elif isinstance(error, Unavailable) and not error.reason:
        text = f"cannot reach a server at {server}: {text}"
    status = " ".join(filter(None, [error.code.name if error.code else "", error.reason]))
    again = "" if error.retry_after_s is None else f"; try again in {error.retry_after_s:g} s"
    return f"error: {' '.join(text.split())} [{status or type(error).__name__}]{again}"
