"""Observation over image_annotations: what a user has marked on an image.

What the AI has marked is in its findings (ai_finding.py).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final
from uuid import UUID

from interop.fhir.lens import Connection
from interop.fhir.mappings import references
from interop.fhir.mappings.ai_finding import FINDING, IMAGING
from interop.fhir.mappings.concepts import Concept, Reference
from interop.fhir.mappings.converters import Moment, Text
from interop.fhir.mappings.imaging_study import Uid
from interop.fhir.mappings.lens import Entry, ResourceMapping, Rows
from interop.fhir.mappings.places import Choice, FirstOf, Fixed
from interop.fhir.mappings.statements import query
from interop.fhir.mappings.systems import own
from interop.fhir.mappings.views import ViewLens

SOP_INSTANCE: Final = own("observation", "sop-instance", "SOP Instance UID of the image")
GEOMETRY: Final = own("observation", "geometry", "Geometry as GeoJSON names it, in pixels")
TYPES: Final = Concept(
    {
        "BOUNDING_BOX": own("annotation", "bounding-box", "Bounding box"),
        "MASK": own("annotation", "mask", "Mask"),
        "MEASUREMENT": own("annotation", "measurement", "Measurement"),
        "LABEL": own("annotation", "label", "Label"),
    }
)
MAPPING: Final = ResourceMapping(
    "Observation",
    "image_annotations",
    [
        Entry("study", "partOf", FirstOf(Reference(("ImagingStudy",)))),
        Entry("patient", "subject", Reference(("Patient",))),
        Entry("created_at", "", Choice("effective", Moment())),
        Entry("author", "performer", FirstOf(Reference(("Practitioner",)))),
        Entry("label_code", "valueCodeableConcept.text", Text()),
        Entry("annotation_type", "method", TYPES),
        Entry("derived_from", "derivedFrom", FirstOf(Reference(("ImagingStudy",)))),
        Entry(
            "sop_instance_uid",
            "component",
            FirstOf(Fixed("code", SOP_INSTANCE, "valueString", Uid())),
        ),
        Entry("geometry", "component", FirstOf(Fixed("code", GEOMETRY, "valueString", Text()))),
    ],
    template=lambda row: {
        "status": "final",
        "category": [IMAGING.concept()],
        "code": FINDING.concept(),
    },
)

_SELECT: Final = """
SELECT a.annotation_type, a.geometry, a.label_code, a.author_user_id, a.created_at,
    o.sop_instance_uid, o.study_id, s.patient_id
FROM image_annotations AS a
JOIN imaging_objects AS o ON o.tenant_id = a.tenant_id AND o.id = a.imaging_object_id
JOIN imaging_studies AS s ON s.tenant_id = o.tenant_id AND s.id = o.study_id
WHERE a.tenant_id = %s AND a.id = %s AND a.source_type = 'USER'
"""


def _load(connection: Connection, tenant_id: UUID, row_id: UUID) -> Rows | None:
    found = query(connection, _SELECT, tenant_id, row_id)
    if not found:
        return None
    data = found[0]

    def named(resource_type: str, target: UUID | None) -> str | None:
        return references.literal(connection, tenant_id, resource_type, target) if target else None

    study = named("ImagingStudy", data["study_id"])
    row = {
        "study": study,
        "derived_from": study,
        "patient": named("Patient", data["patient_id"]),
        "created_at": data["created_at"],
        "author": named("Practitioner", data["author_user_id"]),
        "label_code": data["label_code"],
        "annotation_type": data["annotation_type"],
        "sop_instance_uid": data["sop_instance_uid"],
        "geometry": _text(data["geometry"]),
    }
    return Rows(row)


def _text(geometry: Mapping[str, Any]) -> str:
    return json.dumps(geometry, separators=(",", ":"))


def lens() -> ViewLens:
    origin = "an annotation of an image; remove it there"
    return ViewLens(MAPPING, _load, origin)
