"""Deleting everything that a tenant owned, for good, with a certificate at the end.

    REQUESTED  closed; waits until no process remembers the tenant as open
    OBJECTS    every object under the tenant's prefix
    KEYS       data keys destroyed: sealed values do not open again, in backups neither
    ROWS       every row, those that are pointed at last; users who belong nowhere else lose their
               name and every way to sign in
    VERIFYING  counted again: nothing may be left
    DONE       certificate signed

Each step is repeated safely: a run that was cut off goes on where it was. A legal hold stops it at
every step (security.md D15). What stays is what the law wants: the audit trail for its retention,
the destroyed keys without their content, the name of the tenant's URL, and the certificate.
Of a tenant with a schema or database for itself they stay there, where they can be verified as
before; `interop tenant move` to ROW_LEVEL takes them to the platform's tables and drops the place.

Runs as the owner of the database, because the application may not delete from logs; row-level
security holds for the owner too.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import TYPE_CHECKING, Any
from uuid import UUID

from psycopg import sql

from storage.database import Connection, Database
from storage.encryption import shred
from storage.objects import ObjectStore
from storage.objects.keys import tenant_prefix
from storage.tenant_tree import descendants
from storage.tenants import lifecycle
from storage.tenants.changes import OPERATOR, Actor, record_change

if TYPE_CHECKING:
    from sqlalchemy import Table

logger = logging.getLogger(__name__)

# Longer than any process remembers a tenant (CACHE_SECONDS of storage.tenancy, and tokens).
GRACE = timedelta(seconds=60)
BATCH = 2000
# Rows that a late write or a trigger left behind are found by the next pass.
PASSES = 5
KEPT = frozenset(
    {
        "audit_events",
        "phi_access_logs",
        "audit_seals",
        "data_retention_policies",
        "data_keys",
        "tenant_deletions",
    }
)
DELETED_NAME = "deleted organization"
DELETED_USER = "deleted user"

Sign = Callable[[dict[str, Any]], str]


class HeldByLaw(ValueError):
    """A legal hold forbids the deletion."""

    def __init__(self, hold_id: UUID) -> None:
        self.hold_id = hold_id
        super().__init__(f"legal hold {hold_id} forbids the deletion until it is released")


class NotDeletable(ValueError):
    """The tenant cannot be deleted now."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a deletion is."""

    state: str
    not_before: datetime
    requested_by: str
    objects: int
    bytes: int
    rows: dict[str, int]
    certificate: str | None


def request(
    database: Database,
    tenant_id: UUID,
    actor: Actor = OPERATOR,
    *,
    grace: timedelta = GRACE,
) -> Progress:
    """Close the tenant and note that it is to be deleted; repeating changes nothing.

    Raises HeldByLaw, and NotDeletable while tenants lie below it.
    """
    with database.connection(tenant_id) as connection:
        known = progress(connection, tenant_id)
        if known is not None:
            return known
        _require_no_hold(connection, tenant_id)
    with database.platform_connection() as registry:
        below = [node.slug for node in descendants(registry, tenant_id)]
        if below:
            raise NotDeletable(f"tenants lie below it: {', '.join(below[:5])}")
        row = registry.execute("SELECT status FROM tenants WHERE id = %s", (tenant_id,)).fetchone()
        if row is None:
            raise NotDeletable(f"there is no tenant {tenant_id}")
    if row[0] != "CLOSED":
        lifecycle.close(database, tenant_id, "its deletion was requested", actor)
    with database.connection(tenant_id) as connection:
        connection.execute(
            "INSERT INTO tenant_deletions (tenant_id, not_before, requested_by)"
            " VALUES (%s, now() + %s, %s) ON CONFLICT (tenant_id) DO NOTHING",
            (tenant_id, grace, actor.name),
        )
        said = {"deletion": "requested"}
        record_change(connection, tenant_id, "TENANT", str(tenant_id), said, actor)
        found = progress(connection, tenant_id)
    assert found is not None
    return found


def progress(connection: Connection, tenant_id: UUID) -> Progress | None:
    """How far the tenant's deletion is; None where none was requested."""
    row = connection.execute(
        "SELECT state, not_before, requested_by, deleted_objects, deleted_bytes, deleted_rows,"
        " certificate FROM tenant_deletions WHERE tenant_id = %s",
        (tenant_id,),
    ).fetchone()
    return Progress(*row) if row else None


