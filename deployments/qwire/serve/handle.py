"""A typed way to the replicas of one model: hides Ray's handle options and turns its failures into ours."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import grpc
from ray import serve
from ray.exceptions import RayActorError, RayTaskError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError
from ray.serve.handle import DeploymentHandle, DeploymentResponseGenerator

from qwire.engine.errors import EngineError, EngineUnavailable, QueueFull

_FAILED = ("UNHEALTHY", "DEPLOY_FAILED")  # of Serve's DeploymentStatus, which is not exported
_RETRY_AFTER_S = 2.0  # a replica that died is usually replaced within seconds
_END_S = 1.0  # far longer than a call lasts after its last item


@dataclass(frozen=True, slots=True)
class Answers:
    """What the replicas of a model answered.

    Attributes:
        values: One answer per replica that gave one; at least one.
        missing: Replicas that gave none: they died, failed or took too long.
    """

    values: list[Any]
    missing: int


class ReplicaHandle:
    """Calls the replicas of one deployment.

    By value: a token chunk then costs a third of what Ray's object store takes for it
    (docs/adr/0001-own-edge-instead-of-serve-proxy.md).

    Args:
        handle: The deployment's handle, as Serve gives it to whoever is bound to it.
    """

    def __init__(self, handle: DeploymentHandle[Any]) -> None:
        self._handle = _by_value(handle)
        # With a router of its own: the one that chooses replicas would take each control call for load that is there.
        self._control = _by_value(DeploymentHandle(handle.deployment_name, handle.app_name))

    async def stream(
        self, method: str, *args: object, is_last: Callable[[Any], bool] = lambda _: False
    ) -> AsyncGenerator[Any, None]:
        """Call a generator method of one replica, chosen by load; closing the iterator cancels the call.

        Args:
            method: What to call.
            args: What with.
            is_last: Tells the item after which no other one comes, so that there is nothing to cancel.
        """
        response = self._handle.options(method_name=method, stream=True).remote(*args)
        assert isinstance(response, DeploymentResponseGenerator)  # noqa: S101 - what stream=True means
        over = False
        with _our_errors():
            try:
                async for item in response:
                    over = is_last(item)
                    yield item
            except (GeneratorExit, asyncio.CancelledError):
                if over:
                    # Its status is under way. One that meets a cancelled call costs the replica memory: `left_call`.
                    asyncio.get_running_loop().call_later(_END_S, response.cancel)
                else:
                    response.cancel()
                raise

    async def broadcast(self, method: str, *args: object, timeout_s: float) -> Answers:
        """Call a method of every running replica.

        Raises:
            EngineUnavailable: No replica runs, or none of them answered in time.
        """
        ends_at_s = time.monotonic() + timeout_s
        with _our_errors():
            async with asyncio.timeout(timeout_s):
                response = self._control.broadcast(method, *args)
                # Its public way gives no answer at all where one replica gives none in time.
                calls = await response._fetch_replica_results_async()  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]
        answers = [asyncio.ensure_future(call.get_async()) for call in calls]
        try:
            await asyncio.wait(answers, timeout=max(0.0, ends_at_s - time.monotonic()))
        finally:
            for call, answer in zip(calls, answers, strict=True):
                if not answer.done():
                    call.cancel()
                    answer.cancel()
            results = await asyncio.gather(*answers, return_exceptions=True)
        values = [result for result in results if not isinstance(result, BaseException)]
        if not values:
            raise EngineUnavailable(_RETRY_AFTER_S)
        return Answers(values, missing=len(results) - len(values))

    async def call(self, method: str, *args: object, timeout_s: float) -> Any:
        """Call a method of one replica; waits for one to start where none runs.

        Raises:
            EngineUnavailable: None answered in time.
        """
        response = self._control.options(method_name=method).remote(*args)
        with _our_errors():
            async with asyncio.timeout(timeout_s):
                try:
                    return await response
                except asyncio.CancelledError:
                    response.cancel()
                    raise

    async def can_start(self) -> bool:
        """Whether a replica would start if one were needed: its deployment has not failed."""
        status = await asyncio.to_thread(serve.status)
        application = status.applications.get(self._handle.app_name)
        deployment = None if application is None else application.deployments.get(self._handle.deployment_name)
        return deployment is not None and deployment.status.value not in _FAILED


def _by_value(handle: DeploymentHandle[Any]) -> DeploymentHandle[Any]:
    return handle.options(_by_reference=False, request_serialization="pickle", response_serialization="pickle")


@contextmanager
def _our_errors() -> Generator[None]:
    """Raise `qwire.engine.errors` instead of Ray's exceptions."""
    try:
        yield
    except EngineError:
        raise
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise
        # Nobody cancelled the caller: what was cancelled is the replica's side of it, or the router's.
        raise EngineUnavailable(_RETRY_AFTER_S) from None
    except RayTaskError as error:
        if isinstance(error.cause, EngineError):
            raise error.cause from None
        raise
    except BackPressureError:
        raise QueueFull(_RETRY_AFTER_S) from None
    except (RayActorError, DeploymentUnavailableError, TimeoutError, grpc.RpcError):
        raise EngineUnavailable(_RETRY_AFTER_S) from None
