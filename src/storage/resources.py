"""The FHIR read model: SQL that stores, reads and lists versions of resources. SQL only.

What a resource means is for `interop.fhir`; here it is a type, an id, bytes and search rows. Writes
are blocking and belong to the caller's transaction; reads are asynchronous, one round trip each
through a function of `migrations/read_model.sql` that binds the tenant and writes the audit row.

A body that holds something especially sensitive is stored sealed as a whole, bound to its type, id
and version. It is sealed and opened here; of others, only the first characters are looked at.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, LiteralString
from uuid import UUID

import orjson
from psycopg import errors
from psycopg.pq import TransactionStatus

from storage import search_rows
from storage.audit import mark_audited
from storage.blocking_statements import run_batch
from storage.database import Connection, Database, vault_of
from storage.encryption.columns import PREFIX, place
from storage.search_definitions import forget
from storage.statements import Statement, function_call

Audit = Mapping[str, Any]

CURRENT: LiteralString = (
    "SELECT row_id, version, last_updated, deleted, stale, body FROM fhir_resources"
    " WHERE tenant_id = %(tenant)s AND resource_type = %(type)s AND resource_id = %(id)s"
)
BEGIN_WRITE = "SELECT * FROM fhir_begin_write($1, $2)"
STORE = "SELECT fhir_store($1, $2, $3)"
AWAITED = (
    "SELECT DISTINCT reference FROM fhir_pending"
    " WHERE tenant_id = $1 AND reference = ANY ($2) ORDER BY 1"
)
BEGIN, COMMIT = Statement("BEGIN", {}), Statement("COMMIT", {})
LOCK_NAMES: LiteralString = (
    "SELECT pg_advisory_xact_lock(hashtextextended(name, 0)) FROM unnest(%s::text[]) AS name"
)
LOCK_SHARED: LiteralString = "SELECT pg_advisory_xact_lock_shared(hashtextextended(%s, 0))"
# Advisory locks that one transaction may take: PostgreSQL has room for some thousands in all.
MOST_LOCKS = 200
AUDIT_WRITE: LiteralString = "SELECT fhir_audit_write(%s, %s, %s, %s)"


@dataclass(frozen=True, slots=True)
class Stored:
    """The current version of a resource. Version 0 is the stub of a row never rendered.

    The body is open, but for what `lock_stale` returns (see `opened`).
    """

    row_id: UUID | None
    version: int
    last_updated: datetime
    deleted: bool
    stale: bool
    body: str


@dataclass(frozen=True, slots=True)
class Version:
    """One version of a resource; `body` is None where it was deleted."""

    version: int
    last_updated: datetime
    method: str
    body: str | None


# -- writing, in the caller's transaction ---------------------------------------------------


@dataclass(frozen=True, slots=True)
class Begun:
    """A write that has begun: the database's clock in ms, and what the tenant asks of writers."""

    now: datetime
    requires_resolution: bool
    requires_if_match: bool
    validation_level: str  # NONE, BASE or PROFILE
    has_custom_fields: bool


def begin(connection: Connection, tenant_id: UUID, actor: str) -> Begun:
    """Begin a transaction of the tenant, name the actor and silence the staleness triggers.

    All processes stamp versions with the one clock, so that history never runs backwards. Raises
    CannotConnectNow where the tenant lives elsewhere.
    """
    values = {"tenant": tenant_id, "actor": actor}
    batch = [Statement(BEGIN_WRITE, values, keeps_plan=True)]
    if connection.pgconn.transaction_status == TransactionStatus.IDLE:
        batch.insert(0, BEGIN)
    ((row,),) = run_batch(connection, batch)
    return Begun(row[0], bool(row[1]), bool(row[2]), row[3] or "BASE", row[4])


def begin_write(connection: Connection, actor: str) -> datetime:
    """The same on a connection that is bound to its tenant already; returns the clock."""
    row = connection.execute(
        "SELECT date_trunc('milliseconds', clock_timestamp()),"
        " set_config('app.lens', 'on', true), set_config('app.actor', %s, true)",
        (actor,),
    ).fetchone()
    assert row is not None
    moment: datetime = row[0]
    return moment


