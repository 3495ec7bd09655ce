"""Sealing in a test run, where other databases of the cluster hold the horizon back too."""

from __future__ import annotations

import time
from uuid import UUID

from storage.audit_chain import AuditKey
from storage.audit_seals import seal
from storage.database import Database

SETTLED_SECONDS = 60.0


def seal_settled(database: Database, tenant_id: UUID, key: AuditKey) -> int:
    """Seal once everything that was committed before this call is under the horizon."""
    with database.platform_connection() as connection:
        row = connection.execute("SELECT pg_current_xact_id()::text::bigint").fetchone()
    assert row is not None
    deadline = time.monotonic() + SETTLED_SECONDS
    while _horizon(database) <= row[0]:
        assert time.monotonic() < deadline, "a transaction of the cluster does not end"
        time.sleep(0.02)
    return seal(database, tenant_id, key)


def _horizon(database: Database) -> int:
    with database.platform_connection() as connection:
        row = connection.execute(
            "SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint"
        ).fetchone()
    assert row is not None
    return int(row[0])
