"""What Alembic runs: the steps that are missing, in the caller's transaction."""

from __future__ import annotations

from alembic import context

from qwire.batch.schema import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    render_as_batch=True,  # SQLite changes a table by copying it
)
context.run_migrations()
