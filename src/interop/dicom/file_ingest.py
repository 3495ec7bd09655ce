"""The way in for files that are no DICOM: the same order as for DICOM, blob, rows, answer.

A file belongs to a patient. It goes into a study that the sender names, else into the one that the
server makes for the patient's visit, or for the day: so the pictures of a visit are together. The
same bytes again for the same patient are the same object, whatever they are called then.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, LiteralString
from uuid import UUID, uuid4, uuid5

import orjson
import psycopg

from interop.dicom.file_kinds import MEDIA_TYPES, FileKind, NotThat, describe
from interop.dicom.names import matching_key
from interop.dicom.removal import lock_study
from interop.errors import (
    Forbidden,
    NotFound,
    PayloadTooLarge,
    Unavailable,
    UnsupportedMediaType,
)
from storage import quotas
from storage.audit import INSERT_AUDIT
from storage.database import Connection, Database
from storage.objects import ObjectStore, ObjectStoreUnavailable
from storage.objects.keys import new_key
from storage.objects.store import ObjectStoreError
from storage.tenancy import Tenant

EVENT = "IMAGING_FILE_STORED"
STUDY_KIND = {"JPEG": "PHOTO", "PNG": "PHOTO", "MP4": "VIDEO", "STL": "OTHER"}
_NAMESPACE = UUID("3f0a3e2c-9a7b-5d0e-8f6e-0c2f5b1d7a44")
_SEX = {"MALE": "M", "FEMALE": "F", "OTHER": "O"}

_PATIENT: LiteralString = (
    "SELECT p.last_name, p.first_name, p.middle_name, to_char(p.dob, 'YYYYMMDD'),"
    " p.sex_at_birth, i.value, coalesce(i.assigner, '') FROM patients AS p"
    " LEFT JOIN LATERAL (SELECT m.value, m.assigner FROM patient_identifiers AS m"
    " WHERE m.tenant_id = p.tenant_id AND m.patient_id = p.id AND m.system = 'MRN'"
    " ORDER BY m.is_primary DESC, m.created_at, m.value LIMIT 1) AS i ON true"
    " WHERE p.tenant_id = %(tenant_id)s AND p.id = %(patient)s"
)
_ENCOUNTER: LiteralString = (
    "SELECT 1 FROM encounters WHERE tenant_id = %(tenant_id)s AND id = %(encounter)s"
    " AND patient_id = %(patient)s"
)
_KNOWN: LiteralString = (
    "SELECT o.id, s.study_uid, o.object_type FROM imaging_studies AS s"
    " JOIN imaging_objects AS o ON o.tenant_id = s.tenant_id AND o.study_id = s.id"
    " WHERE s.tenant_id = %(tenant_id)s AND s.patient_id = %(patient)s"
    " AND o.tenant_id = %(tenant_id)s AND o.object_type <> 'DICOM' AND o.hash = %(hash)s LIMIT 1"
)
_NEW_STUDY: LiteralString = (
    "INSERT INTO imaging_studies (tenant_id, id, patient_id, encounter_id, study_uid, modality,"
    " acquisition_datetime, source_system, study_date, study_time, accession_number,"
    " dicom_study_id, study_description, referring_physician_name, referring_physician_key,"
    " patient_name, patient_name_key, dicom_patient_id, issuer_of_patient_id,"
    " patient_birth_date, patient_sex, dicom_json, last_received_at)"
    " VALUES (%(tenant_id)s, %(id)s, %(patient)s, %(encounter)s, %(study_uid)s, %(kind)s,"
    " %(taken)s, 'UPLOAD', %(date)s, %(time)s, '', '', '', '', '', %(name)s, %(name_key)s,"
    " %(patient_id)s, %(issuer)s, %(birth_date)s, %(sex)s, %(json)s, now())"
)
_NEW_OBJECT: LiteralString = (
    "INSERT INTO imaging_objects (tenant_id, id, study_id, object_type, storage_uri, hash,"
    " byte_size, width, height, number_of_frames, document_title, tooth_numbers, content_date,"
    " content_time, instance_number, created_by) SELECT %(tenant_id)s, %(id)s, %(study)s,"
    " %(object_type)s, %(key)s, %(hash)s, %(size)s, %(width)s, %(height)s, %(frames)s, %(title)s,"
    " %(teeth)s, %(date)s, %(time)s, coalesce(max(o.instance_number), 0) + 1, %(actor)s"
    " FROM imaging_objects AS o WHERE o.tenant_id = %(tenant_id)s AND o.study_id = %(study)s"
    " AND o.object_type <> 'DICOM'"
)


class FileUpload:
    """Takes the bytes of one file: counts, hashes and bounds them."""

    def __init__(self, path: Path, limit: int) -> None:
        self.path = path
        self.size = 0
        self._limit = limit
        self._digest = hashlib.sha256(usedforsecurity=False)
        self._file = path.open("xb", buffering=0)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Append bytes. Raises PayloadTooLarge, and Unavailable when the disk is full."""
        self.size += len(data)
        if self.size > self._limit:
            raise PayloadTooLarge(f"the file is larger than the {self._limit} bytes accepted")
        self._digest.update(data)
        view = memoryview(data)
        try:
            while view:
                view = view[os.write(self._file.fileno(), view) :]
        except OSError as error:
            raise Unavailable("the spool's disk is full; send again later") from error

    def finish(self) -> str:
        """Close the file; returns its SHA-256."""
        self._file.close()
        return self._digest.hexdigest()

    def close(self) -> None:
        """Give up; safe after `finish`."""
        self._file.close()


