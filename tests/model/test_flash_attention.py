"""Attention over pages by torch's flash attention: what it is asked for, answered by its documented meaning."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.attention.varlen import varlen_attn

from qwire.engine.attention import RaggedBatch
from qwire.engine.attention_check import TOLERANCE, deviation
from qwire.engine.flash_attention import PAGE_TOKENS, FlashAttention, unmet_demand
from qwire.engine.kv_pool import KVPool, KVShape
from qwire.engine.segment import Segment
from tests.support.varlen import varlen

pytestmark = pytest.mark.model

CPU = torch.device("cpu")


def capability(*numbers: int) -> Callable[[torch.device], tuple[int, ...]]:
    def of(_device: torch.device) -> tuple[int, ...]:
        return numbers

    return of


@pytest.mark.parametrize(("heads", "kv_heads"), [(8, 2), (4, 4)])
@pytest.mark.parametrize("page_tokens", [PAGE_TOKENS, 2 * PAGE_TOKENS])
def test_it_attends_as_torch_does(heads: int, kv_heads: int, page_tokens: int) -> None:
    shape = KVShape(layers=3, kv_heads=kv_heads, head_size=16, dtype=torch.float32, device=CPU)
    assert deviation(FlashAttention(varlen), shape, heads, page_tokens) < 1e-5


def shorter(arguments: list[Any], options: dict[str, Any]) -> None:
    if arguments[5] == 1:  # else a prompt would have more queries than keys
        options["seqused_k"] = options["seqused_k"] - 1


def other_pages(_arguments: list[Any], options: dict[str, Any]) -> None:
    options["block_table"] = options["block_table"].flip(1)


def other_scale(_arguments: list[Any], options: dict[str, Any]) -> None:
    options["scale"] *= 2


def no_numbers(arguments: list[Any], _options: dict[str, Any]) -> None:
    arguments[1] = torch.full_like(arguments[1], torch.nan)


@pytest.mark.parametrize("change", [shorter, other_pages, other_scale, no_numbers])
def test_a_kernel_that_does_something_else_is_found(change: Callable[[list[Any], dict[str, Any]], None]) -> None:
    def other(*arguments: Any, **options: Any) -> Tensor:
        changed = list(arguments)
        change(changed, options)
        return varlen(*changed, **options)

    shape = KVShape(layers=1, kv_heads=2, head_size=16, dtype=torch.float32, device=CPU)
    assert not deviation(FlashAttention(other), shape, 8, PAGE_TOKENS) <= TOLERANCE


def test_torch_takes_what_it_is_given() -> None:
    """Without a device there is no kernel, but the operator's signature and its rule for shapes are there."""
    shape = KVShape(layers=1, kv_heads=2, head_size=64, dtype=torch.bfloat16, device=torch.device("meta"))
    pool = KVPool(shape, pages=4, page_tokens=PAGE_TOKENS)
    batch = RaggedBatch(pool, [Segment((3, 1), 250, 9), Segment((2,), 4, 1)], FlashAttention(varlen_attn))
    query, key, value = (torch.empty(1, count, 10, 64, dtype=torch.bfloat16, device="meta") for count in (14, 2, 2))
    attended = batch.attend(0, query, key, value, 0.125)
    assert attended.shape == (1, 10, 14, 64)
    assert attended.dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("change", "page_tokens", "reason"),
    [
        ({}, PAGE_TOKENS, None),
        ({"dtype": torch.float32}, PAGE_TOKENS, "half precision"),
        ({"head_size": 264}, PAGE_TOKENS, "264"),
        ({"head_size": 36}, PAGE_TOKENS, "36"),
        ({}, 16, "page_tokens is 16"),
    ],
)
def test_what_it_cannot_serve_is_said(
    monkeypatch: pytest.MonkeyPatch, change: dict[str, Any], page_tokens: int, reason: str | None
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", capability(9, 0))
    facts: dict[str, Any] = {"layers": 1, "kv_heads": 2, "head_size": 128, "dtype": torch.bfloat16, "device": CPU}
    said = unmet_demand(KVShape(**facts | change), page_tokens)
    assert said is None if reason is None else reason in (said or "")


def test_it_is_not_for_old_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", capability(7, 5))
    shape = KVShape(layers=1, kv_heads=2, head_size=128, dtype=torch.float16, device=CPU)
    assert "Ampere" in (unmet_demand(shape, PAGE_TOKENS) or "")
