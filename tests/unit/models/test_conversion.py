from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file
from tokenizers import Tokenizer

from qwire.models.catalogue import CatalogueEntry
from qwire.models.convert import convert, converted_bytes
from qwire.models.errors import ConversionFailed
from qwire.models.gguf_file import GGUFFile
from qwire.models.gguf_tokenizer import write_tokenizer
from qwire.models.gguf_weights import model_config, transformers_name
from qwire.models.manifest import Manifest


def ignore(done_bytes: int) -> None:
    assert done_bytes >= 0


@pytest.fixture
def folder(entry: CatalogueEntry, tiny_gguf: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "checkpoints" / "tiny"
    convert(entry, tiny_gguf, folder, ignore)
    return folder


def test_weights_keep_every_bit(folder: Path, tiny_gguf: Path) -> None:
    file = GGUFFile(tiny_gguf)
    index = json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]
    converted = {name: value for shard in set(index.values()) for name, value in load_file(folder / shard).items()}

    assert set(converted) == set(index) == {transformers_name(tensor.name) for tensor in file.tensors}
    for tensor in file.tensors:
        value = converted[transformers_name(tensor.name)]
        assert value.dtype == np.float32
        assert np.array_equal(value, file.dequantized(tensor))


def test_large_files_become_several_shards(
    entry: CatalogueEntry, tiny_gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qwire.models.gguf_weights.SHARD_BYTES", 40_000)
    convert(entry, tiny_gguf, tmp_path / "sharded", ignore)

    shards = sorted(path.name for path in (tmp_path / "sharded").glob("*.safetensors"))
    assert len(shards) > 2
    assert shards[-1] == f"model-{len(shards):05d}-of-{len(shards):05d}.safetensors"
    assert len({name for shard in shards for name in load_file(tmp_path / "sharded" / shard)}) == 15


def test_configuration_says_what_the_file_says(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    assert config["model_type"] == "qwen2"
    assert config["vocab_size"] == 264
    assert config["max_position_embeddings"] == 128
    assert config["rms_norm_eps"] == 1e-6
    # The file holds an output matrix of its own, so it must not be tied to the embedding.
    assert config["tie_word_embeddings"] is False


def test_generation_defaults_are_the_publishers(folder: Path) -> None:
    assert json.loads((folder / "generation_config.json").read_text()) == {
        "bos_token_id": 257,
        "do_sample": True,
        "eos_token_id": [259, 257],
        "pad_token_id": 257,
        "repetition_penalty": 1.05,
        "temperature": 0.7,
        "top_k": 20,
        "top_p": 0.8,
    }


def test_control_tokens_have_their_ids_and_flags(folder: Path) -> None:
    added = json.loads((folder / "tokenizer.json").read_text())["added_tokens"]
    assert [(token["id"], token["content"], token["special"]) for token in added] == [
        (257, "<|endoftext|>", True),
        (258, "<|im_start|>", True),
        (259, "<|im_end|>", True),
        (260, "<tool_call>", False),
        (261, "<|fim_prefix|>", False),
    ]
    config = json.loads((folder / "tokenizer_config.json").read_text())
    assert (config["eos_token"], config["pad_token"]) == ("<|im_end|>", "<|endoftext|>")
    assert "<|im_start|>" in (folder / "chat_template.jinja").read_text()


def test_unused_rows_of_the_embedding_are_no_tokens(folder: Path) -> None:
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    assert tokenizer.get_vocab_size(with_added_tokens=True) == 262
    assert tokenizer.token_to_id("[PAD262]") is None


@pytest.fixture(scope="module")
def tokenizer(tiny_gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    folder = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(GGUFFile(tiny_gguf), folder)
    return Tokenizer.from_file(str(folder / "tokenizer.json"))


@given(text=st.text(st.characters(exclude_categories=["Cs"])))
def test_text_comes_back_normalized(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text).ids
    assert tokenizer.decode(ids, skip_special_tokens=False) == unicodedata.normalize("NFC", text)


def test_merges_and_control_tokens_are_found(tokenizer: Tokenizer) -> None:
    assert tokenizer.encode("he").ids == [256]
    assert tokenizer.encode("<|im_start|>he<|im_end|>").ids == [258, 256, 259]


def test_a_file_without_output_matrix_is_a_tied_model(tiny_gguf: Path) -> None:
    file = GGUFFile(tiny_gguf)
    file.tensors = tuple(tensor for tensor in file.tensors if tensor.name != "output.weight")
    assert model_config(file, eos_token_id=259, pad_token_id=257)["tie_word_embeddings"] is True


def test_an_unknown_tensor_is_refused_and_nothing_is_left(
    entry: CatalogueEntry, odd_gguf: Callable[[str, str | None], Path], tmp_path: Path
) -> None:
    source = odd_gguf("qwen2", "blk.0.attn_sinks.weight")
    with pytest.raises(ConversionFailed, match="attn_sinks"):
        convert(entry, source, tmp_path / "model", ignore)
    assert list(tmp_path.iterdir()) == [source]


def test_a_full_disk_is_told_before_it_is_full(
    entry: CatalogueEntry, tiny_gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nearly_full(path: Path) -> SimpleNamespace:
        assert path.exists()
        return SimpleNamespace(free=1000)

    monkeypatch.setattr("shutil.disk_usage", nearly_full)
    with pytest.raises(ConversionFailed, match=r"needs 0\.0 GB .* make room"):
        convert(entry, tiny_gguf, tmp_path / "model", ignore)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("key", "value", "complaint"),
    [
        ("tokenizer.ggml.merges", ["h x"], "inconsistent"),
        ("tokenizer.ggml.merges", ["hello"], "inconsistent"),
        ("tokenizer.ggml.token_type", [1], "incomplete"),
        ("tokenizer.ggml.eos_token_id", 10_000, "incomplete"),
        ("tokenizer.ggml.token_type", [1] * 200 + [3] + [1] * 63, "without a gap"),
        ("tokenizer.ggml.token_type", [2] * 264, "not known"),
        ("tokenizer.ggml.pre", "llama-bpe", "cannot be converted"),
    ],
)
def test_a_tokenizer_that_makes_no_sense_is_refused(
    tiny_gguf: Path, tmp_path: Path, key: str, value: object, complaint: str
) -> None:
    file = GGUFFile(tiny_gguf)
    file.metadata[key] = value
    with pytest.raises(ConversionFailed, match=complaint):
        write_tokenizer(file, tmp_path)


def test_another_architecture_is_refused(
    entry: CatalogueEntry, odd_gguf: Callable[[str, str | None], Path], tmp_path: Path
) -> None:
    with pytest.raises(ConversionFailed, match="'llama' cannot be converted"):
        convert(entry, odd_gguf("llama", None), tmp_path / "model", ignore)


def test_what_an_interrupted_conversion_left_is_removed(entry: CatalogueEntry, tiny_gguf: Path, tmp_path: Path) -> None:
    leftover = tmp_path / "model.unfinished"
    leftover.mkdir()
    (leftover / "model-00007-of-00009.safetensors").write_bytes(b"half")

    convert(entry, tiny_gguf, tmp_path / "model", ignore)

    assert not leftover.exists()
    assert not (tmp_path / "model" / "model-00007-of-00009.safetensors").exists()


def test_the_same_file_becomes_the_same_bytes(entry: CatalogueEntry, tiny_gguf: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        convert(entry, tiny_gguf, tmp_path / name, ignore)
    one, two = (Manifest.read(tmp_path / name) for name in ("one", "two"))
    assert one == two
    assert one is not None
    assert one.origin is not None
    assert one.origin.source_sha256 == entry.file.sha256


def test_progress_ends_at_what_was_announced(entry: CatalogueEntry, tiny_gguf: Path, tmp_path: Path) -> None:
    reported: list[int] = []
    convert(replace(entry, id="other"), tiny_gguf, tmp_path / "model", reported.append)
    assert reported == sorted(reported)
    assert reported[-1] == converted_bytes(tiny_gguf)