def lock_name(connection: Connection, tenant_id: UUID, reference: str) -> None:
    """Hold "Type/id" until the transaction ends, whether or not there is such a resource yet."""
    connection.execute(LOCK_NAMES, ([f"{tenant_id}/{reference}"],))


def lock_names(connection: Connection, tenant_id: UUID, references: Iterable[str]) -> None:
    """Hold many names, in one order. So many that the database could not keep them are one lock.

    That lock keeps others from beginning to wait for any of them (`lock_awaited`), as each name's
    does.
    Whoever writes one of the resources meanwhile is found out when it is stored (`fhir_store`).
    """
    names = [f"{tenant_id}/{reference}" for reference in sorted(set(references))]
    if len(names) > MOST_LOCKS:
        names = [f"{tenant_id}/*"]
    connection.execute(LOCK_NAMES, (names,))


def lock_awaited(connection: Connection, tenant_id: UUID, references: Iterable[str]) -> None:
    """Hold the names that a resource is about to wait for, so that who makes them will see it."""
    connection.execute(LOCK_SHARED, (f"{tenant_id}/*",))
    names = [f"{tenant_id}/{reference}" for reference in sorted(set(references))]
    connection.execute(LOCK_NAMES, (names,))


def lock_criteria(connection: Connection, tenant_id: UUID, criteria: Iterable[str]) -> None:
    """Hold criteria ("Type?query") by which something may be created; many of them as one lock."""
    names = [f"{tenant_id}/{one}" for one in sorted(set(criteria))]
    if not names:
        return
    if len(names) > MOST_LOCKS:
        names = [f"{tenant_id}/?"]
    else:
        connection.execute(LOCK_SHARED, (f"{tenant_id}/?",))
    connection.execute(LOCK_NAMES, (names,))


def current(
    connection: Connection, tenant_id: UUID, resource_type: str, resource_id: str
) -> Stored | None:
    """The current version, locked until the transaction ends."""
    row = connection.execute(
        CURRENT + " FOR UPDATE", {"tenant": tenant_id, "type": resource_type, "id": resource_id}
    ).fetchone()
    if row is None:
        return None
    return opened(connection, tenant_id, resource_type, resource_id, Stored(*row))


def current_many(
    connection: Connection, tenant_id: UUID, keys: Sequence[tuple[str, str]]
) -> dict[tuple[str, str], Stored]:
    """The current versions of many resources by type and id, locked in the order of the keys."""
    rows = connection.execute(
        "SELECT r.resource_type, r.resource_id, r.row_id, r.version, r.last_updated, r.deleted,"
        " r.stale, r.body FROM unnest(%s::text[], %s::text[]) AS w(type, id)"
        " JOIN fhir_resources AS r ON r.tenant_id = %s AND r.resource_type = w.type"
        " AND r.resource_id = w.id ORDER BY r.resource_type, r.resource_id FOR UPDATE OF r",
        ([key[0] for key in keys], [key[1] for key in keys], tenant_id),
    ).fetchall()
    return {
        (row[0], row[1]): opened(connection, tenant_id, row[0], row[1], Stored(*row[2:]))
        for row in rows
    }


def bodies(
    connection: Connection, tenant_id: UUID, resource_type: str, resource_ids: Sequence[str]
) -> list[str]:
    """The current bodies of the resources of these ids that are there, in the order of the ids."""
    rows = connection.execute(
        "SELECT resource_id, row_id, version, last_updated, deleted, stale, body"
        " FROM fhir_resources WHERE tenant_id = %s AND resource_type = %s"
        " AND resource_id = ANY (%s) AND NOT deleted AND version > 0 ORDER BY resource_id",
        (tenant_id, resource_type, list(resource_ids)),
    ).fetchall()
    return [
        opened(connection, tenant_id, resource_type, row[0], Stored(*row[1:])).body for row in rows
    ]


