"""Deliveries as rows: what is due for a destination, what became of it, what an operator sees.

A worker claims what it sends and renews its claim while it lives. What is sent twice because one
died in between is harmless: the peer has it already and says so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final, LiteralString
from uuid import UUID

from interop.access import decide
from interop.access.devices import device
from interop.dicom.query.matching import Parameters
from interop.dicom.query.visibility import condition
from interop.dicom.routing import deliver_later, destination_key
from storage.database import Connection
from storage.tenancy import Tenant

CLAIM: Final = timedelta(seconds=60)
AT_ONCE: Final = 200
# Waits before the second, third ... attempt; after the last of them it is a dead letter.
DELAYS: Final = tuple(
    timedelta(seconds=s) for s in (10, 60, 300, 900, 1800, 3600, 7200, 14400, 28800, 43200)
)
STATUSES: Final = ("PENDING", "RETRYING", "DELIVERED", "WITHHELD", "DEAD_LETTER")
_COLUMN: Final[Mapping[str, LiteralString]] = {
    "ae": "application_entity_id",
    "web": "web_destination_id",
}
_OPEN: LiteralString = "d.status IN ('PENDING', 'RETRYING')"
# Of the object itself: a transaction may be committed in part. What its report does not name is not
# committed either.
_COMMITMENT: LiteralString = (
    "CASE WHEN r.state = 'COMMITTED' THEN 'COMMITTED'"
    " WHEN c.status = 'PARTLY_COMMITTED' THEN 'NOT_COMMITTED' ELSE c.status END"
)
_ITS_COMMITMENT: LiteralString = (
    " LEFT JOIN storage_commitments AS c ON c.tenant_id = d.tenant_id AND c.id = d.commitment_id"
    " LEFT JOIN storage_commitment_references AS r ON r.tenant_id = c.tenant_id"
    " AND r.commitment_id = c.id AND r.sop_instance_uid = o.sop_instance_uid"
)
# When the study has been quiet for as long as the rule asks, and the last failure long enough ago.
_DUE_AT: LiteralString = (
    "greatest(d.next_attempt_at, CASE WHEN d.quiet_seconds > 0 THEN coalesce(s.last_received_at,"
    " d.created_at) + make_interval(secs => d.quiet_seconds) END)"
)


@dataclass(frozen=True, slots=True)
class Due:
    """One object that is to be sent now."""

    id: UUID
    attempts: int
    with_commitment: bool
    required_consent: str | None
    study_id: UUID
    patient_id: UUID
    study_uid: str
    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    storage_uri: str
    dataset_offset: int
    byte_size: int


@dataclass(frozen=True, slots=True)
class Result:
    """What became of one object: the peer's status, None when it was not sent."""

    due: Due
    is_delivered: bool
    status_code: int | None = None
    message: str = ""


def claim(connection: Connection, tenant_id: UUID, kind: str, destination_id: UUID) -> list[Due]:
    """Take what is due for a destination. Nothing while another worker sends to it."""
    column = _COLUMN[kind]
    values = {
        "tenant_id": tenant_id,
        "destination": destination_id,
        "claim": CLAIM,
        "most": AT_ONCE,
    }
    rows = connection.execute(
        "WITH due AS (SELECT d.id FROM dicom_deliveries AS d JOIN imaging_studies AS s"
        " ON s.tenant_id = d.tenant_id AND s.id = d.study_id"
        f" WHERE d.tenant_id = %(tenant_id)s AND d.{column} = %(destination)s AND {_OPEN}"
        f" AND {_DUE_AT} <= now()"
        # Of the row itself as well: that is looked at anew when another worker was just quicker.
        " AND (d.claimed_until IS NULL OR d.claimed_until <= now())"
        " AND NOT EXISTS (SELECT FROM dicom_deliveries AS taken"
        f" WHERE taken.tenant_id = %(tenant_id)s AND taken.{column} = %(destination)s"
        " AND taken.claimed_until > now())"
        " ORDER BY d.study_id, d.created_at, d.id LIMIT %(most)s FOR UPDATE OF d SKIP LOCKED)"
        " UPDATE dicom_deliveries AS d SET claimed_until = now() + %(claim)s"
        " FROM due, imaging_objects AS o, imaging_studies AS s"
        " WHERE d.tenant_id = %(tenant_id)s AND d.id = due.id"
        " AND o.tenant_id = d.tenant_id AND o.id = d.imaging_object_id"
        " AND s.tenant_id = d.tenant_id AND s.id = d.study_id"
        " RETURNING d.id, d.attempts, d.with_commitment, d.required_consent, d.study_id,"
        " s.patient_id, s.study_uid, o.sop_class_uid, o.sop_instance_uid, o.transfer_syntax_uid,"
        " o.storage_uri, o.dataset_offset, o.byte_size",
        values,
    ).fetchall()
    return sorted((Due(*row) for row in rows), key=lambda due: (due.study_uid, due.id))


