"""What can go wrong in an engine, and whose fault it is.

EngineError
├── InvalidRequest           the caller's: a field is out of range
│   └── ContextLengthExceeded    prompt and output do not fit the model's context
├── AdapterNotFound          the caller's: there is no such adapter
├── AdapterUnusable          the operator's: the adapter cannot be applied to the model until its files change
├── CapacityExceeded         the caller's: more KV cache than this engine has in all; another try cannot succeed
├── QueueFull                nobody's: the waiting queue is at its bound; another try may succeed
├── DeadlineExceeded         the caller's clock ran out
│   └── DeadlineUnattainable     it would run out before the first token: refused before anything was computed
├── GenerationCancelled      the caller's wish
│   └── TakenBack                a gateway's: it is to wait at another replica
├── NumericalError           the model's: NaN or infinite logits
├── ReplicasLost             nobody's, or the request's: it has lost as many replicas as one generation may
└── EngineUnavailable        the operator's: the engine is stopped, draining or dead

All of them survive pickling, since they cross processes.
"""

from __future__ import annotations


class EngineError(Exception):
    """Base of everything that an engine raises on purpose."""


class InvalidRequest(EngineError):
    """A field of the request is out of range: the caller must change it.

    Args:
        field: The path of the field, as the caller knows it, such as `spec.sampling.top_p`.
        description: What is wrong and what is allowed, one sentence.
    """

    def __init__(self, field: str, description: str) -> None:
        super().__init__(field, description)
        self.field = field
        self.description = description

    def __str__(self) -> str:
        return f"{self.field}: {self.description}"


class ContextLengthExceeded(InvalidRequest):
    """Prompt and output do not fit the model's context: the caller must shorten one."""


class AdapterNotFound(EngineError):
    """There is no such adapter.

    Args:
        adapter_id: The name that was asked for.
    """

    def __init__(self, adapter_id: str) -> None:
        super().__init__(adapter_id)
        self.adapter_id = adapter_id


class AdapterUnusable(EngineError):
    """An adapter cannot be applied to the model: its files must change.

    Args:
        adapter_id: Its name.
        description: Why, as a clause that callers may read; holds no path of this machine.
    """

    def __init__(self, adapter_id: str, description: str) -> None:
        super().__init__(adapter_id, description)
        self.adapter_id = adapter_id
        self.description = description


class CapacityExceeded(EngineError):
    """The request alone needs more KV cache than the engine has.

    Args:
        needed_tokens: Prompt and output tokens of the request.
        capacity_tokens: Tokens that the whole KV cache holds.
    """

    def __init__(self, needed_tokens: int, capacity_tokens: int) -> None:
        super().__init__(needed_tokens, capacity_tokens)
        self.needed_tokens = needed_tokens
        self.capacity_tokens = capacity_tokens


class QueueFull(EngineError):
    """The waiting queue has no place for this request: try again after a while.

    Args:
        retry_after_s: An estimate of when there is one, seconds, > 0.
    """

    def __init__(self, retry_after_s: float) -> None:
        super().__init__(retry_after_s)
        self.retry_after_s = retry_after_s


class DeadlineExceeded(EngineError):
    """The deadline passed before the generation ended."""


class DeadlineUnattainable(DeadlineExceeded):
    """The first token cannot come before the deadline, by what the engine measured lately; nothing was computed.

    Args:
        estimate_s: The least time that the first token is likely to take from now on, seconds.
        left_s: What was left until the deadline, seconds, > 0.
        retry_after_s: When another try with as much time may succeed, seconds; None = not at this engine's speed.
    """

    def __init__(self, estimate_s: float, left_s: float, retry_after_s: float | None) -> None:
        super().__init__(estimate_s, left_s, retry_after_s)
        self.estimate_s = estimate_s
        self.left_s = left_s
        self.retry_after_s = retry_after_s


class GenerationCancelled(EngineError):
    """The generation was cancelled by its id."""


class TakenBack(GenerationCancelled):
    """The generation was cancelled because it waited: it takes its place at another replica."""


class NumericalError(EngineError):
    """The model's logits were NaN or infinite; other requests are not affected."""


class ReplicasLost(EngineError):
    """Each replica that computed the generation was lost, and it may be what brings them down."""


class EngineUnavailable(EngineError):
    """The engine is stopped, draining or dead: another replica may answer.

    Args:
        retry_after_s: When another try is worth it, seconds; None = unknown.
    """

    def __init__(self, retry_after_s: float | None = None) -> None:
        super().__init__(retry_after_s)
        self.retry_after_s = retry_after_s
