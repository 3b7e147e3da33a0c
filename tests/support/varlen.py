"""`torch.nn.attention.varlen.varlen_attn` over pages as torch documents it, on any device and in any type.

It is an operator of its own, so that a traced step holds one call of it, as a recorded one holds one kernel.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention


@torch.library.custom_op("qwire_tests::varlen", mutates_args=())
def _varlen(  # noqa: PLR0917 - operators have no keywords only
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cu_seq_q: Tensor,
    seqused_k: Tensor,
    block_table: Tensor,
    max_q: int,
    max_k: int,
    causal: bool,  # noqa: FBT001
    scale: float,
) -> Tensor:
    out = torch.full(query.shape, torch.nan, dtype=query.dtype, device=query.device)
    starts, lengths = cu_seq_q.tolist(), seqused_k.tolist()
    for row, length in enumerate(lengths):
        own = slice(starts[row], starts[row + 1])
        queries = own.stop - own.start
        assert 0 < queries <= max_q
        assert queries <= length <= max_k
        keys, values = (half[block_table[row].long()].flatten(0, 1)[:length].transpose(0, 1) for half in (key, value))
        # The last query sees all keys.
        sees = torch.arange(length) <= torch.arange(length - queries, length)[:, None] if causal else None
        attended = scaled_dot_product_attention(
            query[own].transpose(0, 1), keys, values, attn_mask=sees, scale=scale, enable_gqa=True
        )
        out[own] = attended.transpose(0, 1)
    return out


def varlen(  # noqa: PLR0917 - as torch has it
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cu_seq_q: Tensor,
    cu_seq_k: Tensor,
    max_q: int,
    max_k: int,
    *,
    scale: float,
    window_size: tuple[int, int],
    enable_gqa: bool,
    seqused_k: Tensor,
    block_table: Tensor,
    num_splits: int | None,
) -> Tensor:
    """Check what the kernels of torch demand, and attend."""
    sequences = len(seqused_k)
    for table in (cu_seq_q, cu_seq_k, seqused_k):
        assert table.dtype == torch.int32
        assert table.is_contiguous()
    assert block_table.dtype == torch.int32
    assert block_table.stride(-1) == 1
    assert block_table.shape[0] == sequences
    assert cu_seq_q.shape == cu_seq_k.shape == (sequences + 1,)
    assert key.shape == value.shape
    assert key.shape[1] % 256 == 0
    assert key.shape[3] == query.shape[2]
    assert all(part.stride(-1) == 1 for part in (query, key, value))
    assert enable_gqa == (query.shape[1] != key.shape[2])
    assert window_size == (-1, 0) or (window_size == (-1, -1) and max_q == 1)
    # Else sequences would be written over one another where their keys are shared among blocks.
    assert num_splits == 1 or (num_splits is None and max_q == 1 and enable_gqa)
    causal = window_size == (-1, 0)
    return _varlen(query, key, value, cu_seq_q, seqused_k, block_table, max_q, max_k, causal, scale)


@_varlen.register_fake
def _(query: Tensor, *_others: object) -> Tensor:
    return torch.empty(query.shape, dtype=query.dtype, device=query.device)
