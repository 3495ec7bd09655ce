"""The SQL of one ingest transaction; every statement names the tenant.

Order of locks, the same in every process: advisory locks of new studies and patients (sorted),
studies (sorted by UID), then everything below them. So two processes that receive one study at
the same time wait for each other and never deadlock.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any, LiteralString, NamedTuple
from uuid import UUID

import orjson

from storage.database import Connection

# What a batch must know of the studies that it adds to, and the lock on them.
LOCK_STUDIES: LiteralString = (
    "SELECT s.study_uid, s.id, s.patient_id, s.dicom_patient_id, s.issuer_of_patient_id,"
    " s.patient_name, s.patient_birth_date, s.patient_sex, s.modality, s.modalities_in_study,"
    " s.sop_classes_in_study, s.number_of_series, s.number_of_instances, s.demographics_conflict,"
    " s.dicom_json FROM imaging_studies s"
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

ADVISORY_LOCKS: LiteralString = (
    "SELECT pg_advisory_xact_lock(hashtextextended(k, 0))"
    " FROM (SELECT k FROM unnest(%(keys)s::text[]) AS t(k) ORDER BY hashtextextended(k, 0)) AS s"
)

FIND_PATIENTS: LiteralString = (
    "SELECT i.value, coalesce(i.assigner, ''), p.id,"
    " p.last_name, p.first_name, p.middle_name, p.dob, p.sex_at_birth"
    " FROM patient_identifiers i JOIN patients p"
    " ON p.tenant_id = i.tenant_id AND p.id = i.patient_id"
    " WHERE i.tenant_id = %(tenant_id)s AND p.tenant_id = %(tenant_id)s AND i.system = 'MRN'"
    " AND i.value = ANY(%(values)s) AND p.status <> 'INACTIVE'"
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

# Objects, and what changes with them in known series, studies and activity, in one statement: a
# statement costs more than a row. The series' count lies in its ready JSON as well; the pattern
# cannot occur inside a JSON string, where a quotation mark would be escaped.
STORE: LiteralString = (
    "WITH series AS (UPDATE imaging_series e SET number_of_instances = r.number_of_instances,"
    " metadata_gzip = NULL, dicom_json = regexp_replace(e.dicom_json,"
    r""" '("00201209":\{"vr":"IS","Value":\[)[0-9]+', '\1' || r.number_of_instances::text)"""
    " FROM json_to_recordset(%(series)s::json) AS r(id uuid, number_of_instances int)"
    " WHERE e.tenant_id = %(tenant_id)s AND e.id = r.id),"
    " study AS (UPDATE imaging_studies s SET modality = r.modality,"
    " modalities_in_study = r.modalities_in_study, sop_classes_in_study = r.sop_classes_in_study,"
    " number_of_series = r.number_of_series, number_of_instances = r.number_of_instances,"
    " patient_name = r.patient_name, patient_name_key = r.patient_name_key,"
    " patient_birth_date = r.patient_birth_date, patient_sex = r.patient_sex,"
    " demographics_conflict = r.demographics_conflict, last_received_at = now(),"
    " dicom_json = r.dicom_json FROM json_to_recordset(%(studies)s::json) AS r(id uuid,"
    " modality text, modalities_in_study text[], sop_classes_in_study text[],"
    " number_of_series int, number_of_instances int, patient_name text, patient_name_key text,"
    " patient_birth_date text, patient_sex text, demographics_conflict jsonb, dicom_json text)"
    " WHERE s.tenant_id = %(tenant_id)s AND s.id = r.id),"
    " activity AS (INSERT INTO study_activity AS known (tenant_id, study_id, last_received_at,"
    " instance_count, check_scheduled) SELECT %(tenant_id)s, r.study_id, now(), r.added, true"
    " FROM json_to_recordset(%(activity)s::json) AS r(study_id uuid, added int)"
    " ON CONFLICT (tenant_id, study_id) DO UPDATE SET last_received_at = now(),"
    " instance_count = known.instance_count + excluded.instance_count, check_scheduled = true)"
    " INSERT INTO imaging_objects (tenant_id, id, study_id, series_id, sop_instance_uid,"
    " sop_class_uid, transfer_syntax_uid, object_type, storage_uri, hash, dataset_hash, byte_size,"
    " dataset_offset, width, height, depth_slices, is_original, instance_number, number_of_frames,"
    " pixel_data_offset, frame_length, frame_table, dicom_json, source_ae_title, document_title,"
    " content_date, content_time) SELECT %(tenant_id)s, r.id, r.study_id, r.series_id,"
    " r.sop_instance_uid, r.sop_class_uid, r.transfer_syntax_uid, 'DICOM', r.storage_uri, r.hash,"
    " r.dataset_hash, r.byte_size, r.dataset_offset, r.width, r.height, r.depth_slices,"
    " r.is_original, r.instance_number, r.number_of_frames, r.pixel_data_offset, r.frame_length,"
    " decode(r.frame_table, 'base64'), r.dicom_json, r.source_ae_title, r.document_title,"
    " r.content_date, r.content_time FROM json_to_recordset(%(objects)s::json) AS r(id uuid,"
    " study_id uuid, series_id uuid, sop_instance_uid text, sop_class_uid text,"
    " transfer_syntax_uid text, storage_uri text, hash text, dataset_hash text, byte_size bigint,"
    " dataset_offset bigint, width int, height int, depth_slices int, is_original bool,"
    " instance_number int, number_of_frames int, pixel_data_offset bigint, frame_length bigint,"
    " frame_table text, dicom_json text, source_ae_title text, document_title text,"
    " content_date text, content_time text)"
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

# The transaction log, the audit trail (as storage.audit.INSERT_AUDIT), the outbox, and the mark
# that makes FHIR render anew what changed, as the triggers of storage/migrations/triggers.py do
# per statement, but once per transaction.
INSERT_LOGS: LiteralString = (
    "WITH logged AS (INSERT INTO dicom_transactions (tenant_id, direction, operation,"
    " calling_ae_title, called_ae_title, remote_address, sop_class_uid, sop_instance_uid,"
    " study_instance_uid, transfer_syntax_uid, status_code, status, message, byte_size,"
    " started_at, completed_at) SELECT %(tenant_id)s, 'INBOUND', r.operation, r.calling_ae_title,"
    " r.called_ae_title, r.remote_address, r.sop_class_uid, r.sop_instance_uid,"
    " r.study_instance_uid, r.transfer_syntax_uid, r.status_code, r.status, r.message,"
    " r.byte_size, r.started_at, now() FROM json_to_recordset(%(transactions)s::json) AS r("
    " operation text, calling_ae_title text, called_ae_title text, remote_address text,"
    " sop_class_uid text, sop_instance_uid text, study_instance_uid text,"
    " transfer_syntax_uid text, status_code int, status text, message text, byte_size bigint,"
    " started_at timestamptz)), told AS (INSERT INTO outbox (tenant_id, topic, payload)"
    " SELECT %(tenant_id)s, r.topic, r.payload FROM json_to_recordset(%(outbox)s::json)"
    " AS r(topic text, payload jsonb)),"
    " woken AS (SELECT pg_notify('fhir_stale', %(tenant_id)s::text)"
    " WHERE cardinality(%(types)s::text[]) > 0),"
    " marked AS (INSERT INTO fhir_resources AS known (tenant_id, resource_type, resource_id,"
    " row_id, version, last_updated, body, stale)"
    " SELECT %(tenant_id)s, t.resource_type, t.row_id::text, t.row_id, 0, now(), '', true"
    " FROM woken, unnest(%(types)s::text[], %(row_ids)s::uuid[]) AS t(resource_type, row_id)"
    " ORDER BY 2, 3 ON CONFLICT (tenant_id, resource_type, row_id) DO UPDATE SET stale = true"
    " WHERE NOT known.stale)"
    " INSERT INTO audit_events (tenant_id, user_id, api_client_id, actor_type, event_type,"
    " resource_type, resource_id, outcome, request_id, ip_address, user_agent, metadata)"
    " SELECT %(tenant_id)s, r.user_id, r.api_client_id, r.actor_type, r.event_type,"
    " r.resource_type, r.resource_id, r.outcome, r.request_id, r.ip_address, r.user_agent,"
    " r.metadata::jsonb FROM json_to_recordset(%(audits)s::json) AS r(user_id uuid,"
    " api_client_id uuid, actor_type text, event_type text, resource_type text, resource_id text,"
    " outcome text, request_id text, ip_address text, user_agent text, metadata text)"
)

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
    " t.quiet_window_seconds FROM (SELECT 1) AS one LEFT JOIN tenant_settings t"
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
    check_scheduled: bool = False
    is_new: bool = False
    added: int = 0
    starts_analysis: bool = False
    # JSON members of demographics that the study did not have, of the first object that says them.
    completed: dict[int, str] = field(default_factory=dict)


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
    issuer: str
    quiet_window_seconds: int | None


def read_and_lock(
    connection: Connection,
    tenant_id: UUID,
    sop_instance_uids: list[str],
    study_uids: list[str],
    series_uids: list[str],
) -> Snapshot:
    """Read all that a batch must know in one round trip, and lock its studies."""
    values = {
        "tenant_id": tenant_id,
        "uids": study_uids,
        "series_uids": series_uids,
        "sop_instance_uids": sop_instance_uids,
    }
    with connection.pipeline():
        settings = connection.execute(SETTINGS, values)
        studies = connection.execute(LOCK_STUDIES, values)
        activity = connection.execute(LOCK_ACTIVITY, values)
        # Last, so that what another process stored into these studies is seen.
        below = connection.execute(FIND_SERIES_AND_OBJECTS, values)
        configured = settings.fetchone()
        found = {row[0]: _study(row) for row in studies.fetchall()}
        for uid, is_scheduled in activity.fetchall():
            if uid in found:
                found[uid].check_scheduled = is_scheduled
        snapshot = Snapshot(
            objects={},
            studies=found,
            series={},
            issuer=(configured[1] or "") if configured else "",
            quiet_window_seconds=configured[2] if configured else None,
        )
        for first, second, third, series_id, count, storage_uri in below.fetchall():
            if series_id is not None:
                snapshot.series[second, third] = (series_id, count)
            else:
                snapshot.objects[first] = Stored(second, third, storage_uri, count)
        return snapshot


def _study(row: tuple[Any, ...]) -> StudyRow:
    # The text columns may be NULL in rows that were not written by ingest.
    return StudyRow(*row[:3], *(value or "" for value in row[3:8]), *row[8:])


def store(
    connection: Connection,
    tenant_id: UUID,
    *,
    new_series: Sequence[dict[str, Any]],
    series: Sequence[dict[str, Any]],
    studies: Sequence[dict[str, Any]],
    activity: Sequence[dict[str, Any]],
    objects: Sequence[dict[str, Any]],
) -> None:
    """Insert objects and series, and bring counts, ready JSON and activity up to date."""
    for values in new_series:
        connection.execute(INSERT_SERIES, {"tenant_id": tenant_id, **values})
    connection.execute(
        STORE,
        {
            "tenant_id": tenant_id,
            "series": json_text(series),
            "studies": json_text(studies),
            "activity": json_text(activity),
            "objects": json_text(objects),
        },
    )


def log(
    connection: Connection,
    tenant_id: UUID,
    transactions: Sequence[dict[str, Any]],
    audits: Sequence[dict[str, Any]],
    outbox: Sequence[dict[str, Any]] = (),
    stale: Collection[tuple[str, UUID]] = (),
) -> None:
    """Write the transaction log, the audit trail and the outbox; mark FHIR resources stale."""
    connection.execute(
        INSERT_LOGS,
        {
            "tenant_id": tenant_id,
            "transactions": json_text(transactions),
            "audits": json_text(audits),
            "outbox": json_text(outbox),
            "types": [resource_type for resource_type, _ in stale],
            "row_ids": [row_id for _, row_id in stale],
        },
    )


def json_text(value: object) -> str:
    return orjson.dumps(value).decode("utf-8")
