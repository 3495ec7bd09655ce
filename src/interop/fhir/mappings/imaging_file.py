"""Media and DocumentReference over those imaging_objects that are no DICOM: JPEG, PNG, STL, MP4.

Both are views of one row and have its id. The attachment's address serves the bytes to the token
that could read the resource (interop/dicomweb/files.py).
"""

from __future__ import annotations

from typing import Any, Final
from uuid import UUID

from interop.fhir.lens import Connection, JsonObject
from interop.fhir.mappings import references
from interop.fhir.mappings.concepts import Coding, Reference
from interop.fhir.mappings.converters import Codes, Integer, Moment, Text, instant
from interop.fhir.mappings.document import SHA_256
from interop.fhir.mappings.lens import Entry, ResourceMapping, Row, Rows, constant
from interop.fhir.mappings.statements import query
from interop.fhir.mappings.systems import ISO_3950
from interop.fhir.mappings.views import Shown, ViewLens

MEDIA_TYPES: Final = {
    "JPEG": "image/jpeg",
    "PNG": "image/png",
    "STL": "model/stl",
    "MP4": "video/mp4",
}
# http://terminology.hl7.org/CodeSystem/media-type
_MEDIA_TYPE: Final = "http://terminology.hl7.org/CodeSystem/media-type"
_KINDS: Final = {
    "PHOTO": Coding(_MEDIA_TYPE, "image", "Image"),
    "VIDEO": Coding(_MEDIA_TYPE, "video", "Video"),
}

_FILE: Final = """
SELECT o.*, s.patient_id, s.encounter_id, s.id AS of_study, t.slug
FROM imaging_objects AS o
JOIN imaging_studies AS s ON s.tenant_id = o.tenant_id AND s.id = o.study_id
JOIN tenants AS t ON t.id = o.tenant_id
WHERE o.tenant_id = %s AND o.id = %s AND o.object_type <> 'DICOM'
"""

DOCUMENT: Final = ResourceMapping(
    "DocumentReference",
    "imaging_objects",
    [
        Entry("patient", "subject", Reference(("Patient",))),
        Entry("received_at", "date", Moment()),
        Entry("organization", "custodian", Reference(("Organization",))),
        Entry("document_title", "description", Text()),
        Entry("content", "content", Shown("object_type, byte_size, hash, document_title, its URL")),
        Entry("context", "context", Shown("the visit, the study, and tooth_numbers")),
    ],
    template=constant({"status": "current"}),
)

MEDIA: Final = ResourceMapping(
    "Media",
    "imaging_objects",
    [
        Entry("kind", "type", Shown("image or video, of object_type")),
        Entry("status", "status", Codes({"completed": "COMPLETED"}), required=True),
        Entry("patient", "subject", Reference(("Patient",))),
        Entry("encounter", "encounter", Reference(("Encounter",))),
        Entry("part_of", "partOf", Shown("the study")),
        Entry("created", "createdDateTime", Moment()),
        Entry("received_at", "issued", Moment()),
        Entry("tooth", "bodySite", Shown("tooth_numbers, ISO 3950")),
        Entry("height", "height", Integer()),
        Entry("width", "width", Integer()),
        Entry("number_of_frames", "frames", Integer()),
        Entry("attachment", "content", Shown("object_type, byte_size, hash, title, its URL")),
    ],
)


def _load(
    connection: Connection, tenant_id: UUID, row_id: UUID, public_url: str | None
) -> tuple[Row, JsonObject, dict[str, Any]] | None:
    found = query(connection, _FILE, tenant_id, row_id)
    if not found:
        return None
    file = found[0]

    def literal(resource_type: str, target: UUID | None) -> str | None:
        if target is None:
            return None
        return references.literal(connection, tenant_id, resource_type, target)

    named = {
        "patient": literal("Patient", file["patient_id"]),
        "encounter": literal("Encounter", file["encounter_id"]),
        "study": literal("ImagingStudy", file["of_study"]),
    }
    return file, _attachment(file, public_url), named


def _attachment(file: Row, public_url: str | None) -> JsonObject:
    shown: dict[str, Any] = {
        "extension": [{"url": SHA_256, "valueString": file["hash"]}],
        "contentType": MEDIA_TYPES[file["object_type"]],
        "url": f"{public_url or ''}/t/{file['slug']}/imaging-objects/{file['id']}",
        "size": file["byte_size"],
        "title": file["document_title"],
        "creation": instant(file["received_at"]),
    }
    # A size is an unsignedInt: what is larger has none here.
    if file["byte_size"] >= 2**31:
        del shown["size"]
    return {name: node for name, node in shown.items() if node not in (None, "")}


def _teeth(file: Row) -> list[JsonObject]:
    return [Coding(ISO_3950, str(tooth)).json() for tooth in file["tooth_numbers"]]


def document(public_url: str | None) -> ViewLens:
    """A DocumentReference for each of them."""

    def load(connection: Connection, tenant_id: UUID, row_id: UUID) -> Rows | None:
        found = _load(connection, tenant_id, row_id, public_url)
        if found is None:
            return None
        file, attachment, named = found
        context: JsonObject = {}
        if named["encounter"]:
            context["encounter"] = [{"reference": named["encounter"]}]
        teeth = [{"display": f"tooth {tooth}"} for tooth in file["tooth_numbers"]]
        context["related"] = [{"reference": named["study"]}, *teeth]
        return Rows(
            {
                "patient": named["patient"],
                "received_at": file["received_at"],
                "organization": f"Organization/{tenant_id}",
                "document_title": file["document_title"],
                "content": [{"attachment": attachment}],
                "context": context,
            }
        )

    return ViewLens(DOCUMENT, load, "a file of this patient's images; delete it at its address")


def media(public_url: str | None) -> ViewLens:
    """A Media for each picture and video."""

    def load(connection: Connection, tenant_id: UUID, row_id: UUID) -> Rows | None:
        found = _load(connection, tenant_id, row_id, public_url)
        if found is None or found[0]["object_type"] == "STL":
            return None
        file, attachment, named = found
        teeth = _teeth(file)
        kind = _KINDS["VIDEO" if file["object_type"] == "MP4" else "PHOTO"]
        return Rows(
            {
                "kind": {"coding": [kind.json()]},
                "status": "COMPLETED",
                "patient": named["patient"],
                "encounter": named["encounter"],
                "part_of": [{"reference": named["study"]}],
                "created": file["received_at"],
                "received_at": file["received_at"],
                "tooth": {"coding": teeth} if teeth else None,
                "height": file["height"],
                "width": file["width"],
                "number_of_frames": file["number_of_frames"],
                "attachment": attachment,
            }
        )

    return ViewLens(MEDIA, load, "a file of this patient's images; delete it at its address")
