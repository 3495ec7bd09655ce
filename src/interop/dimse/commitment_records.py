"""Storage Commitment transactions as rows: what was asked, what was found, who has been told.

Every change of a state is one conditional UPDATE, so the association that asked, the worker's jobs
and a peer that repeats itself may meet here in any order.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, LiteralString
from uuid import UUID

from interop.dicom.failures import DUPLICATE_TRANSACTION_UID
from interop.dimse.commitment_messages import Failed, Reference, Report, Request
from storage.database import Connection
from storage.jobs import defer

QUEUE: Final = "dicom"
VERIFY_TASK, REPORT_TASK = "verify_commitment", "report_commitment"
ASK_TASK, OVERDUE_TASK = "ask_commitment", "commitment_overdue"
# Whoever reports has the transaction for this long; after that it is taken to have died.
CLAIM: Final = timedelta(seconds=60)
_PAGE = 200

_COLUMNS: LiteralString = (
    "id, role, transaction_uid, peer_ae_title, local_ae_title, status, attempts, next_attempt_at,"
    " message"
)

# Two requests under one Transaction UID of a peer are judged one after the other.
_ONE_AT_A_TIME: LiteralString = "SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))"
_INSERT_REFERENCES: LiteralString = (
    "INSERT INTO storage_commitment_references (tenant_id, commitment_id, position, sop_class_uid,"
    " sop_instance_uid, state, failure_reason)"
    " SELECT %(tenant_id)s, %(id)s, given.n - 1, given.class_uid, given.instance_uid, %(state)s,"
    " %(reason)s FROM unnest(%(classes)s::text[], %(instances)s::text[])"
    " WITH ORDINALITY AS given(class_uid, instance_uid, n)"
)


@dataclass(frozen=True, slots=True)
class Parties:
    """Who asks whom: the AE titles of an association, and the registered peer if it is one."""

    peer_ae_title: str
    local_ae_title: str
    application_entity_id: UUID | None


@dataclass(frozen=True, slots=True)
class Commitment:
    """One transaction."""

    id: UUID
    role: str
    transaction_uid: str
    peer_ae_title: str
    local_ae_title: str
    status: str
    attempts: int
    next_attempt_at: datetime
    message: str | None


@dataclass(frozen=True, slots=True)
class Pending:
    """A reference that is not judged yet."""

    position: int
    reference: Reference


# -- as SCP -------------------------------------------------------------------------------------


def accept(connection: Connection, tenant_id: UUID, parties: Parties, request: Request) -> UUID:
    """Take a request on, and have it verified by a job. Returns the transaction's id.

    The same request again is the same transaction: it is reported once more if it was already. One
    with other references under a Transaction UID in use is reported as failed, with 0131.
    """
    lock = f"commitment {tenant_id} {parties.peer_ae_title} {request.transaction_uid}"
    connection.execute(_ONE_AT_A_TIME, (lock,))
    earlier = connection.execute(
        "SELECT id, status FROM storage_commitments WHERE tenant_id = %s AND transaction_uid = %s"
        " AND role = 'SCP' AND peer_ae_title = %s ORDER BY created_at LIMIT 1",
        (tenant_id, request.transaction_uid, parties.peer_ae_title),
    ).fetchone()
    if earlier is None:
        return _begin(connection, tenant_id, parties, request)
    if _references(connection, tenant_id, earlier[0]) != request.references:
        return _refuse_duplicate(connection, tenant_id, parties, request)
    if earlier[1] in ("REPORTED", "UNREPORTED"):
        _begin_again(connection, tenant_id, earlier[0])
    return UUID(str(earlier[0]))


def _begin(connection: Connection, tenant_id: UUID, parties: Parties, request: Request) -> UUID:
    id_ = _insert(connection, tenant_id, "SCP", "ACCEPTED", parties, request)
    _later(connection, VERIFY_TASK, tenant_id, id_)
    return id_


def _begin_again(connection: Connection, tenant_id: UUID, commitment_id: UUID) -> None:
    """What was true when it was reported may have changed, so it is verified anew."""
    values = (tenant_id, commitment_id)
    connection.execute(
        "UPDATE storage_commitment_references SET state = 'PENDING', failure_reason = NULL"
        " WHERE tenant_id = %s AND commitment_id = %s",
        values,
    )
    connection.execute(
        "UPDATE storage_commitments SET status = 'ACCEPTED', attempts = 0, completed_at = NULL,"
        " next_attempt_at = now(), message = NULL WHERE tenant_id = %s AND id = %s",
        values,
    )
    _later(connection, VERIFY_TASK, tenant_id, commitment_id)


def _refuse_duplicate(
    connection: Connection, tenant_id: UUID, parties: Parties, request: Request
) -> UUID:
    id_ = _insert(
        connection, tenant_id, "SCP", "VERIFIED", parties, request, DUPLICATE_TRANSACTION_UID
    )
    _later(connection, REPORT_TASK, tenant_id, id_)
    return id_


def pending(connection: Connection, tenant_id: UUID, commitment_id: UUID) -> list[Pending]:
    """The next references to judge, none when all are."""
    rows = connection.execute(
        "SELECT position, sop_class_uid, sop_instance_uid FROM storage_commitment_references"
        " WHERE tenant_id = %s AND commitment_id = %s AND state = 'PENDING'"
        " ORDER BY position LIMIT %s",
        (tenant_id, commitment_id, _PAGE),
    ).fetchall()
    return [Pending(row[0], Reference(row[1], row[2])) for row in rows]


def judge(
    connection: Connection,
    tenant_id: UUID,
    commitment_id: UUID,
    reasons: Mapping[int, int | None],
) -> None:
    """Write what was found of references, by their positions; None is committed."""
    connection.execute(
        "UPDATE storage_commitment_references AS r SET failure_reason = found.reason,"
        " state = CASE WHEN found.reason IS NULL THEN 'COMMITTED' ELSE 'FAILED' END"
        " FROM unnest(%s::int[], %s::int[]) AS found(position, reason)"
        " WHERE r.tenant_id = %s AND r.commitment_id = %s AND r.position = found.position",
        (list(reasons), list(reasons.values()), tenant_id, commitment_id),
    )


def mark_verified(
    connection: Connection, tenant_id: UUID, commitment_id: UUID, report_at: datetime
) -> bool:
    """Everything is judged: have it reported at a time, unless the association does it before."""
    row = connection.execute(
        "UPDATE storage_commitments SET status = 'VERIFIED', attempts = 0, next_attempt_at = now()"
        " WHERE tenant_id = %s AND id = %s AND status = 'ACCEPTED' RETURNING id",
        (tenant_id, commitment_id),
    ).fetchone()
    if row is not None:
        _later(connection, REPORT_TASK, tenant_id, commitment_id, report_at)
    return row is not None


def claim(
    connection: Connection, tenant_id: UUID, commitment_ids: Sequence[UUID]
) -> Commitment | None:
    """Take one transaction that is ready to be reported, so that nobody else reports it now."""
    row = connection.execute(
        "UPDATE storage_commitments SET next_attempt_at = now() + %s, attempts = attempts + 1"
        " WHERE tenant_id = %s AND id = (SELECT id FROM storage_commitments WHERE tenant_id = %s"
        " AND id = ANY (%s) AND status = 'VERIFIED' AND next_attempt_at <= now()"
        f" ORDER BY created_at LIMIT 1 FOR UPDATE SKIP LOCKED) RETURNING {_COLUMNS}",
        (CLAIM, tenant_id, tenant_id, list(commitment_ids)),
    ).fetchone()
    return Commitment(*row) if row else None


def report_of(connection: Connection, tenant_id: UUID, commitment: Commitment) -> Report:
    """What is to be reported."""
    rows = connection.execute(
        "SELECT sop_class_uid, sop_instance_uid, state, failure_reason"
        " FROM storage_commitment_references WHERE tenant_id = %s AND commitment_id = %s"
        " ORDER BY position",
        (tenant_id, commitment.id),
    ).fetchall()
    committed = tuple(Reference(r[0], r[1]) for r in rows if r[2] == "COMMITTED")
    failed = tuple(Failed(Reference(r[0], r[1]), r[3]) for r in rows if r[2] == "FAILED")
    return Report(commitment.transaction_uid, committed, failed)


def finish(
    connection: Connection,
    tenant_id: UUID,
    commitment_id: UUID,
    status: str,
    status_code: int | None = None,
    message: str | None = None,
) -> None:
    """Nothing more is to be done."""
    connection.execute(
        "UPDATE storage_commitments SET status = %s, status_code = %s, message = %s,"
        " completed_at = now() WHERE tenant_id = %s AND id = %s",
        (status, status_code, message, tenant_id, commitment_id),
    )


def put_off(
    connection: Connection,
    tenant_id: UUID,
    commitment_id: UUID,
    task: str,
    until: datetime,
    message: str | None,
    attempts: int,
) -> None:
    """It did not work, or is not due; the task tries again then."""
    connection.execute(
        "UPDATE storage_commitments SET next_attempt_at = %s, attempts = %s,"
        " message = coalesce(%s, message)"
        " WHERE tenant_id = %s AND id = %s",
        (until, attempts, message, tenant_id, commitment_id),
    )
    _later(connection, task, tenant_id, commitment_id, until)


# -- as SCU -------------------------------------------------------------------------------------


def begin_asking(
    connection: Connection,
    tenant_id: UUID,
    parties: Parties,
    request: Request,
    overdue_at: datetime,
) -> UUID:
    """A transaction that we ask a peer for."""
    id_ = _insert(connection, tenant_id, "SCU", "REQUESTED", parties, request)
    _later(connection, OVERDUE_TASK, tenant_id, id_, overdue_at)
    return id_


def ask_later(connection: Connection, tenant_id: UUID, commitment_id: UUID) -> None:
    """Have the worker send the N-ACTION."""
    _later(connection, ASK_TASK, tenant_id, commitment_id)


def request_of(connection: Connection, tenant_id: UUID, commitment: Commitment) -> Request:
    """What is to be asked."""
    return Request(commitment.transaction_uid, _references(connection, tenant_id, commitment.id))


def take_report(connection: Connection, tenant_id: UUID, peer: str, report: Report) -> UUID | None:
    """Write down a peer's report. None where that peer was not asked under this Transaction UID.

    A reference that the report does not name stays open; one that it names and that was not asked
    for counts for nothing. The same report again changes nothing.
    """
    row = connection.execute(
        "SELECT id FROM storage_commitments WHERE tenant_id = %s AND transaction_uid = %s"
        " AND role = 'SCU' AND peer_ae_title = %s FOR UPDATE",
        (tenant_id, report.transaction_uid, peer),
    ).fetchone()
    if row is None:
        return None
    id_ = UUID(str(row[0]))
    _apply(connection, tenant_id, id_, [(one, None) for one in report.committed])
    _apply(connection, tenant_id, id_, [(one.reference, one.reason) for one in report.failed])
    connection.execute(
        "UPDATE storage_commitments AS c SET completed_at = now(), message = NULL, status = CASE"
        " WHEN EXISTS (SELECT FROM storage_commitment_references AS r WHERE r.tenant_id ="
        " c.tenant_id AND r.commitment_id = c.id AND r.state <> 'COMMITTED')"
        " THEN 'PARTLY_COMMITTED' ELSE 'COMMITTED' END WHERE c.tenant_id = %s AND c.id = %s",
        (tenant_id, id_),
    )
    return id_


def _apply(
    connection: Connection,
    tenant_id: UUID,
    commitment_id: UUID,
    found: Iterable[tuple[Reference, int | None]],
) -> None:
    listed = list(found)
    connection.execute(
        "UPDATE storage_commitment_references AS r SET failure_reason = said.reason,"
        " state = CASE WHEN said.reason IS NULL THEN 'COMMITTED' ELSE 'FAILED' END"
        " FROM unnest(%s::text[], %s::int[]) AS said(uid, reason)"
        " WHERE r.tenant_id = %s AND r.commitment_id = %s AND r.sop_instance_uid = said.uid",
        (
            [reference.sop_instance_uid for reference, _ in listed],
            [reason for _, reason in listed],
            tenant_id,
            commitment_id,
        ),
    )


# -- both ---------------------------------------------------------------------------------------


def find(connection: Connection, tenant_id: UUID, commitment_id: UUID) -> Commitment | None:
    """One transaction, or None."""
    row = connection.execute(
        f"SELECT {_COLUMNS} FROM storage_commitments WHERE tenant_id = %s AND id = %s",
        (tenant_id, commitment_id),
    ).fetchone()
    return Commitment(*row) if row else None


def list_commitments(
    connection: Connection,
    tenant_id: UUID,
    *,
    after: tuple[datetime, UUID] | None = None,
    limit: int | None = None,
) -> list[dict[str, Any]]:
    """The transactions, newest first, with how many of their objects are in which state."""
    cursor = connection.execute(
        "SELECT c.id, c.role, c.transaction_uid, c.peer_ae_title, c.status, c.status_code,"
        " c.message, c.attempts, c.created_at, c.completed_at,"
        " count(r.id) AS objects, count(r.id) FILTER (WHERE r.state = 'COMMITTED') AS committed,"
        " count(r.id) FILTER (WHERE r.state = 'FAILED') AS failed"
        " FROM storage_commitments AS c LEFT JOIN storage_commitment_references AS r"
        " ON r.tenant_id = c.tenant_id AND r.commitment_id = c.id"
        " WHERE c.tenant_id = %(tenant_id)s AND (%(at)s::timestamptz IS NULL"
        " OR (c.created_at, c.id) < (%(at)s, %(id)s::uuid))"
        " GROUP BY c.tenant_id, c.id ORDER BY c.created_at DESC, c.id DESC LIMIT %(limit)s",
        {
            "tenant_id": tenant_id,
            "at": after[0] if after else None,
            "id": after[1] if after else None,
            "limit": limit,
        },
    )
    names = [column.name for column in cursor.description or ()]
    return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]


def failures_of(connection: Connection, tenant_id: UUID, commitment_id: UUID) -> list[Failed]:
    """The objects of a transaction that are not committed."""
    rows = connection.execute(
        "SELECT sop_class_uid, sop_instance_uid, failure_reason FROM storage_commitment_references"
        " WHERE tenant_id = %s AND commitment_id = %s AND state = 'FAILED' ORDER BY position",
        (tenant_id, commitment_id),
    ).fetchall()
    return [Failed(Reference(row[0], row[1]), row[2]) for row in rows]


def _insert(
    connection: Connection,
    tenant_id: UUID,
    role: str,
    status: str,
    parties: Parties,
    request: Request,
    reason: int | None = None,
) -> UUID:
    row = connection.execute(
        "INSERT INTO storage_commitments (tenant_id, role, status, transaction_uid, peer_ae_title,"
        " local_ae_title, application_entity_id) VALUES (%s, %s, %s, %s, %s, %s, %s) RETURNING id",
        (
            tenant_id,
            role,
            status,
            request.transaction_uid,
            parties.peer_ae_title,
            parties.local_ae_title,
            parties.application_entity_id,
        ),
    ).fetchone()
    assert row is not None
    connection.execute(
        _INSERT_REFERENCES,
        {
            "tenant_id": tenant_id,
            "id": row[0],
            "state": "PENDING" if reason is None else "FAILED",
            "reason": reason,
            "classes": [one.sop_class_uid for one in request.references],
            "instances": [one.sop_instance_uid for one in request.references],
        },
    )
    return UUID(str(row[0]))


def _references(
    connection: Connection, tenant_id: UUID, commitment_id: UUID
) -> tuple[Reference, ...]:
    rows = connection.execute(
        "SELECT sop_class_uid, sop_instance_uid FROM storage_commitment_references"
        " WHERE tenant_id = %s AND commitment_id = %s ORDER BY position",
        (tenant_id, commitment_id),
    ).fetchall()
    return tuple(Reference(*row) for row in rows)


def _later(
    connection: Connection,
    task: str,
    tenant_id: UUID,
    commitment_id: UUID,
    at: datetime | None = None,
) -> None:
    args = {"tenant_id": str(tenant_id), "commitment_id": str(commitment_id)}
    defer(connection, task, args, queue=QUEUE, schedule_at=at)
