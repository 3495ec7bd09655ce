"""One transaction that stores what several senders have ready for one tenant.

Everything a reader will ask for is written here or not at all: object, series, study and patient
rows, counts and ready JSON, the mark that makes FHIR render ImagingStudy anew, the completeness
check, the transaction log and the audit trail. Demographics are compared and flagged, never
merged; a study UID that comes back with another PatientID is kept out (security.md B10).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import orjson

from ai import completeness
from interop.dicom import imaging_rows as rows
from interop.dicom import query_tags, release, routing
from interop.dicom.failures import (
    DUPLICATE_SOP_INSTANCE,
    NOT_AUTHORIZED,
    PATIENT_CONFLICT,
    Code,
    Failure,
)
from interop.dicom.imaging_rows import Changes, Record, Snapshot, Stored, StudyRow
from interop.dicom.ingest_types import Kind
from interop.dicom.modality import OTHER
from interop.dicom.names import matching_key, person_name
from interop.dicom.received import (
    SERIES_TAGS,
    STUDY_TAGS,
    Demographics,
    Received,
    birth_date,
    column,
    demographics,
    members,
    object_columns,
    series_columns,
    study_columns,
    transaction_columns,
)
from storage.audit import system_audit
from storage.database import Connection

_SEX = {"M": "MALE", "F": "FEMALE", "O": "OTHER"}
_SEX_BACK = {value: key for key, value in _SEX.items()}
_LONGEST_CONFLICT_LIST = 20
_LONGEST_MESSAGE = 1000


@dataclass(slots=True)
class Result:
    """What became of one object, and whether its blob is still wanted."""

    kind: Kind
    failure: Failure | None = None
    keeps_blob: bool = True
    # Of a duplicate: the object that was stored first.
    stored: Stored | None = None
    # Whether its transaction was rolled back by a rule, so that the refusal is not logged yet.
    is_unlogged: bool = False


@dataclass(slots=True)
class Batch:
    """The objects of one transaction and what is learned while it runs."""

    tenant_id: UUID
    objects: Sequence[Received]
    known: Snapshot
    results: dict[int, Result] = field(default_factory=dict)
    record: Record = field(default_factory=Record)
    # Of instances that took the place of another one, which went to quarantine for them.
    replacing: frozenset[str] = frozenset()

    @property
    def studies(self) -> dict[str, StudyRow]:
        return self.known.studies

    def pending(self) -> list[tuple[int, Received]]:
        return [(n, r) for n, r in enumerate(self.objects) if n not in self.results]

    def answers(self) -> list[Result]:
        return [self.results[n] for n in range(len(self.objects))]


def store(connection: Connection, tenant_id: UUID, objects: Sequence[Received]) -> Batch:
    """Write the rows of all objects; nothing is visible until the caller commits.

    Takes a transaction that has no tenant yet. Two round trips: read under locks, and write.
    """
    known = _read(connection, tenant_id, objects)
    replacing = release.make_room(connection, tenant_id, objects, known)
    if replacing:
        known = _read(connection, tenant_id, objects)
    batch = Batch(tenant_id, objects, known, replacing=replacing)
    _recognise_repeats(batch)
    _refuse_deleted(batch)
    changes = _new_studies(batch)
    _keep_patients_apart(batch)
    _forget_quarantined(connection, batch)
    _add_objects(batch, changes)
    _schedule_checks(batch, changes)
    _write_down(batch)
    revision = rows.write(connection, tenant_id, changes, batch.record)
    _quarantine(connection, batch)
    _after_release(connection, batch)
    _route(connection, batch, changes)
    _index_query_tags(connection, batch, changes)
    _revise(batch, revision)
    return batch


def _read(connection: Connection, tenant_id: UUID, objects: Sequence[Received]) -> Snapshot:
    return rows.read_and_lock(
        connection,
        tenant_id,
        sop_instance_uids=[received.sop_instance_uid for received in objects],
        study_uids=sorted({received.study_instance_uid for received in objects}),
        series_uids=list({received.series_instance_uid for received in objects}),
        patient_ids=sorted({received.patient_id for received in objects} - {""}),
    )


def store_as_seen(
    connection: Connection, tenant_id: UUID, objects: Sequence[Received], known: Snapshot
) -> Batch | None:
    """Do what `store` does in one round trip, in a transaction that has no tenant yet.

    `known` is what this process wrote itself when the last objects of these studies arrived. None
    when that is out of date, or more is to be done than to add objects: then the transaction must
    be rolled back, and `store` decides.
    """
    batch = Batch(tenant_id, objects, known)
    _keep_patients_apart(batch)
    if batch.results:
        return None
    changes = Changes()
    _add_objects(batch, changes)
    if any(study.starts_analysis and not study.check_scheduled for study in known.studies.values()):
        return None
    _write_down(batch)
    uids = [received.sop_instance_uid for received in objects]
    revision = rows.write_as_seen(connection, tenant_id, known, uids, changes, batch.record)
    if revision is None:
        return None
    _route(connection, batch, changes)
    _index_query_tags(connection, batch, changes)
    _revise(batch, revision)
    return batch


def _revise(batch: Batch, revision: str) -> None:
    for study in batch.studies.values():
        if study.added or study.is_new:
            study.revision = revision


def _recognise_repeats(batch: Batch) -> None:
    """Answer objects whose SOP Instance UID is in the index. Within a batch they are unique."""
    for n, received in enumerate(batch.objects):
        before = batch.known.objects.get(received.sop_instance_uid)
        if before is None:
            continue
        sent = (received.spooled.dataset_hash, received.instance.transfer_syntax_uid)
        if sent == (before.dataset_hash, before.transfer_syntax_uid):
            batch.results[n] = Result("duplicate", keeps_blob=False, stored=before)
        else:
            batch.results[n] = _refusal(
                DUPLICATE_SOP_INSTANCE,
                f"SOP Instance UID {received.sop_instance_uid} is stored with other bytes. They"
                " stay; these are kept in quarantine.",
            )


def _refuse_deleted(batch: Batch) -> None:
    """Keep out what was deleted here: where the tenant wants it so, and what the AI makes late.

    An analysis that ran while its study was deleted would otherwise bring the study back with
    nothing in it but findings.
    """
    known = batch.known
    for n, received in batch.pending():
        study_uid = received.study_instance_uid
        is_orphan = study_uid in known.deleted_studies and study_uid not in batch.studies
        if received.sop_instance_uid in known.deleted and not known.allows_deleted:
            message = (
                f"SOP Instance UID {received.sop_instance_uid} was deleted here, and the"
                " organization takes nothing again that it deleted."
            )
        elif received.source.door == "AI" and is_orphan:
            message = f"Study {study_uid} was deleted while it was analyzed."
        else:
            continue
        refused = _refusal(NOT_AUTHORIZED, message)
        refused.keeps_blob = False
        batch.results[n] = refused


def restore(connection: Connection, tenant_id: UUID, received: Received, lost: Stored) -> Result:
    """Let the row of a repeated object point to the new bytes, because the former are gone."""
    changed = connection.execute(
        rows.POINT_TO_NEW_BYTES,
        {"tenant_id": tenant_id, "lost": lost.storage_uri, **object_columns(received)},
    ).rowcount
    result = Result("duplicate", keeps_blob=bool(changed))
    if changed:
        audit = audit_row(tenant_id, received, result) | {"event_type": "DICOM_INSTANCE_RESTORED"}
        rows.log(connection, tenant_id, Record(audits=[audit]))
    return result


def _refusal(code: Code, message: str) -> Result:
    return Result("refused", Failure.of(code, message))


def _new_studies(batch: Batch) -> Changes:
    """Return the rows of studies, and of patients, that nobody has sent anything of before."""
    changes = Changes()
    # The first object of a study says whose it is.
    new = {r.study_instance_uid: r for _, r in reversed(batch.pending())}
    patients = _patients(batch)
    for uid in sorted(new.keys() - batch.studies.keys()):
        _add_study(batch, changes, new[uid], patients)
    return changes


def _patient_key(batch: Batch, received: Received) -> tuple[str, str]:
    return received.patient_id, received.issuer or batch.known.issuer


# Those who bear an identifier today, by identifier and issuer; mostly one, and never chosen among.
Patients = dict[tuple[str, str], dict[UUID, Demographics]]


def _patients(batch: Batch) -> Patients:
    patients: Patients = {}
    for row in batch.known.patients:
        name = "^".join(row[part] or "" for part in ("last_name", "first_name", "middle_name"))
        known = Demographics(
            name.rstrip("^"), row["birth_date"] or "", _SEX_BACK.get(row["sex_at_birth"], "")
        )
        patients.setdefault((row["value"], row["issuer"]), {})[UUID(row["id"])] = known
    return patients


def _add_study(batch: Batch, changes: Changes, received: Received, patients: Patients) -> None:
    key = _patient_key(batch, received)
    said = demographics(received.instance)
    conflict = None
    # Without a PatientID nothing says whose study this is: a patient of its own (B10).
    found = patients.get(key, {}) if key[0] else {}
    if not found:
        patient_id = _add_patient(batch, changes, key, said)
        if key[0]:
            patients[key] = {patient_id: said}
    elif len(found) > 1:
        # Whom of them it shows is not ours to guess: a patient of its own, without the identifier,
        # which would only make the next study more ambiguous.
        patient_id = _add_patient(batch, changes, ("", ""), said)
        conflict = _conflict(None, "AMBIGUOUS_PATIENT", ["PatientID"], received)
    else:
        [(patient_id, known)] = found.items()
        differing = _comparable(known, said)
        if differing:
            conflict = _conflict(None, "PATIENT_RECORD", differing, received)
    columns = study_columns(received)
    study = StudyRow(
        study_uid=received.study_instance_uid,
        id=uuid4(),
        patient_id=patient_id,
        dicom_patient_id=received.patient_id,
        issuer_of_patient_id=received.issuer,
        patient_name=said.name,
        patient_birth_date=said.birth_date,
        patient_sex=said.sex,
        modality=str(columns["modality"]),
        modalities=[],
        sop_classes=[],
        number_of_series=0,
        number_of_instances=0,
        demographics_conflict=conflict,
        check_scheduled=False,
        first_columns=columns,
    )
    batch.studies[study.study_uid] = study


def _comparable(known: Demographics, said: Demographics) -> list[str]:
    """Compare with a record that may lack prefix and suffix: three name components count."""
    name = person_name(said.name)
    short = "^".join((name.family, name.given, name.middle)).rstrip("^")
    born = birth_date(said.birth_date)
    return known.differences(
        Demographics(
            short, born.strftime("%Y%m%d") if born else "", said.sex if said.sex in _SEX else ""
        )
    )


def _add_patient(batch: Batch, changes: Changes, key: tuple[str, str], said: Demographics) -> UUID:
    patient_id = uuid4()
    name = person_name(said.name)
    changes.new_patients.append(
        {
            "id": patient_id,
            "last_name": name.family or None,
            "first_name": name.given or None,
            "middle_name": name.middle or None,
            "name_prefix": name.prefix or None,
            "name_suffix": name.suffix or None,
            "dob": birth_date(said.birth_date),
            "sex_at_birth": _SEX.get(said.sex),
            "identifier": key[0] or None,
            "assigner": key[1] or None,
        }
    )
    batch.record.stale.add(("Patient", patient_id))
    return patient_id


def _keep_patients_apart(batch: Batch) -> None:
    """Refuse objects of another patient; flag what else differs within a study."""
    for n, received in batch.pending():
        study = batch.studies[received.study_instance_uid]
        if received.released_id is None and _is_other_patient(batch, study, received):
            study.demographics_conflict = _conflict(
                study.demographics_conflict, "OTHER_PATIENT", ["PatientID"], received
            )
            batch.results[n] = _refusal(
                PATIENT_CONFLICT,
                f"Study {study.study_uid} belongs to another PatientID or issuer. The object is"
                " kept in quarantine.",
            )
            continue
        known = Demographics(study.patient_name, study.patient_birth_date, study.patient_sex)
        said = demographics(received.instance)
        differing = known.differences(said)
        if differing:
            study.demographics_conflict = _conflict(
                study.demographics_conflict, "WITHIN_STUDY", differing, received
            )
        if said != known:
            _complete(study, said, received)


def _complete(study: StudyRow, said: Demographics, received: Received) -> None:
    """Take over what the study does not know yet, so that the next object is compared with it."""
    for attribute, tag, value in (
        ("patient_name", 0x00100010, said.name),
        ("patient_birth_date", 0x00100030, said.birth_date),
        ("patient_sex", 0x00100040, said.sex),
    ):
        if value and not getattr(study, attribute):
            setattr(study, attribute, value)
            study.completed |= members(received.instance, (tag,))


def _is_other_patient(batch: Batch, study: StudyRow, received: Received) -> bool:
    patient_id, issuer = received.patient_id, received.issuer or batch.known.issuer
    known_issuer = study.issuer_of_patient_id or batch.known.issuer
    if not patient_id or not study.dicom_patient_id:
        # Only one side says who it is. Were that enough, one study without a PatientID would take
        # in the images of everybody.
        return patient_id != study.dicom_patient_id
    if patient_id != study.dicom_patient_id:
        return True
    return bool(issuer and known_issuer and issuer != known_issuer)


def _conflict(
    before: object, kind: str, attributes: list[str], received: Received
) -> list[dict[str, object]]:
    """Append to the study's list of conflicts; the same disagreement is listed once."""
    known = list(before) if isinstance(before, list) else []
    said = demographics(received.instance)
    entry: dict[str, object] = {
        "kind": kind,
        "attributes": attributes,
        "received": {
            "PatientID": received.patient_id,
            "IssuerOfPatientID": received.issuer,
            "PatientName": said.name,
            "PatientBirthDate": said.birth_date,
            "PatientSex": said.sex,
        },
    }
    if entry not in known and len(known) < _LONGEST_CONFLICT_LIST:
        known.append(entry)
    return known


