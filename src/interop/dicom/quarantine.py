"""Quarantine: what was refused and kept, until a person decides between two that contradict.

Release stores the object through the one ingest, in the place of what it was refused for; discard
has its bytes erased. Both are written down, and neither can be done twice.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, LiteralString, Protocol
from uuid import UUID

from interop.dicom import deletion, release, removal
from interop.dicom.ingest import Ingest
from interop.dicom.ingest_types import Outcome, Source
from interop.dicom.limits import DEFAULT_LIMITS
from interop.dicom.part10 import parse
from interop.dicom.spool import Spool, Spooled
from interop.errors import Conflict, NotFound, Unavailable
from storage import legal_holds
from storage.audit import INSERT_AUDIT
from storage.database import Connection, Database
from storage.objects import ObjectNotFound, ObjectStore
from storage.retention import kept_until, study_kept_until
from storage.tenancy import Tenant

PENDING = "PENDING"
_MOST_DIFFERING = 200
_LONGEST_JSON = 1 << 20

_COLUMNS: LiteralString = (
    "SELECT id, state, reason_code, reason, source, received_at, sop_instance_uid,"
    " study_instance_uid, byte_size, storage_uri FROM quarantined_objects"
)
_LIST: LiteralString = (
    f"{_COLUMNS} WHERE tenant_id = %(tenant_id)s"
    " AND (%(state)s::text IS NULL OR state = %(state)s)"
    " AND (%(at)s::timestamptz IS NULL OR (received_at, id) < (%(at)s, %(id)s))"
    " ORDER BY received_at DESC, id DESC LIMIT %(limit)s"
)
_ONE: LiteralString = f"{_COLUMNS} WHERE tenant_id = %s AND id = %s"
_STORED: LiteralString = (
    "SELECT s.study_uid, e.series_uid, o.sop_instance_uid, o.dicom_json, o.received_at"
    " FROM imaging_objects AS o"
    " JOIN imaging_studies AS s ON s.tenant_id = o.tenant_id AND s.id = o.study_id"
    " LEFT JOIN imaging_series AS e ON e.tenant_id = o.tenant_id AND e.id = o.series_id"
    " WHERE o.tenant_id = %(tenant_id)s AND (o.sop_instance_uid = %(instance)s"
    " OR s.study_uid = %(study)s)"
    " ORDER BY o.sop_instance_uid = %(instance)s DESC, o.received_at LIMIT 1"
)


class QuarantineServices(Protocol):
    """The part of interop.services.Services that is needed here."""

    @property
    def database(self) -> Database: ...
    @property
    def objects(self) -> ObjectStore: ...
    @property
    def ingest(self) -> Ingest: ...
    @property
    def spool(self) -> Spool: ...


@dataclass(frozen=True, slots=True)
class Quarantined:
    """An object that was refused and kept."""

    id: UUID
    state: str
    reason_code: str | None
    reason: str
    source: str | None
    received_at: datetime
    sop_instance_uid: str | None
    study_instance_uid: str | None
    byte_size: int
    storage_uri: str | None

    @property
    def was_stored(self) -> bool:
        """Whether it was a record before another object was released in its place."""
        return self.source == "QUARANTINE"


@dataclass(frozen=True, slots=True)
class Comparison:
    """A kept object beside what it contradicts, as DICOM JSON without bulk data."""

    received: dict[str, Any]
    stored: dict[str, Any] | None
    differing: list[str]


def list_objects(
    connection: Connection,
    tenant_id: UUID,
    *,
    state: str | None = None,
    after: tuple[datetime, UUID] | None = None,
    limit: int = 200,
) -> list[Quarantined]:
    """What is or was kept, the newest first."""
    at, last = after or (None, None)
    values = {"tenant_id": tenant_id, "state": state, "at": at, "id": last, "limit": limit}
    return [Quarantined(*row) for row in connection.execute(_LIST, values)]


def find(connection: Connection, tenant_id: UUID, quarantined_id: UUID) -> Quarantined:
    """One of them. Raises NotFound."""
    row = connection.execute(_ONE, (tenant_id, quarantined_id)).fetchone()
    if row is None:
        raise NotFound
    return Quarantined(*row)


def compare(services: QuarantineServices, tenant: Tenant, one: Quarantined) -> Comparison:
    """Read the kept object's header, and lay it beside the one that is stored.

    Of an object that was released or discarded there is nothing left to read.
    """
    received: dict[str, Any] = {}
    if one.storage_uri is not None:
        spooled = _spooled(services, one)
        try:
            received = _shown(parse(spooled.path, DEFAULT_LIMITS).dicom_json)
        finally:
            spooled.discard()
    with services.database.connection(tenant.id) as connection:
        values = {
            "tenant_id": tenant.id,
            "instance": one.sop_instance_uid,
            "study": one.study_instance_uid,
        }
        row = connection.execute(_STORED, values).fetchone()
    stored = _shown(row[3]) if row is not None and row[3] else None
    differing = sorted(
        tag for tag in received.keys() | (stored or {}).keys()
        if received and stored is not None and received.get(tag) != stored.get(tag)
    )  # fmt: skip
    return Comparison(received, stored, differing[:_MOST_DIFFERING])


def _shown(text: str | bytes) -> dict[str, Any]:
    """DICOM JSON without addresses of bulk data; of a huge header what identifies the image."""
    if len(text) > _LONGEST_JSON:
        found = json.loads(text)
        return {tag: found[tag] for tag in sorted(found) if tag < "0030"}
    found = json.loads(text)
    return {tag: node for tag, node in found.items() if "BulkDataURI" not in node}


def let_in(
    services: QuarantineServices, tenant: Tenant, quarantined_id: UUID, source: Source
) -> Outcome:
    """Store the object in the place of what contradicts it. Raises NotFound and Conflict.

    deletion.Held, which is a Conflict, where what is stored must stay as it is.
    """
    with services.database.connection(tenant.id) as connection:
        one = _pending(find(connection, tenant.id, quarantined_id))
        _require_replaceable(connection, tenant.id, one)
    spooled = _spooled(services, one)
    outcome = services.ingest.store(tenant, spooled, source, released_id=one.id)
    if outcome.failure is not None:
        if outcome.kind == "failed":
            raise Unavailable(outcome.failure.message)
        raise Conflict(outcome.failure.message)
    return outcome


def discard(
    database: Database,
    tenant: Tenant,
    quarantined_id: UUID,
    audit: Mapping[str, Any],
    *,
    despite_retention: str | None = None,
) -> Quarantined:
    """Have the object's bytes erased. Raises NotFound, Conflict and deletion.Held.

    `audit`: the values of INSERT_AUDIT, written in the same transaction.
    """
    with database.connection(tenant.id) as connection:
        connection.execute(
            "SELECT FROM quarantined_objects WHERE tenant_id = %s AND id = %s FOR UPDATE",
            (tenant.id, quarantined_id),
        )
        one = _pending(find(connection, tenant.id, quarantined_id))
        if reasons := _holding(connection, tenant.id, one, despite_retention):
            raise deletion.Held(reasons)
        release.finish(connection, tenant.id, one.id, "DISCARDED")
        said = {
            **json.loads(audit["metadata"]),
            "sop_instance_uid": one.sop_instance_uid,
            "study_instance_uid": one.study_instance_uid,
            **({"despite_retention": despite_retention} if despite_retention else {}),
        }
        connection.execute(INSERT_AUDIT, {**audit, "metadata": json.dumps(said)})
    return one


def _pending(one: Quarantined) -> Quarantined:
    if one.state != PENDING or one.storage_uri is None:
        raise Conflict(f"the object was {one.state.lower()} already")
    return one


def _study_of(connection: Connection, tenant_id: UUID, one: Quarantined) -> removal.StudyKey | None:
    row = connection.execute(
        "SELECT id, study_uid, patient_id FROM imaging_studies"
        " WHERE tenant_id = %s AND study_uid = %s",
        (tenant_id, one.study_instance_uid),
    ).fetchone()
    return removal.StudyKey(*row) if row else None


def _holding(
    connection: Connection, tenant_id: UUID, one: Quarantined, despite_retention: str | None
) -> list[str]:
    study = _study_of(connection, tenant_id, one)
    reasons = [
        f"legal hold {hold.id} on {hold.entity_type} {hold.entity_id}"
        for hold in _holds(connection, tenant_id, one, study)
    ]
    # What never was a record need not be kept as one.
    if not one.was_stored or despite_retention is not None:
        return reasons
    if study is not None:
        until = study_kept_until(connection, tenant_id, study.id)
    else:
        # It was the last of its study, whose age nobody knows any more.
        until = kept_until(connection, tenant_id, one.received_at)
    if until is not None and until > datetime.now(UTC):
        reasons.append(f"images are kept until {until:%Y-%m-%d} by the organization's retention")
    return reasons


def _holds(
    connection: Connection, tenant_id: UUID, one: Quarantined, study: removal.StudyKey | None
) -> list[legal_holds.LegalHold]:
    """The holds on a kept object. Of whom a record is whose study is gone, none can exclude."""
    if study is not None:
        return legal_holds.on_images(connection, tenant_id, study.id, [])
    return [
        hold
        for hold in legal_holds.standing(connection, tenant_id)
        if one.was_stored or hold.entity_type.upper() == "TENANT"
    ]


def _require_replaceable(connection: Connection, tenant_id: UUID, one: Quarantined) -> None:
    """What is stored goes to quarantine whole, but what was made of it is deleted with it.

    So what forbids a deletion forbids this, but for retention: the image itself is kept. What
    people have judged must not vanish unasked. Raises Conflict.
    """
    row = connection.execute(
        "SELECT s.id, s.study_uid, s.patient_id, o.id FROM imaging_objects AS o"
        " JOIN imaging_studies AS s ON s.tenant_id = o.tenant_id AND s.id = o.study_id"
        " WHERE o.tenant_id = %s AND o.sop_instance_uid = %s",
        (tenant_id, one.sop_instance_uid),
    ).fetchone()
    if row is None:
        return
    study, stored = removal.StudyKey(*row[:3]), [row[3]]
    objects = removal.with_what_the_ai_made(connection, tenant_id, study, stored)
    waived = deletion.Waiver(despite_retention="replaced", with_reviewed_findings=True)
    if reasons := deletion.holding(connection, tenant_id, study, objects, waived):
        raise deletion.Held(reasons)
    values = {"tenant_id": tenant_id, "study": study.id, "objects": objects, "is_whole": False}
    counted = connection.execute(removal.REVIEWED, values).fetchone()
    if counted is not None and counted[0]:
        raise Conflict(
            f"{counted[0]} findings on the stored image were reviewed by people; delete it first,"
            " with its findings, if the other one is to take its place"
        )


def _spooled(services: QuarantineServices, one: Quarantined) -> Spooled:
    """A copy of the kept bytes, on the disk of this process."""
    if one.storage_uri is None:
        raise Conflict(f"the object was {one.state.lower()} already")
    writer = services.spool.writer()
    try:
        for chunk in services.objects.open_range(one.storage_uri):
            writer.write(chunk)
        return writer.finish()
    except ObjectNotFound as error:
        writer.abort()
        raise NotFound("the object's bytes are no longer there") from error
    except BaseException:
        writer.abort()
        raise