def run(owner: Database, objects: ObjectStore, tenant_id: UUID, sign: Sign) -> str:
    """Bring a requested deletion to its end and return the certificate.

    `owner` owns the tables and has the vault. Raises HeldByLaw and NotDeletable.
    """
    steps: dict[str, Callable[[], str]] = {
        "REQUESTED": lambda: _wait(owner, tenant_id),
        "OBJECTS": lambda: _delete_objects(owner, objects, tenant_id),
        "KEYS": lambda: _destroy_keys(owner, tenant_id),
        "ROWS": lambda: _delete_rows(owner, tenant_id),
        "VERIFYING": lambda: _verify(owner, objects, tenant_id, sign),
    }
    while True:
        with owner.connection(tenant_id) as connection:
            known = progress(connection, tenant_id)
            if known is None:
                raise NotDeletable("its deletion was not requested")
            if known.certificate is not None:
                return known.certificate
            _require_no_hold(connection, tenant_id)
        following = steps[known.state]()
        logger.info("tenant_deletion", extra={"tenant": str(tenant_id), "state": following})


def _require_no_hold(connection: Connection, tenant_id: UUID) -> None:
    row = connection.execute(
        "SELECT id FROM legal_holds WHERE tenant_id = %s AND released_at IS NULL"
        " ORDER BY placed_at LIMIT 1",
        (tenant_id,),
    ).fetchone()
    if row is not None:
        raise HeldByLaw(row[0])


def _advance(connection: Connection, tenant_id: UUID, state: str) -> str:
    connection.execute(
        "UPDATE tenant_deletions SET state = %s WHERE tenant_id = %s", (state, tenant_id)
    )
    return state


def _wait(owner: Database, tenant_id: UUID) -> str:
    with owner.connection(tenant_id) as connection:
        known = progress(connection, tenant_id)
    assert known is not None
    time.sleep(max(0.0, (known.not_before - datetime.now(UTC)).total_seconds()))
    with owner.connection(tenant_id) as connection:
        return _advance(connection, tenant_id, "OBJECTS")


def _delete_objects(owner: Database, objects: ObjectStore, tenant_id: UUID) -> str:
    listed = objects.list(tenant_prefix(tenant_id))
    while batch := list(islice(listed, BATCH)):
        with owner.connection(tenant_id) as connection:
            _require_no_hold(connection, tenant_id)
            for found in batch:
                objects.delete(found.key)
            connection.execute(
                "UPDATE tenant_deletions SET deleted_objects = deleted_objects + %s,"
                " deleted_bytes = deleted_bytes + %s WHERE tenant_id = %s",
                (len(batch), sum(found.size for found in batch), tenant_id),
            )
    with owner.connection(tenant_id) as connection:
        return _advance(connection, tenant_id, "KEYS")


def _destroy_keys(owner: Database, tenant_id: UUID) -> str:
    with owner.connection(tenant_id) as connection:
        destroyed = shred(connection, tenant_id)
        _count_rows(connection, tenant_id, "data_keys (destroyed)", destroyed)
        return _advance(connection, tenant_id, "ROWS")


def _delete_rows(owner: Database, tenant_id: UUID) -> str:
    # While their memberships still say who they are.
    _forget_users(owner, tenant_id)
    with owner.connection(tenant_id) as connection:
        connection.execute(
            "DELETE FROM procrastinate_jobs WHERE args ->> 'tenant_id' = %s AND status <> 'doing'",
            (str(tenant_id),),
        )
        _forget_name(connection, tenant_id)
    # The registry, of which a database of the tenant's own has only a copy.
    with owner.platform_connection() as connection:
        _forget_name(connection, tenant_id)
    for _ in range(PASSES):
        deleted = sum(_delete_table(owner, tenant_id, table) for table in _owned())
        if not deleted:
            break
    with owner.connection(tenant_id) as connection:
        return _advance(connection, tenant_id, "VERIFYING")


def _forget_name(connection: Connection, tenant_id: UUID) -> None:
    connection.execute(
        "UPDATE tenants SET name = %s, ae_title = NULL, parent_tenant_id = NULL WHERE id = %s",
        (DELETED_NAME, tenant_id),
    )


def _owned() -> Iterator[Table]:
    """The tables with rows of tenants, those first that point at others."""
    from storage.schema import metadata  # the models take a second to load

    for table in reversed(metadata.sorted_tables):
        if "tenant_id" in table.c and table.name not in KEPT:
            yield table


def _delete_table(owner: Database, tenant_id: UUID, table: Table) -> int:
    """Delete in transactions of bounded length; return how many rows there were."""
    name = sql.Identifier(table.name)
    if any(key.column.table is table for key in table.foreign_keys):
        # Rows that point at each other can only go together.
        statement = sql.SQL("DELETE FROM {} WHERE tenant_id = %(id)s").format(name)
    else:
        statement = sql.SQL(
            "DELETE FROM {0} WHERE tenant_id = %(id)s AND ctid = ANY (ARRAY("
            "SELECT ctid FROM {0} WHERE tenant_id = %(id)s LIMIT %(batch)s))"
        ).format(name)
    total = 0
    while True:
        with owner.connection(tenant_id) as connection:
            # The triggers that mark resources stale would make new rows of those that go.
            connection.execute("SELECT set_config('app.lens', 'on', true)")
            _require_no_hold(connection, tenant_id)
            count = connection.execute(statement, {"id": tenant_id, "batch": BATCH}).rowcount
            if not count:
                return total
            total += count
            _count_rows(connection, tenant_id, table.name, count)


