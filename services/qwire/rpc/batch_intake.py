"""Looks at the items of a chunk before they become part of a job."""

from __future__ import annotations

from collections.abc import Sequence

from qwire.batch.item import NewItem
from qwire.engine.errors import InvalidRequest
from qwire.engine.request import Envelope
from qwire.rpc.batch import MAX_ID_CHARACTERS
from qwire.rpc.errors import InvalidFields, ModelNotFound
from qwire.rpc.fields import FieldChecker
from qwire.rpc.registry import ModelRegistry
from qwire.rpc.spec import SpecConverter
from qwire.rpc.status import status_of
from qwire.v1 import batch_job_pb2 as pb
from qwire.v1 import batch_pb2, types_pb2


class BatchIntake:
    """Sorts items into those that can become part of a job and those that cannot.

    Args:
        registry: The models, which items are checked against.
    """

    def __init__(self, registry: ModelRegistry) -> None:
        self._registry = registry

    def sort(self, items: Sequence[batch_pb2.BatchItem]) -> tuple[list[NewItem], list[pb.RejectedBatchItem]]:
        """Return the items to accept, and those to reject with what is wrong with them.

        Raises:
            ModelNotReady: The model of one of them is still being loaded, so that nothing can be said of it.
        """
        accepted: list[NewItem] = []
        rejected: list[pb.RejectedBatchItem] = []
        for index, item in enumerate(items):
            try:
                self._check(item, f"items[{index}]")
            except (InvalidFields, InvalidRequest, ModelNotFound) as error:
                rejected.append(pb.RejectedBatchItem(id=item.id, index=index, error=status_of(error)))
            else:
                accepted.append(NewItem(index, item.id, item.spec.SerializeToString(deterministic=True)))
        return accepted, rejected

    def _check(self, item: batch_pb2.BatchItem, path: str) -> None:
        checker = FieldChecker()
        checker.only_known(item, path)
        if not 1 <= len(item.id) <= MAX_ID_CHARACTERS:
            checker.refuse(f"{path}.id", f"must have 1 to {MAX_ID_CHARACTERS} characters")
        if not item.HasField("spec"):
            checker.refuse(f"{path}.spec", "is required")
        if item.spec.priority != types_pb2.PRIORITY_UNSPECIFIED:
            checker.refuse(f"{path}.spec.priority", "must be unset: the job has one for all its items")
        if item.spec.HasField("resume"):
            checker.refuse(f"{path}.spec.resume", "must be unset: the server resumes a job's items by itself")
        checker.raise_if_any()
        model = self._registry.get(item.spec.model)
        SpecConverter(item.spec, model.card, f"{path}.spec", model.abilities).convert(Envelope(item.id))
