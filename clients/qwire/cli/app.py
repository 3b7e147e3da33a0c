"""The entry point of the `qwire` command."""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.util import find_spec

_NEEDS = ("typer", "rich")
_INTERRUPTED = 130


def main() -> None:
    """Run the command line; without its extra, say which one to install."""
    missing = [name for name in _NEEDS if find_spec(name) is None]
    if missing:
        sys.exit(f"qwire: {' and '.join(missing)} not installed; the command line needs: pip install 'qwire[cli]'")
    try:
        import_module("qwire.cli.commands").app()
    except KeyboardInterrupt:  # while the command was still loading
        sys.exit(_INTERRUPTED)
