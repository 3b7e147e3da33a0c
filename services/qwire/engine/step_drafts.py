"""Puts guesses of what follows into what a step leaves free."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from qwire.engine.cache import KVCacheManager
from qwire.engine.sequence import Sequence
from qwire.engine.step_plan import ScheduledTokens, StepPlan


def add_drafts(plan: StepPlan, drafts: Mapping[Sequence, tuple[int, ...]], cache: KVCacheManager) -> StepPlan:
    """Add drafts to a plan, cut to what the step and the cache have room for, those of the first ones first.

    Args:
        plan: A step without drafts.
        drafts: For some of `plan.draftable`, no longer than it says.
        cache: Gives pages for them, as far as there are any.
    """
    budget = plan.spare_tokens
    scheduled: list[ScheduledTokens] = []
    for tokens in plan.scheduled:
        sequence, draft = tokens.sequence, drafts.get(tokens.sequence, ())[:budget]
        if not draft or sequence.ended:
            scheduled.append(tokens)
            continue
        draft = draft[: cache.stretch(sequence, tokens.end + len(draft)) - tokens.end]
        budget -= len(draft)
        sequence.drafted_tokens += len(draft)
        pages = cache.pages(sequence, tokens.end + len(draft))
        scheduled.append(replace(tokens, pages=pages, draft=draft))
    return replace(plan, scheduled=tuple(scheduled), spare_tokens=budget)
