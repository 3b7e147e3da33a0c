"""What a job store refuses.

JobError
├── JobNotFound      no such job, or another caller's
├── ItemsNotFound    the job has no items of these ids
├── RequestConflict  another job was created under the same request id
├── ChunkConflict    other items were appended under the same chunk index
├── JobNotOpen       the job is sealed or has ended
├── JobNotEnded      the job has items without an outcome
├── SealMismatch     what was appended is not what the seal says
└── StoreUnavailable the database cannot be reached or is overloaded; another try may succeed
"""

from __future__ import annotations


class JobError(Exception):
    """Base of everything that the job store raises on purpose."""


class JobNotFound(JobError):
    """There is no such job, or it belongs to another caller."""


class ItemsNotFound(JobError):
    """The job has no items of these ids.

    Args:
        item_ids: The unknown ones, in the order in which they were asked for.
    """

    def __init__(self, item_ids: tuple[str, ...]) -> None:
        super().__init__(item_ids)
        self.item_ids = item_ids


class RequestConflict(JobError):
    """The caller created another job under the same request id."""


class ChunkConflict(JobError):
    """Other items were appended under the same chunk index."""


class JobNotOpen(JobError):
    """The job is sealed or has ended, and takes no more items."""


class JobNotEnded(JobError):
    """The job has items without an outcome."""


class SealMismatch(JobError):
    """What was appended is not what the seal says.

    Args:
        chunks: Chunks that the store holds.
        items: Accepted items that it holds.
        digest: Digest of their digests, in the order of their indexes.
    """

    def __init__(self, chunks: int, items: int, digest: bytes) -> None:
        super().__init__(chunks, items, digest)
        self.chunks = chunks
        self.items = items
        self.digest = digest


class StoreUnavailable(JobError):
    """The database cannot be reached, or is overloaded; another try may succeed."""
