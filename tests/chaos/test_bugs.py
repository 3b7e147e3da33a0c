"""Each planted bug is caught, by a check that passes without it."""

from __future__ import annotations

import pytest

from qwire.text.processor import TextProcessor
from tests.chaos.bugs import BUGS, Bug, caught


@pytest.mark.parametrize("bug", BUGS, ids=[bug.name for bug in BUGS])
async def test_it_is_caught(bug: Bug, processor: TextProcessor) -> None:
    assert await caught(bug, processor), "the check lets the bug pass"
