"""What a method of the contract needs, beside being answered."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class MethodRule:
    """How calls of one method are treated.

    Attributes:
        uses_model: They run a model or its tokenizer: they have a deadline, and are refused while the server drains.
        belongs_to_tenant: What they ask for belongs to whoever asks, as they name themselves. Those with a model
            are told who calls, too.
        one_generation: They have exactly one generation, named in the trailer `x-generation-id`.
    """

    uses_model: bool = False
    belongs_to_tenant: bool = False
    one_generation: bool = False


DEFAULT_RULE = MethodRule()
"""Methods that only look: they are always answered, for as long as the caller likes."""

RULES: Mapping[str, MethodRule] = {
    "/qwire.v1.GenerateService/Generate": MethodRule(uses_model=True, one_generation=True),
    "/qwire.v1.GenerateService/StreamGenerate": MethodRule(uses_model=True, one_generation=True),
    "/qwire.v1.GenerateService/CountTokens": MethodRule(uses_model=True),
    "/qwire.v1.BatchService/BatchGenerate": MethodRule(uses_model=True),
    "/qwire.v1.BatchService/StreamBatchGenerate": MethodRule(uses_model=True),
    "/qwire.v1.HealthService/ProbeModel": MethodRule(uses_model=True),
    **{
        f"/qwire.v1.BatchJobService/{name}": MethodRule(belongs_to_tenant=True)
        for name in (
            "CreateBatchJob",
            "AppendBatchItems",
            "SealBatchJob",
            "GetBatchJob",
            "ListBatchJobs",
            "CancelBatchJob",
            "DeleteBatchJob",
            "CancelBatchItems",
            "RetryBatchItems",
            "ListBatchResults",
            "WatchBatchJob",
        )
    },
}
