"""The functions of the compiled kernel, as Python calls them. What they compute is written in its sources."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

PLAIN, NORMED, GATED = range(3)
"""Kinds of input."""


class WeightArgument(ctypes.Structure):
    """`Weight` of int8.cpp."""

    _fields_ = (
        ("rows", ctypes.c_int64),
        ("columns", ctypes.c_int64),
        ("values", ctypes.c_void_p),
        ("scales", ctypes.c_void_p),
        ("bias", ctypes.c_void_p),
    )


class FloatWeightArgument(ctypes.Structure):
    """`FloatWeight` of float32.cpp."""

    _fields_ = (
        ("rows", ctypes.c_int64),
        ("columns", ctypes.c_int64),
        ("form", ctypes.c_int64),
        ("values", ctypes.c_void_p),
        ("bias", ctypes.c_void_p),
    )


class InputArgument(ctypes.Structure):
    """`Input` of input.h."""

    _fields_ = (
        ("x", ctypes.c_void_p),
        ("rows", ctypes.c_int64),
        ("stride", ctypes.c_int64),
        ("kind", ctypes.c_int64),
        ("norm", ctypes.c_void_p),
        ("epsilon", ctypes.c_float),
    )


class AttentionArgument(ctypes.Structure):
    """`Attention` of attention.cpp."""

    _fields_ = (
        ("keys", ctypes.c_void_p),
        ("values", ctypes.c_void_p),
        ("heads", ctypes.c_int64),
        ("kv_heads", ctypes.c_int64),
        ("size", ctypes.c_int64),
        ("page_tokens", ctypes.c_int64),
        ("tokens", ctypes.c_int64),
        ("pieces", ctypes.c_int64),
        ("slots", ctypes.c_void_p),
        ("pages", ctypes.c_void_p),
        ("piece", ctypes.c_void_p),
        ("query", ctypes.c_void_p),
        ("key", ctypes.c_void_p),
        ("value", ctypes.c_void_p),
        ("stride", ctypes.c_int64),
        ("scaling", ctypes.c_float),
    )


class Library:
    """A loaded library; its functions let other threads run.

    Args:
        path: As `qwire.engine.q8.build` made it.

    Raises:
        OSError: It cannot be loaded.
    """

    def __init__(self, path: Path) -> None:
        functions: Any = ctypes.CDLL(str(path))
        integer, pointer, weight = ctypes.c_int64, ctypes.c_void_p, ctypes.POINTER(WeightArgument)
        self.pack = functions.qwire_q8_pack
        self.pack.argtypes = (pointer, weight)
        self.rows = functions.qwire_q8_rows
        self.rows.argtypes = (weight, pointer, integer, pointer)
        self.linear = functions.qwire_q8_linear
        self.linear.argtypes = (weight, ctypes.POINTER(InputArgument), pointer, integer, integer)
        self.route = functions.qwire_route
        self.route.argtypes = (pointer, integer, integer, ctypes.POINTER(InputArgument), pointer)
        float_weight = ctypes.POINTER(FloatWeightArgument)
        self.float32_pack = functions.qwire_float32_pack
        self.float32_pack.argtypes = (pointer, float_weight)
        self.float32_rows = functions.qwire_float32_rows
        self.float32_rows.argtypes = (float_weight, pointer, integer, pointer)
        self.float32_linear = functions.qwire_float32_linear
        self.float32_linear.argtypes = (float_weight, ctypes.POINTER(InputArgument), pointer, integer, integer)
        self.rotate = functions.qwire_rotate
        self.rotate.argtypes = (pointer, *(integer,) * 5, *(pointer,) * 3, ctypes.c_float)
        self.attend = functions.qwire_attend
        self.attend.argtypes = (ctypes.POINTER(AttentionArgument), pointer)
        for function in (
            *(self.pack, self.rows, self.linear, self.float32_rows, self.float32_linear),
            *(self.route, self.rotate, self.attend),
        ):
            function.restype = None
        self.float32_bytes = functions.qwire_float32_bytes
        self.float32_bytes.argtypes = (integer, integer, integer)
        for function in (self.float32_bytes, self.float32_pack):
            function.restype = integer
