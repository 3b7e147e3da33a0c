"""How long calls may take."""

from __future__ import annotations

import math


def check_timeout(timeout_s: float, option: str = "timeout_s") -> float:
    """Return a timeout, unless no call could have it.

    Raises:
        ValueError: It is not above 0, or not a number.
    """
    if math.isnan(timeout_s) or timeout_s <= 0:
        raise ValueError(f"{option} must be above 0 seconds, got {timeout_s}")
    return timeout_s


def deadline(timeout_s: float | None, default_s: float = math.inf) -> float | None:
    """Return the deadline of a call as gRPC takes it: seconds from now, None = none.

    Args:
        timeout_s: What the caller asks for; None = the default.
        default_s: The default.

    Raises:
        ValueError: It is not above 0, or not a number.
    """
    chosen_s = check_timeout(default_s if timeout_s is None else timeout_s)
    return None if math.isinf(chosen_s) else chosen_s
