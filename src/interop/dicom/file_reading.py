"""Stored files that are no DICOM, read again: their rows, their structure, and as DICOM."""

from __future__ import annotations

import io
from typing import Any, LiteralString
from uuid import UUID

from interop.dicom.decode_pool import DecodePool, shared_pool
from interop.dicom.documents import StoredFile, Wrapped, wrap
from interop.dicom.file_kinds import FileKind, NotThat, describe
from interop.errors import NotFound, Unprocessable
from storage.objects import ObjectStore

FIND: LiteralString = (
    "SELECT o.id, o.tenant_id, o.object_type, o.storage_uri, o.byte_size, o.hash,"
    " o.document_title, o.tooth_numbers, coalesce(o.content_date, ''),"
    " coalesce(o.content_time, ''), coalesce(o.instance_number, 1), o.received_at, s.study_uid,"
    " coalesce(s.study_date, ''), coalesce(s.study_time, ''), coalesce(s.accession_number, ''),"
    " coalesce(s.dicom_study_id, ''), coalesce(s.referring_physician_name, ''),"
    " coalesce(s.patient_name, ''), coalesce(s.dicom_patient_id, ''),"
    " coalesce(s.issuer_of_patient_id, ''), coalesce(s.patient_birth_date, ''),"
    " coalesce(s.patient_sex, ''), s.patient_id"
    " FROM imaging_objects AS o"
    " JOIN imaging_studies AS s ON s.tenant_id = o.tenant_id AND s.id = o.study_id"
    " WHERE o.tenant_id = %(tenant_id)s AND o.id = %(object)s AND o.object_type <> 'DICOM'"
)


def stored_file(row: tuple[Any, ...] | None) -> tuple[StoredFile, UUID]:
    """A row of FIND, and whose it is. Raises NotFound where there is none."""
    if row is None:
        raise NotFound
    values = list(row)
    values[7] = tuple(values[7])
    return StoredFile(*values[:-1]), values[-1]


class _Ranges(io.RawIOBase):
    """A stored object as a file that is read in ranges."""

    def __init__(self, objects: ObjectStore, key: str, size: int) -> None:
        self._objects, self._key, self._size = objects, key, size
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        self._at = start + offset
        return self._at

    def readinto(self, buffer: Any) -> int:
        wanted = min(len(buffer), self._size - self._at)
        found = self._objects.get_range(self._key, self._at, wanted) if wanted > 0 else b""
        buffer[: len(found)] = found
        self._at += len(found)
        return len(found)


def structure(objects: ObjectStore, file: StoredFile) -> FileKind:
    """What the stored file says of itself; it was looked at when it came in."""
    with io.BufferedReader(_Ranges(objects, file.storage_uri, file.byte_size), 1 << 16) as ranges:
        try:
            return describe(ranges, file.byte_size)
        except NotThat as error:
            raise Unprocessable(str(error)) from error


def as_dicom(objects: ObjectStore, file: StoredFile, pool: DecodePool | None = None) -> Wrapped:
    """The file as a DICOM object. Raises Unprocessable where DICOM cannot carry it."""

    def decode() -> tuple[tuple[int, int, int, int], bytes]:
        body = objects.get(file.storage_uri)
        answer, pixels = (pool or shared_pool()).ask({"wanted": "file"}, body)
        rows, columns, samples, bits = answer["rows_columns_samples_bits"]
        return (rows, columns, samples, bits), pixels

    return wrap(file, structure(objects, file), decode)
