"""Page tokens: where a page begins, and of which list, in a form that callers only pass on."""

from __future__ import annotations

import binascii
from base64 import urlsafe_b64decode, urlsafe_b64encode
from hashlib import sha256

from google.protobuf.message import Message

from qwire.engine.errors import InvalidRequest

MAX_PAGE_SIZE = 1000
_DEFAULT_PAGE_SIZE = 100
_FILTER_CHARACTERS = 16


def page_size(asked: int) -> int:
    """Return how many a page holds at most; 0 = the default.

    Raises:
        InvalidRequest: More than allowed.
    """
    if asked > MAX_PAGE_SIZE:
        raise InvalidRequest("page_size", f"must be at most {MAX_PAGE_SIZE}")
    return asked or _DEFAULT_PAGE_SIZE


def page_token(request: Message, place: str) -> str:
    """Return the token of the page that begins after a place.

    Args:
        request: The request of a page with the same filter; its fields `page_size` and `page_token` do not matter.
        place: What the store needs to go on.
    """
    return urlsafe_b64encode(f"{_filter(request)}{place}".encode()).decode()


def page_place(request: Message, token: str) -> str:
    """Return the place that a token stands for; empty = the first page.

    Raises:
        InvalidRequest: The token is not one of ours, or it belongs to a list with another filter.
    """
    if not token:
        return ""
    try:
        told = urlsafe_b64decode(token.encode()).decode()
    except (binascii.Error, ValueError):
        told = ""
    if not told.startswith(_filter(request)):
        raise InvalidRequest("page_token", "must be the next_page_token of a page with the same filter")
    return told[_FILTER_CHARACTERS:]


def _filter(request: Message) -> str:
    bare = type(request)()
    bare.CopyFrom(request)
    bare.ClearField("page_size")
    bare.ClearField("page_token")
    return sha256(bare.SerializeToString(deterministic=True)).hexdigest()[:_FILTER_CHARACTERS]
