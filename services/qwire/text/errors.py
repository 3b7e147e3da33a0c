"""What can go wrong in a model's folder as far as text is concerned; everything else is in `qwire.engine.errors`."""

from __future__ import annotations


class UnusableTokenizer(Exception):
    """The folder's tokenizer or chat template cannot be used: the operator must serve another folder."""
