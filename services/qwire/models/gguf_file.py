"""Reads GGUF: metadata, and tensors dequantized to float32.

The `gguf` package reads the same format, but builds an array object for each of the 300,000 strings of a Qwen
vocabulary, which takes 14 s; walking the header takes less than one. Its dequantization is used as it is.
"""

from __future__ import annotations

import math
import mmap
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt

from qwire.models.errors import ConversionFailed

_MAGIC = b"GGUF"
_VERSION = 3
_DEFAULT_ALIGNMENT = 32
# Value types of the format, by number; 8 is a string and 9 an array.
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One tensor of the file.

    Attributes:
        name: Its name in the file.
        shape: Row-major, as torch counts it; the file counts the other way round.
        kind: How its values are stored.
        offset_bytes: Where it begins in the file.
    """

    name: str
    shape: tuple[int, ...]
    kind: gguf.GGMLQuantizationType
    offset_bytes: int

    @property
    def elements(self) -> int:
        """How many values it has."""
        return math.prod(self.shape)


class _Cursor:
    """A position in mapped bytes."""

    def __init__(self, data: memoryview) -> None:
        self._data = data
        self.position = 0

    def scalar(self, code: str) -> Any:
        values = struct.unpack_from(f"<{code}", self._data, self.position)
        self.position += struct.calcsize(f"<{code}")
        return values[0]

    def string(self) -> str:
        length: int = self.scalar("Q")
        end = self.position + length
        if end > len(self._data):
            raise ValueError("a string leads beyond the end of the file")
        text = bytes(self._data[self.position : end]).decode("utf-8")
        self.position = end
        return text

    def value(self, kind: int) -> Any:
        if kind == _STRING:
            return self.string()
        if kind == _ARRAY:
            return self._array()
        return self.scalar(_SCALARS[kind])

    def _array(self) -> list[Any]:
        kind: int = self.scalar("I")
        count: int = self.scalar("Q")
        if kind in _SCALARS:
            code = f"<{count}{_SCALARS[kind]}"
            values = struct.unpack_from(code, self._data, self.position)
            self.position += struct.calcsize(code)
            return list(values)
        return [self.value(kind) for _ in range(count)]


class GGUFFile:
    """A GGUF file of version 3, mapped into memory.

    Attributes:
        metadata: The key-value section.
        tensors: The tensor table, in file order.

    Raises:
        ConversionFailed: The file is not GGUF version 3, or it is cut short.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            with path.open("rb") as file:
                self._bytes = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            self.metadata, self.tensors = self._read()
        except (struct.error, ValueError, KeyError) as error:
            raise ConversionFailed(f"{path} is not a readable GGUF file: {error!r}.") from error

    def dequantized(self, tensor: TensorInfo) -> npt.NDArray[np.float32]:
        """The values of a tensor, exactly as llama.cpp's formats define them."""
        block_elements, block_bytes = gguf.GGML_QUANT_SIZES[tensor.kind]
        row_bytes = tensor.shape[-1] // block_elements * block_bytes
        size_bytes = tensor.elements // block_elements * block_bytes
        try:
            stored = np.frombuffer(self._bytes, np.uint8, size_bytes, tensor.offset_bytes)
            values = gguf.dequantize(stored.reshape(*tensor.shape[:-1], row_bytes), tensor.kind)
        except (NotImplementedError, ValueError) as error:
            raise ConversionFailed(f"{self._path}: tensor {tensor.name} ({tensor.kind.name}): {error}.") from error
        return values.reshape(tensor.shape).astype(np.float32, copy=False)

    def _read(self) -> tuple[dict[str, Any], tuple[TensorInfo, ...]]:
        data = memoryview(self._bytes)
        if bytes(data[:4]) != _MAGIC:
            raise ValueError("it does not begin with the magic bytes")
        cursor = _Cursor(data)
        cursor.position = len(_MAGIC)
        version: int = cursor.scalar("I")
        if version != _VERSION:
            raise ValueError(f"version {version}; only {_VERSION} is known")
        tensor_count: int = cursor.scalar("Q")
        pair_count: int = cursor.scalar("Q")
        metadata: dict[str, Any] = {}
        for _ in range(pair_count):
            key = cursor.string()
            metadata[key] = cursor.value(cursor.scalar("I"))
        rows = [_tensor_row(cursor) for _ in range(tensor_count)]
        alignment: int = metadata.get("general.alignment", _DEFAULT_ALIGNMENT)
        start = -(-cursor.position // alignment) * alignment
        return metadata, tuple(
            TensorInfo(name, shape, gguf.GGMLQuantizationType(kind), start + offset)
            for name, shape, kind, offset in rows
        )


def _tensor_row(cursor: _Cursor) -> tuple[str, tuple[int, ...], int, int]:
    name = cursor.string()
    dimensions: int = cursor.scalar("I")
    shape = tuple(cursor.scalar("Q") for _ in range(dimensions))
    kind: int = cursor.scalar("I")
    offset: int = cursor.scalar("Q")
    return name, tuple(reversed(shape)), kind, offset
