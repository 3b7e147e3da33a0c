"""The sampler against a plain reference written in numpy and Python integers."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch

from qwire.engine.noise import gumbel_noise, loud_token_ids, noise_key
from qwire.engine.request import Envelope, SamplingParams, StopParams, TokenRequest
from qwire.engine.sampler import sample
from qwire.engine.sequence import Sequence

pytestmark = pytest.mark.model

MASK_32, MASK_64 = 2**32 - 1, 2**64 - 1


def reference_noise(seed: int, position: int, token_id: int) -> float:
    def mix_64(value: int) -> int:
        value = (value + 0x9E3779B97F4A7C15) & MASK_64
        value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & MASK_64
        value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & MASK_64
        return value ^ (value >> 31)

    def mix_32(bits: int) -> int:
        bits = ((bits ^ (bits >> 16)) * 0x85EBCA6B) & MASK_32
        bits = ((bits ^ (bits >> 13)) * 0xC2B2AE35) & MASK_32
        return bits ^ (bits >> 16)

    key = mix_64(mix_64(seed) ^ position)
    bits = mix_32(mix_32(token_id ^ (key & MASK_32)) ^ (key >> 32))
    return -math.log(-math.log((bits + 0.5) / 2**32))


def reference_sample(logits: np.ndarray, sequence: Sequence) -> int:
    """Follow the definitions of `SamplingParams` and `StopParams`, one token at a time."""
    sampling = sequence.request.sampling
    output = Counter(sequence.output_token_ids)
    scores = [float(score) for score in logits]
    for token_id in {*sequence.request.prompt_token_ids, *output}:
        score = scores[token_id]
        penalty = sampling.repetition_penalty
        scores[token_id] = score / penalty if score > 0 else score * penalty
    for token_id, count in output.items():
        scores[token_id] -= sampling.presence_penalty + count * sampling.frequency_penalty
    for token_id, bias in sampling.logit_bias:
        scores[token_id] += bias
    for token_id in sequence.banned_token_ids:
        scores[token_id] = -math.inf
    ranked = sorted(range(len(scores)), key=lambda token_id: -scores[token_id])
    if sampling.temperature == 0:
        return ranked[0]
    if sampling.top_k:
        ranked = ranked[: sampling.top_k]
    best = scores[ranked[0]]
    weights = [math.exp((scores[token_id] - best) / sampling.temperature) for token_id in ranked]
    total = sum(weights)
    kept: list[int] = []
    reached = 0.0
    for token_id, weight in zip(ranked, weights, strict=True):
        if reached >= sampling.top_p and kept:
            break
        reached += weight / total
        if weight >= sampling.min_p:
            kept.append(token_id)
    position = len(sequence.output_token_ids)
    return max(kept, key=lambda t: scores[t] / sampling.temperature + reference_noise(sampling.seed, position, t))


def make_sequence(
    sampling: SamplingParams, *, output: tuple[int, ...] = (), stop: StopParams | None = None
) -> Sequence:
    stop = stop or StopParams(max_output_tokens=100)
    request = TokenRequest((5, 6, 7, 7, 8), Envelope("a"), stop, sampling, output)
    return Sequence(request, frozenset({3}), 0, 0)


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
        loud = loud_token_ids(torch.tensor(noise_key(seed, 7)), 100_000, least)
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


GRID = [
    SamplingParams(
        repetition_penalty=repetition,
        presence_penalty=presence,
        frequency_penalty=frequency,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
        seed=seed,
    )
    for seed, (repetition, (presence, frequency), temperature, top_k, (top_p, min_p)) in enumerate(
        itertools.product(
            (1.0, 1.3, 0.7),
            ((0.0, 0.0), (0.8, 0.0), (0.0, -0.5), (-1.0, 0.6)),
            (0.0, 0.3, 1.0, 4.0),
            (0, 1, 20),
            ((1.0, 0.0), (0.9, 0.0), (1e-9, 0.0), (1.0, 0.2), (0.7, 0.1), (0.99, 1.0)),
        )
    )
]


@pytest.mark.parametrize("vocabulary", [50, 400])
def test_every_combination_of_options_draws_what_the_reference_draws(vocabulary: int) -> None:
    generator = torch.Generator().manual_seed(vocabulary)
    logits = torch.randn(len(GRID), vocabulary, generator=generator) * 3
    sequences = [make_sequence(sampling, output=(7, 9, 9, 11)[: sampling.seed % 5]) for sampling in GRID]
    expected = [reference_sample(row, sequence) for row, sequence in zip(logits.numpy(), sequences, strict=True)]
    assert len(set(expected)) > vocabulary // 3
    assert sample(logits, sequences) == expected


def test_a_flat_distribution_goes_beyond_the_partial_sort() -> None:
    logits = torch.randn(200, 1000, generator=torch.Generator().manual_seed(1)) * 0.1
    sequences = [make_sequence(SamplingParams(temperature=1.0, top_p=0.9, seed=seed)) for seed in range(200)]
    expected = [reference_sample(row, s) for row, s in zip(logits.numpy(), sequences, strict=True)]
    assert sample(logits, sequences) == expected


LARGE = 64 * 300
"""A vocabulary of whole blocks, large enough that most of them are never looked at."""
WIDE = [
    *GRID[::23],
    SamplingParams(temperature=1.0),
    SamplingParams(temperature=2.0, min_p=0.001),
    SamplingParams(temperature=2.0, top_p=0.6),
    SamplingParams(temperature=2.0, top_p=0.999),
    SamplingParams(temperature=2.0, top_k=255),
    SamplingParams(temperature=2.0, top_k=1000, top_p=0.9),
    SamplingParams(temperature=2.0, top_k=10_000),
    SamplingParams(temperature=2.0, top_k=10**6, top_p=0.5, repetition_penalty=1.2, frequency_penalty=0.5),
]


def wide_sequences() -> list[Sequence]:
    return [
        make_sequence(replace(sampling, seed=seed), output=(7, 9, 9, 11)[: seed % 5])
        for seed, sampling in enumerate(WIDE)
    ]


@pytest.mark.parametrize("grain", [0.0, 0.25, 4.0])
def test_a_large_vocabulary_and_equal_logits_draw_what_the_reference_draws(grain: float) -> None:
    """With a grain, logits are rounded to it: crowds of tokens are equally likely, and the lower id goes first."""
    logits = torch.randn(len(WIDE), LARGE, generator=torch.Generator().manual_seed(5)) * 2
    if grain:
        logits = (logits / grain).round() * grain
    sequences = wide_sequences()
    expected = [reference_sample(row, sequence) for row, sequence in zip(logits.numpy(), sequences, strict=True)]
    assert sample(logits.clone(), sequences) == expected
    alone = [sample(row[None].clone(), [sequence])[0] for row, sequence in zip(logits, sequences, strict=True)]
    assert alone == expected


def test_a_row_does_not_depend_on_its_place_or_its_mates() -> None:
    generator = torch.Generator().manual_seed(6)
    logits = (torch.randn(len(WIDE), LARGE, generator=generator) * 8).round() / 4
    sequences = wide_sequences()
    expected = sample(logits.clone(), sequences)
    for _ in range(8):
        some = torch.randperm(len(WIDE), generator=generator)[
            : int(torch.randint(1, len(WIDE), (), generator=generator))
        ]
        rows = some.tolist()
        assert sample(logits[some], [sequences[row] for row in rows]) == [expected[row] for row in rows]


def test_draws_follow_the_distribution() -> None:
    probabilities = torch.tensor([0.5, 0.2, 0.15, 0.1, 0.05])
    draws = 20_000
    sequences = [make_sequence(SamplingParams(temperature=1.0, seed=seed)) for seed in range(draws)]
    logits = torch.full((draws, 12), -1e4)
    logits[:, [0, 4, 9, 10, 11]] = probabilities.log()
    counts = Counter(sample(logits, sequences))
    observed = torch.tensor([counts[token_id] for token_id in (0, 4, 9, 10, 11)])
    assert observed.sum().item() == draws
    expected = probabilities * draws
    # Chi-square with 4 degrees of freedom: 18.5 is the 0.999 quantile; the seeds are fixed.
    assert ((observed - expected) ** 2 / expected).sum().item() < 18.5


@pytest.mark.parametrize("vocabulary", [50, 64 * 300])
def test_a_bias_is_added_after_the_penalties_and_before_the_rest(vocabulary: int) -> None:
    logits = torch.randn(48, vocabulary, generator=torch.Generator().manual_seed(4)) * 3
    biases = ((), ((7, 2.5), (9, -1.0), (20, 4.0)), ((49, 6.0),), ((11, -100.0), (5, 3.25)))
    sequences = [
        make_sequence(replace(GRID[row * 9], logit_bias=biases[row % 4], seed=row), output=(7, 9, 9, 11))
        for row in range(48)
    ]
    expected = [reference_sample(row, sequence) for row, sequence in zip(logits.numpy(), sequences, strict=True)]
    assert sample(logits, sequences) == expected


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_bias_all_but_forces_and_all_but_bans(temperature: float) -> None:
    logits = torch.randn(20, 64 * 300, generator=torch.Generator().manual_seed(5))
    forced = [
        make_sequence(SamplingParams(temperature=temperature, logit_bias=((30, 100.0),), seed=s)) for s in range(20)
    ]
    assert sample(logits.clone(), forced) == [30] * 20
    best = logits.argmax(dim=-1).tolist()
    banned = [
        make_sequence(SamplingParams(temperature=temperature, logit_bias=((token_id, -100.0),))) for token_id in best
    ]
    assert all(drawn != token_id for drawn, token_id in zip(sample(logits, banned), best, strict=True))


def test_a_ban_is_stronger_than_any_bias() -> None:
    stop = StopParams(max_output_tokens=100, min_output_tokens=2)
    sequence = make_sequence(SamplingParams(logit_bias=((3, 100.0), (4, 50.0))), stop=stop)
    assert sample(torch.zeros(1, 10), [sequence]) == [4]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_tokens_that_end_are_not_drawn_too_early(temperature: float) -> None:
    stop = StopParams(max_output_tokens=100, min_output_tokens=2, stop_token_ids=frozenset({4}))
    sampling = SamplingParams(temperature=temperature)
    logits = torch.zeros(3, 10)
    logits[:, 3], logits[:, 4], logits[:, 5] = 60, 50, 40
    sequences = [make_sequence(sampling, output=(9,) * length, stop=stop) for length in (0, 1, 2)]
    assert sample(logits, sequences) == [5, 5, 3]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(
    "sampling",
    [
        SamplingParams(),
        SamplingParams(temperature=1.0),
        SamplingParams(temperature=1.0, top_k=5, top_p=0.5, min_p=0.5),
        SamplingParams(temperature=1.0, top_p=0.5, repetition_penalty=1.2, frequency_penalty=1.0),
    ],
)
def test_a_row_that_is_not_finite_is_reported_and_harms_no_other(bad: float, sampling: SamplingParams) -> None:
    clean = torch.randn(3, 400, generator=torch.Generator().manual_seed(2))
    sequences = [make_sequence(sampling, output=(5,)) for _ in range(3)]
    expected = sample(clean.clone(), sequences)
    poisoned = clean.clone()
    poisoned[1, 77] = bad
    assert sample(poisoned, sequences) == [expected[0], None, expected[2]]
    everything = clean.clone()
    everything[1] = bad
    assert sample(everything, sequences) == [expected[0], None, expected[2]]