@dataclass(frozen=True, slots=True)
class Description:
    """What a sender says of a file."""

    patient_id: UUID
    encounter_id: UUID | None = None
    study_instance_uid: str | None = None
    title: str | None = None
    tooth_numbers: tuple[int, ...] = ()
    taken_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class StoredFile:
    """The object that a file became, or was already."""

    id: UUID
    study_instance_uid: str
    object_type: str
    is_new: bool


def recognised(path: Path, size: int, declared: str | None) -> FileKind:
    """What the file is. Raises UnsupportedMediaType, also where `declared` says something else."""
    try:
        with path.open("rb") as file:
            found = describe(file, size)
    except NotThat as error:
        raise UnsupportedMediaType(str(error)) from error
    if declared is not None:
        wanted = MEDIA_TYPES.get(declared)
        if wanted is None:
            raise UnsupportedMediaType(
                f"Content-Type {declared[:80]!r}; accepted: {', '.join(sorted(MEDIA_TYPES))}"
            )
        if wanted != found.kind:
            raise UnsupportedMediaType(f"declared as {declared}, but the bytes are {found.kind}")
    return found


def store(
    database: Database,
    objects: ObjectStore,
    tenant: Tenant,
    upload: FileUpload,
    found: FileKind,
    said: Description,
    audit: Mapping[str, Any],
    actor: str,
) -> StoredFile:
    """Store a file durably. Raises NotFound where patient, visit or study are not there.

    `audit`: the values of INSERT_AUDIT, written in the same transaction.
    """
    digest = upload.finish()
    # Nothing is put that belongs nowhere; what is found is looked for again under the lock.
    with database.connection(tenant.id) as connection:
        _person(connection, tenant.id, said)
        known = _known(connection, tenant.id, said, digest)
    key = None
    try:
        if known is None:
            key = new_key(tenant.id)
            _put(objects, key, upload.path, digest)
        with database.connection(tenant.id) as connection:
            done = _write(connection, tenant.id, upload, digest, found, said, key, actor)
            _write_audit(connection, audit, said, done)
    except psycopg.Error as error:
        if quotas.is_storage_exceeded(error):
            _forget(objects, key)
            raise PayloadTooLarge("the organization's storage quota is used up") from error
        if quotas.is_tenant_closed(error):
            _forget(objects, key)
            raise Forbidden("the organization is suspended: nothing is stored") from error
        # Nobody knows whether it was committed: the bytes stay. Without a row the sweep has them.
        raise
    except BaseException:
        _forget(objects, key)
        raise
    if not done.is_new:
        _forget(objects, key)
    return done


def _put(objects: ObjectStore, key: str, path: Path, digest: str) -> None:
    try:
        objects.put_file(key, path, digest)
    except ObjectStoreUnavailable as error:
        raise Unavailable("the object store is not available; send again later") from error


def _forget(objects: ObjectStore, key: str | None) -> None:
    """Best effort: what stays behind has no row, and the sweep removes it."""
    if key is not None:
        with suppress(ObjectStoreError):
            objects.delete(key)


def _person(connection: Connection, tenant_id: UUID, said: Description) -> tuple[Any, ...]:
    values = {"tenant_id": tenant_id, "patient": said.patient_id, "encounter": said.encounter_id}
    row = connection.execute(_PATIENT, values).fetchone()
    if row is None:
        raise NotFound(f"there is no Patient/{said.patient_id}")
    if said.encounter_id and connection.execute(_ENCOUNTER, values).fetchone() is None:
        raise NotFound(f"the patient has no Encounter/{said.encounter_id}")
    return row


def _known(
    connection: Connection, tenant_id: UUID, said: Description, digest: str
) -> StoredFile | None:
    values = {"tenant_id": tenant_id, "patient": said.patient_id, "hash": digest}
    row = connection.execute(_KNOWN, values).fetchone()
    return StoredFile(row[0], row[1], row[2], False) if row else None


