"""Which sequence's keys and values lie in which pages. The tensors themselves are the KV pool's."""

from __future__ import annotations

from dataclasses import dataclass

from qwire.engine.pages import PagePool
from qwire.engine.sequence import Sequence


@dataclass(slots=True)
class _Table:
    """The pages of one sequence.

    Attributes:
        pages: In the order of its tokens.
        labelled: Pages, from the first one on, that have been given their key.
        wish: Where it would like to grow.
    """

    pages: list[int]
    labelled: int
    wish: range


class KVCacheManager:
    """Gives pages to sequences as they grow, and finds pages again whose tokens were computed before.

    A page is found by a chained cryptographic hash of all tokens up to its end, so never for another text. It gets
    its hash only when all its tokens are computed, and keeps its content after its sequence ended until the page is
    needed. Not thread-safe.

    Args:
        pages: Pages that the cache has.
        page_tokens: Tokens that a page holds, at least 1.
        prefix_reuse: Whether pages are found again.
    """

    def __init__(self, pages: int, page_tokens: int = 16, *, prefix_reuse: bool = True) -> None:
        self.page_tokens = page_tokens
        self._prefix_reuse = prefix_reuse
        self._pool = PagePool(pages)
        self._tables: dict[Sequence, _Table] = {}

    @property
    def capacity_tokens(self) -> int:
        """Tokens that the cache holds."""
        return self._pool.pages * self.page_tokens

    @property
    def used_tokens(self) -> int:
        """Tokens that the pages of live sequences hold; a page that several share is counted once."""
        return self._pool.held * self.page_tokens

    def can_allocate(self, sequence: Sequence) -> bool:
        """Say whether there is room now for all its tokens, and then for each live sequence to grow by a page.

        Without the second condition a full cache would admit sequences only to preempt them again.
        """
        shared = self._find(sequence, 0)
        taken = self._count(sequence.total_tokens) - sum(1 for page in shared if self._pool.is_held(page))
        growth = len(self._tables) + 1 if self._tables else 0
        return taken + growth <= self._pool.available

    def reusable_tokens(self, sequence: Sequence) -> int:
        """Return how many of the tokens of a sequence that has no pages need not be computed, as of now."""
        return len(self._find(sequence, 0)) * self.page_tokens

    def allocate(self, sequence: Sequence) -> int:
        """Give pages for all its tokens to a sequence that has none yet and that `can_allocate` approved.

        Returns:
            Tokens from the first one on whose keys and values are there already; never the last token.
        """
        shared = self._find(sequence, 0)
        for page in shared:
            self._pool.share(page)
        own = self._count(sequence.total_tokens) - len(shared)
        most = self._count(sequence.limit_tokens) - len(shared)
        wish = self._pool.wish(most, own, shared[-1] if shared else None)
        first = self._pool.take(wish.start if wish else None)
        self._tables[sequence] = _Table([*shared, first], len(shared), wish)
        self.grow(sequence)
        return len(shared) * self.page_tokens

    def extend_reuse(self, sequence: Sequence) -> int:
        """Share what others have computed meanwhile of the tokens that the sequence is about to compute.

        So requests that arrive together compute what they have in common once.

        Returns:
            Tokens that the sequence need not compute any more.
        """
        table = self._tables[sequence]
        first = sequence.computed_tokens // self.page_tokens
        found = self._find(sequence, first)
        for index, page in enumerate(found, first):
            self._pool.share(page)
            self._pool.give_back(table.pages[index])
            table.pages[index] = page
        if not found:
            return 0
        table.labelled = first + len(found)
        return table.labelled * self.page_tokens - sequence.computed_tokens

    def can_grow(self, sequence: Sequence) -> bool:
        """Say whether a live sequence has pages for all its tokens, or can be given what is missing."""
        missing = self._count(sequence.total_tokens) - len(self._tables[sequence].pages)
        return missing <= self._pool.available

    def grow(self, sequence: Sequence) -> None:
        """Give a live sequence the pages that `can_grow` approved."""
        table = self._tables[sequence]
        while len(table.pages) < self._count(sequence.total_tokens):
            table.pages.append(self._pool.take(table.pages[-1] + 1))

    def stretch(self, sequence: Sequence, tokens: int) -> int:
        """Give a live sequence pages for up to `tokens` tokens in all, as far as there are any.

        Returns:
            For how many tokens it has pages now; at least as many as before.
        """
        table = self._tables[sequence]
        while len(table.pages) < self._count(tokens) and self._pool.available:
            table.pages.append(self._pool.take(table.pages[-1] + 1))
        return len(table.pages) * self.page_tokens

    def trim(self, sequence: Sequence, tokens: int) -> None:
        """Take back the pages of a live sequence that hold none of its first `tokens` tokens, at least 1."""
        pages = self._tables[sequence].pages
        while len(pages) > self._count(tokens):
            self._pool.give_back(pages.pop())

    def pages(self, sequence: Sequence, tokens: int) -> tuple[int, ...]:
        """Return where the first `tokens` tokens of a live sequence lie."""
        return tuple(self._tables[sequence].pages[: self._count(tokens)])

    def keep(self, sequence: Sequence) -> None:
        """Make the full pages of a live sequence known, as far as they are computed."""
        if not self._prefix_reuse:
            return
        table = self._tables[sequence]
        for index in range(table.labelled, sequence.computed_tokens // self.page_tokens):
            self._pool.label(table.pages[index], sequence.page_key(index, self.page_tokens))
            table.labelled = index + 1

    def free(self, sequence: Sequence) -> None:
        """Take back the pages of a live sequence. Those that are known stay findable until they are needed."""
        table = self._tables.pop(sequence)
        self._pool.unwish(table.wish)
        # The last first: where pages have to go, the beginning of a text is worth more than its end.
        for page in reversed(table.pages):
            self._pool.give_back(page)

    def forget(self, sequence: Sequence) -> None:
        """Let nobody find the pages of a live sequence, as their content is wrong."""
        for page in self._tables[sequence].pages:
            self._pool.forget(page)

    def check_integrity(self) -> None:
        """Raise AssertionError unless each page is free, cached, or held exactly by the sequences that list it."""
        self._pool.check_integrity(page for table in self._tables.values() for page in table.pages)

    def _count(self, tokens: int) -> int:
        """Return the pages that hold so many tokens."""
        return -(-tokens // self.page_tokens)

    def _find(self, sequence: Sequence, first: int) -> list[int]:
        """Return the known pages of its tokens from page `first` on, as far as it may use them."""
        found: list[int] = []
        if not self._prefix_reuse:
            return found
        for index in range(first, sequence.reusable_tokens // self.page_tokens):
            page = self._pool.find(sequence.page_key(index, self.page_tokens))
            if page is None:
                break
            found.append(page)
        return found