def _count_rows(connection: Connection, tenant_id: UUID, name: str, count: int) -> None:
    if count:
        connection.execute(
            "UPDATE tenant_deletions SET deleted_rows = deleted_rows || jsonb_build_object("
            "%(name)s::text, coalesce((deleted_rows ->> %(name)s)::bigint, 0) + %(count)s)"
            " WHERE tenant_id = %(id)s",
            {"name": name, "count": count, "id": tenant_id},
        )


def _forget_users(owner: Database, tenant_id: UUID) -> None:
    """Take name and identities from those who are members of no other tenant."""
    with owner.connection(tenant_id) as connection:
        leaving = {
            row[0]
            for row in connection.execute(
                "SELECT user_id FROM user_tenants WHERE tenant_id = %s", (tenant_id,)
            )
        }
    for other in _sharing_accounts(owner, tenant_id):
        if not leaving:
            return
        # Memberships lie behind row-level security: each tenant is asked by itself.
        with owner.connection(other) as connection:
            rows = connection.execute(
                "SELECT user_id FROM user_tenants WHERE tenant_id = %s AND user_id = ANY (%s)",
                (other, list(leaving)),
            )
            leaving -= {row[0] for row in rows}
    with owner.connection(tenant_id) as connection:
        ids = list(leaving)
        connection.execute("DELETE FROM user_auth_identities WHERE user_id = ANY (%s)", (ids,))
        connection.execute(
            "UPDATE users SET email = NULL, full_name = %s, preferred_locale = NULL,"
            " status = 'DISABLED' WHERE id = ANY (%s)",
            (DELETED_USER, ids),
        )
        _count_rows(connection, tenant_id, "users (anonymized)", len(ids))


def _sharing_accounts(owner: Database, tenant_id: UUID) -> list[UUID]:
    """The other tenants of the same database: elsewhere the same person has another account."""
    with owner.platform_connection() as connection:
        rows = connection.execute("SELECT id FROM tenants WHERE id <> %s", (tenant_id,)).fetchall()
    apart = {id_ for id_, home in owner.router.apart().items() if home.is_other_database}
    return [] if tenant_id in apart else [row[0] for row in rows if row[0] not in apart]


def _verify(owner: Database, objects: ObjectStore, tenant_id: UUID, sign: Sign) -> str:
    if next(iter(objects.list(tenant_prefix(tenant_id))), None) is not None:
        with owner.connection(tenant_id) as connection:
            return _advance(connection, tenant_id, "OBJECTS")
    with owner.connection(tenant_id) as connection:
        left = {table.name: _rows(connection, tenant_id, table.name) for table in _owned()}
        left = {name: count for name, count in left.items() if count}
        if left:
            logger.warning("tenant_deletion_incomplete", extra={"left": json.dumps(left)})
            return _advance(connection, tenant_id, "ROWS")
        certificate = sign(_certificate(connection, tenant_id))
        connection.execute(
            "UPDATE tenant_deletions SET state = 'DONE', completed_at = now(), certificate = %s"
            " WHERE tenant_id = %s",
            (certificate, tenant_id),
        )
        said = {"deletion": "done"}
        record_change(connection, tenant_id, "TENANT", str(tenant_id), said, OPERATOR)
    return "DONE"


def _rows(connection: Connection, tenant_id: UUID, name: str) -> int:
    row = connection.execute(
        sql.SQL("SELECT count(*) FROM {} WHERE tenant_id = %s").format(sql.Identifier(name)),
        (tenant_id,),
    ).fetchone()
    assert row is not None
    return int(row[0])


def _certificate(connection: Connection, tenant_id: UUID) -> dict[str, Any]:
    """What the certificate says: what was deleted, what stays and why."""
    row = connection.execute(
        "SELECT d.created_at, d.requested_by, d.deleted_objects, d.deleted_bytes, d.deleted_rows,"
        " t.slug, now(), now() + audit_retention(t.id) FROM tenant_deletions d"
        " JOIN tenants t ON t.id = d.tenant_id WHERE d.tenant_id = %s",
        (tenant_id,),
    ).fetchone()
    assert row is not None
    requested_at, requested_by, count, size, rows, slug, now, audit_until = row
    return {
        "sub": str(tenant_id),
        "slug": slug,
        "requested_at": requested_at.isoformat(),
        "requested_by": requested_by,
        "completed_at": now.isoformat(),
        "deleted": {"objects": count, "bytes": size, "rows": rows},
        "kept": {
            "audit_events": _rows(connection, tenant_id, "audit_events"),
            "phi_access_logs": _rows(connection, tenant_id, "phi_access_logs"),
            "until": audit_until.isoformat() if audit_until else None,
        },
    }
