"""The protocol of a side. Nothing here needs a package: sides have environments of their own.

A side writes `{"state": "starting"}`, loads, and writes `{"state": "ready"}`. Then it reads lines:
`{"requests": [{"prompt": [token ids], "tokens": n, "at_s": seconds}, ...]}`, answered when all are done by
`{"seconds": s, "requests": [{"times_s": [seconds], "output": [token ids]}, ...]}` with the time of each token since the
run began, and `{"memory": true}`, answered by `{"device_bytes": n or null}`.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

Requests = list[dict[str, Any]]
Answer = dict[str, Any]


def serve(
    load: Callable[[], Callable[[Requests], Answer]], device_bytes: Callable[[], int | None] = lambda: None
) -> None:
    """Load what answers and answer line by line, until the input ends. What is printed besides goes to the log."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def say(message: Any) -> None:
        out.write(json.dumps(message) + "\n")
        out.flush()

    say({"state": "starting"})
    answer = load()
    say({"state": "ready"})
    for line in sys.stdin:
        message = json.loads(line)
        say({"device_bytes": device_bytes()} if "memory" in message else answer(message["requests"]))


async def play(requests: Requests, stream: Callable[[int, dict[str, Any]], AsyncIterator[list[int]]]) -> Answer:
    """Send each request at its time and note when its tokens come.

    Args:
        requests: As they were read.
        stream: Answers one, given its number: tokens as they come.
    """
    began = time.perf_counter()

    async def one(number: int, request: dict[str, Any]) -> dict[str, Any]:
        await asyncio.sleep(max(0.0, request["at_s"] - (time.perf_counter() - began)))
        times: list[float] = []
        output: list[int] = []
        async for token_ids in stream(number, request):
            times += [time.perf_counter() - began] * len(token_ids)
            output += token_ids
        return {"times_s": times, "output": output}

    answers = await asyncio.gather(*(one(number, request) for number, request in enumerate(requests)))
    return {"seconds": time.perf_counter() - began, "requests": answers}


def in_loop(
    runner: asyncio.Runner, answer: Callable[[Requests], Coroutine[Any, Any, Answer]]
) -> Callable[[Requests], Answer]:
    """Return a function that answers in the runner's loop."""
    return lambda requests: runner.run(answer(requests))
