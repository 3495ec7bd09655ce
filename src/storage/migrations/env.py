"""Alembic's own entry, for its command line; `storage.migrations.upgrade` does without.

It runs on the connection that is handed over, in the public schema of one database. What a revision
says and where it runs: script.py.mako.
"""

from __future__ import annotations

from alembic import context
from alembic.operations import Operations

from storage.schema import metadata


def is_ours(name: str | None, kind: str, _parent: object) -> bool:
    """Procrastinate's tables come from its own schema file and are no models of ours."""
    return not (kind == "table" and name is not None and name.startswith("procrastinate_"))


connection = context.config.attributes["connection"]
if connection is None:
    raise RuntimeError("run migrations with `interop migrate` or storage.migrations.upgrade(url)")
context.configure(
    connection=connection,
    target_metadata=metadata,
    include_name=is_ours,
    compare_type=True,
    transactional_ddl=True,
)
with context.begin_transaction():
    context.run_migrations(op=Operations(context.get_context()))
