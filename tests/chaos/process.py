"""Processes of this run's own Ray, found by the titles that Ray gives them."""

from __future__ import annotations

import asyncio
import contextlib
import signal

import psutil

_GONE_S = 30.0


def find(title: str) -> list[psutil.Process]:
    """Return the processes under this one whose title begins like this, or whose program it is, oldest first."""
    found: list[psutil.Process] = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            own = "".join(process.cmdline()[:1])
            if own.startswith(title) or own.endswith(f"/{title}"):
                found.append(process)
    return sorted(found, key=lambda process: (process.create_time(), process.pid))


async def kill(process: psutil.Process) -> None:
    """Kill it as the kernel's memory killer does, and wait until it is gone."""
    process.send_signal(signal.SIGKILL)
    await gone(process)


async def gone(process: psutil.Process) -> None:
    """Wait until a process is gone.

    Raises:
        TimeoutError: It lives on.
    """
    async with asyncio.timeout(_GONE_S):
        while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:  # noqa: ASYNC110 - the kernel's state
            await asyncio.sleep(0.01)


async def freeze(process: psutil.Process, duration_s: float) -> bool:
    """Stop it for a while, then let it go on. Whether it stood still."""
    process.suspend()
    try:
        await asyncio.sleep(duration_s)
        return process.status() == psutil.STATUS_STOPPED
    finally:
        process.resume()
