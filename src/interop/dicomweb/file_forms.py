"""What is sent with a file: raw body with a query string, or `multipart/form-data` (RFC 7578)."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.message import Message
from uuid import UUID

from anyio import to_thread
from starlette.requests import Request

from interop.dicom.file_ingest import Description, FileUpload
from interop.dicom.file_owners import patient_by_identifier, row_of
from interop.dicomweb.multipart import MultipartParser, PartBegin, PartData, PartEnd
from interop.dicomweb.paths import is_uid
from interop.errors import BadRequest, PayloadTooLarge, UnsupportedMediaType
from storage.database import Connection

NAMES = (
    "patient",
    "patient-identifier",
    "encounter",
    "study",
    "title",
    "tooth",
    "taken",
)
FILE = "file"
MOST_TITLE, MOST_FIELD, MOST_PARTS = 200, 4096, 50
_TOOTH = re.compile(r"[1-4][1-8]|[5-8][1-5]")


@dataclass(slots=True)
class Form:
    """The fields that came with a file, and what its sender declared it to be."""

    media_type: str | None = None
    fields: dict[str, list[str]] = field(default_factory=dict)

    def add(self, name: str, value: str) -> None:
        """Take one field. Raises BadRequest for a name that means nothing here."""
        if name not in NAMES:
            raise BadRequest(f"field {name[:64]!r}: accepted are {', '.join(NAMES)}")
        self.fields.setdefault(name, []).append(value)

    def description(self, connection: Connection, tenant_id: UUID) -> Description:
        """What the fields mean. Raises BadRequest, and NotFound where they name nothing."""
        study = self._one("study")
        if study is not None and not is_uid(study):
            raise BadRequest("study: a Study Instance UID is accepted")
        title = self._one("title")
        if title is not None and (len(title) > MOST_TITLE or not title.isprintable()):
            raise BadRequest(f"title: up to {MOST_TITLE} printable characters are accepted")
        encounter = self._one("encounter")
        return Description(
            patient_id=self._patient(connection, tenant_id),
            encounter_id=row_of(connection, tenant_id, "Encounter", encounter)
            if encounter is not None
            else None,
            study_instance_uid=study,
            title=title or None,
            tooth_numbers=self._teeth(),
            taken_at=self._taken(),
        )

    def _one(self, name: str) -> str | None:
        values = self.fields.get(name, [])
        if len(values) > 1:
            raise BadRequest(f"{name} is given {len(values)} times; once is accepted")
        return values[0].strip() if values else None

    def _patient(self, connection: Connection, tenant_id: UUID) -> UUID:
        patient, identifier = self._one("patient"), self._one("patient-identifier")
        if (patient is None) == (identifier is None):
            raise BadRequest(
                "one of patient=<id of the FHIR Patient> and patient-identifier=<record number>"
                " is needed"
            )
        if patient is not None:
            return row_of(connection, tenant_id, "Patient", patient)
        return patient_by_identifier(connection, tenant_id, identifier or "")

    def _teeth(self) -> tuple[int, ...]:
        texts = [
            text.strip() for value in self.fields.get("tooth", []) for text in value.split(",")
        ]
        for text in texts:
            if not _TOOTH.fullmatch(text):
                raise BadRequest(f"tooth {text[:16]!r}: FDI numbers (ISO 3950) such as 11 or 85")
        return tuple(sorted({int(text) for text in texts}))

    def _taken(self) -> datetime | None:
        text = self._one("taken")
        if text is None:
            return None
        try:
            taken = datetime.fromisoformat(text)
            taken = taken if taken.tzinfo else taken.replace(tzinfo=UTC)
            if 1850 < taken.year < 2200:
                return taken
        except ValueError:
            pass
        raise BadRequest("taken: a date and time such as 2026-03-14T10:15:30+01:00 is accepted")


async def read_form(request: Request, upload: FileUpload) -> Form:
    """Read the whole request; the file's bytes go to `upload`."""
    header = Message()
    header["content-type"] = request.headers.get("content-type", "")
    media_type = header.get_content_type() if request.headers.get("content-type") else ""
    form = Form()
    for name, value in request.query_params.multi_items():
        form.add(name, value)
    if media_type != "multipart/form-data":
        form.media_type = media_type or None
        if form.media_type is None:
            raise UnsupportedMediaType("Content-Type says what the file is, such as image/jpeg")
        async for chunk in request.stream():
            await to_thread.run_sync(upload.write, chunk)
        return form
    boundary = header.get_param("boundary")
    parser = MultipartParser(str(boundary or ""), max_parts=MOST_PARTS)
    await _read_parts(request.stream(), parser, form, upload)
    return form


async def _read_parts(
    chunks: AsyncIterator[bytes], parser: MultipartParser, form: Form, upload: FileUpload
) -> None:
    name, value, has_file = "", bytearray(), False
    async for chunk in chunks:
        for event in parser.feed(chunk):
            if isinstance(event, PartBegin):
                name, value = _name_of(event), bytearray()
                if name == FILE:
                    if has_file:
                        raise BadRequest("more than one file; send them one by one")
                    has_file = True
                    form.media_type = _media_type_of(event)
            elif isinstance(event, PartData):
                if name == FILE:
                    await to_thread.run_sync(upload.write, event.data)
                    continue
                value += event.data
                if len(value) > MOST_FIELD:
                    raise PayloadTooLarge(f"field {name[:64]!r} has more than {MOST_FIELD} bytes")
            elif isinstance(event, PartEnd) and name != FILE:
                try:
                    form.add(name, value.decode("utf-8"))
                except UnicodeDecodeError as error:
                    raise BadRequest(f"field {name[:64]!r} is not UTF-8") from error
    parser.close()
    if not has_file:
        raise BadRequest(f"the form has no field {FILE!r}")


def _name_of(part: PartBegin) -> str:
    header = Message()
    header["content-disposition"] = part.headers.get("content-disposition", "")
    name = header.get_param("name", header="content-disposition")
    if header.get_content_disposition() != "form-data" or not isinstance(name, str):
        raise BadRequest("each part needs Content-Disposition: form-data; name=...")
    return name


def _media_type_of(part: PartBegin) -> str:
    header = Message()
    header["content-type"] = part.headers.get("content-type", "")
    if not part.headers.get("content-type"):
        raise UnsupportedMediaType("the file's part says what it is: Content-Type: image/jpeg")
    return header.get_content_type()
