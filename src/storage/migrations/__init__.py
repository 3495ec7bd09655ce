"""Migrations: from nothing to the newest schema, as the owner of the database.

The owner needs no superuser rights; CREATEROLE is enough where the role `interop_app` is missing.
A revision has two parts (script.py.mako): one for what a database has once, one for the tables of
tenants, which runs again in the schema of every tenant that has one for itself. Nothing is global
here, so many places are migrated at once (`storage.partitions.upgrading`).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import psycopg
from alembic.config import Config
from alembic.operations import Operations
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, create_engine, text
from sqlalchemy.pool import NullPool

# Any number will do; it must not change, or two versions of the server would migrate at once.
MIGRATION_LOCK = 0x696E7465726F70
VERSIONS = [Path(__file__).parent / "versions"]

Part = Callable[[Operations], None]
Owner = psycopg.Connection[Any]


def alembic_config(connection: Connection | None = None) -> Config:
    """The Alembic configuration of this package, bound to a connection when one is given."""
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent))
    config.set_main_option("path_separator", "os")
    config.set_main_option("version_locations", os.pathsep.join(map(str, VERSIONS)))
    config.attributes["connection"] = connection
    return config


def upgrade(
    owner_url: str,
    revision: str = "head",
    *,
    schema: str | None = None,
    check: Callable[[Owner], None] | None = None,
) -> tuple[str | None, str | None]:
    """Bring a database, or one tenant's schema in it, to `revision` in one transaction.

    Returns the revision before and after; nothing happens when it is there. Processes that start
    together wait for the first of them. What `check` raises after a change undoes it.
    """

    def connect() -> Owner:
        connection = psycopg.connect(owner_url)
        if schema is not None:
            # Names lead to the tenant's tables first; all others are the database's.
            path = f"{schema}, public"
            connection.execute("SELECT set_config('search_path', %s, false)", (path,))
            connection.commit()
        return connection

    engine = create_engine("postgresql+psycopg://", creator=connect, poolclass=NullPool)
    with engine.begin() as connection:
        # Schemas do not wait for each other.
        connection.execute(
            text("SELECT pg_advisory_xact_lock(:key # coalesce(hashtextextended(:schema, 0), 0))"),
            {"key": MIGRATION_LOCK, "schema": schema},
        )
        before = current_revision(connection, schema)
        scripts = ScriptDirectory.from_config(alembic_config())
        # The usual start: without this look, Alembic would load all revisions to find nothing.
        if revision == "head" and before == scripts.get_current_head():
            return before, before
        context = MigrationContext.configure(
            connection,
            opts={
                "fn": lambda known, _: scripts._upgrade_revs(revision, known),
                "version_table_schema": schema,
                "transactional_ddl": True,
            },
        )
        with context.begin_transaction():
            context.run_migrations(op=Operations(context), schema=schema)
        if check is not None:
            check(cast("Owner", connection.connection.driver_connection))
        return before, current_revision(connection, schema)


def parts(platform: Part | None, tenants: Part | None) -> Callable[..., None]:
    """The `upgrade` of a revision, from its two parts."""

    def upgrade(op: Operations, schema: str | None = None) -> None:
        if platform is not None and schema is None:
            platform(op)
        if tenants is not None:
            tenants(op)

    return upgrade


def newest_revision() -> str:
    """The revision that this code expects."""
    head = ScriptDirectory.from_config(alembic_config()).get_current_head()
    if head is None:
        raise RuntimeError(f"no migrations in {Path(__file__).parent / 'versions'}")
    return head


def current_revision(connection: Connection, schema: str | None = None) -> str | None:
    """The revision that the database (or a schema) is at; None when it was never migrated."""
    opts = {"version_table_schema": schema}
    return MigrationContext.configure(connection, opts=opts).get_current_revision()
