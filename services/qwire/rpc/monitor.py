"""Keeps watch over the models: probes them, judges them, and tells who wants to know."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator

from qwire.engine.errors import DeadlineExceeded, EngineError, QueueFull
from qwire.engine.protocol import EngineStats
from qwire.rpc.config import HealthConfig
from qwire.rpc.errors import Draining, ModelNotFound
from qwire.rpc.health_check import Evidence, judge, now, overall
from qwire.rpc.probe import ProbeResult, probe
from qwire.rpc.pulse import ModelPulse
from qwire.rpc.registry import ModelRegistry, ServedModel
from qwire.telemetry.logging import get_logger
from qwire.v1 import health_pb2 as pb

log = get_logger(__name__)

_PROBE_SLACK_S = 1.0
"""The engine ends a probe at its deadline; one that does not even do that is given up this much later."""


class HealthMonitor:
    """The serving state of every model and of the gateway as a whole.

    Each model has a task that makes sure of a recent real token: one that a caller got, or else one of a probe.

    Args:
        registry: The models; those added later are watched from then on.
        config: How often, and where trouble begins.
    """

    def __init__(self, registry: ModelRegistry, config: HealthConfig) -> None:
        self._registry = registry
        self._config = config
        self._evidence: dict[str, Evidence] = {}
        self._pulses: dict[str, ModelPulse] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._draining = False
        self._closed = False
        self._changed = asyncio.Event()
        self._status = self._judge()

    def start(self) -> None:
        """Begin to watch. To be called once, in the event loop."""
        self._registry.listen(self._watch)

    def drain(self) -> None:
        """Say DRAINING from now on."""
        self._draining = True
        self._publish()

    async def close(self) -> None:
        """Stop watching, and end every `changes` with `Draining`."""
        self._closed = True
        self._changed.set()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def pulse(self, model_id: str) -> ModelPulse:
        """Return where a model's signs of life are noted."""
        return self._pulses.setdefault(model_id, ModelPulse())

    def status(self, model_id: str = "") -> pb.ServingStatus:
        """Return the latest judgement.

        Args:
            model_id: Only this model; empty = all.

        Raises:
            ModelNotFound: No such model is served or expected.
        """
        if not model_id:
            return self._status
        models = [model for model in self._status.models if model.model == model_id]
        if not models:
            raise ModelNotFound(model_id)
        return pb.ServingStatus(state=self._status.state, models=models, observed_time=self._status.observed_time)

    async def changes(self, model_id: str = "") -> AsyncGenerator[pb.ServingStatus, None]:
        """Yield the present status, then the latest one each time that a state in it has changed.

        Args:
            model_id: Only of this model; empty = of all.

        Raises:
            ModelNotFound: No such model is served or expected.
            Draining: The monitor was closed.
        """
        last: object = None
        while not self._closed:
            changed = self._changed
            status = self.status(model_id)
            if _states(status) != last:
                last = _states(status)
                yield status
            await changed.wait()
        raise Draining

    async def probe(self, model: ServedModel, deadline_unix_ns: int | None) -> ProbeResult:
        """Ask a model for one token, and note it as a sign of life.

        Raises:
            EngineError: The model cannot.
        """
        result = await probe(model.engine, deadline_unix_ns)
        pulse = self.pulse(model.card.model_id)
        pulse.beat()
        pulse.answered(result.response_time_s)
        return result

    def _watch(self, model: ServedModel) -> None:
        self._publish()
        self._tasks.append(asyncio.create_task(self._look_often(model), name=f"health {model.card.model_id}"))

    async def _look_often(self, model: ServedModel) -> None:
        pulse = self.pulse(model.card.model_id)
        while True:
            await self._look(model, pulse)
            started = pulse.last_token_unix_ns is not None
            await asyncio.sleep(self._config.probe_interval_s if started else self._config.starting_interval_s)

    async def _look(self, model: ServedModel, pulse: ModelPulse) -> None:
        model_id = model.card.model_id
        before = self._evidence.get(model_id, Evidence())
        stats: EngineStats | None = None
        try:
            async with asyncio.timeout(self._config.probe_timeout_s):
                stats = await model.engine.stats()
            failing = not await self._is_alive(model, pulse, before.stats, stats)
        except (EngineError, TimeoutError):
            failing = True
        except Exception as error:  # noqa: BLE001 - a defect of an engine must not end the watch over it
            log.error("health_look_failed", model=model_id, error=type(error).__qualname__)  # noqa: TRY400 - no text
            failing = True
        self._evidence[model_id] = Evidence(failing, pulse.last_token_unix_ns, pulse.response_time_s, stats)
        self._publish()

    async def _is_alive(
        self, model: ServedModel, pulse: ModelPulse, before: EngineStats | None, stats: EngineStats
    ) -> bool:
        """Whether a token came lately, or comes now, or the engine is too busy for one but moves, or it sleeps.

        A model of which no replica runs because nobody asks is not woken to see whether it lives.

        Raises:
            EngineError: None came, for another reason than too much work.
        """
        asleep = stats.replicas == 0 and pulse.last_token_unix_ns is not None
        if asleep or pulse.is_fresh(self._config.probe_interval_s):
            return True
        timeout_s = self._config.probe_timeout_s
        try:
            async with asyncio.timeout(timeout_s + _PROBE_SLACK_S):
                await self.probe(model, time.time_ns() + int(timeout_s * 1e9))
        except (QueueFull, DeadlineExceeded, TimeoutError):
            return before is not None and stats.steps > before.steps
        return True

    def _publish(self) -> None:
        before, self._status = self._status, self._judge()
        if _states(before) == _states(self._status):
            return
        states = {model.model: model.state for model in before.models}
        for model in self._status.models:
            if model.state != states.get(model.model):
                log.info("model_state_changed", model=model.model, state=pb.ServingState.Name(model.state))
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    def _judge(self) -> pb.ServingStatus:
        models = [judge(one, self._evidence.get(one, Evidence()), self._config) for one in self._registry.ids()]
        state = overall(models)
        if self._draining:
            state = pb.SERVING_STATE_DRAINING
            for model in models:
                model.state = state
        return pb.ServingStatus(state=state, models=models, observed_time=now())


def _states(status: pb.ServingStatus) -> tuple[object, ...]:
    models = tuple((model.model, model.state, tuple(check.state for check in model.checks)) for model in status.models)
    return (status.state, models)
