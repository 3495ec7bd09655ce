"""The whole model, from nothing.

Revision ID: 0001
Revises:

It never runs in the schema of a tenant, which begins as a copy of `public` as it is by then.
"""

from __future__ import annotations

from typing import cast

import psycopg
from alembic.operations import Operations

from storage.migrations import parts

revision = "0001"
down_revision = None


def once(op: Operations) -> None:
    # Not above: Alembic loads every revision at each start, and the models take a second to load.
    from storage.migrations.initial import script

    # The driver's own execute: it takes several statements at once and leaves '%' alone.
    pooled = op.get_bind().connection
    connection = cast("psycopg.Connection[tuple[object, ...]]", pooled.driver_connection)
    for statement in script():
        connection.execute(statement)


upgrade = parts(once, None)
