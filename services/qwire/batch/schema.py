"""The tables of the job store, the same in SQLite and PostgreSQL. `migrations/` makes them.

Times are nanoseconds since the epoch. A transaction that changes a job begins by locking its row, so that changes of
one job come one after the other and its counters are always the sums of its items.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Column,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    String,
    Table,
    UniqueConstraint,
    text,
)

from qwire.batch.job import ItemState

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

_OWNER = "jobs.id"


def _job_id() -> Column[str]:
    return Column("job_id", String(64), ForeignKey(_OWNER, ondelete="CASCADE"), primary_key=True)


def _count(name: str) -> Column[int]:
    return Column(name, BigInteger, nullable=False, server_default="0")


jobs = Table(
    "jobs",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("tenant", String(128), nullable=False),
    Column("request_id", String(64), nullable=False),
    Column("request_digest", LargeBinary(32), nullable=False),
    Column("priority", SmallInteger, nullable=False),
    Column("state", SmallInteger, nullable=False),
    Column("max_attempts", Integer, nullable=False),
    Column("retention_ns", BigInteger, nullable=False),
    Column("chunks", Integer, nullable=False, server_default="0"),
    # Items in each state: their names are those of ItemState.
    *(_count(state.name.lower()) for state in ItemState),
    *(_count(name) for name in ("prompt_tokens", "output_tokens", "cached_prompt_tokens", "reasoning_tokens")),
    # The cursor of the last outcome. Grows with every outcome, not always by one.
    _count("landed"),
    # When a runner last took items of it: the one that waited longest goes first.
    Column("leased_ns", BigInteger, nullable=False, server_default="0"),
    Column("created_ns", BigInteger, nullable=False),
    Column("sealed_ns", BigInteger),
    Column("ended_ns", BigInteger),
    Column("expires_ns", BigInteger),
    Column("delete_ns", BigInteger),
    UniqueConstraint("tenant", "request_id"),
    Index(None, "tenant", "created_ns", "id"),
    Index(None, "state", "priority", "leased_ns"),
    Index(None, "delete_ns"),
)

labels = Table(
    "labels",
    metadata,
    _job_id(),
    Column("key", String(63), primary_key=True),
    Column("value", String(255), nullable=False),
)

chunks = Table(
    "chunks",
    metadata,
    _job_id(),
    Column("chunk_index", Integer, primary_key=True),
    Column("digest", LargeBinary(32), nullable=False),
    Column("accepted", Integer, nullable=False),
)

rejections = Table(
    "rejections",
    metadata,
    _job_id(),
    Column("chunk_index", Integer, primary_key=True),
    Column("item_index", Integer, primary_key=True),
    Column("item_id", String, nullable=False),
    Column("error", LargeBinary, nullable=False),
)

items = Table(
    "items",
    metadata,
    _job_id(),
    # From 1, in the order of acceptance, without gaps.
    Column("number", BigInteger, primary_key=True),
    Column("item_id", String(64), nullable=False),
    Column("state", SmallInteger, nullable=False),
    Column("spec", LargeBinary, nullable=False),
    # Leases so far. It is the token of the last one: a result is recorded only under it.
    Column("attempts", Integer, nullable=False, server_default="0"),
    Column("failures", Integer, nullable=False, server_default="0"),
    Column("runner_id", String(64)),
    Column("available_ns", BigInteger, nullable=False, server_default="0"),
    Column("partial", LargeBinary),
    Column("content", LargeBinary),
    Column("landed", BigInteger),
    Column("ended_ns", BigInteger),
    UniqueConstraint("job_id", "item_id"),
    Index(None, "job_id", "landed"),
    Index(None, "job_id", "state", "number"),
    # Small: only what runs.
    Index(
        "ix_items_runner_id",
        "runner_id",
        sqlite_where=text("runner_id IS NOT NULL"),
        postgresql_where=text("runner_id IS NOT NULL"),
    ),
)

runners = Table(
    "runners",
    metadata,
    Column("id", String(64), primary_key=True),
    # A runner that has not been heard of by then is dead, and what it held goes to others.
    Column("expires_ns", BigInteger, nullable=False),
)
