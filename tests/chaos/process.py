"""Processes of this run's own Ray, found by the titles that Ray gives them."""

from __future__ import annotations

import asyncio
import contextlib
import signal

import psutil

_GONE_S = 30.0


def find(title: str) -> list[psutil.Process]:
    """Return the processes whose title begins like this, oldest first; only those that this process is an ancestor of."""
    found: list[psutil.Process] = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if "".join(process.cmdline()[:1]).startswith(title):
                found.append(process)
    return sorted(found, key=lambda process: (process.create_time(), process.pid))


async def kill(process: psutil.Process) -> bool:
    """Kill it as the kernel's memory killer does. Whether it is gone."""
    process.send_signal(signal.SIGKILL)
    async with asyncio.timeout(_GONE_S):
        while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:  # noqa: ASYNC110 - the kernel's state
            await asyncio.sleep(0.01)
    return True


async def freeze(process: psutil.Process, duration_s: float) -> bool:
    """Stop it for a while, then let it go on. Whether it stood still."""
    process.suspend()
    try:
        await asyncio.sleep(duration_s)
        return process.status() == psutil.STATUS_STOPPED
    finally:
        process.resume()
