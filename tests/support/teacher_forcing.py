"""Logits of a model at every position of given texts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from qwire.engine.attention import RaggedBatch
from qwire.engine.config import EngineConfig
from qwire.engine.kv_pool import KVPool
from qwire.engine.loader import load_model
from qwire.engine.low_rank import AdapterRows
from qwire.engine.segment import Segment
from qwire.models.checkpoint import Checkpoint


def forced_logits(
    checkpoint: Checkpoint, config: EngineConfig, documents: Sequence[list[int]], *, rows: int
) -> Iterator[Iterator[Tensor]]:
    """Yield, for each document, the logits `[rows, vocabulary]` of its positions, so many at a time."""
    loaded = load_model(checkpoint.folder, checkpoint.source_format, config)

    @torch.inference_mode()
    def logits(document: list[int]) -> Iterator[Tensor]:
        tokens = len(document)
        pages = tuple(range(-(-tokens // loaded.page_tokens)))
        pool = KVPool(loaded.kv_shape, len(pages), loaded.page_tokens)
        ids, positions = (torch.tensor(values, device=loaded.device) for values in (document, range(tokens)))
        batch = RaggedBatch(pool, [Segment(pages, 0, tokens)], loaded.paged_attention)
        hidden = loaded.decoder.hidden(ids, positions, batch, AdapterRows((), loaded.device))
        for part in hidden.split(rows):
            yield loaded.decoder.logits(part).cpu()

    for document in documents:
        yield logits(document)