def renew(connection: Connection, tenant_id: UUID, ids: Sequence[UUID]) -> None:
    """Go on holding what is claimed."""
    connection.execute(
        "UPDATE dicom_deliveries SET claimed_until = now() + %s"
        " WHERE tenant_id = %s AND id = ANY (%s) AND claimed_until IS NOT NULL",
        (CLAIM, tenant_id, list(ids)),
    )


def withheld(
    connection: Connection,
    tenant: Tenant,
    destination: str,
    due: Sequence[Due],
    of_destination: str | None = None,
) -> set[UUID]:
    """Those that the one policy does not let go: their patients have not consented to that.

    `of_destination` is what its purpose asks for, whatever the rule says (dimse/registry.py).
    """
    found: set[UUID] = set()
    receiver = device(tenant, destination, "", may_send=False, may_query=True)
    for consent in {one.required_consent for one in due}:
        parameters = Parameters(tenant_id=tenant.id)
        tests = [
            condition(
                decide(replace(receiver, required_consent=each), "r", "ImagingStudy").require(),
                parameters,
            )
            for each in sorted({consent, of_destination} - {None}, key=str)
        ]
        if not tests:
            continue
        asked = [one for one in due if one.required_consent == consent]
        studies = "{" + ",".join(sorted({str(one.study_id) for one in asked})) + "}"
        query = (
            "SELECT s.id FROM imaging_studies AS s WHERE s.tenant_id = %(tenant_id)s"
            f" AND s.id = ANY ({parameters.bind(studies)}::uuid[])"
            + "".join(f" AND {test}" for test in tests)
        )
        allowed = {row[0] for row in connection.execute(query.encode(), parameters.values)}
        found |= {one.id for one in asked if one.study_id not in allowed}
    return found


def settle(connection: Connection, tenant_id: UUID, results: Sequence[Result]) -> None:
    """Write down what became of objects that were claimed."""
    with connection.cursor() as cursor:
        cursor.executemany(
            "UPDATE dicom_deliveries SET status = %(status)s, attempts = %(attempts)s,"
            " next_attempt_at = %(next)s, status_code = %(code)s, message = %(message)s,"
            " delivered_at = CASE WHEN %(status)s = 'DELIVERED' THEN now() END,"
            " claimed_until = NULL WHERE tenant_id = %(tenant_id)s AND id = %(id)s",
            [{"tenant_id": tenant_id, **_settled(result)} for result in results],
        )


def _settled(result: Result) -> dict[str, Any]:
    attempts = result.due.attempts + 1
    now = datetime.now(UTC)
    if result.is_delivered:
        status, at = "DELIVERED", now
    elif attempts > len(DELAYS):
        status, at = "DEAD_LETTER", now
    else:
        status, at = "RETRYING", now + DELAYS[attempts - 1]
    return {
        "id": result.due.id,
        "status": status,
        "attempts": attempts,
        "next": at,
        "code": result.status_code,
        "message": result.message.replace("\0", "")[:500] or None,
    }


def withhold(connection: Connection, tenant_id: UUID, ids: Sequence[UUID]) -> None:
    """Keep objects back until an operator asks again."""
    connection.execute(
        "UPDATE dicom_deliveries SET status = 'WITHHELD', claimed_until = NULL,"
        " message = 'the patient has not consented' WHERE tenant_id = %s AND id = ANY (%s)",
        (tenant_id, list(ids)),
    )


def next_due(
    connection: Connection, tenant_id: UUID, kind: str, destination_id: UUID
) -> datetime | None:
    """When something is due for the destination, or somebody else's claim ends; None: never."""
    row = connection.execute(
        f"SELECT min(greatest({_DUE_AT}, d.claimed_until)) FROM dicom_deliveries AS d"
        " JOIN imaging_studies AS s ON s.tenant_id = d.tenant_id AND s.id = d.study_id"
        f" WHERE d.tenant_id = %s AND d.{_COLUMN[kind]} = %s AND {_OPEN}",
        (tenant_id, destination_id),
    ).fetchone()
    return row[0] if row else None


