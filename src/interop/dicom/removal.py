"""Taking objects out of the index: the counterpart of `batch.store`, in a transaction of its own.

Object, series and study rows, counts and ready JSON, what the AI found on the images, and the
change feed: all of it or nothing. Triggers mark the FHIR resources stale in the same transaction.
The bytes are erased afterwards (storage/erasing.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, LiteralString
from uuid import UUID

import orjson

from storage.database import Connection


@dataclass(frozen=True, slots=True)
class StudyKey:
    """A study whose row is locked."""

    id: UUID
    study_instance_uid: str
    patient_id: UUID


@dataclass(slots=True)
class Removed:
    """What has gone."""

    instances: list[str] = field(default_factory=list)
    bytes: int = 0
    is_whole_study: bool = False


def lock_study(connection: Connection, tenant_id: UUID, study_instance_uid: str) -> StudyKey | None:
    """Lock a study as the ingest does: first its name, then its row. None where there is none."""
    connection.execute(
        "SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))",
        (f"study {tenant_id} {study_instance_uid}",),
    )
    row = connection.execute(
        "SELECT id, study_uid, patient_id FROM imaging_studies"
        " WHERE tenant_id = %s AND study_uid = %s FOR UPDATE",
        (tenant_id, study_instance_uid),
    ).fetchone()
    return StudyKey(*row) if row else None


# What the AI made of an image, as DICOM objects: it goes with the image.
MADE_OF: LiteralString = (
    "SELECT o.id FROM ai_inference_jobs AS j JOIN imaging_objects AS o"
    " ON o.tenant_id = j.tenant_id AND o.study_id = j.study_id"
    " AND o.sop_instance_uid IN (j.sr_sop_instance_uid, j.seg_sop_instance_uid)"
    " WHERE j.tenant_id = %(tenant_id)s AND j.study_id = %(study)s"
    " AND (j.compute_env ->> 'image')::uuid = ANY (%(objects)s)"
)
_JOBS: LiteralString = (
    "SELECT j.id FROM ai_inference_jobs AS j WHERE j.tenant_id = %(tenant_id)s"
    " AND j.study_id = %(study)s"
    " AND (%(is_whole)s OR (j.compute_env ->> 'image')::uuid = ANY (%(objects)s))"
)
_FINDINGS: LiteralString = (
    "SELECT p.id FROM ai_predictions AS p WHERE p.tenant_id = %(tenant_id)s"
    f" AND (p.imaging_object_id = ANY (%(objects)s) OR p.job_id IN ({_JOBS}))"
)
# Findings that a person has judged, or that turned out to be true or not.
REVIEWED: LiteralString = (
    "SELECT count(*) FROM ai_predictions AS f WHERE f.tenant_id = %(tenant_id)s"
    f" AND f.id IN ({_FINDINGS}) AND (EXISTS (SELECT FROM ai_review_events AS r"
    " WHERE r.tenant_id = %(tenant_id)s AND r.prediction_id = f.id)"
    " OR EXISTS (SELECT FROM ai_outcome_links AS l"
    " WHERE l.tenant_id = %(tenant_id)s AND l.prediction_id = f.id))"
)
_WITHOUT_FINDINGS: tuple[LiteralString, ...] = (
    "DELETE FROM ai_review_events WHERE tenant_id = %(tenant_id)s"
    f" AND prediction_id IN ({_FINDINGS})",
    "DELETE FROM ai_outcome_links WHERE tenant_id = %(tenant_id)s"
    f" AND prediction_id IN ({_FINDINGS})",
    f"DELETE FROM ai_predictions WHERE tenant_id = %(tenant_id)s AND id IN ({_FINDINGS})",
    "UPDATE ai_predictions SET roi_ref = NULL WHERE tenant_id = %(tenant_id)s AND roi_ref IN ("
    "SELECT a.id FROM image_annotations AS a WHERE a.tenant_id = %(tenant_id)s"
    " AND a.imaging_object_id = ANY (%(objects)s))",
    "UPDATE ai_routing_decisions SET job_id = NULL WHERE tenant_id = %(tenant_id)s"
    f" AND job_id IN ({_JOBS})",
    f"DELETE FROM ai_inference_jobs WHERE tenant_id = %(tenant_id)s AND id IN ({_JOBS})",
    # The report that was deleted is no more the report of its job, whose findings stay.
    "UPDATE ai_inference_jobs SET"
    " sr_sop_instance_uid = CASE WHEN sr_sop_instance_uid = ANY (%(uids)s) THEN NULL"
    " ELSE sr_sop_instance_uid END,"
    " seg_sop_instance_uid = CASE WHEN seg_sop_instance_uid = ANY (%(uids)s) THEN NULL"
    " ELSE seg_sop_instance_uid END"
    " WHERE tenant_id = %(tenant_id)s AND study_id = %(study)s"
    " AND (sr_sop_instance_uid = ANY (%(uids)s) OR seg_sop_instance_uid = ANY (%(uids)s))",
)
_OBJECTS: LiteralString = (
    "SELECT o.id, o.series_id, o.sop_instance_uid, o.byte_size FROM imaging_objects AS o"
    " WHERE o.tenant_id = %(tenant_id)s AND o.study_id = %(study)s AND o.id = ANY (%(objects)s)"
)
_PUBLISH: LiteralString = (
    "INSERT INTO imaging_changes (tenant_id, action, patient_id, imaging_object_id,"
    " study_instance_uid, series_instance_uid, sop_instance_uid)"
    " SELECT o.tenant_id, 'DELETE', %(patient)s, o.id, %(study_uid)s, e.series_uid,"
    " o.sop_instance_uid FROM imaging_objects AS o JOIN imaging_series AS e"
    " ON e.tenant_id = o.tenant_id AND e.id = o.series_id"
    " WHERE o.tenant_id = %(tenant_id)s AND o.id = ANY (%(objects)s)"
    " ORDER BY e.series_uid, o.instance_number, o.sop_instance_uid"
)
_TO_ERASE: LiteralString = (
    "INSERT INTO removed_objects (tenant_id, sop_instance_uid, study_instance_uid, storage_uri,"
    " byte_size, reason) SELECT o.tenant_id, o.sop_instance_uid, %(study_uid)s, o.storage_uri,"
    " o.byte_size, %(reason)s FROM imaging_objects AS o"
    " WHERE o.tenant_id = %(tenant_id)s AND o.id = ANY (%(objects)s)"
)
_DELETE_OBJECTS: LiteralString = (
    "DELETE FROM imaging_objects WHERE tenant_id = %(tenant_id)s AND id = ANY (%(objects)s)"
)
_DELETE_EMPTY_SERIES: LiteralString = (
    "DELETE FROM imaging_series AS e WHERE e.tenant_id = %(tenant_id)s AND e.study_id = %(study)s"
    " AND NOT EXISTS (SELECT FROM imaging_objects AS o WHERE o.tenant_id = e.tenant_id"
    " AND o.series_id = e.id)"
)
# The pattern cannot occur inside a JSON string, where a quotation mark would be escaped.
_RECOUNT_SERIES: LiteralString = (
    "UPDATE imaging_series AS e SET number_of_instances = n.instances, metadata_gzip = NULL,"
    " dicom_json = regexp_replace(e.dicom_json,"
    ' \'("00201209":\\{"vr":"IS","Value":\\[)[0-9]+\', \'\\1\' || n.instances::text)'
    " FROM (SELECT o.series_id, count(*)::int AS instances FROM imaging_objects AS o"
    " WHERE o.tenant_id = %(tenant_id)s AND o.study_id = %(study)s GROUP BY o.series_id) AS n"
    " WHERE e.tenant_id = %(tenant_id)s AND e.id = n.series_id"
    " AND e.number_of_instances <> n.instances"
)
_COUNTS: LiteralString = (
    "SELECT s.dicom_json, (SELECT count(*)::int FROM imaging_series AS e"
    " WHERE e.tenant_id = s.tenant_id AND e.study_id = s.id),"
    " (SELECT count(*)::int FROM imaging_objects AS o WHERE o.tenant_id = s.tenant_id"
    " AND o.study_id = s.id AND o.object_type = 'DICOM'),"
    ' ARRAY(SELECT DISTINCT e.modality COLLATE "C" FROM imaging_series AS e'
    " WHERE e.tenant_id = s.tenant_id AND e.study_id = s.id AND e.modality <> '' ORDER BY 1),"
    ' ARRAY(SELECT DISTINCT o.sop_class_uid COLLATE "C" FROM imaging_objects AS o'
    " WHERE o.tenant_id = s.tenant_id AND o.study_id = s.id AND o.object_type = 'DICOM'"
    " ORDER BY 1)"
    " FROM imaging_studies AS s WHERE s.tenant_id = %(tenant_id)s AND s.id = %(study)s"
)
_RECOUNT_STUDY: LiteralString = (
    "UPDATE imaging_studies SET number_of_series = %(series)s,"
    " number_of_instances = %(instances)s, modalities_in_study = %(modalities)s,"
    " sop_classes_in_study = %(sop_classes)s, dicom_json = %(json)s"
    " WHERE tenant_id = %(tenant_id)s AND id = %(study)s"
)
_DELETE_STUDY: tuple[LiteralString, ...] = (
    "DELETE FROM custom_field_values WHERE tenant_id = %(tenant_id)s"
    " AND entity_type = 'IMAGING_STUDY' AND entity_id = %(study)s",
    "DELETE FROM imaging_studies WHERE tenant_id = %(tenant_id)s AND id = %(study)s",
)


def with_what_the_ai_made(
    connection: Connection, tenant_id: UUID, study: StudyKey, objects: Sequence[UUID]
) -> list[UUID]:
    """The objects, and with each image the reports and segmentations that the AI made of it."""
    values = {"tenant_id": tenant_id, "study": study.id, "objects": list(objects)}
    made = [row[0] for row in connection.execute(MADE_OF, values)]
    return list(dict.fromkeys([*objects, *made]))


def remove(
    connection: Connection,
    tenant_id: UUID,
    study: StudyKey,
    objects: Sequence[UUID],
    *,
    reason: str | None = None,
    is_replaced: bool = False,
    keeps_study: bool = False,
) -> Removed:
    """Remove objects of a locked study, and what becomes empty with them.

    `is_replaced`: other bytes take their place in this transaction, and theirs are kept elsewhere;
    so nothing is erased, and the change feed hears of it from who stores the others. `keeps_study`:
    even where nothing is left in it, because something will be.
    """
    values: dict[str, Any] = {
        "tenant_id": tenant_id,
        "study": study.id,
        "study_uid": study.study_instance_uid,
        "patient": study.patient_id,
        "objects": list(objects),
        "reason": reason,
    }
    found = connection.execute(_OBJECTS, values).fetchall()
    removed = Removed([row[2] for row in found if row[2]], sum(row[3] for row in found))
    removed.is_whole_study = len(found) == _count(connection, values)
    values |= {"uids": removed.instances, "is_whole": removed.is_whole_study}
    for statement in _WITHOUT_FINDINGS:
        connection.execute(statement, values)
    if not is_replaced:
        connection.execute(_PUBLISH, values)
        connection.execute(_TO_ERASE, values)
    connection.execute(_DELETE_OBJECTS, values)
    if removed.is_whole_study and not keeps_study:
        for statement in _DELETE_STUDY:
            connection.execute(statement, values)
    else:
        _recount(connection, values)
    return removed


def _count(connection: Connection, values: dict[str, Any]) -> int:
    row = connection.execute(
        "SELECT count(*) FROM imaging_objects WHERE tenant_id = %(tenant_id)s"
        " AND study_id = %(study)s",
        values,
    ).fetchone()
    assert row is not None
    counted: int = row[0]
    return counted


def _recount(connection: Connection, values: dict[str, Any]) -> None:
    """Let series and study say what is left, as the ingest would have it."""
    connection.execute(_DELETE_EMPTY_SERIES, values)
    connection.execute(_RECOUNT_SERIES, values)
    row = connection.execute(_COUNTS, values).fetchone()
    assert row is not None
    text, series, instances, modalities, sop_classes = row
    ready = orjson.loads(text or "{}")
    ready["00080061"] = {"vr": "CS", **({"Value": modalities} if modalities else {})}
    ready["00201206"] = {"vr": "IS", "Value": [series]}
    ready["00201208"] = {"vr": "IS", "Value": [instances]}
    connection.execute(
        _RECOUNT_STUDY,
        {
            **values,
            "series": series,
            "instances": instances,
            "modalities": modalities,
            "sop_classes": sop_classes,
            "json": orjson.dumps(ready, option=orjson.OPT_SORT_KEYS).decode("utf-8"),
        },
    )