def _write(
    connection: Connection,
    tenant_id: UUID,
    upload: FileUpload,
    digest: str,
    found: FileKind,
    said: Description,
    key: str | None,
    actor: str,
) -> StoredFile:
    connection.execute(
        "SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))",
        (f"files of {tenant_id} {said.patient_id}",),
    )
    known = _known(connection, tenant_id, said, digest)
    if known is not None:
        return known
    if key is None:
        raise Unavailable("the same file was deleted a moment ago; send it again")
    moment = _moment(found, said)
    study_id, study_uid = _study(connection, tenant_id, found, said, moment)
    made = uuid4()
    connection.execute(
        _NEW_OBJECT,
        {
            "tenant_id": tenant_id,
            "id": made,
            "study": study_id,
            "object_type": found.kind,
            "key": key,
            "hash": digest,
            "size": upload.size,
            "width": found.width,
            "height": found.height,
            "frames": found.frames,
            "title": said.title,
            "teeth": list(said.tooth_numbers),
            "date": f"{moment:%Y%m%d}",
            "time": f"{moment:%H%M%S}",
            "actor": actor,
        },
    )
    return StoredFile(made, study_uid, found.kind, True)


def _moment(found: FileKind, said: Description) -> datetime:
    """When it was taken: as the sender says, else by the camera's clock, else now."""
    if said.taken_at is not None:
        return said.taken_at.astimezone(UTC)
    with suppress(ValueError):
        if found.taken is not None:
            taken = datetime.strptime(found.taken, "%Y%m%d%H%M%S").replace(tzinfo=UTC)
            if 1990 <= taken.year and taken <= datetime.now(UTC):
                return taken
    return datetime.now(UTC)


def _study(
    connection: Connection,
    tenant_id: UUID,
    found: FileKind,
    said: Description,
    moment: datetime,
) -> tuple[UUID, str]:
    """The study that the sender names, else the one of the visit or of the day."""
    uid = said.study_instance_uid
    if uid is not None:
        known = lock_study(connection, tenant_id, uid)
        if known is None or known.patient_id != said.patient_id:
            raise NotFound(f"the patient has no study {uid}")
        return known.id, uid
    about = said.encounter_id or f"{moment:%Y%m%d}"
    uid = f"2.25.{uuid5(_NAMESPACE, f'{tenant_id} {said.patient_id} {about}').int}"
    known = lock_study(connection, tenant_id, uid)
    if known is not None and known.patient_id == said.patient_id:
        return known.id, uid
    study_id = uuid4()
    values = {"tenant_id": tenant_id, "id": study_id, "study_uid": uid}
    values |= _study_values(_person(connection, tenant_id, said), found, said, moment, uid)
    connection.execute(_NEW_STUDY, values)
    return study_id, uid


def _study_values(
    person: tuple[Any, ...], found: FileKind, said: Description, moment: datetime, uid: str
) -> dict[str, Any]:
    *names, birth_date, sex, identifier, issuer = person
    name = "^".join((part or "").replace("^", " ").replace("=", " ") for part in names).rstrip("^")
    day, time, sex = f"{moment:%Y%m%d}", f"{moment:%H%M%S}", _SEX.get(sex, "")
    elements: dict[str, tuple[str, object]] = {
        "00080020": ("DA", day),
        "00080030": ("TM", time),
        "00080050": ("SH", None),
        "00080061": ("CS", None),
        "00080090": ("PN", None),
        "00100010": ("PN", {"Alphabetic": name} if name else None),
        "00100020": ("LO", identifier),
        "00100030": ("DA", birth_date),
        "00100040": ("CS", sex or None),
        "0020000D": ("UI", uid),
        "00200010": ("SH", None),
        "00201206": ("IS", 0),
        "00201208": ("IS", 0),
    }
    ready = {
        tag: {"vr": vr, **({"Value": [value]} if value is not None else {})}
        for tag, (vr, value) in elements.items()
    }
    return {
        "patient": said.patient_id,
        "encounter": said.encounter_id,
        "kind": STUDY_KIND[found.kind],
        "taken": moment,
        "date": day,
        "time": time,
        "name": name,
        "name_key": matching_key(name),
        "patient_id": identifier or "",
        "issuer": issuer or "",
        "birth_date": birth_date or "",
        "sex": sex,
        "json": orjson.dumps(ready, option=orjson.OPT_SORT_KEYS).decode("utf-8"),
    }


def _write_audit(
    connection: Connection, audit: Mapping[str, Any], said: Description, done: StoredFile
) -> None:
    metadata = {
        **orjson.loads(audit["metadata"]),
        "object": str(done.id),
        "object_type": done.object_type,
        "study_instance_uid": done.study_instance_uid,
        "result": "stored" if done.is_new else "duplicate",
    }
    values = {
        **audit,
        "resource_id": str(done.id),
        "patient_id": said.patient_id,
        "metadata": orjson.dumps(metadata).decode(),
    }
    connection.execute(INSERT_AUDIT, values)
