"""Prepares a model ahead of time: `python -m qwire.models.fetch [NAME] [--cache DIR]`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from rich.console import Console

from qwire.models.catalogue import DEFAULT_MODEL_ID
from qwire.models.errors import ModelError
from qwire.models.progress_bar import ProgressBar
from qwire.models.store import ModelStore

DEFAULT_CACHE_DIR = Path("~/.cache/qwire")


def main(arguments: list[str] | None = None) -> int:
    """Fetch, convert and verify one model, and tell how long each phase took.

    Args:
        arguments: The command line without the program's name; None = this process's.

    Returns:
        The exit status: 0 = the model is ready, 1 = it is not and the reason was written to the error output.
    """
    parser = argparse.ArgumentParser(prog="python -m qwire.models.fetch", description="Prepare a model ahead of time.")
    parser.add_argument(
        "name",
        nargs="?",
        default=DEFAULT_MODEL_ID,
        help="catalogue id, folder, or org/name[@revision] on the Hugging Face hub (default: %(default)s)",
    )
    parser.add_argument(
        "--cache", type=Path, default=DEFAULT_CACHE_DIR, help="where models are kept (default: %(default)s)"
    )
    options = parser.parse_args(arguments)
    console = Console()
    try:
        with ProgressBar(console) as bar:
            checkpoint = ModelStore(options.cache.expanduser()).resolve(options.name, bar)
    except ModelError as error:
        Console(stderr=True).print(str(error), highlight=False, markup=False, soft_wrap=True)
        return 1
    total_s = sum(timing.elapsed_s for timing in checkpoint.timings)
    for line in (
        f"{checkpoint.model_id} at {checkpoint.revision} is ready after {total_s:.1f} s:",
        f"  folder   {checkpoint.folder}",
        f"  weights  sha256 {checkpoint.weights_sha256}",
        f"  tokens   sha256 {checkpoint.tokenizer_sha256}",
    ):
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
