"""Builds the items of batches: pure functions that both clients share."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from qwire.client.errors import InvalidRequest
from qwire.client.generation_options import BatchItem, GenerationOptions
from qwire.client.prompt import Prompt
from qwire.client.request import generation_spec, set_field
from qwire.v1 import batch_pb2


def batch_items(items: Iterable[Prompt | BatchItem], options: GenerationOptions) -> Iterator[batch_pb2.BatchItem]:
    """Build the items of a batch, one by one: there may be more of them than memory holds.

    Raises:
        InvalidRequest: As `generation_spec`; or `items` is a single string.
        TypeError: An option does not exist.
    """
    if isinstance(items, str):
        raise InvalidRequest.of("items", "a sequence of prompts is needed, got one string")
    for position, given in enumerate(items):
        item = given if isinstance(given, BatchItem) else BatchItem(given)
        path = f"items[{position}]"
        message = batch_pb2.BatchItem()
        set_field(message, path, "id", item.id or str(position))
        message.spec.CopyFrom(generation_spec(item.prompt, {**options, **item.options}, f"{path}.spec"))
        yield message
