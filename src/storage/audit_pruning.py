"""Removes rows of the log past their retention: whole seals, never under a legal hold.

Runs as the owner of the database; triggers (migrations/audit.sql) judge each step again, and refuse
a deletion that no seal of kind PRUNED announces. That seal stays, and says what there was.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from itertools import groupby
from typing import Any
from uuid import UUID

from storage.audit import INSERT_AUDIT, system_audit
from storage.audit_chain import PRUNED, AuditKey, append, lock_chain, unpacked
from storage.database import Connection, Database

# Seals of one transaction: some hundred thousand rows at most.
SEALS_AT_ONCE = 50

_ELIGIBLE = """
SELECT s.sequence, s.first_transaction, s.next_transaction, s.row_count, s.oldest_at, s.newest_at,
    s.rows_digest, s.entries,
    audit_hold(s.tenant_id, s.first_transaction::text::xid8, s.next_transaction::text::xid8)
FROM audit_seals AS s
WHERE s.tenant_id = %(tenant_id)s AND s.kind = 'ROWS' AND s.entries IS NOT NULL
    AND s.newest_at < now() - audit_retention(s.tenant_id)
ORDER BY s.sequence LIMIT %(limit)s OFFSET %(held)s
"""


@dataclass(slots=True)
class PruneReport:
    """What went, and what a legal hold kept."""

    rows: int = 0
    seals: int = 0
    held_seals: int = 0


def prune(owner: Database, tenant_id: UUID, key: AuditKey) -> PruneReport:
    """Remove what is past the retention of the tenant (six years where it says nothing)."""
    report = PruneReport()
    while True:
        with owner.connection(tenant_id) as connection:
            lock_chain(connection, tenant_id)
            found = connection.execute(
                _ELIGIBLE,
                {"tenant_id": tenant_id, "limit": SEALS_AT_ONCE, "held": report.held_seals},
            ).fetchall()
            free = [row for row in found if row[8] is None]
            report.held_seals += len(found) - len(free)
            for _, run in groupby(enumerate(free), lambda item: item[1][0] - item[0]):
                _prune_run(connection, tenant_id, key, [row for _, row in run], report)
        if len(found) < SEALS_AT_ONCE:
            return report


def _prune_run(
    connection: Connection,
    tenant_id: UUID,
    key: AuditKey,
    run: list[tuple[Any, ...]],
    report: PruneReport,
) -> None:
    """Seals of consecutive numbers: announce, delete, and let go of their entries."""
    rows = sum(row[3] for row in run)
    body = {
        "kind": PRUNED,
        "first_transaction": run[0][1],
        "next_transaction": run[-1][2],
        "first_sequence": run[0][0],
        "last_sequence": run[-1][0],
        "row_count": rows,
        "oldest_at": min(row[4] for row in run),
        "newest_at": max(row[5] for row in run),
        "rows_digest": sha256(b"".join(row[6] for row in run)).digest(),
    }
    append(connection, tenant_id, key, body, None)
    connection.execute(
        "DELETE FROM audit_events WHERE tenant_id = %s AND transaction_id >= %s::text::xid8"
        " AND transaction_id < %s::text::xid8",
        (tenant_id, run[0][1], run[-1][2]),
    )
    events = [row_id for row in run for row_id, _ in unpacked(row[7])]
    connection.execute(
        "DELETE FROM phi_access_logs WHERE tenant_id = %s AND audit_event_id = ANY (%s)",
        (tenant_id, events),
    )
    connection.execute(
        "UPDATE audit_seals SET entries = NULL WHERE tenant_id = %s AND sequence BETWEEN %s AND %s"
        " AND kind = 'ROWS'",
        (tenant_id, run[0][0], run[-1][0]),
    )
    connection.execute(
        INSERT_AUDIT,
        system_audit(
            tenant_id,
            "AUDIT_LOG_PRUNED",
            metadata={"first_seal": run[0][0], "last_seal": run[-1][0], "rows": rows},
        ),
    )
    report.rows += rows
    report.seals += len(run)
