"""A lock between processes: one prepares a model, the others wait for its result."""

from __future__ import annotations

import fcntl
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path


@contextmanager
def locked(path: Path, waiting: Callable[[], AbstractContextManager[object]]) -> Generator[None]:
    """Hold an exclusive lock for a block; the kernel releases it if the process dies.

    Args:
        path: The lock file; made if there is none, and left behind.
        waiting: Its context is held while another process or thread has the lock.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            with waiting():
                fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def locked_if_free(path: Path) -> Generator[bool]:
    """Hold an exclusive lock for a block where nobody else has it, and yield whether it is held.

    Args:
        path: As of `locked`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
