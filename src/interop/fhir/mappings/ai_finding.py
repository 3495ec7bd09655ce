"""Observation over ai_predictions: one finding of one inference job (ai.md 2.4).

A finding is preliminary and labelled AIAST until a clinician has judged it (ai_review.py): then it
is final, as it was corrected, or entered in error when it was rejected. It is changed by a review,
not over FHIR.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final, LiteralString
from uuid import UUID

from interop.fhir.lens import Connection, JsonObject
from interop.fhir.mappings import ai_review, references
from interop.fhir.mappings.body_site import BodySite
from interop.fhir.mappings.concepts import Coding, Reference, codings, replaced
from interop.fhir.mappings.converters import Codes, Float, Moment, Quantity, Text, plain
from interop.fhir.mappings.imaging_study import Uid
from interop.fhir.mappings.lens import Entry, ResourceMapping, Row, Rows
from interop.fhir.mappings.places import Choice, FirstOf, Fixed
from interop.fhir.mappings.statements import query
from interop.fhir.mappings.systems import (
    AI_ASSERTED,
    AI_TRANSPARENCY,
    ALTERNATE_REFERENCE,
    DICOM,
    OWN,
    SNOMED_CT,
    own,
)
from interop.fhir.mappings.views import ViewLens

FINDING: Final = Coding(DICOM, "121071", "Finding")
CERTAINTY: Final = Coding(DICOM, "111012", "Certainty of Finding")
IMAGE_REGION: Final = Coding(DICOM, "111030", "Image Region")
TRACKING_UID: Final = Coding(DICOM, "112040", "Tracking Unique Identifier")
VALUE: Final = own("observation", "measured-value", "Measured value")
SEVERITY: Final = own("observation", "severity", "Severity")
IMAGING: Final = Coding(
    "http://terminology.hl7.org/CodeSystem/observation-category", "imaging", "Imaging"
)
REVIEWED: Final = Coding(
    f"{AI_TRANSPARENCY}/CodeSystem/AddedProvenanceCS",
    "CLINAST_AIRPT",
    "Clinician asserted, from an AI report",
)
LABELS: Final = {"AI": AI_ASSERTED, "REVIEWED": REVIEWED}
CONFIDENCE: Final = f"{AI_TRANSPARENCY}/StructureDefinition/AIconfidence"
# ai_predictions.code is "scheme|code"; the schemes are DICOM's designators (PS3.16 8).
SCHEMES: Final = {"SCT": SNOMED_CT, "DCM": DICOM}
DISPLAYS: Final = {
    "SCT|80967001": "Dental caries",
    "SCT|39273001": "Apical periodontitis",
    "SCT|109706009": "Alveolar bone loss",
}
STATUSES: Final = Codes(
    {"preliminary": "OPEN", "final": "ACCEPTED", "entered-in-error": "REJECTED"}
)
# What the model has judged, and whom: a client's word beside it would be taken for the model's.
RESERVED: Final = ("focus", "interpretation", "dataAbsentReason", "referenceRange")


def system_of(scheme: str) -> str:
    """The FHIR system of a DICOM coding scheme; a private scheme is one of our own systems."""
    return SCHEMES.get(scheme, f"{OWN}:{scheme}")


@dataclass(frozen=True, slots=True)
class SchemeCode:
    """A CodeableConcept as `scheme|code`."""

    label: str = "scheme|code; SCT = SNOMED CT, DCM = DICOM"

    def get(self, node: Any) -> str | None:
        schemes = {system: scheme for scheme, system in SCHEMES.items()}
        for item in codings(node):
            system, code = str(item.get("system", "")), item.get("code")
            scheme = schemes.get(system) or system.removeprefix(f"{OWN}:")
            if code and scheme != system:
                return f"{scheme}|{code}"
        return None

    def put(self, value: str | None, node: Any) -> Any:
        if not value:
            return None
        scheme, _, code = value.partition("|")
        shown = Coding(system_of(scheme), code, DISPLAYS.get(value))
        return replaced(node, coding=[shown.json()])


@dataclass(frozen=True, slots=True)
class Label:
    """A security label of meta: who asserted this."""

    label: str = "AIAST = AI, CLINAST_AIRPT = REVIEWED"

    def get(self, node: Any) -> str | None:
        for value, coding in LABELS.items():
            pair = (node.get("system"), node.get("code")) if isinstance(node, Mapping) else ()
            if pair == (coding.system, coding.code):
                return value
        return None

    def put(self, value: str | None, node: Any) -> Any:
        return LABELS[value].json() if value else None


@dataclass(frozen=True, slots=True)
class Alternate:
    """A performer that R4 does not allow, by the alternate-reference extension: a Device."""

    label: str = "extension alternate-reference to a Device"

    def get(self, node: Any) -> str | None:
        for extension in (node or {}).get("extension") or []:
            if extension.get("url") == ALTERNATE_REFERENCE:
                return Reference(("Device",)).get(extension.get("valueReference"))
        return None

    def put(self, value: str | None, node: Any) -> Any:
        if value is None:
            return None
        extension = {"url": ALTERNATE_REFERENCE, "valueReference": {"reference": value}}
        return {"extension": [extension]}


@dataclass(frozen=True, slots=True)
class Measured:
    """(value, unit) of a quantity in whatever unit it has."""

    label: str = "Quantity: value, unit"

    def get(self, node: Any) -> tuple[Decimal, str | None] | None:
        value = (node or {}).get("value")
        if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
            return None
        return Decimal(str(value)), Text().get(node.get("unit"))

    def put(self, value: tuple[Decimal, str | None], node: Any) -> Any:
        amount, unit = value
        shown = {"unit": unit, "system": "http://unitsofmeasure.org", "code": unit}
        return {"value": plain(Decimal(str(amount))), **(shown if unit else {})}


def _component(code: Coding, child: str, converter: Any) -> FirstOf:
    return FirstOf(Fixed("code", code, child, converter))


def _template(row: Row) -> JsonObject:
    return {
        "category": [IMAGING.concept()],
        "code": FINDING.concept(),
        "method": {"text": "Detection by artificial intelligence"},
    }


MAPPING: Final = ResourceMapping(
    "Observation",
    "ai_predictions",
    [
        Entry("label", "meta.security", FirstOf(Label())),
        Entry("confidence", f"extension[url={CONFIDENCE}].valueDecimal", Float(0, 1)),
        Entry("tracking_uid", "identifier", FirstOf(Fixed("type", TRACKING_UID, "value", Uid()))),
        Entry("part_of", "partOf", FirstOf(Reference(("ImagingStudy",)))),
        Entry("status", "status", STATUSES, required=True),
        Entry("patient", "subject", Reference(("Patient",))),
        Entry("effective", "", Choice("effective", Moment())),
        Entry("issued", "issued", Moment()),
        Entry("performer", "performer", FirstOf(Alternate())),
        Entry("reviewer", "performer", FirstOf(Reference(("Practitioner",)))),
        Entry("code", "valueCodeableConcept", SchemeCode()),
        Entry(("tooth_number", "surface"), "", BodySite(is_list=False)),
        Entry("device", "device", Reference(("Device",))),
        Entry("derived_from", "derivedFrom", FirstOf(Reference(("ImagingStudy",)))),
        Entry(
            "certainty",
            "component",
            _component(CERTAINTY, "valueQuantity", Quantity("%", low=0, high=100)),
        ),
        Entry(("value", "unit"), "component", _component(VALUE, "valueQuantity", Measured())),
        Entry("severity", "component", _component(SEVERITY, "valueString", Text())),
        Entry("region", "component", _component(IMAGE_REGION, "valueString", Text())),
    ],
    template=_template,
)

_SELECT: Final[LiteralString] = f"""
SELECT p.confidence, p.tracking_uid, p.patient_id, p.code, p.tooth_number, p.surface, p.value,
    p.unit, p.severity, j.study_id, j.model_version_id, j.completed_at, s.acquisition_datetime,
    o.sop_instance_uid, a.geometry, {ai_review.EVENTS} AS reviews
