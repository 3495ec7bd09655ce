"""What a move leaves behind, removed: at the source when it has succeeded, else at the destination.

Rows among those of other tenants go in short transactions, also those of the log: its triggers let
them go because the tenant lives elsewhere (is_in_transit).
"""

from __future__ import annotations

import time
from uuid import UUID

import psycopg

from storage.database import Database
from storage.partitions import moving_accounts, moving_capture, moving_jobs
from storage.partitions.moving_cargo import (
    EPHEMERAL,
    TENANT,
    Cargo,
    Owner,
    bind,
    cargo,
    statement,
)
from storage.partitions.moving_state import SWITCHED, State
from storage.partitions.provisioning import Destination, drop

BATCH = 5_000


def remove_source(owner: Database, state: State, grace_seconds: float) -> int:
    """Remove the tenant from where it lived; repeating goes on. Returns how many rows went.

    A database goes when no process remembers it as the tenant's any more.
    """
    assert state.phase == SWITCHED
    if state.source.strategy == "DATABASE":
        time.sleep(grace_seconds)
        drop(owner, state.source)
        return sum(state.rows.values())
    with state.source.connect(owner) as connection:
        bind(connection, state.tenant_id, [])
        moving_capture.remove_triggers(connection)
        moving_jobs.discard(connection, state.tenant_id, state.jobs)
        return _remove_rows(owner, connection, state.source, state)


def remove_destination(owner: Database, state: State) -> None:
    """Remove what came to a destination that the tenant does not go to."""
    if state.destination.strategy == "DATABASE":
        drop(owner, state.destination)
        return
    with psycopg.connect(owner.url) as connection:
        bind(connection, state.tenant_id, [])
        _remove_rows(owner, connection, state.destination, state)


def _remove_rows(owner: Database, connection: Owner, place: Destination, state: State) -> int:
    everything = cargo(crosses=state.crosses)
    total = 0
    if place.strategy == "SCHEMA":
        _detach(connection, place.place)
        drop(owner, place)
        apart = {one.table for one in cargo(crosses=False)}
        everything = [one for one in everything if one.table not in apart]
        total = sum(state.rows.get(table, 0) for table in apart)
    else:
        for table in EPHEMERAL:
            connection.execute(statement(f"DELETE FROM {table} WHERE tenant_id = {TENANT}"))
    for one in reversed(everything):
        if not one.is_of_accounts:
            total += _delete(connection, one)
    return total + moving_accounts.remove(connection, state.accounts)


def _detach(connection: Owner, schema: str) -> None:
    """Cut the foreign keys that lead out of the schema, all at once.

    To drop one the table that it points at must be free of everybody, and every transaction reads
    `tenants`: dropping the schema as it is would keep all tenants waiting for all of it.
    """
    keys = connection.execute(
        "SELECT k.conrelid::regclass::text, quote_ident(k.conname), k.confrelid::regclass::text"
        " FROM pg_constraint AS k JOIN pg_class AS there ON there.oid = k.confrelid"
        " JOIN pg_namespace AS n ON n.oid = k.connamespace"
        " WHERE k.contype = 'f' AND n.nspname = %s AND there.relnamespace <> n.oid",
        (schema,),
    ).fetchall()
    if keys:
        targets = ", ".join(sorted({target for _, _, target in keys}))
        cuts = "; ".join(f"ALTER TABLE {table} DROP CONSTRAINT {name}" for table, name, _ in keys)
        moving_capture.patiently(
            connection, f"LOCK TABLE {targets} IN ACCESS EXCLUSIVE MODE; {cuts}"
        )


def _delete(connection: Owner, one: Cargo) -> int:
    some = "" if one.is_one_statement else f" LIMIT {BATCH}"
    query = statement(
        f"DELETE FROM {one.table} WHERE tenant_id = {TENANT} AND ctid = ANY (ARRAY("
        f"SELECT ctid FROM {one.table} WHERE tenant_id = {TENANT}{some}))"
    )
    total = 0
    while count := connection.execute(query).rowcount:
        total += count
    return total


def is_empty(connection: Owner, tenant_id: UUID) -> bool:
    """Whether nothing of the tenant lies in the tables of the installation."""
    query = " UNION ALL ".join(
        f"SELECT EXISTS (SELECT FROM {one.table} WHERE tenant_id = '{tenant_id}')"
        for one in cargo(crosses=False)
    )
    return not any(row[0] for row in connection.execute(statement(query)).fetchall())
