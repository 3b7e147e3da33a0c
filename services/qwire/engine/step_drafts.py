"""Puts guesses of what follows into what a step leaves free."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from qwire.engine.cache import KVCacheManager
from qwire.engine.sequence import Sequence
from qwire.engine.step_plan import ScheduledTokens, StepPlan


def add_drafts(plan: StepPlan, drafts: Mapping[Sequence, tuple[int, ...]], cache: KVCacheManager) -> StepPlan:
    """Add drafts to a plan, cut to what the step and the cache have room for, those of the first ones first.

    Sequences that ended meanwhile leave the plan: their pages may be those that a draft is given.

    Args:
        plan: A step without drafts.
        drafts: For some of `plan.draftable`, no longer than it says.
        cache: Gives pages for them, as far as there are any.

    Returns:
        The plan with drafts; where all of its sequences ended, the plan as it was.
    """
    live = [tokens for tokens in plan.scheduled if not tokens.sequence.ended]
    if not live:
        return plan
    budget = plan.spare_tokens
    scheduled: list[ScheduledTokens] = []
    for tokens in live:
        sequence, draft = tokens.sequence, drafts.get(tokens.sequence, ())[:budget]
        if not draft:
            scheduled.append(tokens)
            continue
        draft = draft[: cache.stretch(sequence, tokens.end + len(draft)) - tokens.end]
        budget -= len(draft)
        sequence.drafted_tokens += len(draft)
        pages = cache.pages(sequence, tokens.end + len(draft))
        scheduled.append(replace(tokens, pages=pages, draft=draft))
    return replace(plan, scheduled=tuple(scheduled), spare_tokens=budget)


def take_back_drafts(plan: StepPlan, cache: KVCacheManager) -> int:
    """Take the drafts of a step back that is given up, with what was counted for them and their pages.

    Returns:
        How many tokens they had.
    """
    taken = 0
    for tokens in plan.scheduled:
        sequence, length = tokens.sequence, len(tokens.draft)
        taken += length
        sequence.drafted_tokens -= length
        if length and not sequence.ended:
            cache.trim(sequence, sequence.total_tokens)  # computed may be none yet
    return taken
