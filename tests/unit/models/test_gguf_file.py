from __future__ import annotations

import struct
from pathlib import Path

import gguf
import numpy as np
import pytest

from qwire.models.errors import ConversionFailed
from qwire.models.gguf_file import GGUFFile


def test_values_are_those_of_the_reference_reader(tiny_gguf: Path) -> None:
    file = GGUFFile(tiny_gguf)
    reference = {tensor.name: tensor for tensor in gguf.GGUFReader(tiny_gguf).tensors}

    assert {tensor.name for tensor in file.tensors} == set(reference)
    for tensor in file.tensors:
        expected = gguf.dequantize(reference[tensor.name].data, reference[tensor.name].tensor_type)
        assert file.dequantized(tensor).dtype == np.float32
        assert np.array_equal(file.dequantized(tensor), expected.reshape(tensor.shape))


def test_metadata_are_those_of_the_reference_reader(tiny_gguf: Path) -> None:
    fields = gguf.GGUFReader(tiny_gguf).fields
    metadata = GGUFFile(tiny_gguf).metadata

    expected = {name: field.contents() for name, field in fields.items() if not name.startswith("GGUF.")}
    assert metadata == expected


@pytest.mark.parametrize("kept", [0, 3, 30, 500])
def test_a_file_cut_in_its_header_is_refused(tiny_gguf: Path, tmp_path: Path, kept: int) -> None:
    path = tmp_path / "cut.gguf"
    path.write_bytes(tiny_gguf.read_bytes()[:kept])

    with pytest.raises(ConversionFailed, match=r"cut\.gguf is not a readable GGUF file"):
        GGUFFile(path)


def test_a_file_cut_in_its_tensors_is_refused(tiny_gguf: Path, tmp_path: Path) -> None:
    path = tmp_path / "cut.gguf"
    path.write_bytes(tiny_gguf.read_bytes()[:-100])
    file = GGUFFile(path)

    with pytest.raises(ConversionFailed, match=r"blk\.0\.attn_v\.bias"):
        file.dequantized(file.tensors[-1])


@pytest.mark.parametrize(("begin", "content"), [(0, b"PK\x03\x04"), (4, struct.pack("<I", 2))])
def test_another_format_or_version_is_refused(tiny_gguf: Path, tmp_path: Path, begin: int, content: bytes) -> None:
    path = tmp_path / "other.gguf"
    path.write_bytes(tiny_gguf.read_bytes()[:begin] + content + tiny_gguf.read_bytes()[begin + 4 :])

    with pytest.raises(ConversionFailed):
        GGUFFile(path)
