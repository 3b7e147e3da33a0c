from __future__ import annotations

import pytest

from qwire.models.published import PUBLISHED, TASKS, PublishedModel

# Billions of parameters in all, as the announcements and model cards have them.
ANNOUNCED = {
    "Qwen/Qwen2-0.5B-Instruct": 0.49,
    "Qwen/Qwen2-1.5B-Instruct": 1.54,
    "Qwen/Qwen2-72B-Instruct": 72.71,
    "Qwen/Qwen2.5-0.5B-Instruct": 0.49,
    "Qwen/Qwen2.5-1.5B-Instruct": 1.54,
    "Qwen/Qwen2.5-3B-Instruct": 3.09,
    "Qwen/Qwen2.5-7B-Instruct": 7.61,
    "Qwen/Qwen2.5-14B-Instruct": 14.7,
    "Qwen/Qwen2.5-32B-Instruct": 32.5,
    "Qwen/Qwen2.5-72B-Instruct": 72.7,
    "Qwen/Qwen2.5-Coder-7B-Instruct": 7.61,
    "Qwen/Qwen2.5-Math-7B-Instruct": 7.61,
    "Qwen/Qwen3-30B-A3B": 30.5,
    "Qwen/Qwen3-235B-A22B": 235.0,
    "Qwen/Qwen3-Coder-30B-A3B-Instruct": 30.5,
    "Qwen/Qwen3-Coder-480B-A35B-Instruct": 480.0,
}


@pytest.mark.parametrize(("name", "billions"), ANNOUNCED.items())
def test_the_shapes_have_the_announced_parameters(name: str, billions: float) -> None:
    (model,) = [model for model in PUBLISHED if model.name == name]
    assert model.shape.parameters / 1e9 == pytest.approx(billions, rel=0.011)


@pytest.mark.parametrize("model", PUBLISHED, ids=lambda model: model.name)
def test_a_name_tells_the_size(model: PublishedModel) -> None:
    size = next(part for part in model.name.split("-") if part.endswith("B") and part[:1].isdigit())
    # Names round generously: 0.6B is 0.596, 14B is 14.8, 7B is 7.6.
    assert model.shape.parameters / 1e9 == pytest.approx(float(size[:-1]), rel=0.1)


def test_the_table_is_whole() -> None:
    names = [model.name for model in PUBLISHED]
    assert len(set(names)) == len(names)
    families = {"Qwen2-", "Qwen2.5-", "Qwen2.5-Coder-", "Qwen2.5-Math-", "Qwen3-", "Qwen3-Coder-"}
    assert all(any(name.startswith(f"Qwen/{family}") for name in names) for family in families)
    for model in PUBLISHED:
        assert model.tasks
        assert set(model.tasks) <= set(TASKS)
        assert model.shape.heads % model.shape.kv_heads == 0
        assert model.license
    assert {task for model in PUBLISHED for task in model.tasks} == set(TASKS)