def _add_objects(batch: Batch, changes: Changes) -> None:
    """Add the rows of objects that are neither repeats nor refused, and all that counts them."""
    groups: dict[tuple[str, str], list[Received]] = {}
    for n, received in batch.pending():
        key = (received.study_instance_uid, received.series_instance_uid)
        groups.setdefault(key, []).append(received)
        _add_to_study(batch.studies[key[0]], received)
        batch.results[n] = Result("stored")
    for key, group in sorted(groups.items()):
        study = batch.studies[key[0]]
        is_known = key in batch.known.series
        series_id, count = batch.known.series.get(key, (uuid4(), 0))
        count += len(group)
        batch.known.series[key] = (series_id, count)
        row: dict[str, object] = {"id": series_id, "number_of_instances": count}
        if is_known:
            changes.series.append(row)
        else:
            study.number_of_series += 1
            ready = _series_json(group[0], count)
            row |= series_columns(group[0]) | {"study_id": study.id, "dicom_json": ready}
            changes.new_series.append(row)
        ids = {
            "study_id": study.id,
            "series_id": series_id,
            "patient_id": study.patient_id,
            "study_uid": key[0],
            "series_uid": key[1],
        }
        changes.objects += [
            {"id": uuid4(), "action": _action(batch, r), **ids, **object_columns(r)} for r in group
        ]
    for study in batch.studies.values():
        if study.added:
            _change_study(batch, changes, study)


