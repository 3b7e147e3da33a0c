"""A layer of experts: which of them a step touches, and that a token's output is its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor

from qwire.engine.arithmetic import Arithmetic, Matrix, Norm
from qwire.engine.exact import ExactArithmetic
from qwire.engine.feed_forward import GatedPair, SparseFeedForward
from qwire.engine.low_rank import AdapterRows
from qwire.engine.q8.build import build
from qwire.engine.q8.fallback import FallbackArithmetic
from qwire.engine.q8.kernel import Q8Arithmetic

pytestmark = pytest.mark.model

EXPERTS, CHOSEN, HIDDEN, INNER, TOKENS = 16, 4, 96, 64, 70


@dataclass
class CountingMatrix:
    """A matrix that counts the tokens that it is multiplied with."""

    inner: Matrix
    tokens: int = 0

    def of(self, x: Tensor, norm: Norm | None = None) -> Tensor:
        self.tokens += len(x)
        return self.inner.of(x, norm)

    def add_to(self, residual: Tensor, x: Tensor) -> None:
        raise NotImplementedError

    def add_gated_to(self, residual: Tensor, gate_up: Tensor) -> None:
        raise NotImplementedError


@pytest.fixture
def arithmetics(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Callable[[], Arithmetic]]:
    kernels: Path = tmp_path_factory.getbasetemp() / "q8-kernels"
    return {
        "exact": lambda: ExactArithmetic(tokens=64),
        "kernel": lambda: Q8Arithmetic(build(kernels)),
        "fallback": FallbackArithmetic,
    }


def sparse(arithmetic: Arithmetic, *, normalized: bool = True) -> SparseFeedForward:
    torch.manual_seed(1)
    return SparseFeedForward(
        norm=Norm(torch.rand(HIDDEN) + 0.5, 1e-6),
        router=arithmetic.route(torch.randn(EXPERTS, HIDDEN)),
        experts=tuple(
            GatedPair(arithmetic.pack(torch.randn(2 * INNER, HIDDEN)), arithmetic.pack(torch.randn(HIDDEN, INNER)))
            for _ in range(EXPERTS)
        ),
        experts_per_token=CHOSEN,
        normalized=normalized,
    )


def output(layer: SparseFeedForward, hidden: Tensor) -> Tensor:
    result = hidden.clone()
    layer.add_to(result, 0, AdapterRows((), hidden.device))
    return result


@pytest.mark.parametrize("normalized", [True, False])
@pytest.mark.parametrize("name", ["exact", "kernel", "fallback"])
def test_a_layer_is_the_weighed_sum_of_the_chosen_experts(
    arithmetics: dict[str, Callable[[], Arithmetic]], name: str, *, normalized: bool
) -> None:
    layer, hidden = sparse(arithmetics[name](), normalized=normalized), torch.randn(TOKENS, HIDDEN)
    probabilities = layer.router.logits(hidden, layer.norm).softmax(-1)
    for token in range(TOKENS):
        row = hidden[token : token + 1]
        expected, chosen = row.clone(), probabilities[token].topk(CHOSEN).indices
        total = probabilities[token][chosen].sum() if normalized else 1.0
        for expert in chosen.tolist():
            part = torch.zeros_like(row)
            pair = layer.experts[expert]
            pair.down.add_gated_to(part, pair.gate_up.of(row, layer.norm))
            expected += part * probabilities[token][expert] / total
        torch.testing.assert_close(output(layer, row), expected, rtol=1e-3, atol=1e-2)


def test_a_token_has_the_same_bits_alone_and_in_any_batch(arithmetics: dict[str, Callable[[], Arithmetic]]) -> None:
    layer, hidden = sparse(arithmetics["kernel"]()), torch.randn(TOKENS, HIDDEN)
    together = output(layer, hidden)
    assert torch.equal(together, torch.cat([output(layer, row[None]) for row in hidden]))
    assert torch.equal(together, output(layer, hidden.flip(0)).flip(0))
    assert torch.equal(together[:23], output(layer, hidden[:23]))


@pytest.mark.parametrize("name", ["exact", "kernel", "fallback"])
def test_what_is_not_finite_stays_with_its_token(arithmetics: dict[str, Callable[[], Arithmetic]], name: str) -> None:
    layer, hidden = sparse(arithmetics[name]()), torch.randn(TOKENS, HIDDEN)
    expected = output(layer, hidden)
    hidden[7, 3] = torch.nan
    found = output(layer, hidden)
    assert not found[7].isfinite().any()
    others = torch.arange(TOKENS) != 7
    torch.testing.assert_close(found[others], expected[others], rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("tokens", [1, 3])
def test_a_step_multiplies_with_the_chosen_experts_only(
    arithmetics: dict[str, Callable[[], Arithmetic]], tokens: int
) -> None:
    plain = sparse(arithmetics["exact"]())
    counting = [CountingMatrix(expert.gate_up) for expert in plain.experts]
    experts = tuple(GatedPair(counter, expert.down) for counter, expert in zip(counting, plain.experts, strict=True))
    layer = SparseFeedForward(plain.norm, plain.router, experts, CHOSEN, normalized=True)
    hidden = torch.randn(tokens, HIDDEN)
    chosen = layer.router.logits(hidden, layer.norm).topk(CHOSEN).indices.flatten().tolist()
    output(layer, hidden)
    assert [counter.tokens for counter in counting] == [chosen.count(expert) for expert in range(EXPERTS)]


def test_every_arithmetic_routes_in_float32(arithmetics: dict[str, Callable[[], Arithmetic]]) -> None:
    torch.manual_seed(2)
    weight, hidden, norm = torch.randn(EXPERTS, HIDDEN), torch.randn(TOKENS, HIDDEN), Norm(torch.rand(HIDDEN), 1e-6)
    normalized = torch.nn.functional.rms_norm(hidden.double(), (HIDDEN,), norm.weight.double(), norm.epsilon)
    for arithmetic in arithmetics.values():
        found = arithmetic().route(weight).logits(hidden, norm)
        torch.testing.assert_close(found.double(), normalized @ weight.double().T, rtol=1e-5, atol=1e-4)
