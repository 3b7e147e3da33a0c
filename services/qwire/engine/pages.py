"""The pages of the KV cache: which are free, which keep something worth finding again, and how often each is held."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterable

_FREE, _WISHED, _OCCUPIED = range(3)


class PagePool:
    """A fixed number of pages, each in one of three states.

    - Held, by as many holders as have taken or shared it.
    - Cached: held by nobody, but its content has a key, under which it can be found and shared again.
    - Free.

    Cached pages are given away only when no page is free, the least recently held first.

    Pages that follow each other can be read without being gathered, so a holder may wish for a run of them. A wish
    keeps others away as long as there are other free pages, and binds nobody.

    Args:
        pages: How many, at least 1. They are numbered from 0.
    """

    def __init__(self, pages: int) -> None:
        self.pages = pages
        self._holders = [0] * pages
        self._keys: list[bytes | None] = [None] * pages
        self._by_key: dict[bytes, int] = {}
        self._cached: OrderedDict[int, None] = OrderedDict()
        self._marks = bytearray(pages)
        self._free = pages

    @property
    def available(self) -> int:
        """Pages that can be taken: free and cached ones."""
        return self._free + len(self._cached)

    @property
    def held(self) -> int:
        """Pages that somebody holds, each counted once."""
        return self.pages - self.available

    def find(self, key: bytes) -> int | None:
        """Return the page whose content has this key."""
        return self._by_key.get(key)

    def is_held(self, page: int) -> bool:
        """Say whether somebody holds a page."""
        return self._holders[page] > 0

    def take(self, wanted: int | None) -> int:
        """Take a page whose content is of no interest: the wanted one if it is free. One must be available."""
        page = wanted if wanted is not None and self._is_free(wanted) else self._any()
        self._marks[page] = _OCCUPIED
        self._free -= 1
        self._holders[page] = 1
        return page

    def share(self, page: int) -> None:
        """Hold a page that is held or cached, beside its other holders."""
        self._cached.pop(page, None)
        self._holders[page] += 1

    def give_back(self, page: int) -> None:
        """End one hold of a page; without any it is cached if it has a key, and else free."""
        self._holders[page] -= 1
        if self._holders[page] == 0:
            if self._keys[page] is None:
                self._set_free(page)
            else:
                self._cached[page] = None

    def label(self, page: int, key: bytes) -> None:
        """Give the content of a held page its key, unless another page has the same content already."""
        if self._by_key.setdefault(key, page) == page:
            self._keys[page] = key

    def forget(self, page: int) -> None:
        """Take the key from a held page, so that nobody finds it any more."""
        key = self._keys[page]
        if key is not None:
            del self._by_key[key]
            self._keys[page] = None

    def wish(self, most: int, least: int, after: int | None) -> range:
        """Wish for a run of free pages, of `most` pages or as many as there are; fewer than `least` are no use.

        Args:
            most: Pages that could be used, at least `least`.
            least: Pages that will be used, at least 1.
            after: Where the run should begin if it can: behind this page.

        Returns:
            The run; empty = there is none. It must be given to `unwish` when its pages are taken or not wanted.
        """
        length = most
        while (start := self._find_run(length, after)) < 0:
            if length == least:
                return range(0)
            length = max(least, length // 2)
        self._marks[start : start + length] = bytes([_WISHED]) * length
        return range(start, start + length)

    def unwish(self, run: range) -> None:
        """Take back a wish; what was taken of it stays taken."""
        for page in run:
            if self._marks[page] == _WISHED:
                self._marks[page] = _FREE

    def check_integrity(self, held: Iterable[int]) -> None:
        """Raise AssertionError unless each page is free, cached, or held exactly as often as it occurs in `held`."""
        holds = Counter(held)
        for page in range(self.pages):
            is_cached, is_free, key = page in self._cached, self._is_free(page), self._keys[page]
            _check(self._holders[page] == holds[page], page, "is not held as often as its holders say")
            _check((holds[page] > 0) + is_cached + is_free == 1, page, "is not in exactly one state")
            _check(not is_cached or key is not None, page, "is cached without a key")
            _check(not is_free or key is None, page, "is free and has a key")
            _check(key is None or self._by_key.get(key) == page, page, "is not found by its key")
        _check(len(self._by_key) == self.pages - self._keys.count(None), None, "keys without a page")
        _check(self._free == self.pages - self._marks.count(_OCCUPIED), None, "free pages are counted wrong")

    def _find_run(self, length: int, after: int | None) -> int:
        run = bytes(length)  # of _FREE
        if after is not None and self._marks.startswith(run, after + 1):
            return after + 1
        return self._marks.find(run)

    def _is_free(self, page: int) -> bool:
        return page < self.pages and self._marks[page] != _OCCUPIED

    def _any(self) -> int:
        for mark in (_FREE, _WISHED):
            page = self._marks.find(mark)
            if page >= 0:
                return page
        page, _ = self._cached.popitem(last=False)
        self.forget(page)
        self._set_free(page)
        return page

    def _set_free(self, page: int) -> None:
        self._marks[page] = _FREE
        self._free += 1


def _check(holds: bool, page: int | None, wrong: str) -> None:  # noqa: FBT001 - the condition of an assertion
    if not holds:
        raise AssertionError(wrong if page is None else f"page {page} {wrong}")
