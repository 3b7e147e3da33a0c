"""What an adapter's configuration may say."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from qwire.engine.adapter_config import AdapterConfig
from qwire.engine.errors import AdapterUnusable

PLAIN: dict[str, Any] = {
    "peft_type": "LORA",
    "task_type": "CAUSAL_LM",
    "r": 8,
    "lora_alpha": 16,
    "target_modules": ["q_proj", "mlp.up_proj"],
    "lora_dropout": 0.1,
    "bias": "none",
    "use_dora": False,
    "modules_to_save": None,
    "layer_replication": None,
    "peft_version": "0.21.2",
}


def parse(**changes: Any) -> AdapterConfig:
    return AdapterConfig.parse("a", json.dumps({**PLAIN, **changes}).encode())


def test_ranks_and_scales_are_told_by_module():
    config = parse()
    assert (config.rank_of("model.layers.0.self_attn.q_proj"), config.scale_of("any")) == (8, 2.0)
    assert parse(use_rslora=True).scale_of("any") == 16 / math.sqrt(8)
    other = parse(rank_pattern={"up_proj": 4, "layers.1.self_attn.q_proj": 2}, alpha_pattern={"up_proj": 1})
    assert (other.rank_of("model.layers.0.mlp.up_proj"), other.scale_of("model.layers.0.mlp.up_proj")) == (4, 0.25)
    assert (other.rank_of("model.layers.1.self_attn.q_proj"), other.rank_of("model.layers.0.self_attn.q_proj")) == (
        2,
        8,
    )
    assert other.rank_of("model.layers.0.mlp.gateup_proj") == 8, "a name is a whole part of a path"


def test_targets_are_names_or_parts_of_paths():
    config = parse()
    assert config.is_target("model.layers.3.self_attn.q_proj")
    assert config.is_target("model.layers.3.mlp.up_proj")
    assert not config.is_target("model.layers.3.mlp.down_proj")
    for pattern in ({"target_modules": "all-linear"}, {"layers_to_transform": [0]}, {"exclude_modules": ["k_proj"]}):
        assert parse(**pattern).targets is None


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "another method": ({"peft_type": "IA3"}, "LORA"),
    "no method": ({"peft_type": None}, "LORA"),
    "no rank": ({"r": None}, "its r "),
    "rank 0": ({"r": 0}, "its r "),
    "rank true": ({"r": True}, "its r "),
    "rank half": ({"r": 1.5}, "its r "),
    "no alpha": ({"lora_alpha": None}, "lora_alpha"),
    "infinite alpha": ({"lora_alpha": math.inf}, "lora_alpha"),
    "rank pattern": ({"rank_pattern": {"q_proj": 0}}, "rank_pattern"),
    "rank pattern list": ({"rank_pattern": [1]}, "rank_pattern"),
    "rank regex": ({"rank_pattern": {".*q_proj": 4}}, "regular expression"),
    "alpha regex": ({"alpha_pattern": {"^q_proj": 4}}, "regular expression"),
    "alpha pattern": ({"alpha_pattern": {"q_proj": "1"}}, "alpha_pattern"),
    "bias": ({"bias": "lora_only"}, "bias"),
    "dora": ({"use_dora": True}, "use_dora"),
    "saved modules": ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
    "lora bias": ({"lora_bias": True}, "lora_bias"),
    "replication": ({"layer_replication": [[0, 1]]}, "layer_replication"),
    "token indices": ({"trainable_token_indices": [1]}, "trainable_token_indices"),
    "parameters": ({"target_parameters": ["mlp.experts.gate_up_proj"]}, "target_parameters"),
    "transposed": ({"fan_in_fan_out": True}, "fan_in_fan_out"),
    "activated": ({"alora_invocation_tokens": [1]}, "alora_invocation_tokens"),
    "pissa": ({"init_lora_weights": "pissa"}, "init_lora_weights"),
    "olora": ({"init_lora_weights": "olora"}, "init_lora_weights"),
    "from the future": ({"use_something_new": True}, "use_something_new"),
    "no targets": ({"target_modules": None}, "target_modules"),
    "numbers": ({"target_modules": [1]}, "target_modules"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_applied_is_refused_by_its_name(case: str):
    changes, told = REFUSED[case]
    with pytest.raises(AdapterUnusable) as refused:
        parse(**changes)
    assert told in refused.value.description
    assert refused.value.adapter_id == "a"


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"3", b"\xff", b'"LORA"', b"[" * 100_000])
def test_what_is_no_configuration_is_refused(content: bytes):
    with pytest.raises(AdapterUnusable, match=r"adapter_config\.json"):
        AdapterConfig.parse("a", content)
