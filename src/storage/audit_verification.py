"""Recomputes a tenant's chain and names the first thing that is not as it was sealed.

Seals first (order, digests, signatures, anchors), because they say what rows there must be; then
the rows, seal by seal: changed, deleted, inserted, reordered.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from hashlib import sha256
from uuid import UUID

from storage.audit_chain import NO_DIGEST, ROWS, AuditKey, Seal, entries, seals, unpacked
from storage.audit_seals import anchors
from storage.database import Connection, Database
from storage.objects import ObjectStore


class Tampered(Exception):
    """The log is not what was sealed."""

    def __init__(self, message: str, *, seal: int | None = None, row_id: UUID | None = None):
        self.message, self.seal, self.row_id = message, seal, row_id
        super().__init__(message)


@dataclass(slots=True)
class Verification:
    """What was looked at, and the first thing that is wrong; None: nothing is."""

    tenant_id: UUID
    seals: int = 0
    rows: int = 0
    pruned_rows: int = 0
    anchors: int = 0
    unsealed_rows: int = 0
    oldest_unsealed: datetime | None = None
    problem: Tampered | None = None


@dataclass(slots=True)
class _Chain:
    rows: list[Seal] = field(default_factory=list)
    pruned: set[int] = field(default_factory=set)
    digests: dict[int, bytes] = field(default_factory=dict)


def verify(
    database: Database, tenant_id: UUID, key: AuditKey, objects: ObjectStore | None
) -> Verification:
    """Recompute the chain of a tenant; without `objects` its anchors are not looked at."""
    report = Verification(tenant_id)
    with database.connection(tenant_id) as connection:
        # As long as a log of six years takes.
        connection.execute("SELECT set_config('statement_timeout', '0', true)")
        try:
            chain = _check_seals(connection, report, key)
            if objects is not None:
                _check_anchors(objects, report, chain)
            for seal in chain.rows:
                _check_rows(connection, report, seal, is_pruned=seal.sequence in chain.pruned)
            _check_rest(connection, report, chain)
        except Tampered as problem:
            report.problem = problem
    return report


def _check_seals(connection: Connection, report: Verification, key: AuditKey) -> _Chain:
    chain = _Chain()
    previous, next_transaction = NO_DIGEST, 0
    unsigned: Seal | None = None
    for seal in seals(connection, report.tenant_id):
        number = report.seals + 1
        if seal.sequence != number:
            raise Tampered(f"seal {number} is missing", seal=number)
        if seal.seal_digest != seal.expected_digest(report.tenant_id):
            raise Tampered(f"seal {number} was changed", seal=number)
        if seal.previous_digest != previous:
            raise Tampered(f"seal {number} does not follow seal {number - 1}", seal=number)
        if not key.knows(seal.signed_by):
            # A key of the past: a later signature vouches for it, for it covers this seal.
            unsigned = unsigned or seal
        elif key.is_signature(seal.signed_by, seal.seal_digest, seal.signature):
            unsigned = None
        else:
            raise Tampered(f"seal {number} is not signed by this installation", seal=number)
        if seal.kind == ROWS:
            if seal.first_transaction != next_transaction:
                raise Tampered(f"seal {number} leaves transactions out", seal=number)
            next_transaction = seal.next_transaction
            chain.rows.append(seal)
        elif seal.first_sequence is not None and seal.last_sequence is not None:
            chain.pruned.update(range(seal.first_sequence, seal.last_sequence + 1))
        previous = seal.seal_digest
        chain.digests[number] = seal.seal_digest
        report.seals = number
    if unsigned is not None:
        raise Tampered(
            f"seal {unsigned.sequence} is signed by key {unsigned.signed_by}, which is not this "
            "installation's; give it as INTEROP_FORMER_MASTER_KEY",
            seal=unsigned.sequence,
        )
    return chain


def _check_anchors(objects: ObjectStore, report: Verification, chain: _Chain) -> None:
    for anchor in anchors(objects, report.tenant_id):
        found = chain.digests.get(anchor.sequence)
        if found is None:
            raise Tampered(
                f"seal {anchor.sequence}, anchored on {anchor.day}, is missing",
                seal=anchor.sequence,
            )
        if found != anchor.seal_digest:
            raise Tampered(
                f"seal {anchor.sequence} is not the one that was anchored on {anchor.day}",
                seal=anchor.sequence,
            )
        report.anchors += 1


def _check_rows(
    connection: Connection, report: Verification, seal: Seal, *, is_pruned: bool
) -> None:
    """Compare a seal's rows with the rows that are there. Raises Tampered for the first."""
    number = seal.sequence
    if not is_pruned and _was_pruned_now(connection, report, number):
        return
    expected = [] if is_pruned else _entries_of(connection, report.tenant_id, seal)
    bounds = (seal.first_transaction, seal.next_transaction)
    actual = list(entries(connection, report.tenant_id, *bounds))
    known = {row_id for row_id, _ in expected}
    present = {entry.row_id for entry in actual}
    for n, entry in enumerate(actual):
        if n >= len(expected) or entry.row_id != expected[n][0]:
            missing = expected[n][0] if n < len(expected) else None
            if missing is not None and missing not in present:
                raise _deleted(missing, number)
            if entry.row_id not in known:
                raise Tampered(
                    f"row {entry.row_id} was inserted behind seal {number}",
                    seal=number,
                    row_id=entry.row_id,
                )
            raise Tampered(
                f"row {entry.row_id} of seal {number} is not in its place",
                seal=number,
                row_id=entry.row_id,
            )
        if entry.digest != expected[n][1]:
            raise Tampered(
                f"row {entry.row_id} of {entry.timestamp:%Y-%m-%d %H:%M:%S} was changed after "
                f"seal {number}, or its rows of phi_access_logs were",
                seal=number,
                row_id=entry.row_id,
            )
    if len(expected) > len(actual):
        raise _deleted(expected[len(actual)][0], number)
    report.rows += len(actual)
    report.pruned_rows += seal.row_count if is_pruned else 0


