"""Migrations: from nothing to the newest schema, as the owner of the database.

The owner needs no superuser rights; CREATEROLE is enough where the role `interop_app` is missing.
"""

from __future__ import annotations

from pathlib import Path

import psycopg
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, create_engine, text
from sqlalchemy.pool import NullPool

# Any number will do; it must not change, or two versions of the server would migrate at once.
MIGRATION_LOCK = 0x696E7465726F70


def alembic_config(connection: Connection | None = None) -> Config:
    """The Alembic configuration of this package, bound to a connection when one is given."""
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    return config


def upgrade(owner_url: str, revision: str = "head") -> None:
    """Bring the database to `revision` in one transaction; nothing happens when it is there.

    Processes that start together wait for the first of them.
    """
    engine = create_engine(
        "postgresql+psycopg://", creator=lambda: psycopg.connect(owner_url), poolclass=NullPool
    )
    with engine.begin() as connection:
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": MIGRATION_LOCK})
        # The usual start: without this look, Alembic would load all models to find nothing to do.
        if revision == "head" and current_revision(connection) == newest_revision():
            return
        command.upgrade(alembic_config(connection), revision)


def newest_revision() -> str:
    """The revision that this code expects."""
    head = ScriptDirectory.from_config(alembic_config()).get_current_head()
    if head is None:
        raise RuntimeError(f"no migrations in {Path(__file__).parent / 'versions'}")
    return head


def current_revision(connection: Connection) -> str | None:
    """The revision that the database is at; None when it was never migrated."""
    return MigrationContext.configure(connection).get_current_revision()
