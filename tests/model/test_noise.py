"""The noise against its reference, and as a random number."""

from __future__ import annotations

import math

import pytest
import torch

from qwire.engine.noise import gumbel_noise, loud_token_ids, noise_key
from tests.support.reference_noise import reference_noise

pytestmark = pytest.mark.model


@pytest.mark.parametrize("seed", [0, 1, 2**32, 2**63, 2**64 - 1])
def test_noise_is_the_documented_hash(seed: int) -> None:
    token_ids = torch.tensor([0, 1, 77, 151_935, 2**31])
    for position in (0, 1, 40_000):
        expected = [reference_noise(seed, position, token_id) for token_id in token_ids.tolist()]
        assert gumbel_noise(seed, position, token_ids).tolist() == pytest.approx(expected, rel=1e-12)


def test_noise_of_some_tokens_is_their_noise_among_all() -> None:
    every = gumbel_noise(9, 3, torch.arange(5000))
    some = torch.tensor([4999, 17, 0, 17])
    assert torch.equal(gumbel_noise(9, 3, some), every[some])


@pytest.mark.parametrize("least", [-math.inf, -3.2, 0.0, 5.0, 11.0, 30.0])
def test_loud_tokens_are_those_with_enough_noise(least: float) -> None:
    for seed in (0, 1, 2**64 - 1):
        noise = gumbel_noise(seed, 7, torch.arange(100_000))
        loud = loud_token_ids(torch.tensor(noise_key(seed, 7)), 100_000, least, torch.device("cpu"))
        assert set((noise >= least).nonzero()[:, 0].tolist()) <= set(loud.tolist())
        assert (noise[loud] >= least - 2e-6).all()


def test_noise_has_the_gumbel_distribution_and_no_visible_pattern() -> None:
    noise = torch.stack([gumbel_noise(seed, 0, torch.arange(2000)) for seed in range(200)])
    assert noise.mean().item() == pytest.approx(0.5772, abs=0.01)
    assert noise.var().item() == pytest.approx(math.pi**2 / 6, abs=0.02)
    # Neighbouring tokens, seeds and positions are as independent as 400,000 numbers can show (5 sigma).
    centred = noise - noise.mean()
    positions = torch.stack([gumbel_noise(1, position, torch.arange(2000)) for position in range(200)])
    positions = positions - positions.mean()
    for left, right in (
        (centred[:, 1:], centred[:, :-1]),
        (centred[1:], centred[:-1]),
        (positions[1:], positions[:-1]),
    ):
        correlation = (left * right).mean() / noise.var()
        assert abs(correlation.item()) < 5 / math.sqrt(left.numel())