def _was_pruned_now(connection: Connection, report: Verification, sequence: int) -> bool:
    """Whether a seal went while this ran; the next run judges the seal that says so."""
    row = connection.execute(
        "SELECT 1 FROM audit_seals WHERE tenant_id = %s AND kind = 'PRUNED' AND sequence > %s"
        " AND %s BETWEEN first_sequence AND last_sequence",
        (report.tenant_id, report.seals, sequence),
    ).fetchone()
    return row is not None


def _entries_of(connection: Connection, tenant_id: UUID, seal: Seal) -> list[tuple[UUID, bytes]]:
    row = connection.execute(
        "SELECT entries FROM audit_seals WHERE tenant_id = %s AND sequence = %s",
        (tenant_id, seal.sequence),
    ).fetchone()
    raw = row[0] if row else None
    if raw is None or sha256(raw).digest() != seal.rows_digest:
        raise Tampered(f"the entries of seal {seal.sequence} were changed", seal=seal.sequence)
    return unpacked(raw)


def _deleted(row_id: UUID, seal: int) -> Tampered:
    return Tampered(f"row {row_id} of seal {seal} was deleted", seal=seal, row_id=row_id)


def _check_rest(connection: Connection, report: Verification, chain: _Chain) -> None:
    """What no seal covers yet, and what none can ever cover."""
    first = chain.rows[-1].next_transaction if chain.rows else 0
    values = {"tenant_id": report.tenant_id, "first": first}
    row = connection.execute(
        "SELECT count(*), min(timestamp), min(id::text) FILTER (WHERE transaction_id >="
        " pg_snapshot_xmax(pg_current_snapshot())) FROM audit_events"
        " WHERE tenant_id = %(tenant_id)s AND transaction_id >= %(first)s::text::xid8",
        values,
    ).fetchone()
    assert row is not None
    report.unsealed_rows, report.oldest_unsealed = row[0], row[1]
    if row[2] is not None:
        raise Tampered(
            f"row {row[2]} names a transaction that has not happened", row_id=UUID(row[2])
        )
    orphan = connection.execute(
        "SELECT p.audit_event_id FROM phi_access_logs AS p WHERE p.tenant_id = %(tenant_id)s"
        " AND NOT EXISTS (SELECT FROM audit_events AS e WHERE e.tenant_id = p.tenant_id"
        " AND e.id = p.audit_event_id) LIMIT 1",
        values,
    ).fetchone()
    if orphan is not None:
        raise Tampered(
            f"a row of phi_access_logs names event {orphan[0]}, which is not there",
            row_id=orphan[0],
        )