def opened(
    connection: Connection, tenant_id: UUID, resource_type: str, resource_id: str, stored: Stored
) -> Stored:
    """The same with its body open. Raises EncryptionError."""
    if not stored.body.startswith(PREFIX):
        return stored
    where = body_place(resource_type, resource_id, stored.version)
    body = vault_of(connection).open(tenant_id, where, stored.body, connection)
    return replace(stored, body=body)


def body_place(resource_type: str, resource_id: str, version: int) -> str:
    """What a sealed body is bound to, in fhir_resources and in fhir_history alike."""
    return place("fhir_resources", "body", f"{resource_type}/{resource_id}/{version}")


def row_owner(
    connection: Connection, tenant_id: UUID, resource_type: str, row_id: UUID
) -> str | None:
    """The id of the resource that stands for a row."""
    row = connection.execute(
        "SELECT resource_id FROM fhir_resources"
        " WHERE tenant_id = %s AND resource_type = %s AND row_id = %s",
        (tenant_id, resource_type, row_id),
    ).fetchone()
    return row[0] if row else None


@dataclass(frozen=True, slots=True)
class NewVersion:
    """A version to be stored. No body: deleted. `audit` is the row of the write, where it has one.

    `search_rows` are the resource's own (see `search_rows`); where it `is_sensitive` its body is
    stored sealed.
    """

    resource_type: str
    resource_id: str
    row_id: UUID | None
    version: int
    last_updated: datetime
    method: str
    body: bytes | None
    search_rows: Mapping[str, Any]
    is_sensitive: bool = False
    audit: Audit | None = None


def store(
    connection: Connection,
    tenant_id: UUID,
    *versions: NewVersion,
    awaited: Sequence[str] = (),
    commits: bool = False,
) -> list[str]:
    """Write versions, no resource twice: current bytes, history, search rows, outbox and audit.

    One round trip, in which the transaction is committed where that is all (`commits`). Returns
    those of the `awaited` "Type/id" that some resource waits for. Raises EncryptionError where a
    body is sensitive and cannot be sealed.
    """
    entries = [
        _entry(number, version, _stored_text(connection, tenant_id, version))
        for number, version in enumerate(versions, 1)
    ]
    rows = search_rows.together(version.search_rows for version in versions)
    # As JSON: an array of PostgreSQL is escaped character by character, in Python.
    values = {"tenant": tenant_id, "entries": orjson.dumps(entries).decode(), "rows": rows}
    # A batch that fails while it prepares takes its connection along, and so the transaction.
    batch = [Statement(STORE, values, keeps_plan=commits)]
    if awaited:
        batch.append(Statement(AWAITED, {"tenant": tenant_id, "references": list(awaited)}))
    if commits:
        batch.append(COMMIT)
    try:
        _, *found = run_batch(connection, batch)
    except errors.SerializationFailure:
        # Perhaps they were indexed by search parameters that are no more those in force.
        forget(tenant_id)
        raise
    return [row[0] for row in found[0]] if found else []


def _entry(number: int, version: NewVersion, body: str | None) -> dict[str, Any]:
    """A version as the SQL function `fhir_store` takes it."""
    entry: dict[str, Any] = {
        "number": number,
        "type": version.resource_type,
        "id": version.resource_id,
        "row_id": version.row_id,
        "version": version.version,
        "last_updated": version.last_updated,
        "method": version.method,
        "body": body,
        "epoch": search_rows.epoch_of(version.search_rows),
    }
    if version.audit is not None:
        entry["audit"] = orjson.Fragment(json_text(version.audit))
    return entry


def _stored_text(connection: Connection, tenant_id: UUID, version: NewVersion) -> str | None:
    if version.body is None:
        return None
    text = version.body.decode()
    if not version.is_sensitive:
        return text
    where = body_place(version.resource_type, version.resource_id, version.version)
    return vault_of(connection).seal(tenant_id, where, text, connection)


