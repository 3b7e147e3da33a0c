"""The worker thread that runs the model step after step."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from qwire.engine.admission import Admission
from qwire.engine.config import EngineConfig
from qwire.engine.delivery import Delivery
from qwire.engine.drafter import Drafter
from qwire.engine.errors import EngineError, EngineUnavailable, NumericalError
from qwire.engine.interruption import StepInterrupted
from qwire.engine.pace import Pace
from qwire.engine.runner import ModelRunner, StepResult
from qwire.engine.sampler import DrawnToken
from qwire.engine.scheduler import Scheduler
from qwire.engine.sequence import Sequence
from qwire.engine.step_plan import StepPlan
from qwire.engine.throughput import DecodeRate
from qwire.telemetry.logging import get_logger

_logger = get_logger(__name__)


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
    drafted_tokens: int
    accepted_tokens: int


class StepLoop:
    """Runs steps in one thread as long as there is work. Every other method may be called from any thread.

    The lock guards the scheduler. It is held to plan and to book a step, never while a model computes, so that nobody
    waits for it longer than microseconds.

    A step is planned, drafted for, computed, and then drawn from and booked in rounds: the first one gives each
    sequence its next token, and each one after it a further token to those whose draft foretold the last one. A step
    with low ones in it is given up where something else comes that would begin without them.

    Args:
        runner: Computes the steps; only this thread uses it.
        scheduler: Plans them; only this object uses it.
        drafter: Guesses further tokens; only this thread uses it.
        threads: CPU threads of one matrix product.
        config: Bounds of the queue and of a step.
        deliver: Called from the thread once a step, with all that the step brought.
        over: Called from the thread as the last thing that it does.
    """

    def __init__(
        self,
        runner: ModelRunner,
        scheduler: Scheduler,
        drafter: Drafter,
        *,
        threads: int,
        config: EngineConfig,
        deliver: Callable[[list[Delivery]], None],
        over: Callable[[], None],
    ) -> None:
        self._runner = runner
        self._scheduler = scheduler
        self._drafter = drafter
        self._threads = threads
        self._deliver = deliver
        self._over = over
        self._changed = threading.Condition()
        self._closing = False
        self._steps = 0
        self._plan = StepPlan(())
        self._rate = DecodeRate()
        self._pace = Pace(config.max_step_tokens)
        self._admission = Admission(scheduler, self._pace, self._rate, config)
        self._departures = 0
        # A daemon, so that a process whose engine nobody closed still ends.
        self._thread = threading.Thread(target=self._run, name="qwire-engine", daemon=True)
        self._thread.start()

    def submit(self, sequence: Sequence) -> None:
        """Admit or queue a sequence whose id is not live.

        Raises:
            QueueFull: It would have to wait, and the queue has no room for it.
            DeadlineExceeded: Its deadline has passed, or cannot be met.
            EngineUnavailable: The loop is closing or over.
        """
        with self._changed:
            if self._closing:
                raise EngineUnavailable
            self._admission.check(sequence)
            self._scheduler.add(sequence)
            if self._scheduler.outranks(sequence, self._plan):
                self._runner.interruption.request()
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
                drafted_tokens=self._scheduler.drafted_tokens,
                accepted_tokens=self._scheduler.accepted_tokens,
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
                self._step(plan)
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
                late = [*self._scheduler.expire(now), *self._admission.give_up()]
                if late:
                    self._deliver([Delivery(sequence, failure=sequence.failure) for sequence in late])
                plan = self._scheduler.schedule(now)
                if plan.scheduled:
                    self._plan = plan
                    self._runner.interruption.clear()
                    return plan
                self._changed.wait()
        return None

    def _step(self, plan: StepPlan) -> None:
        began_s = time.monotonic()
        decoding = [sequence for sequence in plan.sampled if sequence.first_token_unix_ns]
        had_tokens = _output_tokens(decoding)
        plan = self._with_drafts(plan)
        try:
            result = self._runner.execute(plan)
        except StepInterrupted:
            with self._changed:
                self._steps += 1
                self._scheduler.abandon(plan)
            return
        deliveries = self._book_scores(result)
        holding, more = self._book(plan, result.drawn)
        deliveries += more
        while holding.scheduled:
            drawn = self._runner.draw_behind(holding)
            holding, more = self._book(holding, drawn)
            deliveries += more
        now_s = time.monotonic()
        with self._changed:
            self._steps += 1
            self._measure_pace(plan, now_s, now_s - began_s)
            if decoding:
                self._rate.record(now_s, now_s - began_s, len(decoding), _output_tokens(decoding) - had_tokens)
        if deliveries:
            self._deliver(deliveries)

    def _with_drafts(self, plan: StepPlan) -> StepPlan:
        rooms = plan.draftable
        drafts = self._drafter.draft(rooms) if rooms else {}
        if not drafts:
            return plan
        with self._changed:
            return self._scheduler.extend(plan, drafts)

    def _book(self, plan: StepPlan, drawn: list[DrawnToken | None]) -> tuple[StepPlan, list[Delivery]]:
        """Book a round; return what is left to draw from, and what the round brought."""
        token_ids = [None if token is None else token.token_id for token in drawn]
        with self._changed:
            # What was aborted during the step gets nothing more.
            live = [pair for pair in zip(plan.sampled, drawn, strict=True) if not pair[0].ended]
            holding = self._scheduler.update(plan, token_ids, time.time_ns())
            return holding, [
                Delivery(sequence, token=token, finish=sequence.finish, failure=sequence.failure)
                for sequence, token in live
            ]

    def _measure_pace(self, plan: StepPlan, now_s: float, step_s: float) -> None:
        departures, self._departures = self._scheduler.departures - self._departures, self._scheduler.departures
        tokens = sum(tokens.rows for tokens in plan.scheduled)
        self._pace.record(now_s, step_s, tokens=tokens, running=len(self._scheduler.running), departures=departures)

    def _book_scores(self, result: StepResult) -> list[Delivery]:
        """Return what was learnt of prompts, and end the generations where that is not finite."""
        with self._changed:
            scores = {sequence: records for sequence, records in result.scores.items() if not sequence.ended}
            for sequence in [one for one, records in scores.items() if records is None]:
                self._scheduler.spoil(sequence, NumericalError())
        return [
            Delivery(sequence, prompt_logprobs=records or (), failure=sequence.failure)
            for sequence, records in scores.items()
        ]

    def _end(self) -> None:
        try:
            with self._changed:
                self._closing = True
                for sequence in (*self._scheduler.waiting, *self._scheduler.running):
                    self._scheduler.abort(sequence.request_id, EngineUnavailable())
        finally:  # whatever state the scheduler is in
            self._over()


def _output_tokens(sequences: list[Sequence]) -> int:
    return sum(len(sequence.output_token_ids) for sequence in sequences)