def _action(batch: Batch, received: Received) -> str:
    """What the change feed says of an object that is stored now."""
    return "UPDATE" if received.sop_instance_uid in batch.replacing else "CREATE"


def _change_study(batch: Batch, changes: Changes, study: StudyRow) -> None:
    if study.first_columns is None:
        changes.studies.append(_study_changes(study))
    else:
        whose = {"patient_id": study.patient_id}
        changes.new_studies.append(study.first_columns | _study_changes(study) | whose)
    if study.starts_analysis:
        changes.activity.append({"study_id": study.id, "added": study.added})
    batch.record.stale.add(("ImagingStudy", study.id))
    payload = {
        "study_id": str(study.id),
        "study_instance_uid": study.study_uid,
        "added": study.added,
    }
    batch.record.outbox.append({"topic": "imaging.study.received", "payload": payload})


def _add_to_study(study: StudyRow, received: Received) -> None:
    study.added += 1
    study.number_of_instances += 1
    study.starts_analysis = study.starts_analysis or received.starts_analysis
    _extend(study.modalities, received.modality)
    _extend(study.sop_classes, received.sop_class_uid)
    if study.modality == OTHER:
        study.modality = received.kind
    if study.dicom_json is None:
        study.dicom_json = _json_object(members(received.instance, STUDY_TAGS))


