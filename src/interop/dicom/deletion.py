"""Deleting a study, a series or an instance, by whichever door it is asked for.

Legal holds forbid it always. The tenant's retention forbids it until it has run out, unless
somebody who may says why not to wait; research data sets forbid it as long as they hold the images.
Findings of the AI go with the image that they are on; but not those that a person has judged,
unless the caller says that these go too. PS3.18 has no deletion: this is the extension that
Orthanc, dcm4chee, Google and Microsoft have in common.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, LiteralString
from uuid import UUID

from interop.dicom import removal
from interop.dicom.removal import Removed, StudyKey
from interop.errors import Conflict, NotFound
from storage import legal_holds
from storage.audit import INSERT_AUDIT
from storage.database import Connection, Database
from storage.retention import study_kept_until
from storage.tenancy import Tenant

EVENT = "IMAGING_DELETED"

_TARGET: LiteralString = (
    "SELECT o.id FROM imaging_objects AS o"
    " LEFT JOIN imaging_series AS e ON e.tenant_id = o.tenant_id AND e.id = o.series_id"
    " WHERE o.tenant_id = %(tenant_id)s AND o.study_id = %(study)s"
    " AND (%(series)s::text IS NULL OR e.series_uid = %(series)s)"
    " AND (%(instance)s::text IS NULL OR o.sop_instance_uid = %(instance)s)"
    " AND (%(file)s::uuid IS NULL OR o.id = %(file)s AND o.object_type <> 'DICOM')"
)
_RESEARCH: LiteralString = (
    "SELECT DISTINCT d.name FROM research_dataset_members AS m JOIN research_datasets AS d"
    " ON d.tenant_id = m.tenant_id AND d.id = m.dataset_id WHERE m.tenant_id = %(tenant_id)s"
    " AND (m.imaging_object_id = ANY (%(objects)s) OR %(is_whole)s AND m.study_id = %(study)s)"
    " ORDER BY 1 LIMIT 5"
)


class Held(Conflict):
    """Something forbids the deletion."""

    def __init__(self, reasons: Sequence[str]) -> None:
        self.reasons = tuple(reasons)
        super().__init__("; ".join(reasons))


@dataclass(frozen=True, slots=True)
class Target:
    """What to delete: a study, one series of it, or one instance of that; or one file in it."""

    study: str
    series: str | None = None
    instance: str | None = None
    # A file that is no DICOM has no UID: it is named by its row.
    file_id: UUID | None = None

    @property
    def level(self) -> str:
        if self.file_id is not None:
            return "file"
        return "instance" if self.instance else "series" if self.series else "study"


@dataclass(frozen=True, slots=True)
class Waiver:
    """What is not waited for. Of legal holds nothing is waived."""

    despite_retention: str | None = None  # why; kept in the audit trail
    with_reviewed_findings: bool = False


@dataclass(frozen=True, slots=True)
class Visible:
    """Which studies the caller may delete from, as a condition on `s`; None: all."""

    condition: str | None = None
    values: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Deleted:
    """What has gone, for the answer and the audit trail."""

    instances: int
    bytes: int
    is_whole_study: bool


def delete(
    database: Database,
    tenant: Tenant,
    target: Target,
    audit: Mapping[str, Any],
    *,
    waiver: Waiver | None = None,
    visible: Visible | None = None,
) -> Deleted:
    """Delete for good, and durably, what `target` names. Raises NotFound and Held.

    `audit`: the values of INSERT_AUDIT for the caller (its metadata is completed here), written in
    the same transaction.
    """
    waiver, visible = waiver or Waiver(), visible or Visible()
    with database.connection(tenant.id) as connection:
        study = removal.lock_study(connection, tenant.id, target.study)
        if study is None or not _is_visible(connection, tenant.id, study, visible):
            raise NotFound
        objects = _objects_of(connection, tenant.id, study, target)
        if not objects and target.level != "study":
            raise NotFound
        objects = removal.with_what_the_ai_made(connection, tenant.id, study, objects)
        if reasons := holding(connection, tenant.id, study, objects, waiver):
            raise Held(reasons)
        reason = waiver.despite_retention
        removed = removal.remove(connection, tenant.id, study, objects, reason=reason)
        _write_audit(connection, audit, study, target, removed, waiver)
    return Deleted(len(removed.instances), removed.bytes, removed.is_whole_study)


def _is_visible(connection: Connection, tenant_id: UUID, study: StudyKey, visible: Visible) -> bool:
    if visible.condition is None:
        return True
    sql = (
        "SELECT FROM imaging_studies AS s WHERE s.tenant_id = %(tenant_id)s"
        f" AND s.id = %(study_row)s AND {visible.condition}"
    )
    values = {**visible.values, "tenant_id": tenant_id, "study_row": study.id}
    return connection.execute(sql.encode(), values).fetchone() is not None


def _objects_of(
    connection: Connection, tenant_id: UUID, study: StudyKey, target: Target
) -> list[UUID]:
    values = {
        "tenant_id": tenant_id,
        "study": study.id,
        "series": target.series,
        "instance": target.instance,
        "file": target.file_id,
    }
    return [row[0] for row in connection.execute(_TARGET, values)]


def holding(
    connection: Connection,
    tenant_id: UUID,
    study: StudyKey,
    objects: Sequence[UUID],
    waiver: Waiver,
) -> list[str]:
    """Everything that forbids to delete these objects of a study, each said in one clause."""
    reasons = [
        f"legal hold {hold.id}"
        + (f" ({hold.reference})" if hold.reference else "")
        + f" on {hold.entity_type} {hold.entity_id}, placed {hold.placed_at:%Y-%m-%d}"
        for hold in legal_holds.on_images(connection, tenant_id, study.id, objects)
    ]
    until = study_kept_until(connection, tenant_id, study.id)
    if until is not None and until > datetime.now(UTC) and waiver.despite_retention is None:
        reasons.append(f"images are kept until {until:%Y-%m-%d} by the organization's retention")
    values = {
        "tenant_id": tenant_id,
        "study": study.id,
        "objects": list(objects),
        "is_whole": _is_whole(connection, tenant_id, study, objects),
    }
    names = [row[0] for row in connection.execute(_RESEARCH, values)]
    if names:
        reasons.append(f"part of the research data sets {', '.join(names)}")
    row = connection.execute(removal.REVIEWED, values).fetchone()
    reviewed = row[0] if row else 0
    if reviewed and not waiver.with_reviewed_findings:
        reasons.append(
            f"{reviewed} findings on these images were reviewed by people;"
            " reviewed-findings=delete deletes them too"
        )
    return reasons


def _is_whole(
    connection: Connection, tenant_id: UUID, study: StudyKey, objects: Sequence[UUID]
) -> bool:
    row = connection.execute(
        "SELECT NOT EXISTS (SELECT FROM imaging_objects AS o WHERE o.tenant_id = %s"
        " AND o.study_id = %s AND o.id <> ALL (%s))",
        (tenant_id, study.id, list(objects)),
    ).fetchone()
    return row is not None and bool(row[0])


def _write_audit(
    connection: Connection,
    audit: Mapping[str, Any],
    study: StudyKey,
    target: Target,
    removed: Removed,
    waiver: Waiver,
) -> None:
    said = {
        **json.loads(audit["metadata"]),
        "level": target.level,
        "study_instance_uid": target.study,
        "series_instance_uid": target.series,
        "sop_instance_uid": target.instance,
        "file": str(target.file_id) if target.file_id else None,
        "instances": len(removed.instances),
        "whole_study": removed.is_whole_study,
        "despite_retention": waiver.despite_retention,
    }
    values = {
        **audit,
        "resource_id": str(study.id),
        "patient_id": study.patient_id,
        "metadata": json.dumps({name: value for name, value in said.items() if value is not None}),
    }
    connection.execute(INSERT_AUDIT, values)
