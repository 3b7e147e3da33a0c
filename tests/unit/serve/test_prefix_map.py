"""A prompt is led to whoever computed the longest beginning of it."""

from __future__ import annotations

from qwire.serve.prefix_map import PrefixMap, page_hashes

SYSTEM = tuple(range(40))


def hashes(*tokens: int) -> tuple[int, ...]:
    return page_hashes((*SYSTEM, *tokens), page_tokens=8)


def test_whole_pages_count_and_each_depends_on_all_before_it():
    assert len(page_hashes(range(23), 8)) == 2
    assert page_hashes(range(7), 8) == ()
    same, other = page_hashes(range(24), 8), page_hashes((9, *range(1, 24)), 8)
    assert not set(same) & set(other)


def test_the_longest_beginning_wins():
    prefixes: PrefixMap[str] = PrefixMap(1000, slack=2)
    prefixes.learn(hashes(*[1] * 16), "a")
    prefixes.learn(hashes(*[2] * 16), "b")
    assert prefixes.find(hashes(*[1] * 8, *[7] * 8), {"a": 0, "b": 0}) == "a"
    assert prefixes.find(hashes(*[2] * 8), {"a": 0, "b": 0}) == "b"
    assert prefixes.find(hashes(*[3] * 8), {"a": 0, "b": 0}) == "b"  # it saw what they share last


def test_who_has_gone_is_not_found():
    prefixes: PrefixMap[str] = PrefixMap(1000, slack=2)
    prefixes.learn(hashes(), "a")
    prefixes.learn(hashes(*[1] * 16), "b")
    assert prefixes.find(hashes(*[1] * 16), {"a": 0}) is None
    assert prefixes.find(page_hashes(range(100, 140), 8), {"a": 0, "b": 0}) is None


def test_one_that_comes_to_the_place_of_another_takes_it():
    prefixes: PrefixMap[str] = PrefixMap(1, slack=2)
    first, second = (page_hashes([number] * 8, 8) for number in (1, 2))
    for seen, forgotten in ((first, second), (second, first), (first, second)):
        prefixes.learn(seen, "a")
        assert prefixes.find(seen, {"a": 0}) == "a"
        assert prefixes.find(forgotten, {"a": 0}) is None


def test_many_beginnings_are_remembered_at_once():
    prefixes: PrefixMap[int] = PrefixMap(4096, slack=2)
    many = [page_hashes(range(number, number + 8), 8) for number in range(1000)]
    for number, one in enumerate(many):
        prefixes.learn(one, number)
    loads = dict.fromkeys(range(1000), 0)
    found = sum(prefixes.find(one, loads) == number for number, one in enumerate(many))
    assert found > 800  # of 1,000 in 4,096 places, some 888 are not overwritten


def test_a_busy_replica_is_passed_over():
    prefixes: PrefixMap[str] = PrefixMap(1000, slack=2)
    prefixes.learn(hashes(), "a")
    assert prefixes.find(hashes(), {"a": 7, "b": 5, "c": 9}) == "a"
    assert prefixes.find(hashes(), {"a": 8, "b": 5, "c": 9}) is None