def _study_changes(study: StudyRow) -> dict[str, object]:
    study.dicom_json = _counted(study)
    return {
        "id": study.id,
        "modality": study.modality,
        "modalities_in_study": study.modalities,
        "sop_classes_in_study": study.sop_classes,
        "number_of_series": study.number_of_series,
        "number_of_instances": study.number_of_instances,
        "patient_name": study.patient_name,
        "patient_name_key": matching_key(study.patient_name),
        "patient_birth_date": study.patient_birth_date,
        "patient_sex": study.patient_sex,
        "demographics_conflict": study.demographics_conflict,
        "dicom_json": study.dicom_json,
    }


def _extend(values: list[str], value: str) -> None:
    if value and value not in values:
        values.append(value)
        values.sort()


def _series_json(received: Received, count: int) -> str:
    parts = members(received.instance, SERIES_TAGS)
    parts[0x00201209] = f'"00201209":{{"vr":"IS","Value":[{count}]}}'
    return _json_object(parts)


def _json_object(parts: dict[int, str]) -> str:
    text = ",".join(parts[tag] for tag in sorted(parts))
    # PostgreSQL's text takes every character but NUL, which JSON escapes anyway.
    return f"{{{column(text)}}}"


def _counted(study: StudyRow) -> str:
    """Return the study's JSON with the counts and modalities as they are now."""
    found: dict[str, object] = orjson.loads(study.dicom_json or "{}")
    if study.completed:
        found |= orjson.loads(_json_object(study.completed))
    found["00080061"] = {"vr": "CS", **({"Value": study.modalities} if study.modalities else {})}
    found["00201206"] = {"vr": "IS", "Value": [study.number_of_series]}
    found["00201208"] = {"vr": "IS", "Value": [study.number_of_instances]}
    return orjson.dumps(found, option=orjson.OPT_SORT_KEYS).decode("utf-8")


