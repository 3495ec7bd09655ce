"""Notes of the mover: which rows have changed since the copy began, and how far a move is.

They lie in a schema of their own, in which the application has no rights: triggers write the keys
of changed rows with the rights of the owner, whoever changed them, and read nothing. Making and
removing a trigger waits for the writers of its table, and others would queue up behind the wait; so
it gives way quickly and tries again.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from uuid import UUID

from psycopg import errors

from storage.partitions.moving_cargo import NAMES_ACCOUNT, Cargo, Owner, statement

SCHEMA = "moves"
LOCK_MS = 200
PATIENCE_SECONDS = 60.0

_CHANGES = f"""
CREATE UNLOGGED TABLE IF NOT EXISTS {SCHEMA}.changes (
    id bigint GENERATED ALWAYS AS IDENTITY,
    table_name text NOT NULL,
    key text[] NOT NULL
)
"""
_TRIGGERS = f"""
SELECT t.tgrelid::regclass::text, t.tgname FROM pg_trigger AS t
JOIN pg_proc AS p ON p.oid = t.tgfoid JOIN pg_namespace AS n ON n.oid = p.pronamespace
WHERE n.nspname = '{SCHEMA}'
"""


class TablesBusy(Exception):
    """A table was so busy that a trigger could not be made or removed."""


def create_schema(connection: Owner) -> None:
    """Where notes are written; nobody but the owner may look into it."""
    connection.execute(statement(f"CREATE SCHEMA IF NOT EXISTS {SCHEMA}"))


def install(connection: Owner, tenant_id: UUID, cargo: Iterable[Cargo]) -> None:
    """Note every change of the tenant's rows that is committed after this returns."""
    create_schema(connection)
    connection.execute(statement(_CHANGES))
    for one in cargo:
        with connection.transaction():
            connection.execute(statement(_function(one)))
            connection.execute(
                statement(f"REVOKE ALL ON FUNCTION {SCHEMA}.note_{one.table}() FROM PUBLIC")
            )
        for event, row in (("INSERT", "NEW"), ("UPDATE", "OLD"), ("DELETE", "OLD")):
            # Rows of other tenants pass by a comparison; accounts do not say whose they are.
            mine = "" if one.is_of_accounts else f" WHEN ({row}.tenant_id = '{tenant_id}')"
            patiently(
                connection,
                f"CREATE TRIGGER moving_{event.lower()} AFTER {event} ON {one.table}"
                f" FOR EACH ROW{mine} EXECUTE FUNCTION {SCHEMA}.note_{one.table}()",
            )


def remove_triggers(connection: Owner) -> None:
    """Note nothing more."""
    for table, name in connection.execute(statement(_TRIGGERS)).fetchall():
        patiently(connection, f"DROP TRIGGER IF EXISTS {name} ON {table}")


def drop_schema(connection: Owner) -> None:
    """Forget all notes. No trigger may be left."""
    connection.execute("SET client_min_messages = warning")
    connection.execute(statement(f"DROP SCHEMA IF EXISTS {SCHEMA} CASCADE"))


def _function(one: Cargo) -> str:
    notes = []
    for row, condition in (("OLD", "TG_OP <> 'INSERT'"), ("NEW", "TG_OP <> 'DELETE'")):
        values = [f"('{one.table}', ARRAY[{', '.join(f'{row}.{k}::text' for k in one.key)}])"]
        if account := NAMES_ACCOUNT.get(one.table):
            # Whoever becomes a member, or is one no more, comes or goes with the membership.
            values += [
                f"('{table}', ARRAY[{row}.{account}::text])"
                for table in ("users", "user_auth_identities")
            ]
        notes.append(
            f"    IF {condition} THEN\n"
            f"        INSERT INTO {SCHEMA}.changes (table_name, key)\n"
            f"        SELECT * FROM (VALUES {', '.join(values)}) AS v(t, k)"
            " WHERE v.k[1] IS NOT NULL;\n"
            "    END IF;"
        )
    body = "\n".join(notes)
    return f"""
CREATE OR REPLACE FUNCTION {SCHEMA}.note_{one.table}() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
{body}
    RETURN NULL;
END;
$$
"""


def patiently(connection: Owner, text: str) -> None:
    """Run what needs a table for itself, in a transaction of its own. Raises TablesBusy.

    Everybody else queues up behind who waits for a lock, so it is not waited for long at a time.
    """
    deadline = time.monotonic() + PATIENCE_SECONDS
    pause = 0.02
    while True:
        try:
            with connection.transaction():
                connection.execute(statement(f"SET LOCAL lock_timeout = {LOCK_MS}"))
                connection.execute(statement(text))
            return
        except errors.LockNotAvailable as error:
            if time.monotonic() > deadline:
                raise TablesBusy(
                    "a table was never free: for longer than"
                    f" {PATIENCE_SECONDS:.0f} s there were transactions that use it"
                    f" ({text.strip().splitlines()[0][:100]})"
                ) from error
        time.sleep(pause)
        pause = min(pause * 2, 1.0)
