"""Stored DICOM objects as files, byte for byte, in folders named by their UIDs.

Repeating continues: a file that is there with the right size is skipped. Each is written beside
its name and renamed, so a file that exists is whole.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol
from uuid import uuid4

from storage.audit import INSERT_AUDIT, system_audit
from storage.database import Database
from storage.objects import ObjectStore
from storage.tenancy import Tenant

PAGE = 1000


class Advance(Protocol):
    """Reports progress; `total` once it is known."""

    def __call__(self, advance: int = 1, total: int | None = None) -> None: ...


@dataclass(slots=True)
class ExportReport:
    """How many objects were written and how many were there already."""

    written: int = 0
    skipped: int = 0


@dataclass(frozen=True, slots=True)
class _Stored:
    study_uid: str
    series_uid: str
    sop_instance_uid: str
    key: str
    byte_size: int


def export_studies(
    database: Database,
    objects: ObjectStore,
    tenant: Tenant,
    folder: Path,
    study_uids: list[str],
    advance: Advance,
) -> ExportReport:
    """Write the objects of the named studies, or of all when none is named, below `folder`.

    UIDs are digits and dots by a constraint of the tables, so they are safe as file names.
    """
    report = ExportReport()
    with database.connection(tenant.id) as connection:
        connection.execute(
            INSERT_AUDIT,
            system_audit(
                tenant.id, "IMAGES_EXPORTED", "IMAGE_STUDY", metadata={"studies": study_uids or "*"}
            ),
        )
    for stored in _stored(database, tenant, study_uids, advance):
        target = folder / stored.study_uid / stored.series_uid / f"{stored.sop_instance_uid}.dcm"
        if target.exists() and target.stat().st_size == stored.byte_size:
            report.skipped += 1
        else:
            _write(objects, stored.key, target)
            report.written += 1
        advance()
    return report


def _stored(
    database: Database, tenant: Tenant, study_uids: list[str], advance: Advance
) -> Iterator[_Stored]:
    """Page by key, so that no transaction stays open while files are written."""
    where = (
        " FROM imaging_objects o JOIN imaging_series e ON e.tenant_id = o.tenant_id"
        " AND e.id = o.series_id JOIN imaging_studies s ON s.tenant_id = o.tenant_id"
        " AND s.id = o.study_id WHERE o.tenant_id = %(tenant_id)s AND o.object_type = 'DICOM'"
        " AND (%(all)s OR s.study_uid = ANY(%(uids)s))"
    )
    values = {"tenant_id": tenant.id, "all": not study_uids, "uids": study_uids}
    with database.connection(tenant.id) as connection:
        row = connection.execute("SELECT count(*)" + where, values).fetchone()
    advance(0, total=row[0] if row else 0)
    after = ""
    while True:
        with database.connection(tenant.id) as connection:
            page = connection.execute(
                "SELECT s.study_uid, e.series_uid, o.sop_instance_uid, o.storage_uri, o.byte_size"
                + where
                + " AND o.sop_instance_uid > %(after)s ORDER BY o.sop_instance_uid LIMIT %(page)s",
                {**values, "after": after, "page": PAGE},
            ).fetchall()
        for row in page:
            yield _Stored(*row)
        if len(page) < PAGE:
            return
        after = page[-1][2]


def _write(objects: ObjectStore, key: str, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{uuid4().hex}.part")
    try:
        with partial.open("wb") as file:
            for chunk in objects.open_range(key):
                file.write(chunk)
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)
