"""The last step of a move: nobody comes to the tenant any more, and who is there leaves.

The registry is marked first; the tenant's own database, where it has one, has a mark of its own
(`tenants` there says where the tenant lives as seen from there). Whoever begins after that is
turned away by `enter_tenant`; whoever began before is waited for, not longer than clients wait.
"""

from __future__ import annotations

import time
from uuid import UUID

from storage.partitions.mirror import LOCK
from storage.partitions.moving_cargo import Owner
from storage.partitions.provisioning import Destination
from storage.places import HERE, MOVING

# Whoever may write as the tenant: not autovacuum, nor this connection.
_BUSY = """
SELECT l.virtualtransaction, a.pid, a.usename, a.application_name
FROM pg_locks AS l JOIN pg_stat_activity AS a ON a.pid = l.pid
WHERE l.locktype = 'virtualxid' AND l.mode = 'ExclusiveLock' AND a.datname = current_database()
    AND a.usesysid IS NOT NULL AND a.pid <> pg_backend_pid()
    -- Of another login's session its kind is not told.
    AND coalesce(a.backend_type, 'client backend') = 'client backend'
"""
_PAUSE_SECONDS = 0.01


class StillThere(Exception):
    """Transactions that began before do not end."""


def close(registry: Owner, source_: Owner, source: Destination, tenant_id: UUID) -> None:
    """From now on nobody enters the tenant's place."""
    registry.execute("UPDATE tenants SET place = %s WHERE id = %s", (MOVING, tenant_id))
    if source.strategy == "DATABASE":
        mark_own(source_, tenant_id, MOVING)


def reopen(registry: Owner, source_: Owner, source: Destination, tenant_id: UUID) -> None:
    """The tenant stays where it was; nothing happens where it is not on its way."""
    with registry.transaction():
        closed = registry.execute(
            "SELECT FROM tenants WHERE id = %s AND place = %s FOR UPDATE", (tenant_id, MOVING)
        ).fetchone()
        if closed is None:
            return
        if source.strategy == "DATABASE":
            mark_own(source_, tenant_id, HERE)
        registry.execute("UPDATE tenants SET place = %s WHERE id = %s", (source.place, tenant_id))


def mark_own(place: Owner, tenant_id: UUID, mark: str) -> None:
    """Open or close the tenant's own database; never in the middle of mirroring."""
    with place.transaction():
        place.execute("SELECT pg_advisory_xact_lock(%s)", (LOCK,))
        place.execute(
            "UPDATE tenants SET place = %s WHERE id = %s AND place <> %s", (mark, tenant_id, mark)
        )


def await_older(source_: Owner, seconds: float) -> None:
    """Return when every transaction that there is in the source's database now has ended.

    Raises StillThere.
    """
    deadline = time.monotonic() + seconds
    older = {row[0] for row in source_.execute(_BUSY).fetchall()}
    while older:
        busy = source_.execute(_BUSY).fetchall()
        older &= {row[0] for row in busy}
        if older and time.monotonic() > deadline:
            names = ", ".join(
                f"process {pid} of {user} ({name or 'no name'})"
                for transaction, pid, user, name in busy
                if transaction in older
            )
            raise StillThere(f"transactions did not end within {seconds:.0f} s: {names}")
        if older:
            time.sleep(_PAUSE_SECONDS)
