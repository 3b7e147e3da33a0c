"""`qwire-serve`: from nothing to a served model in one command, and back to nothing with Ctrl-C."""

from __future__ import annotations

import argparse
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import yaml
from pydantic import ValidationError
from rich.console import Console

from qwire.client import DEFAULT_TARGET
from qwire.engine.quality_gate import refusal
from qwire.models.errors import ModelError
from qwire.models.store import ModelStore
from qwire.serve.cluster import serve_with_ray
from qwire.serve.config import AppConfig
from qwire.serve.environment import cache_dir
from qwire.serve.local import serve_without_ray
from qwire.serve.startup import ModelBars, StartError, Startup

_POLL_S = 0.1
_READY_TIMEOUT_S = 300.0


def main() -> None:
    """Serve until SIGINT or SIGTERM, then drain.

    Exit code 0 after a drain, 1 when the start fails, 2 on a wrong configuration, 130 when interrupted.
    """
    arguments = _parse()
    startup = Startup(Console(stderr=True, highlight=False))
    try:
        config = _with_port(load_config(arguments.config), arguments.port)
    except (OSError, ValueError, yaml.YAMLError) as error:
        startup.console.print(f"[red]configuration:[/red] {error}")
        sys.exit(2)
    launcher = Launcher(config, startup)
    try:
        launcher.check_port()
        launcher.fetch_models()
        if arguments.no_ray:
            serve_without_ray(config, startup, launcher.serve_until_stopped)
        else:
            serve_with_ray(config, startup, launcher.serve_until_stopped, verbose=arguments.verbose)
    except KeyboardInterrupt:
        startup.console.print("interrupted")
        sys.exit(130)
    except (ModelError, StartError) as error:
        startup.console.print(f"[red]error:[/red] {error}")
        sys.exit(1)


class Launcher:
    """Prepares the models, and waits between the start and the stop of a server.

    Args:
        config: The application.
        startup: Where progress is shown.
    """

    def __init__(self, config: AppConfig, startup: Startup) -> None:
        self._config = config
        self._startup = startup
        self._began = time.monotonic()
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # before it serves, both interrupt at once

    def check_port(self) -> None:
        """See that nobody else listens: gateways share their port, and would share it with a stranger as well.

        Raises:
            StartError: Somebody does.
        """
        server = self._config.gateway.server
        try:
            with socket.create_server((server.host, server.port), family=_family(server.host)):
                pass
        except OSError as error:
            raise StartError(f"{server.host}:{server.port}: {error.strerror}; --port takes another one") from None

    def fetch_models(self) -> None:
        """Have every model verified in the cache before anything starts.

        Raises:
            ModelError: One cannot be had.
            StartError: One is not to be served as it is configured: its quantization is known to fail the quality gate.
        """
        store = ModelStore(cache_dir(self._config.cache_dir))
        for model in self._config.models:
            with ModelBars(self._startup, model.served_id).shown() as bars:
                checkpoint = store.resolve(model.source, bars)
            if (text := refusal(checkpoint.weights_sha256, model.engine.quantization, model.engine)) is not None:
                raise StartError(f"{model.served_id}: {text}")

    def serve_until_stopped(self, serves: Callable[[], bool]) -> None:
        """Wait for a real token of every model, tell how to call the server, and wait for SIGINT or SIGTERM.

        A second signal interrupts.

        Raises:
            StartError: No token came in time; the text says what the health checks said.
        """
        server = self._config.gateway.server
        target = f"{server.host}:{server.port}"
        with self._startup.phase("first real token"):
            self._wait_until(serves)
        self._startup.done("total", time.monotonic() - self._began)
        stop = threading.Event()
        self._stop_on_signals(stop)
        self._announce(target)
        while not stop.wait(_POLL_S):
            pass

    def _wait_until(self, serves: Callable[[], bool]) -> None:
        deadline = time.monotonic() + _READY_TIMEOUT_S
        while not serves():
            if time.monotonic() > deadline:
                raise StartError(f"not every model gave a token within {_READY_TIMEOUT_S:.0f} s; --verbose shows why")
            time.sleep(_POLL_S)

    def _stop_on_signals(self, stop: threading.Event) -> None:
        def handle(*_: object) -> None:
            if stop.is_set():  # asked twice: do not wait for open streams any longer
                raise KeyboardInterrupt
            stop.set()

        signal.signal(signal.SIGINT, handle)
        signal.signal(signal.SIGTERM, handle)

    def _announce(self, target: str) -> None:
        ids = ", ".join(model.served_id for model in self._config.models)
        program = os.path.relpath(Path(sys.argv[0]).with_name("qwire"))
        elsewhere = "" if target == DEFAULT_TARGET else f" --server {target}"
        say = partial(self._startup.console.print, soft_wrap=True)
        say(f"\n[bold]{ids}[/bold] on [bold]{target}[/bold] (gRPC, qwire.v1). In another terminal:\n")
        say(f'  {program} generate{elsewhere} "Write a Python function that reverses a string"')
        say("\nCtrl-C drains and stops.")


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def load_config(path: Path | None) -> AppConfig:
    """Read the application's configuration from a Serve config file.

    Args:
        path: A file as in `infra/serve/`: the `args` of its only application are the configuration. None = all
            defaults.

    Raises:
        OSError: The file cannot be read.
        ValueError: It has not exactly one application, or a value in it is wrong; the text names the key.
    """
    if path is None:
        return AppConfig()
    document = yaml.safe_load(path.read_text())
    applications = document.get("applications", []) if isinstance(document, dict) else []
    if len(applications) != 1:
        raise ValueError(f"{path}: expected one application, found {len(applications)}")
    try:
        return AppConfig.model_validate(applications[0].get("args", {}))
    except ValidationError as error:
        raise ValueError(f"{path}: {error}") from None


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="qwire-serve",
        description="Serve Qwen over gRPC on this machine.",
        epilog="A model whose quantization is known to fail the quality gate (docs/quality.md) is refused, unless its "
        "`engine.allow_failed_quality` is true.",
    )
    parser.add_argument("config", nargs="?", type=Path, help="a Serve config file, such as infra/serve/local.yaml")
    parser.add_argument("--port", type=int, help="listen on this port instead of the configured one")
    parser.add_argument("--no-ray", action="store_true", help="gateway and engine in one process, without Ray")
    parser.add_argument("--verbose", action="store_true", help="show Ray's and the replicas' log lines")
    return parser.parse_args()


def _with_port(config: AppConfig, port: int | None) -> AppConfig:
    if port is None:
        return config
    gateway = config.gateway.model_copy(update={"server": replace(config.gateway.server, port=port)})
    return config.model_copy(update={"gateway": gateway})
