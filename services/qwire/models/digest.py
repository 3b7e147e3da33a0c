"""SHA-256 of files, in constant memory."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

CHUNK_BYTES = 4 << 20


def sha256_of(path: Path, report: Callable[[int], None] | None = None) -> str:
    """The SHA-256 of a file, in lower-case hexadecimal.

    Args:
        path: A regular file.
        report: Called with the bytes hashed so far, after each chunk.
    """
    digest = hashlib.sha256()
    done_bytes = 0
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
            done_bytes += len(chunk)
            if report is not None:
                report(done_bytes)
    return digest.hexdigest()
