"""The contract only grows: what the golden file holds is there, unchanged."""

from __future__ import annotations

from tests.golden.contract import GOLDEN, lines


def recorded() -> set[str]:
    return set(GOLDEN.read_text(encoding="utf-8").splitlines())


def test_nothing_of_the_contract_is_gone_or_changed():
    assert "service qwire.v1.GenerateService" in recorded()
    gone = sorted(recorded() - set(lines()))
    assert not gone, "removed or changed, but the contract only grows"


def test_what_is_new_is_recorded_so_that_it_stays():
    new = sorted(set(lines()) - recorded())
    assert not new, "new in the contract; record it: python -m tests.golden.contract"