def _jsonb(value: object) -> str | None:
    return None if value is None else rows.json_text(value)


def _schedule_checks(batch: Batch, changes: Changes) -> None:
    """Ask once per quiet window whether a study is complete (ai/completeness.py)."""
    for study in batch.studies.values():
        if not study.starts_analysis or study.check_scheduled:
            continue
        seconds = completeness.window_seconds(
            study.modality, batch.known.quiet_window_seconds, None
        )
        changes.jobs.append(
            {
                "queue": completeness.QUEUE,
                "task": completeness.TASK,
                "args": {"tenant_id": batch.tenant_id, "study_id": study.id},
                "schedule_at": datetime.now(UTC) + timedelta(seconds=seconds),
            }
        )


def _route(connection: Connection, batch: Batch, changes: Changes) -> None:
    """Have what was stored sent on, where the organization has rules for that."""
    if not batch.known.has_routes or not changes.objects:
        return
    ids = {row["sop_instance_uid"]: row["id"] for row in changes.objects}
    arrivals = []
    for n, received in enumerate(batch.objects):
        if batch.results[n].kind != "stored":
            continue
        study = batch.studies[received.study_instance_uid]
        arrivals.append(
            routing.Arrival(
                imaging_object_id=ids[received.sop_instance_uid],
                study_id=study.id,
                patient_id=study.patient_id,
                sop_class_uid=received.sop_class_uid,
                modality=received.modality,
                calling_ae_title=received.source.calling_ae_title or "",
                study_description=received.instance.text(0x00081030),
                body_part=received.instance.text(0x00180015),
                manufacturer=received.instance.text(0x00080070),
                station_name=received.instance.text(0x00081010),
            )
        )
    routing.enqueue(connection, batch.tenant_id, arrivals)


def _index_query_tags(connection: Connection, batch: Batch, changes: Changes) -> None:
    """Write the values of attributes that the organization has made searchable, if there are."""
    tags = batch.known.query_tags
    if not tags or not changes.objects:
        return
    known = {row["sop_instance_uid"]: row for row in changes.objects}
    arrivals = []
    for n, received in enumerate(batch.objects):
        if batch.results[n].kind == "stored":
            row = known[received.sop_instance_uid]
            ids = (row["id"], row["study_id"], row["series_id"])
            arrivals.append(query_tags.Arrival(*ids, received))
    query_tags.index_arrivals(connection, batch.tenant_id, tags, arrivals)


def _forget_quarantined(connection: Connection, batch: Batch) -> None:
    """Of refused objects whose very bytes wait in quarantine already, keep no second copy."""
    for n, received in enumerate(batch.objects):
        result = batch.results.get(n)
        if result is None or result.kind != "refused" or not result.keeps_blob:
            continue
        result.keeps_blob = not connection.execute(
            rows.IS_QUARANTINED,
            {
                "tenant_id": batch.tenant_id,
                "sop_instance_uid": received.sop_instance_uid,
                "hash": received.spooled.sha256,
            },
        ).fetchone()


