from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from qwire.engine.checkpoint_config import CheckpointConfig, UnsupportedCheckpoint
from qwire.engine.request import SamplingParams

CONFIG: dict[str, Any] = {
    "model_type": "qwen2",
    "architectures": ["Qwen2ForCausalLM"],
    "vocab_size": 100,
    "max_position_embeddings": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "hidden_size": 64,
    "eos_token_id": 5,
}


def write(folder: Path, config: Any, generation: Any = None) -> Path:
    (folder / "model.safetensors").touch()
    (folder / "config.json").write_text(json.dumps(config))
    if generation is not None:
        (folder / "generation_config.json").write_text(json.dumps(generation))
    return folder


def test_the_facts_are_read(tmp_path: Path) -> None:
    config = CheckpointConfig.read(write(tmp_path, CONFIG))
    assert (config.architecture, config.vocabulary_tokens, config.context_tokens) == ("Qwen2ForCausalLM", 100, 64)
    assert (config.layers, config.kv_heads, config.head_size) == (3, 2, 8)
    assert config.eos_token_ids == {5}


def test_qwen3_says_its_head_size(tmp_path: Path) -> None:
    changed = {**CONFIG, "model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"], "head_dim": 32}
    assert CheckpointConfig.read(write(tmp_path, changed)).head_size == 32


def test_a_qwen3_that_does_not_say_its_head_size_has_transformers_default(tmp_path: Path) -> None:
    changed = {**CONFIG, "model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"]}
    assert CheckpointConfig.read(write(tmp_path, changed)).head_size == 128


@pytest.mark.parametrize(
    ("change", "layers"),
    [
        ({}, {0, 1, 2}),
        ({"decoder_sparse_step": 2}, {1}),
        ({"mlp_only_layers": [0, 2]}, {1}),
        ({"num_experts": 0}, set()),
        ({"num_local_experts": 4, "mlp_only_layers": None}, {0, 1, 2}),
    ],
)
def test_layers_of_experts_are_known(tmp_path: Path, change: dict[str, Any], layers: set[int]) -> None:
    moe = {**CONFIG, "model_type": "qwen3_moe", "architectures": ["Qwen3MoeForCausalLM"], **change}
    assert CheckpointConfig.read(write(tmp_path, moe)).sparse_layers == layers
    assert CheckpointConfig.read(write(tmp_path, CONFIG)).sparse_layers == set()


@pytest.mark.parametrize(
    ("change", "tokens"),
    [
        ({"rope_scaling": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}}, 256),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 2.5}}, 160),
        ({"rope_parameters": {"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 32}}, 64),
        ({"rope_scaling": {"type": "linear", "factor": 4.0}}, 64),
        ({"rope_scaling": None}, 64),
    ],
)
def test_the_context_is_what_yarn_reaches(tmp_path: Path, change: dict[str, Any], tokens: int) -> None:
    assert CheckpointConfig.read(write(tmp_path, {**CONFIG, **change})).context_tokens == tokens


@pytest.mark.parametrize(
    ("generation", "sampling"),
    [
        (None, SamplingParams(temperature=0.0, top_k=50)),
        ({"do_sample": False, "temperature": 0.7}, SamplingParams(temperature=0.0, top_k=50)),
        ({"do_sample": True}, SamplingParams(temperature=1.0, top_k=50)),
        (
            {"do_sample": True, "temperature": 0.7, "top_k": 20, "top_p": 0.8, "min_p": 0.1, "repetition_penalty": 1.1},
            SamplingParams(1.1, temperature=0.7, top_k=20, top_p=0.8, min_p=0.1),
        ),
    ],
)
def test_default_sampling_is_the_models_own(tmp_path: Path, generation: Any, sampling: SamplingParams) -> None:
    assert CheckpointConfig.read(write(tmp_path, CONFIG, generation)).default_sampling == sampling


def test_the_generation_configs_eos_goes_first(tmp_path: Path) -> None:
    assert CheckpointConfig.read(write(tmp_path, CONFIG, {"eos_token_id": [7, 8]})).eos_token_ids == {7, 8}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "llama"}, "model type is 'llama'"),
        ({"model_type": "qwen2_moe"}, "model type is 'qwen2_moe'"),
        ({"architectures": ["Qwen2ForRewardModel"]}, "Qwen2ForRewardModel"),
        ({"hidden_act": "gelu"}, "activation is 'gelu'"),
        ({"use_sliding_window": True}, "sliding window"),
        ({"layer_types": ["full_attention", "sliding_attention"]}, "sliding window"),
        ({"rope_scaling": {"type": "dynamic", "factor": 2.0}}, "'dynamic'"),
        ({"rope_parameters": {"rope_type": "longrope"}}, "'longrope'"),
    ],
)
def test_a_model_that_would_run_wrong_is_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(UnsupportedCheckpoint, match=message):
        CheckpointConfig.read(write(tmp_path, {**CONFIG, **change}))


def test_a_folder_that_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedCheckpoint, match="safetensors"):
        CheckpointConfig.read(tmp_path)
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(UnsupportedCheckpoint, match="cannot be read"):
        CheckpointConfig.read(tmp_path)
    write(tmp_path, ["no object"])
    with pytest.raises(UnsupportedCheckpoint, match="not a JSON object"):
        CheckpointConfig.read(tmp_path)
    write(tmp_path, {name: value for name, value in CONFIG.items() if name != "vocab_size"})
    with pytest.raises(UnsupportedCheckpoint, match="vocab_size"):
        CheckpointConfig.read(tmp_path)
