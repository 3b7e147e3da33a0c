"""`qwire chat`: a conversation."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import Annotated

import typer

from qwire.cli.connection import (
    SERVER,
    AdapterId,
    ModelId,
    Server,
    Tenant,
    Think,
    Tls,
    TlsCa,
    TlsCert,
    TlsKey,
    connect,
    describe,
)
from qwire.cli.interrupt import cancelled_by_interrupt
from qwire.cli.output import write_answer
from qwire.cli.thinking import answer_of
from qwire.client import ChatMessage, Client, GenerationOptions, QwireError, Role

_COMMANDS = "/exit leaves, /clear forgets the conversation"


def chat(
    *,
    model: ModelId = "",
    adapter: AdapterId = None,
    system: Annotated[str | None, typer.Option(help="Instructions for the model.")] = None,
    max_tokens: Annotated[int | None, typer.Option(help="The most tokens of an answer.")] = None,
    temperature: Annotated[float | None, typer.Option(help="0 = always the most likely token.")] = None,
    think: Think = None,
    tenant: Tenant = "",
    server: Server = SERVER,
    tls: Tls = False,
    tls_ca: TlsCa = None,
    tls_cert: TlsCert = None,
    tls_key: TlsKey = None,
) -> None:
    """Talk with a model.

    Ctrl-C cancels the running answer, Ctrl-D leaves; /exit leaves, /clear forgets the conversation.
    A turn that was cancelled or failed is not kept in the conversation.
    """
    options = GenerationOptions(
        model=model,
        adapter=adapter,
        system=system,
        max_output_tokens=max_tokens,
        temperature=temperature,
        reasoning=think,
    )
    with connect(server, tls=tls, ca=tls_ca, cert=tls_cert, key=tls_key, tenant=tenant) as client:
        typer.echo(f"Ctrl-C cancels an answer, Ctrl-D leaves; {_COMMANDS}.", err=True)
        _converse(Conversation(client, options, server))


class Conversation:
    """What has been said so far."""

    def __init__(self, client: Client, options: GenerationOptions, server: str) -> None:
        self._client = client
        self._options = options
        self._server = server
        self._messages: list[ChatMessage] = []

    def clear(self) -> None:
        """Forget everything but the system instructions."""
        self._messages.clear()

    def ask(self, text: str) -> None:
        """Write the answer to a message, and keep both if all went well."""
        question = ChatMessage(Role.USER, text)
        try:
            messages = [*self._messages, question]
            with cancelled_by_interrupt(lambda: self._client.stream(messages, **self._options)) as stream:
                write_answer(answer_of(stream))
                answer = stream.generation().message
        except KeyboardInterrupt:
            typer.echo("\n(cancelled; this turn is not kept)", err=True)
        except QwireError as error:
            typer.echo(f"{describe(error, self._server)} (this turn is not kept)", err=True)
        else:
            if answer.text:
                self._messages += [question, answer]
            else:
                typer.echo("(no answer; this turn is not kept)", err=True)


def _converse(conversation: Conversation) -> None:
    if find_spec("readline"):
        import_module("readline")  # gives input() editing and history, where the system has it
    while True:
        try:
            line = input("you> ").strip()
        except EOFError:
            typer.echo()
            return
        except KeyboardInterrupt:
            typer.echo("\n(Ctrl-D leaves)", err=True)
            continue
        match line:
            case "":
                continue
            case "/exit":
                return
            case "/clear":
                conversation.clear()
            case _ if line.startswith("/"):
                typer.echo(f"no such command: {_COMMANDS}", err=True)
            case _:
                conversation.ask(line)
