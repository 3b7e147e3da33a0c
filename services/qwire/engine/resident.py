"""What the system does with this process's memory. All of it are wishes: one that cannot be granted changes nothing."""

from __future__ import annotations

import ctypes
import mmap
from contextlib import suppress

from torch import Tensor


def release_freed() -> None:
    """Give back what was freed and glibc's allocator keeps.

    Reading a model leaves some hundred megabytes of holes between the weights, which no later tensor fits into.
    """
    with suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)


def release_mapped(tensor: Tensor) -> None:
    """Give back the pages of a tensor that is mapped to a file, and that nobody reads again."""
    _advise(tensor, "MADV_DONTNEED")


def ask_for_large_pages(tensor: Tensor) -> None:
    """Have a tensor that was not written yet lie in large pages.

    While weights pass by, a look at the page table for each 4 KB of them costs a tenth of the bandwidth.
    """
    _advise(tensor, "MADV_HUGEPAGE")


def _advise(tensor: Tensor, advice: str) -> None:
    """Advise a system that knows the advice on the pages that belong to the tensor as a whole."""
    first = -(-tensor.data_ptr() // mmap.PAGESIZE) * mmap.PAGESIZE
    length = (tensor.data_ptr() + tensor.nbytes - first) // mmap.PAGESIZE * mmap.PAGESIZE
    if length > 0:
        with suppress(AttributeError, OSError):
            ctypes.CDLL(None).madvise(ctypes.c_void_p(first), ctypes.c_size_t(length), getattr(mmap, advice))
