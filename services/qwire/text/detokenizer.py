"""Token ids to text, as they come."""

from __future__ import annotations

import codecs
from collections.abc import Sequence


class Detokenizer:
    """Decodes one output token by token: all pieces together are the text of all tokens together.

    A character whose bytes are spread over several tokens comes with the last of them. Bytes that are not UTF-8 come
    as U+FFFD, one for each maximal invalid sequence, as soon as the next token shows that they are.

    Args:
        token_bytes: What each token id stands for, by id; ids beyond it stand for nothing.
    """

    def __init__(self, token_bytes: Sequence[bytes]) -> None:
        self._token_bytes = token_bytes
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token_id: int) -> str:
        """Return the characters that this token completes."""
        if token_id >= len(self._token_bytes):
            return ""
        return self._decoder.decode(self._token_bytes[token_id])

    def finish(self) -> str:
        """Return what an incomplete character at the end stands for: U+FFFD, or nothing."""
        return self._decoder.decode(b"", final=True)
