"""Jobs, their chunks and items, and who works on them."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision: str | None = None


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "jobs",
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("tenant", sa.String(128), nullable=False),
        sa.Column("request_id", sa.String(64), nullable=False),
        sa.Column("request_digest", sa.LargeBinary(32), nullable=False),
        sa.Column("priority", sa.SmallInteger, nullable=False),
        sa.Column("state", sa.SmallInteger, nullable=False),
        sa.Column("max_attempts", sa.Integer, nullable=False),
        sa.Column("retention_ns", sa.BigInteger, nullable=False),
        sa.Column("chunks", sa.Integer, nullable=False, server_default="0"),
        *(
            sa.Column(name, sa.BigInteger, nullable=False, server_default="0")
            for name in (
                *("pending", "running", "succeeded", "failed", "cancelled", "expired"),
                *("prompt_tokens", "output_tokens", "cached_prompt_tokens", "reasoning_tokens"),
                *("landed", "leased_ns"),
            )
        ),
        sa.Column("created_ns", sa.BigInteger, nullable=False),
        *(sa.Column(name, sa.BigInteger) for name in ("sealed_ns", "ended_ns", "expires_ns", "delete_ns")),
        sa.PrimaryKeyConstraint("id", name="pk_jobs"),
        sa.UniqueConstraint("tenant", "request_id", name="uq_jobs_tenant_request_id"),
    )
    op.create_index("ix_jobs_tenant_created_ns_id", "jobs", ["tenant", "created_ns", "id"])
    op.create_index("ix_jobs_state_priority_leased_ns", "jobs", ["state", "priority", "leased_ns"])
    op.create_index("ix_jobs_delete_ns", "jobs", ["delete_ns"])
    _create_part(
        "labels",
        sa.Column("key", sa.String(63), nullable=False),
        sa.Column("value", sa.String(255), nullable=False),
        key=("key",),
    )
    _create_part(
        "chunks",
        sa.Column("chunk_index", sa.Integer, nullable=False),
        sa.Column("digest", sa.LargeBinary(32), nullable=False),
        sa.Column("accepted", sa.Integer, nullable=False),
        key=("chunk_index",),
    )
    _create_part(
        "rejections",
        sa.Column("chunk_index", sa.Integer, nullable=False),
        sa.Column("item_index", sa.Integer, nullable=False),
        sa.Column("item_id", sa.String, nullable=False),
        sa.Column("error", sa.LargeBinary, nullable=False),
        key=("chunk_index", "item_index"),
    )
    _create_part(
        "items",
        sa.Column("number", sa.BigInteger, nullable=False),
        sa.Column("item_id", sa.String(64), nullable=False),
        sa.Column("state", sa.SmallInteger, nullable=False),
        sa.Column("spec", sa.LargeBinary, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False, server_default="0"),
        sa.Column("failures", sa.Integer, nullable=False, server_default="0"),
        sa.Column("runner_id", sa.String(64)),
        sa.Column("available_ns", sa.BigInteger, nullable=False, server_default="0"),
        sa.Column("partial", sa.LargeBinary),
        sa.Column("content", sa.LargeBinary),
        sa.Column("landed", sa.BigInteger),
        sa.Column("ended_ns", sa.BigInteger),
        sa.UniqueConstraint("job_id", "item_id", name="uq_items_job_id_item_id"),
        key=("number",),
    )
    op.create_index("ix_items_job_id_landed", "items", ["job_id", "landed"])
    op.create_index("ix_items_job_id_state_number", "items", ["job_id", "state", "number"])
    held = sa.text("runner_id IS NOT NULL")
    op.create_index("ix_items_runner_id", "items", ["runner_id"], sqlite_where=held, postgresql_where=held)
    op.create_table(
        "runners",
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("expires_ns", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_runners"),
    )


def _create_part(name: str, *columns: sa.Column[object] | sa.UniqueConstraint, key: tuple[str, ...]) -> None:
    """Make a table whose rows go with their job."""
    op.create_table(
        name,
        sa.Column("job_id", sa.String(64), nullable=False),
        *columns,
        sa.PrimaryKeyConstraint("job_id", *key, name=f"pk_{name}"),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=f"fk_{name}_job_id", ondelete="CASCADE"),
    )
