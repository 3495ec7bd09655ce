"""The SQL of one ingest transaction; every statement names the tenant.

Order of locks, the same in every process: advisory locks on the names of studies and patients
(sorted), studies (sorted by UID), then everything below them. So two processes that receive one
study at the same time wait for each other and never deadlock.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, LiteralString, NamedTuple
from uuid import UUID

import orjson

from storage.database import SET_TENANT, Connection

# What a batch must know of the studies that it adds to, and the lock on them.
LOCK_STUDIES: LiteralString = (
    "SELECT s.study_uid, s.id, s.patient_id, s.dicom_patient_id, s.issuer_of_patient_id,"
    " s.patient_name, s.patient_birth_date, s.patient_sex, s.modality, s.modalities_in_study,"
    " s.sop_classes_in_study, s.number_of_series, s.number_of_instances, s.demographics_conflict,"
    " s.dicom_json, s.xmin::text FROM imaging_studies s"
    " WHERE s.tenant_id = %(tenant_id)s AND s.study_uid = ANY(%(uids)s)"
    " ORDER BY s.study_uid FOR UPDATE"
)

# A statement of its own: the completeness check locks these rows and not the studies, and only a
# statement that begins after the lock is held sees what the check decided.
LOCK_ACTIVITY: LiteralString = (
    "SELECT s.study_uid, a.check_scheduled FROM study_activity a"
    " JOIN imaging_studies s ON s.tenant_id = a.tenant_id AND s.id = a.study_id"
    " WHERE a.tenant_id = %(tenant_id)s AND s.tenant_id = %(tenant_id)s"
    " AND s.study_uid = ANY(%(uids)s) ORDER BY s.study_uid FOR UPDATE OF a"
)

LOCK_NAMES: LiteralString = (
    "SELECT pg_advisory_xact_lock(hashtextextended(k, 0))"
    " FROM (SELECT k FROM unnest(%(names)s::text[]) AS t(k) ORDER BY hashtextextended(k, 0)) AS s"
)

FIND_PATIENTS: LiteralString = (
    "SELECT i.value, coalesce(i.assigner, ''), p.id,"
    " p.last_name, p.first_name, p.middle_name, p.dob, p.sex_at_birth"
    " FROM patient_identifiers i JOIN patients p"
    " ON p.tenant_id = i.tenant_id AND p.id = i.patient_id"
    " WHERE i.tenant_id = %(tenant_id)s AND p.tenant_id = %(tenant_id)s AND i.system = 'MRN'"
    " AND i.value = ANY(%(patient_ids)s) AND p.status <> 'INACTIVE'"
    " AND coalesce(i.valid_from, current_date) <= current_date"
    " AND coalesce(i.valid_until, current_date) >= current_date"
)

INSERT_PATIENT: LiteralString = (
    "INSERT INTO patients (tenant_id, id, last_name, first_name, middle_name, name_prefix,"
    " name_suffix, dob, sex_at_birth) VALUES (%(tenant_id)s, %(id)s, %(last_name)s,"
    " %(first_name)s, %(middle_name)s, %(name_prefix)s, %(name_suffix)s, %(dob)s,"
    " %(sex_at_birth)s)"
)

INSERT_PATIENT_IDENTIFIER: LiteralString = (
    "INSERT INTO patient_identifiers (tenant_id, patient_id, system, assigner, value, is_primary)"
    " VALUES (%(tenant_id)s, %(patient_id)s, 'MRN', %(assigner)s, %(value)s, true)"
)

INSERT_STUDY: LiteralString = (
    "INSERT INTO imaging_studies (tenant_id, id, patient_id, study_uid, modality, body_part,"
    " acquisition_datetime, source_system, study_date, study_time, accession_number,"
    " dicom_study_id, study_description, referring_physician_name, referring_physician_key,"
    " patient_name, patient_name_key, dicom_patient_id, issuer_of_patient_id, patient_birth_date,"
    " patient_sex) VALUES (%(tenant_id)s, %(id)s, %(patient_id)s, %(study_uid)s, %(modality)s,"
    " %(body_part)s, %(acquisition_datetime)s, %(source_system)s, %(study_date)s, %(study_time)s,"
    " %(accession_number)s, %(dicom_study_id)s, %(study_description)s,"
    " %(referring_physician_name)s, %(referring_physician_key)s, %(patient_name)s,"
    " %(patient_name_key)s, %(dicom_patient_id)s, %(issuer_of_patient_id)s,"
    " %(patient_birth_date)s, %(patient_sex)s)"
)

# Two questions in one statement: which of these series exist, and which of these objects.
FIND_SERIES_AND_OBJECTS: LiteralString = (
    "SELECT 'series', s.study_uid, e.series_uid, e.id, e.number_of_instances::bigint, NULL"
    " FROM imaging_series e JOIN imaging_studies s"
    " ON s.tenant_id = e.tenant_id AND s.id = e.study_id"
    " WHERE e.tenant_id = %(tenant_id)s AND s.tenant_id = %(tenant_id)s"
    " AND s.study_uid = ANY(%(uids)s) AND e.series_uid = ANY(%(series_uids)s)"
    " UNION ALL SELECT o.sop_instance_uid, o.dataset_hash, o.transfer_syntax_uid, NULL,"
    " o.byte_size, o.storage_uri"
    " FROM imaging_objects o"
    " WHERE o.tenant_id = %(tenant_id)s AND o.sop_instance_uid = ANY(%(sop_instance_uids)s)"
)

INSERT_SERIES: LiteralString = (
    "INSERT INTO imaging_series (tenant_id, id, study_id, series_uid, modality, series_number,"
    " series_description, body_part_examined, laterality, performed_station_ae_title,"
    " performed_procedure_step_start_date, performed_procedure_step_start_time,"
    " performed_procedure_step_id, frame_of_reference_uid, station_name, manufacturer,"
    " protocol_name, series_date, series_time, number_of_instances, dicom_json)"
    " VALUES (%(tenant_id)s, %(id)s, %(study_id)s, %(series_uid)s, %(modality)s,"
    " %(series_number)s, %(series_description)s, %(body_part_examined)s, %(laterality)s,"
    " %(performed_station_ae_title)s, %(performed_procedure_step_start_date)s,"
    " %(performed_procedure_step_start_time)s, %(performed_procedure_step_id)s,"
    " %(frame_of_reference_uid)s, %(station_name)s, %(manufacturer)s, %(protocol_name)s,"
    " %(series_date)s, %(series_time)s, %(number_of_instances)s, %(dicom_json)s)"
)

# What these functions do is in storage/migrations/ingest.sql.
STORE: LiteralString = (
    "SELECT ingest_store(%(tenant_id)s, %(series)s, %(studies)s, %(activity)s, %(objects)s)"
)
LOG: LiteralString = (
    "SELECT ingest_log(%(tenant_id)s, %(transactions)s, %(audits)s, %(outbox)s, %(stale)s)"
)
STORE_AND_LOG: LiteralString = (
    "SELECT ingest_batch(%(tenant_id)s, %(seen_studies)s, %(seen_revisions)s, %(seen_scheduled)s,"
    " %(seen_settings)s, %(sop_instance_uids)s, %(series)s, %(studies)s, %(activity)s, %(objects)s,"
    " %(transactions)s, %(audits)s, %(outbox)s, %(stale)s)"
)

# For an object whose bytes are gone, unless somebody else was quicker.
POINT_TO_NEW_BYTES: LiteralString = (
    "UPDATE imaging_objects SET storage_uri = %(storage_uri)s, hash = %(hash)s,"
    " byte_size = %(byte_size)s, dataset_offset = %(dataset_offset)s,"
    " pixel_data_offset = %(pixel_data_offset)s, frame_length = %(frame_length)s,"
    " frame_table = decode(%(frame_table)s, 'base64') WHERE tenant_id = %(tenant_id)s"
    " AND sop_instance_uid = %(sop_instance_uid)s AND storage_uri = %(lost)s"
)

FLAG_CONFLICT: LiteralString = (
    "UPDATE imaging_studies SET demographics_conflict = %(demographics_conflict)s"
    " WHERE tenant_id = %(tenant_id)s AND id = %(id)s"
)

# What the xmin of every row will be that this transaction writes.
REVISION: LiteralString = "SELECT pg_current_xact_id()::xid::text"

IS_QUARANTINED: LiteralString = (
    "SELECT 1 FROM quarantined_objects WHERE tenant_id = %(tenant_id)s"
    " AND sop_instance_uid = %(sop_instance_uid)s AND hash = %(hash)s AND state = 'PENDING' LIMIT 1"
)

INSERT_QUARANTINED: LiteralString = (
    "INSERT INTO quarantined_objects (tenant_id, sop_instance_uid, study_instance_uid,"
    " storage_uri, hash, reason_code, reason, source) VALUES (%(tenant_id)s,"
    " %(sop_instance_uid)s, %(study_instance_uid)s, %(storage_uri)s, %(hash)s, %(reason_code)s,"
    " %(reason)s, %(source)s)"
)

# Also says that this transaction marks what it changes itself, once, instead of the triggers.
SETTINGS: LiteralString = (
    "SELECT set_config('app.lens', 'on', true), t.default_issuer_of_patient_id,"
    " t.quiet_window_seconds, t.xmin::text FROM (SELECT 1) AS one LEFT JOIN tenant_settings t"
    " ON t.tenant_id = %(tenant_id)s"
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
    is_new: bool = False
    added: int = 0
    starts_analysis: bool = False
    # JSON members of demographics that the study did not have, of the first object that says them.
    completed: dict[int, str] = field(default_factory=dict)

    def settle(self) -> None:
        """Make of a row that a batch has changed one that stands before the next batch."""
        self.check_scheduled = self.check_scheduled or self.starts_analysis
        self.is_new = self.starts_analysis = False
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
    patients: list[tuple[Any, ...]]  # of FIND_PATIENTS
    issuer: str
    quiet_window_seconds: int | None
    settings_revision: str = ""


@dataclass(slots=True)
class Changes:
    """The rows that a batch adds and changes, as the functions of ingest.sql take them."""

    new_series: list[dict[str, Any]] = field(default_factory=list)
    series: list[dict[str, Any]] = field(default_factory=list)
    studies: list[dict[str, Any]] = field(default_factory=list)
    activity: list[dict[str, Any]] = field(default_factory=list)
    objects: list[dict[str, Any]] = field(default_factory=list)

    def parameters(self) -> dict[str, str]:
        return {
            "series": json_text(self.series),
            "studies": json_text(self.studies),
            "activity": json_text(self.activity),
            "objects": json_text(self.objects),
        }


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
    """Bind the transaction to the tenant, lock studies and patients, and read what a batch needs.

    One round trip. The locks on names come first, so that what is read after them includes what
    another process was just creating under the same Study Instance UID or PatientID.
    """
    names = [f"study {tenant_id} {uid}" for uid in study_uids]
    names += [f"patient {tenant_id} {patient_id}" for patient_id in patient_ids]
    values = {
        "tenant_id": tenant_id,
        "names": names,
        "uids": study_uids,
        "series_uids": series_uids,
        "sop_instance_uids": sop_instance_uids,
        "patient_ids": patient_ids,
    }
    with connection.pipeline():
        connection.execute(SET_TENANT, (str(tenant_id),))
        connection.execute(LOCK_NAMES, values)
        settings = connection.execute(SETTINGS, values)
        studies = connection.execute(LOCK_STUDIES, values)
        activity = connection.execute(LOCK_ACTIVITY, values)
        patients = connection.execute(FIND_PATIENTS, values)
        # Last, so that what another process stored into these studies is seen.
        below = connection.execute(FIND_SERIES_AND_OBJECTS, values)
        configured = settings.fetchone() or (None, None, None, None)
        snapshot = Snapshot(
            objects={},
            studies={row[0]: _study(row) for row in studies.fetchall()},
            series={},
            patients=patients.fetchall(),
            issuer=configured[1] or "",
            quiet_window_seconds=configured[2],
            settings_revision=configured[3] or "",
        )
        for uid, is_scheduled in activity.fetchall():
            if uid in snapshot.studies:
                snapshot.studies[uid].check_scheduled = is_scheduled
        for first, second, third, series_id, count, storage_uri in below.fetchall():
            if series_id is not None:
                snapshot.series[second, third] = (series_id, count)
            else:
                snapshot.objects[first] = Stored(second, third, storage_uri, count)
        return snapshot


def _study(row: tuple[Any, ...]) -> StudyRow:
    # The text columns may be NULL in rows that were not written by ingest.
    return StudyRow(*row[:3], *(value or "" for value in row[3:8]), *row[8:])


def store(connection: Connection, tenant_id: UUID, changes: Changes) -> None:
    """Insert objects and series, and bring counts, ready JSON and activity up to date."""
    for values in changes.new_series:
        connection.execute(INSERT_SERIES, {"tenant_id": tenant_id, **values})
    connection.execute(STORE, {"tenant_id": tenant_id, **changes.parameters()})


def log(connection: Connection, tenant_id: UUID, record: Record) -> None:
    """Write the transaction log, the audit trail and the outbox; mark FHIR resources stale."""
    connection.execute(LOG, {"tenant_id": tenant_id, **record.parameters()})


def store_as_seen(
    connection: Connection,
    tenant_id: UUID,
    known: Snapshot,
    sop_instance_uids: list[str],
    changes: Changes,
    record: Record,
) -> bool:
    """Lock, store and log in one round trip. False when the rows are not as in `known` any more.

    Binds the transaction to the tenant itself. After False it must be rolled back.
    """
    studies = list(known.studies.values())
    row = connection.execute(
        STORE_AND_LOG,
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
    revision = row[0] if row else None
    for study in studies:
        study.revision = revision or ""
    return revision is not None


def json_text(value: object) -> str:
    return orjson.dumps(value).decode("utf-8")
