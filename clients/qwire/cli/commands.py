"""The commands by name; each is imported when it is called, so that help does not wait for gRPC."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

COMMANDS = {
    "generate": "Generate an answer and stream it to standard output.",
    "chat": "Talk with a model.",
    "health": "Show whether the models can answer, and why not.",
    "models": "Show the served models, and their adapters.",
    "batch": "Run many prompts as a job that outlives the command.",
}
"""Each command's name, which is its module's and its function's, with the first line of its help."""


class LazyGroup(TyperGroup):
    """Lists commands without importing them."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        self.commands.update({name: TyperCommand(name, help=summary) for name, summary in COMMANDS.items()})

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        """Replace the listed command by the real one."""
        name, _, rest = super().resolve_command(ctx, args)
        return name, None if name is None else load(name), rest


def load(name: str) -> TyperCommand | TyperGroup:
    """Import a command; a module that has commands below its own has an `app` of them."""
    module = import_module(f"qwire.cli.{name}")
    commands = getattr(module, "app", None)
    if commands is None:
        commands = typer.Typer(add_completion=False)
        commands.command(name)(getattr(module, name))
    command = typer.main.get_command(commands)
    command.name = name
    assert isinstance(command, TyperCommand | TyperGroup)  # noqa: S101 - typer makes no others
    return command


app = typer.Typer(cls=LazyGroup, no_args_is_help=True, pretty_exceptions_show_locals=False)


@app.callback()
def _qwire() -> None:  # pyright: ignore[reportUnusedFunction] - typer calls it
    """Generate text with Qwen models over gRPC."""
