"""A converted file is the model it was made from: the same logits, the same tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, pre_tokenizers
from transformers import AutoTokenizer, Qwen2Config, Qwen2ForCausalLM
from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX

from qwire.models.catalogue import CatalogueEntry, GenerationDefaults, PublishedFile
from qwire.models.convert import convert
from qwire.models.gguf_tokenizer import SPLIT_PATTERN

pytestmark = pytest.mark.model

LAYERS = 2
TOKENS = [
    *sorted(pre_tokenizers.ByteLevel.alphabet()),
    "he",
    "hel",
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "[PAD261]",
]
TOKEN_TYPES = [*([1] * 258), 3, 3, 3, 5]
ENDOFTEXT, IM_END = 258, 260


@pytest.fixture(scope="module")
def original() -> Qwen2ForCausalLM:
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=len(TOKENS),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        rope_parameters={"rope_type": "default", "rope_theta": 1_000_000.0},
        rms_norm_eps=1e-6,
        tie_word_embeddings=False,
    )
    model = Qwen2ForCausalLM(config).eval()
    for parameter in model.parameters():  # norms and biases begin as ones and zeros, which would hide a mix-up
        torch.nn.init.normal_(parameter, std=0.1)
    return model


def write_gguf(path: Path, model: Qwen2ForCausalLM, kind: gguf.GGMLQuantizationType) -> None:
    """The model with its matrices in a storage type, under the names of the `gguf` package's own table."""
    config: Any = model.config
    writer = gguf.GGUFWriter(path, "qwen2")
    writer.add_block_count(LAYERS)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(TOKENS)
    writer.add_token_types(TOKEN_TYPES)
    writer.add_token_merges(["h e", "he l"])
    writer.add_eos_token_id(IM_END)
    writer.add_pad_token_id(ENDOFTEXT)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.QWEN2, LAYERS)
    for name, tensor in model.state_dict().items():
        stored_name = names.get_name(name, try_suffixes=(".weight", ".bias"))
        assert stored_name is not None
        values = tensor.numpy()
        if values.ndim == 1:
            writer.add_tensor(stored_name, values)
        else:
            writer.add_tensor(stored_name, gguf.quantize(values, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def converted(source: Path, folder: Path) -> Qwen2ForCausalLM:
    entry = CatalogueEntry(
        id="tiny",
        hub_repo="tests/tiny-GGUF",
        hub_revision="0" * 40,
        file=PublishedFile(source.name, source.stat().st_size, "0" * 64),
        source_format="F32",
        license="Apache-2.0",
        generation=GenerationDefaults(
            (IM_END, ENDOFTEXT), ENDOFTEXT, temperature=0.7, top_p=0.8, top_k=20, repetition_penalty=1.05
        ),
    )
    convert(entry, source, folder, lambda _: None)
    return Qwen2ForCausalLM.from_pretrained(folder, use_safetensors=True).eval()


def logits(model: Qwen2ForCausalLM) -> torch.Tensor:
    with torch.no_grad():
        return model(torch.arange(1, 41).unsqueeze(0)).logits


def test_a_float_file_has_the_logits_of_its_model(original: Qwen2ForCausalLM, tmp_path: Path) -> None:
    source = tmp_path / "tiny.gguf"
    write_gguf(source, original, gguf.GGMLQuantizationType.F32)

    model = converted(source, tmp_path / "model")

    assert model.dtype == torch.float32
    assert torch.equal(logits(model), logits(original))
    assert model.generation_config is not None
    assert model.generation_config.eos_token_id == [IM_END, ENDOFTEXT]


@pytest.mark.parametrize("kind", ["Q4_0", "Q5_0", "Q8_0", "F16", "BF16"])
def test_a_quantized_file_has_the_logits_that_transformers_gives_it(
    original: Qwen2ForCausalLM, tmp_path: Path, kind: str
) -> None:
    source = tmp_path / "tiny.gguf"
    write_gguf(source, original, gguf.GGMLQuantizationType[kind])
    reference = Qwen2ForCausalLM.from_pretrained(tmp_path, gguf_file=source.name, dtype=torch.float32).eval()

    model = converted(source, tmp_path / "model")

    expected, state = reference.state_dict(), model.state_dict()
    assert set(state) == set(expected)
    assert all(torch.equal(state[name], expected[name]) for name in expected)
    assert torch.equal(logits(model), logits(reference))
    assert not torch.equal(logits(model), logits(original))


def test_text_is_split_as_transformers_splits_it() -> None:
    assert SPLIT_PATTERN == PRETOKENIZE_REGEX


@pytest.mark.parametrize(
    "text",
    [
        "hello, I'LL be 12345 there\r\n\n  now",
        "naïve 你好 🤦🏽 мир",
        "<|im_start|>user\nhe<|im_end|>\n",
        "\tdef f():\n\t\treturn 1",
    ],
)
def test_tokens_are_those_that_transformers_finds(original: Qwen2ForCausalLM, tmp_path: Path, text: str) -> None:
    source = tmp_path / "tiny.gguf"
    write_gguf(source, original, gguf.GGMLQuantizationType.F32)
    folder = tmp_path / "model"
    converted(source, folder)

    ids = Tokenizer.from_file(str(folder / "tokenizer.json")).encode(text).ids

    assert ids == AutoTokenizer.from_pretrained(folder)(text)["input_ids"]
    assert ids == AutoTokenizer.from_pretrained(tmp_path, gguf_file=source.name)(text)["input_ids"]
    assert np.max(ids) < len(TOKENS) - 1
