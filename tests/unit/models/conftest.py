"""A model file small enough to make in a test, and the catalogue entry that publishes it."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest
from tokenizers import pre_tokenizers

from qwire.models.catalogue import CatalogueEntry, GenerationDefaults, PublishedFile, WheelPart

HIDDEN, FEED_FORWARD, HEADS, KV_HEADS = 64, 96, 4, 2
VOCABULARY = [*sorted(pre_tokenizers.ByteLevel.alphabet()), "he"]
CONTROL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<tool_call>", "<|fim_prefix|>"]
UNUSED = ["[PAD262]", "[PAD263]"]
TOKEN_TYPES = [*([1] * len(VOCABULARY)), 3, 3, 3, 4, 3, 5, 5]
ENDOFTEXT, IM_START, IM_END = (len(VOCABULARY) + offset for offset in range(3))
TEMPLATE = "{% for message in messages %}<|im_start|>{{ message.content }}<|im_end|>{% endfor %}"


def _write_gguf(path: Path, architecture: str, extra_tensor: str | None) -> None:
    """One layer, random weights: matrices in Q8_0, norms and biases in float32."""
    random = np.random.default_rng(0)
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_block_count(1)
    writer.add_context_length(128)
    writer.add_embedding_length(HIDDEN)
    writer.add_feed_forward_length(FEED_FORWARD)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_rope_freq_base(1_000_000.0)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list([*VOCABULARY, *CONTROL, *UNUSED])
    writer.add_token_types(TOKEN_TYPES)
    writer.add_token_merges(["h e"])
    writer.add_eos_token_id(IM_END)
    writer.add_pad_token_id(ENDOFTEXT)
    writer.add_chat_template(TEMPLATE)
    kv_width = HIDDEN // HEADS * KV_HEADS
    matrices = {
        "token_embd.weight": (len(TOKEN_TYPES), HIDDEN),
        "output.weight": (len(TOKEN_TYPES), HIDDEN),
        "blk.0.attn_q.weight": (HIDDEN, HIDDEN),
        "blk.0.attn_k.weight": (kv_width, HIDDEN),
        "blk.0.attn_v.weight": (kv_width, HIDDEN),
        "blk.0.attn_output.weight": (HIDDEN, HIDDEN),
        "blk.0.ffn_gate.weight": (FEED_FORWARD, HIDDEN),
        "blk.0.ffn_up.weight": (FEED_FORWARD, HIDDEN),
        "blk.0.ffn_down.weight": (HIDDEN, FEED_FORWARD),
    }
    vectors = {
        "output_norm.weight": HIDDEN,
        "blk.0.attn_norm.weight": HIDDEN,
        "blk.0.ffn_norm.weight": HIDDEN,
        "blk.0.attn_q.bias": HIDDEN,
        "blk.0.attn_k.bias": kv_width,
        "blk.0.attn_v.bias": kv_width,
    }
    if extra_tensor is not None:
        vectors[extra_tensor] = HIDDEN
    for name, shape in matrices.items():
        stored = gguf.quantize(random.standard_normal(shape, np.float32), gguf.GGMLQuantizationType.Q8_0)
        writer.add_tensor(name, stored, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    for name, length in vectors.items():
        writer.add_tensor(name, random.standard_normal(length, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture(scope="session")
def tiny_gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One Qwen2 layer in Q8_0, with a byte-level tokenizer and a chat template."""
    path = tmp_path_factory.mktemp("gguf") / "tiny-q8_0.gguf"
    _write_gguf(path, "qwen2", None)
    return path


@pytest.fixture
def odd_gguf(tmp_path: Path) -> Callable[[str, str | None], Path]:
    """Makes the file of another architecture, or one with a tensor too many."""

    def make(architecture: str, extra_tensor: str | None) -> Path:
        path = tmp_path / "odd.gguf"
        _write_gguf(path, architecture, extra_tensor)
        return path

    return make


def _entry_of(content: bytes, slices: int) -> CatalogueEntry:
    """A catalogue entry that publishes these bytes, with a mirror in so many slices."""
    step = -(-len(content) // slices)
    parts = [content[begin : begin + step] for begin in range(0, len(content), step)]
    return CatalogueEntry(
        id="tiny",
        hub_repo="tests/tiny-GGUF",
        hub_revision="0123456789abcdef0123456789abcdef01234567",
        file=PublishedFile("tiny-q8_0.gguf", len(content), hashlib.sha256(content).hexdigest()),
        source_format="Q8_0",
        license="Apache-2.0",
        generation=GenerationDefaults(
            eos_token_ids=(IM_END, ENDOFTEXT),
            pad_token_id=ENDOFTEXT,
            temperature=0.7,
            top_p=0.8,
            top_k=20,
            repetition_penalty=1.05,
        ),
        mirror=tuple(
            WheelPart(
                f"tiny-part{number}", "1.0", f"/data/part{number:02d}.bin", len(part), hashlib.sha256(part).hexdigest()
            )
            for number, part in enumerate(parts, start=1)
        ),
    )


@pytest.fixture
def entry(tiny_gguf: Path) -> CatalogueEntry:
    """Publishes `tiny_gguf`, with a mirror in three slices."""
    return _entry_of(tiny_gguf.read_bytes(), slices=3)


def _write_wheel(folder: Path, part: WheelPart, members: dict[str, bytes]) -> Path:
    name = part.distribution.replace("-", "_")
    info = f"{name}-{part.version}.dist-info"
    path = folder / f"{name}-{part.version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for member, content in members.items():
            archive.writestr(f"{name}/{member}", content)
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {part.distribution}\nVersion: 1.0\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return path


@pytest.fixture
def write_wheel() -> Callable[[Path, WheelPart, dict[str, bytes]], Path]:
    """Writes a wheel that pip accepts into a folder, with the members that it is given."""
    return _write_wheel


@pytest.fixture
def wheelhouse(entry: CatalogueEntry, tiny_gguf: Path, tmp_path: Path) -> Path:
    """A folder with the wheels of the entry's mirror, for `--find-links`."""
    folder = tmp_path / "wheelhouse"
    folder.mkdir()
    content = tiny_gguf.read_bytes()
    for part in entry.mirror:
        _write_wheel(folder, part, {part.member[1:]: content[: part.size_bytes]})
        content = content[part.size_bytes :]
    return folder
