from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from qwire.engine.config import QUANTIZATIONS as KNOWN
from qwire.models.memory_need import GIB, memory_need
from qwire.models.published import PUBLISHED, TASKS
from qwire.models.published_needs import QUANTIZATIONS, published_needs
from qwire.models.recommendation import DEVICES, recommend


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("context_tokens", "sequences"), [(None, 1), (32_768, 8)])
def test_every_model_has_its_needs(device: str, context_tokens: int | None, sequences: int) -> None:
    found = published_needs(device=device, context_tokens=context_tokens, sequences=sequences)
    able = [model for model in PUBLISHED if (context_tokens or 0) <= model.context_tokens]
    assert [one.model for one in found] == [model.name for model in able]
    for model, one in zip(able, found, strict=True):
        assert (one.parameters, one.tasks, one.license) == (model.shape.parameters, model.tasks, model.license)
        assert one.model_context_tokens == model.context_tokens >= one.context_tokens
        assert one.context_tokens == (context_tokens or min(8192, model.context_tokens))
        for quantization, need in one.needs.items():
            expected = memory_need(model.shape, quantization, device, tokens=one.context_tokens, sequences=sequences)
            assert need == expected


@pytest.mark.parametrize("device", DEVICES)
def test_quantizations_are_those_of_the_engine_from_the_most_exact_to_the_smallest(device: str) -> None:
    assert set(QUANTIZATIONS[device]) < set(KNOWN)
    for one in published_needs(device=device):
        dense = "A3B" not in one.model and "A22B" not in one.model and "A35B" not in one.model
        assert list(one.needs) == (list(QUANTIZATIONS[device]) if dense or device == "cpu" else ["none"])
        sizes = [need.total_bytes for need in one.needs.values()]
        assert sizes == sorted(sizes, reverse=True)


@pytest.mark.parametrize("task", TASKS)
def test_a_task_chooses_its_models(task: str) -> None:
    assert {one.model for one in published_needs(task)} == {model.name for model in PUBLISHED if task in model.tasks}


@pytest.mark.parametrize("device", DEVICES)
def test_it_tells_what_recommendations_tell(device: str) -> None:
    needs: Mapping[str, Any] = {one.model: one.needs for one in published_needs("coding", device=device)}
    found = recommend("coding", 24 * GIB, device=device)
    assert found
    for one in found:
        assert one.need == needs[one.model][one.quantization]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"task": "flying"}, "task is 'flying'; it must be one of general, coding"),
        ({"device": "tpu"}, "device is 'tpu'"),
        ({"context_tokens": 0}, "context is 0"),
        ({"sequences": 0}, "concurrency is 0"),
    ],
)
def test_arguments_out_of_range_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        published_needs(**arguments)
