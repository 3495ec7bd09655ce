"""The whole model, from nothing.

Revision ID: 0001
Revises:
"""

from __future__ import annotations

from pathlib import Path
from typing import cast

import psycopg
from alembic import op
from procrastinate.schema import SchemaManager

from storage.migrations import row_security, triggers
from storage.schema import metadata
from storage.schema.reference_rows import rows

revision = "0001"
down_revision = None

# functions.sql before read_model.sql: the order of names is the order of execution.
FUNCTIONS = sorted(Path(__file__).parents[1].glob("*.sql"))


def upgrade() -> None:
    connection = op.get_bind()
    metadata.create_all(connection, checkfirst=False)
    # The driver's own execute: it takes several statements at once and leaves '%' alone.
    driver_connection = cast(psycopg.Connection, connection.connection.driver_connection)
    execute = driver_connection.execute
    for path in FUNCTIONS:
        execute(path.read_text(encoding="utf-8"))
    execute(SchemaManager.get_schema())
    for statement in triggers.statements(metadata):
        execute(statement)
    for statement in row_security.statements(metadata):
        execute(statement)
    for table, values in rows():
        connection.execute(metadata.tables[table].insert(), values)
