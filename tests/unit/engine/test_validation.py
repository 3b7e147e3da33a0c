from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from qwire.engine.errors import CapacityExceeded, ContextLengthExceeded, InvalidRequest
from qwire.engine.fake import fake_card
from qwire.engine.request import Envelope, SamplingParams, StopParams, TokenRequest
from qwire.engine.validation import check_request

CARD = fake_card(vocabulary_tokens=100, context_tokens=50)
GOOD = TokenRequest((1, 2, 99), Envelope("a"), StopParams(max_output_tokens=47))


def test_the_bounds_themselves_are_allowed() -> None:
    check_request(GOOD, CARD, 50)
    check_request(replace(GOOD, top_logprobs=0), CARD, 50)
    check_request(replace(GOOD, top_logprobs=20), CARD, 50)
    biases = ((0, -100.0), (99, 100.0))
    wild = SamplingParams(10, 2, -2, biases, temperature=10, top_k=0, top_p=1.0, min_p=1, seed=2**64 - 1)
    check_request(replace(GOOD, sampling=wild, output_token_ids=(0,) * 46), CARD, 50)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"prompt_token_ids": ()}, "tokens.ids"),
        ({"prompt_token_ids": (1, 100)}, "tokens.ids"),
        ({"prompt_token_ids": (-1,)}, "tokens.ids"),
        ({"output_token_ids": (100,)}, "resume.output_token_ids"),
        ({"output_token_ids": (1,) * 47}, "resume.output_token_ids"),
        ({"top_logprobs": -1}, "output.top_logprobs"),
        ({"top_logprobs": 21}, "output.top_logprobs"),
        ({"stop": StopParams(0)}, "stop.max_output_tokens"),
        ({"stop": StopParams(5, min_output_tokens=6)}, "stop.min_output_tokens"),
        ({"stop": StopParams(5, min_output_tokens=-1)}, "stop.min_output_tokens"),
        ({"stop": StopParams(5, stop_token_ids=frozenset({100}))}, "stop.stop_token_ids"),
    ],
)
def test_what_is_out_of_range_is_refused_by_field(change: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        check_request(replace(GOOD, **change), CARD, 50)
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("biases", "field"),
    [
        (((1, 0.0), (100, 0.0)), "[1].token_id"),
        (((-1, 0.0),), "[0].token_id"),
        (((1, 0.0), (2, 0.0), (1, 0.0)), "[2].token_id"),
        (((1, 100.5),), "[0].bias"),
        (((1, 0.0), (2, float("nan"))), "[1].bias"),
        (((1, float("-inf")),), "[0].bias"),
        (((1, 0.0),) * 301, ""),
    ],
)
def test_a_bias_out_of_range_is_refused_by_field(biases: tuple[tuple[int, float], ...], field: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        check_request(replace(GOOD, sampling=SamplingParams(logit_bias=biases)), CARD, 50)
    assert caught.value.field == f"sampling.logit_bias{field}"


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("temperature", (-0.1, 10.1, float("nan"), float("inf"))),
        ("top_k", (-1,)),
        ("top_p", (0.0, 1.1, float("nan"))),
        ("min_p", (-0.1, 1.1, float("nan"))),
        ("repetition_penalty", (0.0, 10.1, float("nan"))),
        ("presence_penalty", (-2.1, 2.1, float("nan"))),
        ("frequency_penalty", (-2.1, 2.1, float("nan"))),
        ("seed", (-1, 2**64)),
    ],
)
def test_sampling_out_of_range_is_refused_by_field(name: str, values: tuple[Any, ...]) -> None:
    for value in values:
        with pytest.raises(InvalidRequest) as caught:
            check_request(replace(GOOD, sampling=replace(SamplingParams(), **{name: value})), CARD, 50)
        assert caught.value.field == f"sampling.{name}"


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ContextLengthExceeded) as caught:
        check_request(replace(GOOD, stop=StopParams(48)), CARD, 50)
    assert caught.value.field == "stop.max_output_tokens"
    with pytest.raises(CapacityExceeded) as exceeded:
        check_request(GOOD, CARD, 49)
    assert (exceeded.value.needed_tokens, exceeded.value.capacity_tokens) == (50, 49)