FROM ai_predictions AS p
JOIN ai_inference_jobs AS j ON j.tenant_id = p.tenant_id AND j.id = p.job_id
LEFT JOIN imaging_studies AS s ON s.tenant_id = j.tenant_id AND s.id = j.study_id
LEFT JOIN imaging_objects AS o ON o.tenant_id = p.tenant_id AND o.id = p.imaging_object_id
LEFT JOIN image_annotations AS a ON a.tenant_id = p.tenant_id AND a.id = p.roi_ref
WHERE p.tenant_id = %s AND p.id = %s AND (p.prediction_type = 'RISK_SCORE') = %s
"""


def load(connection: Connection, tenant_id: UUID, row_id: UUID) -> Rows | None:
    """A finding; a risk is a RiskAssessment."""
    found = load_prediction(connection, tenant_id, row_id)
    return Rows(found[1]) if found else None


def load_prediction(
    connection: Connection, tenant_id: UUID, row_id: UUID, *, is_risk: bool = False
) -> tuple[Row, Row] | None:
    """A prediction with its job, study and region, as its reviews have left it, and as shown."""
    found = query(connection, _SELECT, tenant_id, row_id, is_risk)
    if not found:
        return None
    review = ai_review.judge(found[0]["reviews"])
    data = review.applied_to(found[0])

    def named(resource_type: str, target: UUID | None) -> str | None:
        return references.literal(connection, tenant_id, resource_type, target) if target else None

    study = named("ImagingStudy", data["study_id"])
    device = named("Device", data["model_version_id"])
    confidence = data["confidence"]
    row = {
        **{name: data[name] for name in ("confidence", "tracking_uid", "code", "tooth_number")},
        **{name: data[name] for name in ("surface", "unit", "severity")},
        "value": data["value"],
        "label": "REVIEWED" if review.is_judged else "AI",
        "status": review.status,
        "part_of": study,
        "derived_from": study,
        "patient": named("Patient", data["patient_id"]),
        "effective": data["acquisition_datetime"] or data["completed_at"],
        "issued": data["completed_at"],
        "performer": device,
        "device": device,
        "reviewer": named("Practitioner", review.reviewer_id),
        "certainty": None if confidence is None else round(confidence * 100, 4),
        "region": _region(data["sop_instance_uid"], data["geometry"]),
    }
    return data, row


def _region(sop_instance_uid: str | None, geometry: Mapping[str, Any] | None) -> str | None:
    """SOP Instance UID, frame, graphic type and pixel coordinates of a polygon, closed."""
    points = (geometry or {}).get("coordinates")
    if not sop_instance_uid or not points:
        return None
    closed = points if points[0] == points[-1] else [*points, points[0]]
    coordinates = ",".join(f"{round(float(value), 2):g}" for point in closed for value in point)
    return f"{sop_instance_uid}|1|POLYLINE|{coordinates}"


def lens(public_url: str | None) -> ViewLens:
    origin = "a finding of an inference job; review it instead"
    return ViewLens(MAPPING, load, origin, ("ai_predictions", "id"), RESERVED)
