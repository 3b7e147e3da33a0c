from __future__ import annotations

from collections.abc import Callable

import pytest

from qwire.engine.cache import KVCacheManager
from qwire.engine.pages import PagePool
from qwire.engine.request import StopParams
from qwire.engine.sequence import Sequence

MakeSequence = Callable[..., Sequence]


def compute(cache: KVCacheManager, sequence: Sequence) -> None:
    """Let a sequence be computed as far as it goes, and keep what is full."""
    cache.allocate(sequence)
    sequence.computed_tokens = sequence.total_tokens
    cache.keep(sequence)


def test_only_full_pages_that_are_computed_are_found(make_sequence: MakeSequence) -> None:
    cache = KVCacheManager(20, 4)
    first = make_sequence(11)
    assert cache.allocate(first) == 0
    first.computed_tokens = 7
    cache.keep(first)
    second = make_sequence(11)
    assert cache.allocate(second) == 4
    assert cache.pages(second, 11)[0] == cache.pages(first, 11)[0]
    assert not {*cache.pages(second, 11)[1:]} & {*cache.pages(first, 11)}
    assert cache.used_tokens == (3 + 2) * 4
    cache.check_integrity()


def test_the_last_token_is_never_found(make_sequence: MakeSequence) -> None:
    cache = KVCacheManager(20, 4)
    compute(cache, make_sequence(8))
    assert cache.allocate(make_sequence(8)) == 4
    assert cache.allocate(make_sequence(9)) == 8


def test_pages_are_found_after_their_sequence_until_they_are_needed(make_sequence: MakeSequence) -> None:
    cache = KVCacheManager(5, 4)
    first = make_sequence(16)
    compute(cache, first)
    cache.free(first)
    assert cache.used_tokens == 0
    other = make_sequence(4, output_token_ids=(9,) * 4, stop=StopParams(9))
    assert cache.allocate(other) == 4
    cache.free(other)
    cache.check_integrity()
    assert cache.allocate(make_sequence(16)) == 12


def test_the_end_of_the_least_recently_used_text_goes_first() -> None:
    pool = PagePool(4)
    old = [pool.take(None) for _ in range(2)]
    for page in old:
        pool.label(page, bytes([page]))
    for page in reversed(old):
        pool.give_back(page)
    assert pool.available == 4
    free = [pool.take(None) for _ in range(2)]
    assert not {*free} & {*old}, "free pages go before cached ones"
    assert pool.take(None) == old[1]
    assert pool.find(bytes([old[1]])) is None
    assert pool.find(bytes([old[0]])) == old[0]
    pool.share(old[0])
    assert pool.available == 0
    pool.check_integrity([*free, *old])


def test_the_beginning_of_a_text_outlives_its_end(make_sequence: MakeSequence) -> None:
    cache = KVCacheManager(5, 4)
    first = make_sequence(20)
    compute(cache, first)
    cache.free(first)
    other = make_sequence(2, output_token_ids=(9,) * 6, stop=StopParams(7))
    cache.allocate(other)
    cache.free(other)
    assert cache.allocate(make_sequence(20)) == 12


def test_wrong_content_is_found_by_nobody(make_sequence: MakeSequence) -> None:
    cache = KVCacheManager(20, 4)
    first = make_sequence(11)
    compute(cache, first)
    cache.forget(first)
    cache.free(first)
    cache.check_integrity()
    assert cache.allocate(make_sequence(11)) == 0


def test_a_sequence_grows_where_it_can_be_read_in_one_piece(make_sequence: MakeSequence) -> None:
    cache = KVCacheManager(20, 4)
    sequences = [make_sequence(6, StopParams(12)) for _ in range(4)]
    for sequence in sequences:
        cache.allocate(sequence)
    for _ in range(12):
        for sequence in sequences:
            sequence.append(5, 1)
            assert cache.can_grow(sequence)
            cache.grow(sequence)
    for sequence in sequences:
        pages = cache.pages(sequence, 18)
        assert pages == tuple(range(pages[0], pages[0] + 5))
    assert not cache.can_allocate(make_sequence(1))
    cache.check_integrity()


def test_wishes_bind_nobody(make_sequence: MakeSequence) -> None:
    cache = KVCacheManager(20, 4)
    cache.allocate(make_sequence(6, StopParams(74)))
    other = make_sequence(72)
    assert cache.can_allocate(other) is False, "room to grow is left to each"
    cache.allocate(other)
    assert cache.used_tokens == 80
    cache.check_integrity()


def test_a_key_is_that_of_the_whole_text(make_sequence: MakeSequence) -> None:
    plain, longer = make_sequence(8), make_sequence(12)
    assert plain.page_key(1, 4) == longer.page_key(1, 4)
    assert len({longer.page_key(index, 4) for index in range(3)}) == 3
    other = make_sequence(4, output_token_ids=(5, 6, 7, 9))
    assert other.page_key(0, 4) == plain.page_key(0, 4)
    assert other.page_key(1, 4) != plain.page_key(1, 4)


def test_a_broken_pool_is_noticed() -> None:
    pool = PagePool(3)
    page = pool.take(None)
    pool.check_integrity([page])
    with pytest.raises(AssertionError, match=f"page {page} is not held as often"):
        pool.check_integrity([])
    with pytest.raises(AssertionError):
        pool.check_integrity([page, page])
