"""The feed-forward part of a decoder layer: one for all tokens, or experts among which a router chooses for each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from qwire.engine.adapter import DOWN, GATE_UP
from qwire.engine.arithmetic import Matrix, Norm, Router, gated
from qwire.engine.low_rank import AdapterRows


class FeedForward(Protocol):
    """What follows the attention in a layer."""

    def add_to(self, hidden: Tensor, layer: int, adapters: AdapterRows) -> None:
        """Add its output to hidden states `[tokens, hidden_size]`, from which it is computed.

        Args:
            hidden: The states.
            layer: Index of the decoder layer.
            adapters: What changes its products.
        """
        ...


@dataclass(frozen=True, slots=True)
class GatedPair:
    """A gated feed-forward network.

    Attributes:
        gate_up: Rows of the gate and of what it gates, one after the other.
        down: Back to the hidden states.
    """

    gate_up: Matrix
    down: Matrix


@dataclass(frozen=True, slots=True)
class DenseFeedForward:
    """One network for all tokens.

    Attributes:
        norm: On the way in.
        network: The network.
    """

    norm: Norm
    network: GatedPair

    def add_to(self, hidden: Tensor, layer: int, adapters: AdapterRows) -> None:
        """See `FeedForward.add_to`."""
        gate_up = self.network.gate_up.of(hidden, self.norm)
        adapters.add(layer, GATE_UP, gate_up, hidden, self.norm.of)
        self.network.down.add_gated_to(hidden, gate_up)
        adapters.add(layer, DOWN, hidden, gate_up, gated)


@dataclass(frozen=True, slots=True)
class SparseFeedForward:
    """Experts, of which each token takes a few: a step reads the weights of those that its tokens chose.

    Attributes:
        norm: On the way into the router and the experts.
        router: Rates the experts.
        experts: All of them.
        experts_per_token: How many a token takes.
        normalized: Whether the shares of those that a token takes are made to add up to one.
    """

    norm: Norm
    router: Router
    experts: tuple[GatedPair, ...]
    experts_per_token: int
    normalized: bool

    def add_to(self, hidden: Tensor, layer: int, adapters: AdapterRows) -> None:  # noqa: ARG002 - none changes experts
        """See `FeedForward.add_to`.

        A token's experts are added up in their order in the layer, whoever shares the step.
        """
        shares, chosen = self._route(hidden)
        by_expert = chosen.flatten().argsort(stable=True)
        numbers, counts = chosen.flatten()[by_expert].unique_consecutive(return_counts=True)
        rows, sizes = by_expert // self.experts_per_token, counts.tolist()
        parts = (rows.split(sizes), hidden[rows].split(sizes), shares.flatten()[by_expert].split(sizes))
        for number, members, states, share in zip(numbers.tolist(), *parts, strict=True):
            expert = self.experts[number]
            gate_up = expert.gate_up.of(states, self.norm)
            # What leaves the expert is linear in what is gated: weighing it here needs no pass over the output.
            gate_up.chunk(2, dim=-1)[1].mul_(share[:, None])
            output = torch.zeros_like(states)
            expert.down.add_gated_to(output, gate_up)
            hidden.index_add_(0, members, output)

    def _route(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Return the shares and the numbers of each token's experts, both `[tokens, experts_per_token]`."""
        probabilities = self.router.logits(hidden, self.norm).softmax(-1)
        shares, chosen = probabilities.topk(self.experts_per_token, dim=-1)
        return shares / shares.sum(-1, keepdim=True) if self.normalized else shares, chosen
