"""Search parameters that tenants define: their changes, and the building of their index. SQL only.

What a definition means is for `interop.fhir.search.custom`; here it is text.
"""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from storage.database import Connection
from storage.jobs import defer
from storage.resources import Stored, opened
from storage.search_definitions import (
    BUILDING,
    DROPPING,
    EVERYTHING,
    READY,
    Definition,
    forget,
)

TASK = "reindex"
QUEUE = "search"
ATTEMPTS = 12
# Rows that one statement deletes: whoever waits for one of them waits for all.
DELETED_AT_ONCE = 5000

TABLES = ("token", "string", "reference", "date", "number", "quantity", "uri")


# -- changes --------------------------------------------------------------------------------


def lock(connection: Connection, tenant_id: UUID) -> int:
    """Hold the parameters alone until the transaction ends; returns the new epoch."""
    row = connection.execute("SELECT fhir_next_search_epoch(%s)", (tenant_id,)).fetchone()
    assert row is not None
    forget(tenant_id)
    return int(row[0])


def build(
    connection: Connection, tenant_id: UUID, definition_id: str, definition: str, epoch: int
) -> None:
    """Have a parameter's index built from nothing, by a job that the transaction queues."""
    connection.execute(
        "INSERT INTO fhir_search_parameters (tenant_id, definition_id, definition, status, epoch)"
        " VALUES (%s, %s, %s, %s, %s) ON CONFLICT (tenant_id, definition_id) DO UPDATE"
        " SET definition = excluded.definition, status = excluded.status, epoch = excluded.epoch,"
        " total = 0, done = 0, position = '', changed_at = now()",
        (tenant_id, definition_id, definition, BUILDING, epoch),
    )
    queue(connection, tenant_id)


def drop(connection: Connection, tenant_id: UUID, definition_id: str, epoch: int) -> None:
    """Put a parameter out of force at once; a job removes its rows."""
    connection.execute(
        "UPDATE fhir_search_parameters SET status = %s, epoch = %s, position = '',"
        " changed_at = now()"
        " WHERE tenant_id = %s AND definition_id = %s",
        (DROPPING, epoch, tenant_id, definition_id),
    )
    queue(connection, tenant_id)


def discard(
    connection: Connection, tenant_id: UUID, definition_id: str, definition: str, epoch: int
) -> None:
    """Have the rows removed that were written by a definition that is replaced."""
    connection.execute(
        "INSERT INTO fhir_search_parameters (tenant_id, definition_id, definition, status, epoch)"
        " VALUES (%s, %s, %s, %s, %s)",
        (tenant_id, definition_id, definition, DROPPING, epoch),
    )


def queue(connection: Connection, tenant_id: UUID) -> None:
    """Queue the job of a tenant, unless it waits already."""
    name = f"{TASK}:{tenant_id}"
    defer(
        connection,
        TASK,
        {"tenant_id": str(tenant_id)},
        queue=QUEUE,
        queueing_lock=name,
        lock=name,
    )


# -- the job --------------------------------------------------------------------------------


def next_task(connection: Connection, tenant_id: UUID) -> Definition | None:
    """A parameter whose rows are to be written or removed; removal comes first."""
    row = connection.execute(
        "SELECT definition_id, definition, status, epoch, total, done, position"
        " FROM fhir_search_parameters WHERE tenant_id = %s AND status <> %s"
        " ORDER BY status <> %s, epoch LIMIT 1",
        (tenant_id, READY, DROPPING),
    ).fetchone()
    return Definition(*row) if row else None


def count(connection: Connection, tenant_id: UUID, types: Sequence[str]) -> int:
    """How many resources of these types there are."""
    row = connection.execute(
        "SELECT count(*) FROM fhir_resources WHERE tenant_id = %s AND resource_type = ANY (%s)"
        " AND NOT deleted AND version > 0",
        (tenant_id, list(types)),
    ).fetchone()
    return int(row[0]) if row else 0


def remove_rows(
    connection: Connection, tenant_id: UUID, types: Sequence[str], names: Sequence[str]
) -> int:
    """Remove some rows of parameters; 0 says that none is left."""
    removed = 0
    for table in TABLES:
        if removed < DELETED_AT_ONCE:
            removed += connection.execute(
                f"DELETE FROM fhir_search_{table} WHERE (tenant_id, resource_type, resource_id,"
                " parameter, ordinal) IN (SELECT tenant_id, resource_type, resource_id, parameter,"
                f" ordinal FROM fhir_search_{table} WHERE tenant_id = %s"
                " AND resource_type = ANY (%s) AND parameter = ANY (%s) LIMIT %s)",
                (tenant_id, list(types), list(names), DELETED_AT_ONCE),
            ).rowcount
    return removed


def remove_rows_of(
    connection: Connection,
    tenant_id: UUID,
    resource_type: str,
    resource_ids: Sequence[str],
    names: Sequence[str],
) -> None:
    """Remove the rows that some resources have for parameters."""
    for table in TABLES:
        connection.execute(
            f"DELETE FROM fhir_search_{table} WHERE tenant_id = %s AND resource_type = %s"
            " AND resource_id = ANY (%s) AND parameter = ANY (%s)",
            (tenant_id, resource_type, list(resource_ids), list(names)),
        )


def lock_after(
    connection: Connection, tenant_id: UUID, resource_type: str, after: str, limit: int
) -> list[tuple[str, str]]:
    """The next resources of a type by id, with their bodies; nobody changes them meanwhile."""
    rows = connection.execute(
        "SELECT resource_id, row_id, version, last_updated, deleted, stale, body"
        " FROM fhir_resources WHERE tenant_id = %s AND resource_type = %s AND resource_id > %s"
        " AND NOT deleted AND version > 0 ORDER BY resource_id LIMIT %s FOR UPDATE",
        (tenant_id, resource_type, after, limit),
    ).fetchall()
    return [
        (row[0], opened(connection, tenant_id, resource_type, row[0], Stored(*row[1:])).body)
        for row in rows
    ]


def advance(
    connection: Connection, tenant_id: UUID, task: Definition, position: str, done: int, total: int
) -> bool:
    """Note how far a parameter is built. False: it was defined anew meanwhile."""
    return (
        connection.execute(
            "UPDATE fhir_search_parameters SET position = %s, done = %s, total = %s"
            " WHERE tenant_id = %s AND definition_id = %s AND epoch = %s AND status = %s",
            (position, done, total, tenant_id, task.definition_id, task.epoch, BUILDING),
        ).rowcount
        == 1
    )


def finish(connection: Connection, tenant_id: UUID, task: Definition) -> None:
    """Put a parameter in force that is built, and forget one whose rows are removed."""
    key = (tenant_id, task.definition_id, task.epoch, task.status)
    if task.status == BUILDING and task.definition_id != EVERYTHING:
        connection.execute(
            "UPDATE fhir_search_parameters SET status = 'READY', changed_at = now()"
            " WHERE tenant_id = %s AND definition_id = %s AND epoch = %s AND status = %s",
            key,
        )
    else:
        connection.execute(
            "DELETE FROM fhir_search_parameters"
            " WHERE tenant_id = %s AND definition_id = %s AND epoch = %s AND status = %s",
            key,
        )
