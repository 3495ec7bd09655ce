"""The SQL of one ingest transaction; every statement names the tenant.

What is called here is in storage/migrations/ingest.sql, with the order of its locks.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any, LiteralString, NamedTuple
from uuid import UUID

import orjson

from interop.dicom.query.tag_values import QueryTag, tags_of
from storage.database import Connection

READ: LiteralString = (
    "SELECT ingest_read(%(tenant_id)s, %(names)s, %(studies)s, %(series)s, %(objects)s,"
    " %(patients)s)::text"
)
_WRITE: LiteralString = (
    "ingest_write(%(tenant_id)s, %(new_patients)s, %(new_studies)s, %(new_series)s, %(series)s,"
    " %(studies)s, %(activity)s, %(objects)s, %(jobs)s, %(transactions)s, %(audits)s, %(outbox)s,"
    " %(stale)s)"
)
WRITE: LiteralString = f"SELECT {_WRITE}"
WRITE_AS_SEEN: LiteralString = (
    "SELECT CASE WHEN ingest_resume(%(tenant_id)s, %(seen_studies)s, %(seen_revisions)s,"
    " %(seen_scheduled)s, %(seen_settings)s, %(sop_instance_uids)s)"
    f" THEN {_WRITE} END"
)
LOG: LiteralString = (
    "SELECT ingest_log(%(tenant_id)s, %(transactions)s, %(audits)s, %(outbox)s, %(stale)s)"
)

# For an object whose bytes are gone, unless somebody else was quicker.
POINT_TO_NEW_BYTES: LiteralString = (
    "UPDATE imaging_objects SET storage_uri = %(storage_uri)s, hash = %(hash)s,"
    " byte_size = %(byte_size)s, dataset_offset = %(dataset_offset)s,"
    " pixel_data_offset = %(pixel_data_offset)s, frame_length = %(frame_length)s,"
    " frame_table = decode(%(frame_table)s, 'base64') WHERE tenant_id = %(tenant_id)s"
    " AND sop_instance_uid = %(sop_instance_uid)s AND storage_uri = %(lost)s"
)

# An instance that is stored again is deleted no more; its former bytes are still to be erased.
NO_LONGER_DELETED: LiteralString = (
    "UPDATE removed_objects SET sop_instance_uid = NULL, study_instance_uid = NULL"
    " WHERE tenant_id = %(tenant_id)s AND sop_instance_uid = ANY (%(sop_instance_uids)s)"
)

FLAG_CONFLICT: LiteralString = (
    "UPDATE imaging_studies SET demographics_conflict = %(demographics_conflict)s"
    " WHERE tenant_id = %(tenant_id)s AND id = %(id)s"
)

IS_QUARANTINED: LiteralString = (
    "SELECT 1 FROM quarantined_objects WHERE tenant_id = %(tenant_id)s"
    " AND sop_instance_uid = %(sop_instance_uid)s AND hash = %(hash)s AND state = 'PENDING' LIMIT 1"
)

INSERT_QUARANTINED: LiteralString = (
    "INSERT INTO quarantined_objects (tenant_id, sop_instance_uid, study_instance_uid,"
    " storage_uri, hash, byte_size, reason_code, reason, source) VALUES (%(tenant_id)s,"
    " %(sop_instance_uid)s, %(study_instance_uid)s, %(storage_uri)s, %(hash)s, %(byte_size)s,"
    " %(reason_code)s, %(reason)s, %(source)s)"
)


@dataclass(slots=True)
class StudyRow:
    """A locked study as it stands before this batch, or a new one."""

    study_uid: str
    id: UUID
    patient_id: UUID
    dicom_patient_id: str
    issuer_of_patient_id: str
    patient_name: str
    patient_birth_date: str
    patient_sex: str
    modality: str
    modalities: list[str]
    sop_classes: list[str]
    number_of_series: int
    number_of_instances: int
    demographics_conflict: Any
    dicom_json: str | None = None
    # The transaction that wrote the row (PostgreSQL's xmin).
    revision: str = ""
    check_scheduled: bool = False
    # Of a study without a row: the columns that its first object fills.
    first_columns: dict[str, Any] | None = None
    added: int = 0
    starts_analysis: bool = False
    # JSON members of demographics that the study did not have, of the first object that says them.
    completed: dict[int, str] = field(default_factory=dict)

    @property
    def is_new(self) -> bool:
        return self.first_columns is not None

    def settle(self) -> None:
        """Make of a row that a batch has changed one that stands before the next batch."""
        self.check_scheduled = self.check_scheduled or self.starts_analysis
        self.first_columns = None
        self.starts_analysis = False
        self.added = 0
        self.completed = {}


class Stored(NamedTuple):
    """What is known of an object that has its row."""

    dataset_hash: str
    transfer_syntax_uid: str
    storage_uri: str
    byte_size: int


@dataclass(slots=True)
class Snapshot:
    """What the rows say before a batch, with its studies locked."""

    objects: dict[str, Stored]  # by SOP Instance UID
    studies: dict[str, StudyRow]
    series: dict[tuple[str, str], tuple[UUID, int]]  # (study, series UID) -> (id, instances)
    # Those who bear one of the identifiers today.
    patients: list[dict[str, Any]]
    issuer: str
    quiet_window_seconds: int | None
    settings_revision: str = ""
    # Of the batch's instances and studies those that were deleted here.
    deleted: frozenset[str] = frozenset()
    deleted_studies: frozenset[str] = frozenset()
    allows_deleted: bool = True
    # Whether the tenant has rules by which objects are sent on.
    has_routes: bool = False
    # Attributes that the tenant has made searchable (interop.dicom.query_tags).
    query_tags: tuple[QueryTag, ...] = ()


@dataclass(slots=True)
class Changes:
    """The rows that a batch adds and changes, as the functions of ingest.sql take them."""

    new_patients: list[dict[str, Any]] = field(default_factory=list)
    new_studies: list[dict[str, Any]] = field(default_factory=list)
    new_series: list[dict[str, Any]] = field(default_factory=list)
    series: list[dict[str, Any]] = field(default_factory=list)
    studies: list[dict[str, Any]] = field(default_factory=list)
    activity: list[dict[str, Any]] = field(default_factory=list)
    objects: list[dict[str, Any]] = field(default_factory=list)
    jobs: list[dict[str, Any]] = field(default_factory=list)

    def parameters(self) -> dict[str, str]:
        return {column.name: json_text(getattr(self, column.name)) for column in fields(self)}


@dataclass(slots=True)
class Record:
    """What a batch leaves for others: transaction log, audit trail, outbox, stale resources."""

    transactions: list[dict[str, Any]] = field(default_factory=list)
    audits: list[dict[str, Any]] = field(default_factory=list)
    outbox: list[dict[str, Any]] = field(default_factory=list)
    stale: set[tuple[str, UUID]] = field(default_factory=set)

    def parameters(self) -> dict[str, str]:
        stale = [{"resource_type": kind, "row_id": row_id} for kind, row_id in self.stale]
        return {
            "transactions": json_text(self.transactions),
            "audits": json_text(self.audits),
            "outbox": json_text(self.outbox),
            "stale": json_text(stale),
        }


def read_and_lock(
    connection: Connection,
    tenant_id: UUID,
    *,
    sop_instance_uids: list[str],
    study_uids: list[str],
    series_uids: list[str],
    patient_ids: list[str],
) -> Snapshot:
    """Bind the transaction to the tenant, lock studies and names, and read what a batch needs."""
    names = [f"study {tenant_id} {uid}" for uid in study_uids]
    names += [f"patient {tenant_id} {patient_id}" for patient_id in patient_ids]
    row = connection.execute(
        READ,
        {
            "tenant_id": tenant_id,
            "names": names,
            "studies": study_uids,
            "series": series_uids,
            "objects": sop_instance_uids,
            "patients": patient_ids,
        },
    ).fetchone()
    found = orjson.loads(row[0]) if row else {}
    scheduled = set(found["scheduled"] or ())
    settings = found["settings"] or {}
    return Snapshot(
        objects={
            known.pop("sop_instance_uid"): Stored(**known) for known in found["objects"] or ()
        },
        studies={
            known["study_uid"]: _study(known, known["study_uid"] in scheduled)
            for known in found["studies"] or ()
        },
        series={
            (known["study_uid"], known["series_uid"]): (
                UUID(known["id"]),
                known["number_of_instances"],
            )
            for known in found["series"] or ()
        },
        patients=found["patients"] or [],
        issuer=settings.get("issuer") or "",
        quiet_window_seconds=settings.get("quiet_window_seconds"),
        settings_revision=settings.get("revision", ""),
        deleted=frozenset(found["deleted"] or ()),
        deleted_studies=frozenset(found["deleted_studies"] or ()),
        has_routes=found["has_routes"],
        query_tags=tags_of(found["query_tags"]),
        allows_deleted=settings.get("allow_storing_deleted", True),
    )


# NULL in rows that were not written by ingest.
_TEXTS = (
    "dicom_patient_id",
    "issuer_of_patient_id",
    "patient_name",
    "patient_birth_date",
    "patient_sex",
)


def _study(known: dict[str, Any], check_scheduled: bool) -> StudyRow:
    ids = {column: UUID(known[column]) for column in ("id", "patient_id")}
    texts = {column: known[column] or "" for column in _TEXTS}
    return StudyRow(**{**known, **ids, **texts}, check_scheduled=check_scheduled)


def write(connection: Connection, tenant_id: UUID, changes: Changes, record: Record) -> str:
    """Write all rows of a batch. Returns the revision that its studies have from now on."""
    values = {"tenant_id": tenant_id, **changes.parameters(), **record.parameters()}
    row = connection.execute(WRITE, values).fetchone()
    return row[0] if row else ""


def log(connection: Connection, tenant_id: UUID, record: Record) -> None:
    """Write the transaction log, the audit trail and the outbox; mark FHIR resources stale."""
    connection.execute(LOG, {"tenant_id": tenant_id, **record.parameters()})


def write_as_seen(
    connection: Connection,
    tenant_id: UUID,
    known: Snapshot,
    sop_instance_uids: list[str],
    changes: Changes,
    record: Record,
) -> str | None:
    """Lock and write in one round trip. None when the rows are not as in `known` any more.

    Binds the transaction to the tenant itself. After None it must be rolled back.
    """
    studies = known.studies.values()
    row = connection.execute(
        WRITE_AS_SEEN,
        {
            "tenant_id": tenant_id,
            "seen_studies": [study.id for study in studies],
            "seen_revisions": [study.revision for study in studies],
            "seen_scheduled": [study.id for study in studies if study.starts_analysis],
            "seen_settings": known.settings_revision,
            "sop_instance_uids": sop_instance_uids,
            **changes.parameters(),
            **record.parameters(),
        },
    ).fetchone()
    return row[0] if row else None


def json_text(value: object) -> str:
    return orjson.dumps(value).decode("utf-8")
