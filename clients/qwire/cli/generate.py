"""`qwire generate`: one prompt, one answer."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from qwire.cli.connection import (
    SERVER,
    AdapterId,
    ModelId,
    Server,
    Tenant,
    Think,
    Timeout,
    Tls,
    TlsCa,
    TlsCert,
    TlsKey,
    connect,
)
from qwire.cli.interrupt import cancelled_by_interrupt
from qwire.cli.output import write_answer, write_json
from qwire.cli.stopwatch import Stopwatch
from qwire.cli.thinking import answer_of
from qwire.client import GenerationOptions


def generate(
    prompt: Annotated[str, typer.Argument(help="What to ask; - reads it from standard input.")],
    *,
    model: ModelId = "",
    adapter: AdapterId = None,
    system: Annotated[str | None, typer.Option(help="Instructions for the model.")] = None,
    max_tokens: Annotated[int | None, typer.Option(help="The most tokens to generate.")] = None,
    temperature: Annotated[float | None, typer.Option(help="0 = always the most likely token.")] = None,
    think: Think = None,
    top_p: Annotated[float | None, typer.Option(help="Keep the most likely tokens up to this probability.")] = None,
    top_k: Annotated[int | None, typer.Option(help="Keep the k most likely tokens; 0 = all.")] = None,
    seed: Annotated[int | None, typer.Option(help="The same seed gives the same answer.")] = None,
    stop: Annotated[list[str] | None, typer.Option(help="End where this text appears; may be repeated.")] = None,
    json_schema: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="A file with the JSON Schema that it must match.")
    ] = None,
    regex: Annotated[str | None, typer.Option(help="The regular expression that it must match.")] = None,
    choice: Annotated[list[str] | None, typer.Option(help="It must be this text; may be repeated.")] = None,
    echo: Annotated[
        bool, typer.Option("--echo", help="Write the prompt as the model reads it to standard error.")
    ] = False,
    timeout: Timeout = None,
    as_json: Annotated[bool, typer.Option("--json", help="Write the whole generation as JSON, at its end.")] = False,
    stats: Annotated[bool, typer.Option("--stats", help="Write tokens and times to standard error.")] = False,
    tenant: Tenant = "",
    server: Server = SERVER,
    tls: Tls = False,
    tls_ca: TlsCa = None,
    tls_cert: TlsCert = None,
    tls_key: TlsKey = None,
) -> None:
    """Generate an answer and stream it to standard output.

    Thinking goes to standard error. Whatever is left out is the model's own default. Ctrl-C cancels the generation on
    the server and exits with 130.
    Exit codes: 0 = done, 1 = the call failed, 2 = wrong usage.
    """
    text = _read_standard_input() if prompt == "-" else prompt
    options = GenerationOptions(
        model=model,
        adapter=adapter,
        system=system,
        max_output_tokens=max_tokens,
        temperature=temperature,
        reasoning=think,
        top_p=top_p,
        top_k=top_k,
        seed=seed,
        stop_strings=stop,
        json_schema=None if json_schema is None else _read_file(json_schema),
        regex=regex,
        choices=choice or None,
        echo=echo or None,
    )
    with connect(server, tls=tls, ca=tls_ca, cert=tls_cert, key=tls_key, tenant=tenant) as client:
        stopwatch = Stopwatch()
        with cancelled_by_interrupt(lambda: client.stream(text, timeout_s=timeout, **options)) as stream:
            pieces = stopwatch.watch(stream.text_stream if as_json else answer_of(stream))
            if not as_json:
                write_answer(pieces)
            else:
                for _ in pieces:
                    pass
            generation = stream.generation()
    if as_json:
        write_json(generation)
    if stats:
        typer.echo(stopwatch.describe(generation), err=True)


def _read_file(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise typer.BadParameter(f"{path} cannot be read: {error}") from None


def _read_standard_input() -> str:
    try:
        return sys.stdin.buffer.read().decode()
    except UnicodeDecodeError as error:
        raise typer.BadParameter(f"standard input is not UTF-8: {error.reason} at byte {error.start}") from None
