"""Who calls, as far as sharing fairly goes."""

from __future__ import annotations

import re
from collections.abc import Iterable

from qwire.rpc.errors import FieldViolation, InvalidFields

_TENANT = re.compile(r"[A-Za-z0-9._:@/-]{1,64}")


def tenant_of(metadata: Iterable[tuple[str, str | bytes]], key: str) -> str:
    """Return the name that a call gives itself; empty = none.

    Args:
        metadata: The call's metadata.
        key: Where the name is; empty = nobody has one.

    Raises:
        InvalidFields: It is not a name, or there are several.
    """
    names = [value for name, value in metadata if key and name == key]
    if not names:
        return ""
    name = names[0]
    if len(names) > 1:
        raise InvalidFields((FieldViolation(f"metadata.{key}", "must be given once"),))
    if not isinstance(name, str) or not _TENANT.fullmatch(name):
        raise InvalidFields(
            (FieldViolation(f"metadata.{key}", "must have 1 to 64 letters, digits and characters of . _ : @ / -"),)
        )
    return name