def missing(connection: Connection, tenant_id: UUID, references: Iterable[str]) -> list[str]:
    """Those of the "Type/id" references that name no resource of this tenant."""
    wanted = sorted(set(references))
    if not wanted:
        return []
    types, ids = zip(*(reference.split("/") for reference in wanted), strict=True)
    rows = connection.execute(
        "SELECT w.type || '/' || w.id FROM unnest(%s::text[], %s::text[]) AS w(type, id)"
        " WHERE NOT EXISTS (SELECT FROM fhir_resources AS r WHERE r.tenant_id = %s"
        " AND r.resource_type = w.type AND r.resource_id = w.id AND NOT r.deleted)",
        (list(types), list(ids), tenant_id),
    ).fetchall()
    return [row[0] for row in rows]


def requires_resolution(connection: Connection, tenant_id: UUID) -> bool:
    """Whether the tenant refuses resources whose references do not resolve."""
    row = connection.execute(
        "SELECT require_reference_resolution FROM tenant_settings WHERE tenant_id = %s",
        (tenant_id,),
    ).fetchone()
    return bool(row and row[0])


# -- references that wait -------------------------------------------------------------------


def set_pending(
    connection: Connection,
    tenant_id: UUID,
    resource_type: str,
    resource_id: str,
    references: Sequence[str],
) -> None:
    """Remember what a resource waits for, in place of what it waited for before."""
    key = (tenant_id, resource_type, resource_id)
    connection.execute(
        "DELETE FROM fhir_pending WHERE tenant_id = %s AND resource_type = %s AND resource_id = %s",
        key,
    )
    if references:
        connection.execute(
            "INSERT INTO fhir_pending (tenant_id, resource_type, resource_id, reference)"
            " SELECT %s, %s, %s, unnest(%s::text[])",
            (*key, sorted(set(references))),
        )


def pending_on(connection: Connection, tenant_id: UUID, reference: str) -> list[tuple[str, str]]:
    """The (type, id) of each resource that waits for "Type/id"."""
    rows = connection.execute(
        "SELECT resource_type, resource_id FROM fhir_pending"
        " WHERE tenant_id = %s AND reference = %s ORDER BY 1, 2",
        (tenant_id, reference),
    ).fetchall()
    return [(row[0], row[1]) for row in rows]


def set_row_id(
    connection: Connection,
    tenant_id: UUID,
    resource_type: str,
    resource_id: str,
    row_id: UUID | None,
) -> None:
    """Bind a resource to the row that now holds it; None where none does any more."""
    connection.execute(
        "UPDATE fhir_resources SET row_id = %s"
        " WHERE tenant_id = %s AND resource_type = %s AND resource_id = %s",
        (row_id, tenant_id, resource_type, resource_id),
    )


# -- stale resources ------------------------------------------------------------------------


def stale_types(connection: Connection, tenant_id: UUID) -> list[str]:
    """The resource types that have stale resources."""
    rows = connection.execute(
        "SELECT DISTINCT resource_type FROM fhir_resources WHERE tenant_id = %s AND stale",
        (tenant_id,),
    ).fetchall()
    return sorted(row[0] for row in rows)


def lock_stale(
    connection: Connection,
    tenant_id: UUID,
    resource_type: str,
    limit: int,
    *,
    after: str = "",
    resource_id: str | None = None,
) -> list[tuple[str, Stored]]:
    """Stale resources of a type (or the one named), locked in the order that triggers lock them.

    Their bodies are as they are stored: one that does not open must not hide the others.
    """
    rows = connection.execute(
        "SELECT resource_id, row_id, version, last_updated, deleted, stale, body"
        " FROM fhir_resources WHERE tenant_id = %s AND resource_type = %s AND stale"
        " AND resource_id > %s AND (%s::text IS NULL OR resource_id = %s)"
        " ORDER BY resource_id LIMIT %s FOR UPDATE",
        (tenant_id, resource_type, after, resource_id, resource_id, limit),
    ).fetchall()
    return [(row[0], Stored(*row[1:])) for row in rows]


