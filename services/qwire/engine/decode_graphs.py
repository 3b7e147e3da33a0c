"""Steps of single tokens, recorded when the engine starts, and replayed."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from qwire.engine.config import EngineConfig
from qwire.engine.cuda_graph import CudaRecorder, Recording
from qwire.engine.decoder import Decoder
from qwire.engine.flash_attention import FlashAttention, FlashBatch, FlashTables
from qwire.engine.kv_pool import KVPool
from qwire.engine.loader import LoadedModel
from qwire.engine.low_rank import AdapterRows
from qwire.engine.segment import Segment
from qwire.telemetry.logging import get_logger

log = get_logger(__name__)

TOLERANCE = 0.05
"""The most that a replayed step may differ from the same step computed otherwise, of its largest number: rounding is
far below it, another token's keys are far above."""
_CHECKED_PAGES = 4
_TOKEN, _POSITION, _SLOT, _LENGTH, _PAGES = range(5)
"""Columns of a row of the inputs; the pages take the rest of them."""


class DecodeGraphs:
    """Steps in which each sequence has one token, recorded for some numbers of sequences.

    A step is replayed with as many rows as the next larger recording has. What the rows beyond its sequences write goes
    to a page that no sequence has.

    Args:
        decoder: Computes the steps.
        pool: The keys and values; no sequence has its last page.
        attention: Attends.
        most_rows: Sequences of the largest recording, at least 1; no more than a page has tokens.
        most_pages: Pages that a sequence has at most.
        record: Records a step.

    Raises:
        RuntimeError: The decoder does something that cannot be recorded, or a recorded step is not the step.
    """

    def __init__(
        self,
        decoder: Decoder,
        pool: KVPool,
        attention: FlashAttention,
        *,
        most_rows: int,
        most_pages: int,
        record: Callable[[Callable[[], Tensor]], Recording],
    ) -> None:
        self._decoder = decoder
        self._pool = pool
        self._attention = attention
        self._spare_page = pool.pages - 1
        self._inputs = torch.zeros(most_rows, _PAGES + most_pages, dtype=torch.int32, device=pool.shape.device)
        self._recordings: dict[int, Recording] = {}
        # The largest first: the others fit into its memory.
        for rows in sorted(row_counts(most_rows), reverse=True):
            self._recordings[rows] = self._record(rows, record)

    def hidden(self, token_ids: list[int], segments: list[Segment]) -> Tensor | None:
        """Compute a step; see `Decoder.hidden`.

        Args:
            token_ids: One for each sequence.
            segments: The sequences, each with one token.

        Returns:
            Hidden states, overwritten by the next step; None = there are more sequences than in any recording.
        """
        rows = min((rows for rows in self._recordings if rows >= len(segments)), default=None)
        if rows is None:
            return None
        idle = [self._idle(row) for row in range(len(segments), rows)]
        self._fill(rows, [*self._numbers(token_ids, segments), *idle])
        recording = self._recordings[rows]
        recording.replay()
        return recording.output[: len(segments)]

    def _record(self, rows: int, record: Callable[[Callable[[], Tensor]], Recording]) -> Recording:
        """Record a step on idle rows, and compare it with another one computed as those with prompts are."""
        self._fill(rows, [self._idle(row) for row in range(rows)])
        recording = record(lambda: self._step(rows))
        segments = self._sequences(rows)
        token_ids = list(range(1, rows + 1))
        device = self._inputs.device
        expected = self._decoder.hidden(
            torch.tensor(token_ids, device=device),
            torch.tensor([segment.start for segment in segments], device=device),
            self._attention.batch(self._pool, segments),
            AdapterRows((), device),
        ).clone()
        self._sequences(rows)  # the noise again, where the new tokens are now: replaying has to write them itself
        self._fill(rows, self._numbers(token_ids, segments))
        recording.replay()
        difference = ((recording.output - expected).abs().max() / expected.abs().max()).item()
        if not difference <= TOLERANCE:
            raise RuntimeError(f"a recorded step of {rows} rows differs by {difference:.3f} from the step")
        return recording

    def _sequences(self, rows: int) -> list[Segment]:
        """Return sequences of several pages in reverse order, filled with noise, that get one token each.

        They share their pages, so each has its new token at a place of its own, in front of which it sees noise, and
        the tokens of those whose place comes before.
        """
        pool = self._pool
        count = min(_CHECKED_PAGES, pool.pages - 1, self._inputs.shape[1] - _PAGES)
        pages = tuple(reversed(range(count)))
        noise = torch.Generator(pool.shape.device).manual_seed(1)
        for layer in range(pool.shape.layers):
            for half in pool.layer(layer):
                half[: count * pool.page_tokens].normal_(generator=noise)
        last = count * pool.page_tokens - 1
        return [Segment(pages[: (last - row) // pool.page_tokens + 1], last - row, 1) for row in range(rows)]

    def _step(self, rows: int) -> Tensor:
        """Compute a step on what is in the inputs."""
        inputs = self._inputs[:rows]
        lengths = inputs[:, _LENGTH].contiguous()
        pages = inputs[:, _PAGES:]
        tables = FlashTables(
            slots=inputs[:, _SLOT].long(),
            query_ends=torch.arange(rows + 1, dtype=torch.int32, device=inputs.device),
            key_ends=torch.cat((lengths.new_zeros(1), lengths.cumsum(0, dtype=torch.int32))),
            lengths=lengths,
            pages=pages,
            most_queries=1,
            most_keys=pages.shape[1] * self._pool.page_tokens,
        )
        return self._decoder.hidden(
            inputs[:, _TOKEN].long(),
            inputs[:, _POSITION].long(),
            FlashBatch(self._attention.varlen, self._pool, tables),
            AdapterRows((), inputs.device),
        )

    def _fill(self, rows: int, numbers: list[list[int]]) -> None:
        """Give the inputs of a step, each row as far as it has pages."""
        columns = self._inputs.shape[1]
        whole = [row + [0] * (columns - len(row)) for row in numbers]
        self._inputs[:rows].copy_(torch.tensor(whole, dtype=torch.int32))

    def _numbers(self, token_ids: list[int], segments: list[Segment]) -> list[list[int]]:
        """Return the inputs of sequences."""
        page_tokens = self._pool.page_tokens
        return [
            [token_id, segment.start, *segment.slots(page_tokens), segment.end, *segment.pages]
            for token_id, segment in zip(token_ids, segments, strict=True)
        ]

    def _idle(self, row: int) -> list[int]:
        """Return the inputs of a row that belongs to no sequence."""
        return [0, 0, self._spare_page * self._pool.page_tokens + row, 1, self._spare_page]


def row_counts(most: int) -> list[int]:
    """Return for how many sequences steps are recorded: powers of two up to 8, then every eighth number, and the most.

    A step of more rows than it has sequences computes them for nothing, which costs little where weights are read for
    all of them at once; each recording takes time and memory at the start.
    """
    return sorted({rows for rows in (1, 2, 4, *range(8, most, 8), most) if rows <= most})


@torch.inference_mode()
def record_decode(loaded: LoadedModel, pool: KVPool, config: EngineConfig, context_tokens: int) -> DecodeGraphs | None:
    """Record the steps of single tokens. Blocks for seconds.

    Args:
        loaded: The model.
        pool: The keys and values; no sequence has its last page, and nothing runs.
        config: How the engine runs.
        context_tokens: Tokens that a sequence has at most.

    Returns:
        None = these steps are not replayed: it is not configured, the attention or the quantization cannot be recorded,
        or recording failed, which is logged.
    """
    attention = loaded.paged_attention
    if not config.decode_graphs or not isinstance(attention, FlashAttention) or loaded.quantization.method == "int8":
        return None
    try:
        return DecodeGraphs(
            loaded.decoder,
            pool,
            attention,
            most_rows=min(config.max_running, pool.page_tokens),
            most_pages=-(-context_tokens // pool.page_tokens),
            record=CudaRecorder(loaded.device),
        )
    except RuntimeError as error:
        # Where recording itself fails, torch tells of its end first.
        reason = str(error.__context__ or error)
        log.warning("decode_graphs_unavailable", steps="are launched kernel by kernel", reason=reason)
        return None