def attach_commitment(
    connection: Connection, tenant_id: UUID, ids: Sequence[UUID], commitment_id: UUID
) -> None:
    """Note by which transaction the destination was asked to keep what it got."""
    connection.execute(
        "UPDATE dicom_deliveries SET commitment_id = %s WHERE tenant_id = %s AND id = ANY (%s)",
        (commitment_id, tenant_id, list(ids)),
    )


# -- for people ---------------------------------------------------------------------------------


def list_deliveries(
    connection: Connection,
    tenant_id: UUID,
    *,
    after: tuple[datetime, UUID] | None = None,
    limit: int | None = None,
    status: str | None = None,
    only: UUID | None = None,
) -> list[dict[str, Any]]:
    """The deliveries, newest first; of one status if wanted."""
    cursor = connection.execute(
        "SELECT d.id, d.rule_name, coalesce(a.ae_title, w.name) AS destination, d.status,"
        " d.attempts, d.status_code, d.message, s.study_uid AS study_instance_uid,"
        " o.sop_instance_uid, d.created_at, d.next_attempt_at, d.delivered_at,"
        f" {_COMMITMENT} AS commitment"
        " FROM dicom_deliveries AS d"
        " JOIN imaging_objects AS o ON o.tenant_id = d.tenant_id AND o.id = d.imaging_object_id"
        " JOIN imaging_studies AS s ON s.tenant_id = d.tenant_id AND s.id = d.study_id"
        " LEFT JOIN dicom_application_entities AS a ON a.tenant_id = d.tenant_id"
        " AND a.id = d.application_entity_id"
        " LEFT JOIN dicom_web_destinations AS w ON w.tenant_id = d.tenant_id"
        " AND w.id = d.web_destination_id"
        f"{_ITS_COMMITMENT}"
        " WHERE d.tenant_id = %(tenant_id)s AND (%(status)s::text IS NULL OR d.status = %(status)s)"
        " AND (%(only)s::uuid IS NULL OR d.id = %(only)s)"
        " AND (%(at)s::timestamptz IS NULL OR (d.created_at, d.id) < (%(at)s, %(id)s::uuid))"
        " ORDER BY d.created_at DESC, d.id DESC LIMIT %(limit)s",
        {
            "tenant_id": tenant_id,
            "status": status,
            "only": only,
            "at": after[0] if after else None,
            "id": after[1] if after else None,
            "limit": limit,
        },
    )
    names = [column.name for column in cursor.description or ()]
    return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]


def find_one(connection: Connection, tenant_id: UUID, delivery_id: UUID) -> dict[str, Any] | None:
    """One delivery as `list_deliveries` shows it."""
    found = list_deliveries(connection, tenant_id, only=delivery_id, limit=1)
    return found[0] if found else None


def retry(connection: Connection, tenant_id: UUID, ids: Sequence[UUID] | None = None) -> int:
    """Send again what was given up or withheld, or delivered and not committed: these, or all.

    Where the peer gave no report or has no storage commitment, only what is named: it has the
    object. Returns how many there are.
    """
    rows = connection.execute(
        "UPDATE dicom_deliveries AS d SET status = 'PENDING', attempts = 0, next_attempt_at ="
        " now(), message = NULL, status_code = NULL, delivered_at = NULL, commitment_id = NULL"
        " FROM (SELECT d.id FROM dicom_deliveries AS d JOIN imaging_objects AS o"
        f" ON o.tenant_id = d.tenant_id AND o.id = d.imaging_object_id{_ITS_COMMITMENT}"
        " WHERE d.tenant_id = %(tenant_id)s"
        " AND (%(ids)s::uuid[] IS NULL OR d.id = ANY (%(ids)s::uuid[]))"
        " AND (d.status IN ('WITHHELD', 'DEAD_LETTER', 'RETRYING') OR d.status = 'DELIVERED' AND"
        f" ({_COMMITMENT} = 'NOT_COMMITTED' OR %(ids)s::uuid[] IS NOT NULL"
        " AND c.status IN ('REFUSED', 'UNANSWERED'))) FOR UPDATE OF d) AS again"
        " WHERE d.tenant_id = %(tenant_id)s AND d.id = again.id"
        " RETURNING d.application_entity_id, d.web_destination_id",
        {"tenant_id": tenant_id, "ids": list(ids) if ids is not None else None},
    ).fetchall()
    for kind, id_ in {destination_key(*row) for row in rows}:
        deliver_later(connection, tenant_id, kind, id_, None)
    return len(rows)