def mark_fresh(
    connection: Connection, tenant_id: UUID, resource_type: str, resource_id: str
) -> None:
    """A row changed and its resource did not."""
    connection.execute(
        "UPDATE fhir_resources SET stale = false"
        " WHERE tenant_id = %s AND resource_type = %s AND resource_id = %s",
        (tenant_id, resource_type, resource_id),
    )


def drop_stub(
    connection: Connection, tenant_id: UUID, resource_type: str, resource_id: str
) -> None:
    """Forget the stub of a row that was gone before anybody saw it as a resource."""
    connection.execute(
        "DELETE FROM fhir_resources WHERE tenant_id = %s AND resource_type = %s"
        " AND resource_id = %s AND version = 0",
        (tenant_id, resource_type, resource_id),
    )


# -- reading, one round trip ----------------------------------------------------------------


async def read(
    database: Database, tenant_id: UUID, resource_type: str, resource_id: str, audit: Audit
) -> Stored | None:
    """The current version; audited unless it is stale, which the caller renders first."""
    rows = await call(
        database, tenant_id, "fhir_read", resource_type, resource_id, json_text(audit)
    )
    if not rows:
        mark_audited()
        return None
    version, last_updated, deleted, stale, body = rows[0]
    if not stale:
        mark_audited()
    if body.startswith(PREFIX):
        where = body_place(resource_type, resource_id, version)
        body = await open_body(database, tenant_id, where, body)
    return Stored(None, version, last_updated, deleted, stale, body)


async def history(
    database: Database,
    tenant_id: UUID,
    resource_type: str,
    resource_id: str,
    audit: Audit,
    *,
    version: int | None = None,
    before: int | None = None,
    limit: int = 1,
) -> list[Version]:
    """One version, or the versions older than `before`, newest first."""
    rows = await call(
        database,
        tenant_id,
        "fhir_read_history",
        resource_type,
        resource_id,
        version,
        before,
        limit,
        json_text(audit),
    )
    mark_audited()
    versions = [Version(*row) for row in rows]
    for index, found in enumerate(versions):
        if found.body is not None and found.body.startswith(PREFIX):
            where = body_place(resource_type, resource_id, found.version)
            body = await open_body(database, tenant_id, where, found.body)
            versions[index] = replace(found, body=body)
    return versions


async def opened_rows(
    database: Database, tenant_id: UUID, rows: list[tuple[Any, ...]]
) -> list[tuple[Any, ...]]:
    """The rows of a search with their bodies open."""
    if not any(row[-1].startswith(PREFIX) for row in rows):
        return rows
    found: list[tuple[Any, ...]] = []
    for row in rows:
        body = row[-1]
        if body.startswith(PREFIX):
            where = body_place(row[2], row[3], row[4])
            body = await open_body(database, tenant_id, where, body)
        found.append((*row[:-1], body))
    return found


async def open_body(database: Database, tenant_id: UUID, where: str, body: str) -> str:
    """Open a sealed body (`body_place`) without holding up the event loop. Raises EncryptionError.

    The first of a tenant in some minutes waits for its key.
    """
    opened_now = database.vault.open_now(tenant_id, where, body)
    if opened_now is not None:
        return opened_now
    return await asyncio.to_thread(database.vault.open, tenant_id, where, body)


async def call(
    database: Database, tenant_id: UUID, function: LiteralString, *arguments: Any
) -> list[tuple[Any, ...]]:
    """Call a SQL function that is a transaction of its own and binds its tenant, given first."""
    values = {"tenant": tenant_id, **{f"p{i}": value for i, value in enumerate(arguments)}}
    (rows,) = await database.run(tenant_id, function_call(function, values))
    return rows


def json_text(audit: Audit) -> str:
    """Audit values as the SQL functions take them."""
    return orjson.dumps({**audit, "metadata": orjson.Fragment(audit["metadata"])}).decode()
