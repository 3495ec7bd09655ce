"""Suspending, resuming and closing a tenant.

    ACTIVE     everything works
    SUSPENDED  reading only: nothing is changed or stored, no AI runs, no association is accepted;
               whoever may sign in still may, because patients are treated and data is taken out
    CLOSED     answers like a tenant that never was, at every door; the data is still there

Images never reach the tables of a tenant that is not active (migrations/tenants.sql); all else
follows within the time that a process remembers a tenant, which is less than a minute.
"""

from __future__ import annotations

from uuid import UUID

from storage.database import Connection, Database
from storage.tenants.changes import OPERATOR, Actor, record_change

# From which states each state is reached.
_BEFORE = {
    "ACTIVE": ("SUSPENDED", "CLOSED"),
    "SUSPENDED": ("ACTIVE",),
    "CLOSED": ("ACTIVE", "SUSPENDED"),
}


class WrongState(ValueError):
    """The tenant is not in a state from which this is possible."""


def suspend(database: Database, tenant_id: UUID, reason: str, actor: Actor = OPERATOR) -> None:
    """Leave the tenant its data to read, and nothing else. Raises WrongState."""
    _change(database, tenant_id, "SUSPENDED", reason, actor)


def resume(database: Database, tenant_id: UUID, reason: str, actor: Actor = OPERATOR) -> None:
    """Let everything work again. Raises WrongState, also once its deletion was requested."""
    _change(database, tenant_id, "ACTIVE", reason, actor)


def close(database: Database, tenant_id: UUID, reason: str, actor: Actor = OPERATOR) -> None:
    """Take the tenant out of service without deleting anything. Raises WrongState."""
    _change(database, tenant_id, "CLOSED", reason, actor)


def is_active(connection: Connection, tenant_id: UUID) -> bool:
    """True while work may be done for the tenant, as the database says at this moment."""
    row = connection.execute("SELECT status FROM tenants WHERE id = %s", (tenant_id,)).fetchone()
    return row is not None and row[0] == "ACTIVE"


def _change(database: Database, tenant_id: UUID, status: str, reason: str, actor: Actor) -> None:
    if not reason.strip():
        raise ValueError("a reason is needed: it is kept with the tenant and in its audit trail")
    with database.connection(tenant_id) as connection:
        row = connection.execute(
            "SELECT status FROM tenants WHERE id = %s FOR NO KEY UPDATE", (tenant_id,)
        ).fetchone()
        if row is None:
            raise WrongState(f"there is no tenant {tenant_id}")
        if row[0] not in _BEFORE[status]:
            wanted = " or ".join(_BEFORE[status])
            raise WrongState(f"the tenant is {row[0]}; only one that is {wanted} becomes {status}")
        if status == "ACTIVE" and _is_being_deleted(connection, tenant_id):
            raise WrongState("the tenant's deletion was requested; it cannot be resumed")
        _write(connection, tenant_id, status, reason)
        said = {"from": row[0], "to": status, "reason": reason}
        record_change(connection, tenant_id, "TENANT", str(tenant_id), said, actor)
    # The registry that doors ask, where the tenant's own rows lie in another database.
    with database.platform_connection() as connection:
        _write(connection, tenant_id, status, reason)


def _write(connection: Connection, tenant_id: UUID, status: str, reason: str) -> None:
    connection.execute(
        "UPDATE tenants SET status = %(status)s, status_reason = %(reason)s,"
        " status_changed_at = now() WHERE id = %(id)s AND status <> %(status)s",
        {"id": tenant_id, "status": status, "reason": reason},
    )


def _is_being_deleted(connection: Connection, tenant_id: UUID) -> bool:
    return (
        connection.execute(
            "SELECT 1 FROM tenant_deletions WHERE tenant_id = %s", (tenant_id,)
        ).fetchone()
        is not None
    )
