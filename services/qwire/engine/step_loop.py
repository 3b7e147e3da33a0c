"""The worker thread that runs the model step after step."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from qwire.engine.chunk import Finish, TokenLogprobs
from qwire.engine.errors import EngineError, EngineUnavailable, NumericalError, QueueFull
from qwire.engine.runner import ModelRunner, StepResult
from qwire.engine.sampler import DrawnToken
from qwire.engine.scheduler import Scheduler, StepPlan
from qwire.engine.sequence import Sequence
from qwire.engine.throughput import DecodeRate
from qwire.telemetry.logging import get_logger

_logger = get_logger(__name__)

_DEFAULT_RETRY_S = 1.0
_LEAST_RETRY_S = 0.1


@dataclass(frozen=True, slots=True)
class Delivery:
    """What a step brought for one generation: more about its prompt, a token, the last one with `finish`, a failure."""

    sequence: Sequence
    prompt_logprobs: tuple[TokenLogprobs, ...] = ()
    token: DrawnToken | None = None
    finish: Finish | None = None
    failure: EngineError | None = None


@dataclass(frozen=True, slots=True)
class Load:
    """The load between two steps; the fields are those of `EngineStats`."""

    steps: int
    running: int
    waiting: int
    running_tokens: int
    waiting_tokens: int
    oldest_wait_s: float
    decode_tokens_per_s: float | None


class StepLoop:
    """Runs steps in one thread as long as there is work. Every other method may be called from any thread.

    The lock guards the scheduler. It is held to plan and to book a step, never while the model computes, so that
    nobody waits for it longer than microseconds.

    Args:
        runner: Computes the steps; only this thread uses it.
        scheduler: Plans them; only this object uses it.
        threads: CPU threads of one matrix product.
        max_waiting: Bound of the waiting queue.
        deliver: Called from the thread once a step, with all that the step brought.
        over: Called from the thread as the last thing that it does.
    """

    def __init__(
        self,
        runner: ModelRunner,
        scheduler: Scheduler,
        *,
        threads: int,
        max_waiting: int,
        deliver: Callable[[list[Delivery]], None],
        over: Callable[[], None],
    ) -> None:
        self._runner = runner
        self._scheduler = scheduler
        self._threads = threads
        self._max_waiting = max_waiting
        self._deliver = deliver
        self._over = over
        self._changed = threading.Condition()
        self._closing = False
        self._steps = 0
        self._rate = DecodeRate()
        # A daemon, so that a process whose engine nobody closed still ends.
        self._thread = threading.Thread(target=self._run, name="qwire-engine", daemon=True)
        self._thread.start()

    def submit(self, sequence: Sequence) -> None:
        """Admit or queue a sequence whose id is not live.

        Raises:
            QueueFull: It would have to wait, and the queue is at its bound.
            EngineUnavailable: The loop is closing or over.
        """
        with self._changed:
            if self._closing:
                raise EngineUnavailable
            self._scheduler.add(sequence)
            waiting = self._scheduler.waiting
            if sequence in waiting and len(waiting) > self._max_waiting:
                refusal = QueueFull(self._retry_after_s())
                self._scheduler.abort(sequence.request_id, refusal)
                raise refusal
            self._changed.notify()

    def abort(self, request_id: str, failure: EngineError) -> bool:
        """End a generation before the next step begins; False = it is not live."""
        with self._changed:
            aborted = self._scheduler.abort(request_id, failure)
            self._changed.notify()
        return aborted is not None

    def load(self) -> Load:
        """Return the present load."""
        with self._changed:
            running, waiting = self._scheduler.running, self._scheduler.waiting
            now_ns = time.time_ns()
            oldest_ns = min((sequence.queued_unix_ns for sequence in waiting), default=now_ns)
            return Load(
                steps=self._steps,
                running=len(running),
                waiting=len(waiting),
                running_tokens=sum(sequence.total_tokens for sequence in running),
                waiting_tokens=sum(sequence.limit_tokens for sequence in waiting),
                oldest_wait_s=max(0, now_ns - oldest_ns) / 1e9,
                decode_tokens_per_s=self._rate.tokens_per_s(time.monotonic()),
            )

    def close(self) -> None:
        """Let the thread end after the present step; idempotent. `over` tells when it has."""
        with self._changed:
            self._closing = True
            self._changed.notify()

    def join(self) -> None:
        """Wait for the thread's end."""
        self._thread.join()

    def _run(self) -> None:
        torch.set_num_threads(self._threads)  # OpenMP keeps the number per thread
        try:
            while (plan := self._next_plan()) is not None:
                for sequence in plan.preempted:
                    _logger.info("generation_preempted", request_id=sequence.request_id, tokens=sequence.total_tokens)
                began_s = time.monotonic()
                result = self._runner.execute(plan)
                self._book(plan, result, time.monotonic() - began_s)
        except Exception:
            # Whatever it was, the state of the model's memory is unknown now: everything ends, and health says so.
            _logger.exception("engine_died")
        finally:
            self._end()

    def _next_plan(self) -> StepPlan | None:
        """Wait for work; None = the loop is closing."""
        with self._changed:
            while not self._closing:
                now = time.time_ns()
                late = self._scheduler.expire(now)
                if late:
                    self._deliver([Delivery(sequence, failure=sequence.failure) for sequence in late])
                plan = self._scheduler.schedule(now)
                if plan.scheduled:
                    return plan
                self._changed.wait()
        return None

    def _book(self, plan: StepPlan, result: StepResult, step_s: float) -> None:
        token_ids = [None if token is None else token.token_id for token in result.drawn]
        decoded = sum(1 for sequence in plan.sampled if sequence.first_token_unix_ns)
        with self._changed:
            # What was aborted during the step gets nothing more.
            live = [pair for pair in zip(plan.sampled, result.drawn, strict=True) if not pair[0].ended]
            deliveries = self._book_scores(result)
            self._scheduler.update(plan, token_ids, time.time_ns())
            for sequence, token in live:
                deliveries.append(Delivery(sequence, token=token, finish=sequence.finish, failure=sequence.failure))
            self._steps += 1
            if decoded:
                self._rate.record(time.monotonic(), step_s, decoded)
        if deliveries:
            self._deliver(deliveries)

    def _book_scores(self, result: StepResult) -> list[Delivery]:
        """Return what was learnt of prompts, and end the generations where that is not finite."""
        scores = {sequence: records for sequence, records in result.scores.items() if not sequence.ended}
        for sequence, records in scores.items():
            if records is None:
                self._scheduler.spoil(sequence, NumericalError())
        return [
            Delivery(sequence, prompt_logprobs=records or (), failure=sequence.failure)
            for sequence, records in scores.items()
        ]

    def _end(self) -> None:
        with self._changed:
            self._closing = True
            for sequence in (*self._scheduler.waiting, *self._scheduler.running):
                self._scheduler.abort(sequence.request_id, EngineUnavailable())
        self._over()

    def _retry_after_s(self) -> float:
        """Estimate when the first running generation ends."""
        rate = self._rate.tokens_per_s(time.monotonic())
        left = [s.request.stop.max_output_tokens - len(s.output_token_ids) for s in self._scheduler.running]
        return max(_LEAST_RETRY_S, min(left) / rate) if rate and left else _DEFAULT_RETRY_S
