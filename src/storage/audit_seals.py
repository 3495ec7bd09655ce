"""Seals the log in batches behind its writers, and anchors the newest seal in the object store.

A seal covers rows by the transaction that wrote them, up to a horizon that no transaction in
progress lies under (pg_snapshot_xmin): whatever has a lower number is committed and visible or gone
for ever, so nothing can slip in behind a seal. Sequence numbers and times promise no such thing.
"""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any
from uuid import UUID

from storage.audit_chain import (
    ROWS,
    AuditKey,
    Seal,
    append,
    entries,
    lock_chain,
    newest_seal,
    packed,
)
from storage.database import Connection, Database
from storage.objects import ObjectExists, ObjectStore

logger = logging.getLogger(__name__)

ROWS_A_SEAL = 10_000
ANCHORS = "audit-anchors"


def seal(database: Database, tenant_id: UUID, key: AuditKey, limit: int = ROWS_A_SEAL) -> int:
    """Seal all settled rows of a tenant; returns how many. Writers do not wait for it."""
    sealed = 0
    while (made := _seal_next(database, tenant_id, key, limit)) is not None:
        sealed += made.row_count
        # A second place, outside the database, that knows what the chain was.
        logger.info(
            "audit_sealed",
            extra={
                "tenant_id": str(tenant_id),
                "sequence": made.sequence,
                "rows": made.row_count,
                "digest": made.seal_digest.hex(),
            },
        )
    return sealed


def _seal_next(database: Database, tenant_id: UUID, key: AuditKey, limit: int) -> Seal | None:
    with database.connection(tenant_id) as connection:
        lock_chain(connection, tenant_id)
        # The horizon first: what is under it is there for every later statement.
        horizon = _horizon(connection)
        before = newest_seal(connection, tenant_id, ROWS)
        first = before.next_transaction if before else 0
        next_ = _cut(connection, tenant_id, first, horizon, limit)
        if next_ is None:
            return None
        found = list(entries(connection, tenant_id, first, next_))
        raw = packed(found)
        body: dict[str, Any] = {
            "kind": ROWS,
            "first_transaction": first,
            "next_transaction": next_,
            "row_count": len(found),
            "oldest_at": min(entry.timestamp for entry in found),
            "newest_at": max(entry.timestamp for entry in found),
            "rows_digest": sha256(raw).digest(),
        }
        return append(connection, tenant_id, key, body, raw)


def _horizon(connection: Connection) -> int:
    row = connection.execute("SELECT pg_snapshot_xmin(pg_current_snapshot())::text").fetchone()
    assert row is not None
    return int(row[0])


def _cut(
    connection: Connection, tenant_id: UUID, first: int, horizon: int, limit: int
) -> int | None:
    """Where the seal from `first` ends: whole transactions, about `limit` rows. None: no rows."""
    bounds = {"tenant_id": tenant_id, "first": first, "horizon": horizon, "limit": limit}
    rows = connection.execute(
        "SELECT transaction_id::text::bigint FROM audit_events WHERE tenant_id = %(tenant_id)s"
        " AND transaction_id >= %(first)s::text::xid8"
        " AND transaction_id < %(horizon)s::text::xid8"
        " ORDER BY transaction_id LIMIT %(limit)s + 1",
        bounds,
    ).fetchall()
    if not rows:
        return None
    if len(rows) <= limit:
        return horizon
    # A transaction larger than a seal is a seal of its own.
    return int(rows[-1][0]) if rows[-1][0] > rows[0][0] else int(rows[0][0]) + 1


# -- anchors ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Anchor:
    """What the object store remembers of a chain."""

    day: str
    sequence: int
    seal_digest: bytes


def anchor(
    database: Database,
    objects: ObjectStore,
    tenant_id: UUID,
    key: AuditKey,
    now: datetime | None = None,
) -> Anchor | None:
    """Write the newest seal's digest under today's key, once; None where it was or nothing is."""
    with database.connection(tenant_id) as connection:
        newest = newest_seal(connection, tenant_id)
    if newest is None:
        return None
    day = f"{now or datetime.now(UTC):%Y%m%d}"
    said = f"{tenant_id} {day} {newest.sequence} {newest.seal_digest.hex()}"
    body = {
        "tenant_id": str(tenant_id),
        "day": day,
        "sequence": newest.sequence,
        "seal_digest": newest.seal_digest.hex(),
        "signed_by": key.name,
        "signature": key.sign(said.encode()).hex(),
    }
    try:
        objects.put_bytes(f"{ANCHORS}/{tenant_id}/{day}", json.dumps(body).encode())
    except ObjectExists:
        return None
    return Anchor(day, newest.sequence, newest.seal_digest)


def anchors(objects: ObjectStore, tenant_id: UUID) -> list[Anchor]:
    """All anchors of a tenant, oldest first."""
    found: list[Anchor] = []
    for stat in objects.list(f"{ANCHORS}/{tenant_id}/"):
        body = json.loads(objects.get(stat.key))
        found.append(Anchor(body["day"], body["sequence"], bytes.fromhex(body["seal_digest"])))
    return sorted(found, key=lambda one: one.day)
