from __future__ import annotations

from typing import Any

import pytest

from qwire.engine.config import EngineConfig


@pytest.mark.parametrize(
    "option",
    [
        {"quantization": "int4"},
        {"compute_dtype": "fp32"},
        {"threads": 0},
        {"max_running": 0},
        {"max_waiting": -1},
        {"max_running": 32, "max_step_tokens": 31},
        {"kv_capacity_tokens": 1},
        {"page_tokens": 0},
        {"context_tokens": 1},
        {"default_max_output_tokens": 0},
        {"speculation": "medusa"},
        {"draft_tokens": 0},
        {"lookup_least_tokens": 0},
        {"lookup_least_tokens": 5, "lookup_most_tokens": 4},
    ],
)
def test_a_value_out_of_range_is_refused_by_name(option: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=list(option)[-1]):
        EngineConfig(**option)


def test_bounds_themselves_are_allowed() -> None:
    config = EngineConfig(threads=1, max_running=1, max_waiting=0, max_step_tokens=1, kv_capacity_tokens=2)
    assert config.max_step_tokens == 1
