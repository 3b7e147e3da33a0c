"""Page tokens: where a page begins, and of which list, in a form that callers only pass on."""

from __future__ import annotations

import binascii
from base64 import urlsafe_b64decode, urlsafe_b64encode
from hashlib import sha256

from google.protobuf.message import Message

from qwire.engine.errors import InvalidRequest

MAX_PAGE_SIZE = 1000
_DEFAULT_PAGE_SIZE = 100
_DIGEST_CHARACTERS = 16
_LARGEST = 2**63 - 1  # of the numbers that a store can look for


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
    return urlsafe_b64encode(f"{_digest(request, place)}{place}".encode()).decode()


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
    digest, place = told[:_DIGEST_CHARACTERS], told[_DIGEST_CHARACTERS:]
    if not place or digest != _digest(request, place):
        raise InvalidRequest("page_token", "must be the next_page_token of a page with the same filter")
    return place


def number_in(field: str, value: str | int) -> int:
    """Return a number that a place or a cursor has.

    Raises:
        InvalidRequest: No place has such a number. Names the field.
    """
    try:
        number = int(value)
    except ValueError:
        number = -1
    if not 0 <= number <= _LARGEST:
        raise InvalidRequest(field, "was not told by this service")
    return number


def _digest(request: Message, place: str) -> str:
    bare = type(request)()
    bare.CopyFrom(request)
    bare.ClearField("page_size")
    bare.ClearField("page_token")
    told = bare.SerializeToString(deterministic=True) + place.encode()
    return sha256(told).hexdigest()[:_DIGEST_CHARACTERS]