def _quarantine(connection: Connection, batch: Batch) -> None:
    """Keep refused objects for an operator, and flag their studies."""
    for n, received in enumerate(batch.objects):
        result = batch.results[n]
        if result.kind != "refused" or result.failure is None or not result.keeps_blob:
            continue
        connection.execute(
            rows.INSERT_QUARANTINED,
            {
                "tenant_id": batch.tenant_id,
                "sop_instance_uid": received.sop_instance_uid,
                "study_instance_uid": received.study_instance_uid,
                "storage_uri": received.storage_uri,
                "hash": received.spooled.sha256,
                "byte_size": received.spooled.byte_size,
                "reason_code": f"{result.failure.reason:04X}",
                "reason": result.failure.message,
                "source": f"{received.source.door} {received.source.actor}".strip(),
            },
        )
    for study in batch.studies.values():
        if study.demographics_conflict and study.added == 0 and not study.is_new:
            connection.execute(
                rows.FLAG_CONFLICT,
                {
                    "tenant_id": batch.tenant_id,
                    "id": study.id,
                    "demographics_conflict": _jsonb(study.demographics_conflict),
                },
            )


def _after_release(connection: Connection, batch: Batch) -> None:
    """What was deleted and is stored again is deleted no more; what was released, is released."""
    again = [
        received.sop_instance_uid
        for n, received in enumerate(batch.objects)
        if batch.results[n].kind == "stored" and received.sop_instance_uid in batch.known.deleted
    ]
    if again:
        values = {"tenant_id": batch.tenant_id, "sop_instance_uids": again}
        connection.execute(rows.NO_LONGER_DELETED, values)
    for n, received in enumerate(batch.objects):
        if received.released_id is not None and batch.results[n].failure is None:
            release.finish(connection, batch.tenant_id, received.released_id)


def _write_down(batch: Batch) -> None:
    """Add each object to the transaction log and the audit trail."""
    for n, received in enumerate(batch.objects):
        result = batch.results[n]
        batch.record.transactions.append(
            transaction_row(batch.tenant_id, received, result.failure, received.started_at)
        )
        study = batch.studies.get(received.study_instance_uid)
        patient_id = study.patient_id if study is not None and result.failure is None else None
        batch.record.audits.append(audit_row(batch.tenant_id, received, result, patient_id))


def transaction_row(
    tenant_id: UUID, received: Received, failure: Failure | None, started_at: datetime
) -> dict[str, object]:
    """Return the row of the transaction log for one object, with what was odd about it."""
    oddities = "; ".join(received.instance.warnings)[:_LONGEST_MESSAGE]
    return {
        "tenant_id": tenant_id,
        "status_code": failure.dicom_status if failure else 0,
        "status": "FAILURE" if failure else "WARNING" if oddities else "SUCCESS",
        "message": failure.message if failure else oddities or None,
        "started_at": started_at,
        **transaction_columns(received.source, received.instance, received.spooled),
    }


def audit_row(
    tenant_id: UUID, received: Received, result: Result, patient_id: UUID | None = None
) -> dict[str, object]:
    """Return the row of the audit trail for one object (DICOM PS3.15 A.5.3.7 in spirit).

    `patient_id`: whom it shows; where it is not given, the database looks at the study.
    """
    source = received.source
    return system_audit(
        tenant_id,
        "DICOM_INSTANCE_STORED" if result.failure is None else "DICOM_INSTANCE_REFUSED",
        "ImagingStudy",
        received.study_instance_uid,
        patient_id=patient_id,
        outcome="FAILURE" if result.failure else "SUCCESS",
        metadata={
            "door": source.door,
            "actor": source.actor,
            "calling_ae_title": source.calling_ae_title,
            "sop_instance_uid": received.sop_instance_uid,
            "result": result.kind,
        },
        actor_type=source.actor_type,
        user_id=source.actor_id if source.actor_type == "USER" else None,
        api_client_id=source.actor_id if source.actor_type == "API_CLIENT" else None,
        request_id=source.request_id,
        ip_address=source.remote_address,
    )
