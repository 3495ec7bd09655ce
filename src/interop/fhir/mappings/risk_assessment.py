"""RiskAssessment over those ai_predictions that are a risk and no finding (RISK_SCORE).

What the model says is likely, and how likely (`confidence`). As any word of the AI it is
preliminary until a clinician has judged it, and is changed by a review, not over FHIR.
"""

from __future__ import annotations

from typing import Final
from uuid import UUID

from interop.fhir.lens import Connection
from interop.fhir.mappings import ai_finding
from interop.fhir.mappings.ai_finding import STATUSES, Label, SchemeCode
from interop.fhir.mappings.body_site import tooth_concept
from interop.fhir.mappings.concepts import ConceptText, Reference
from interop.fhir.mappings.converters import Float, Moment
from interop.fhir.mappings.lens import Entry, ResourceMapping, Row, Rows
from interop.fhir.mappings.places import Choice, FirstOf
from interop.fhir.mappings.systems import own_extension
from interop.fhir.mappings.views import Shown, ViewLens

TOOTH: Final = own_extension("risk-tooth")
SCORE: Final = own_extension("risk-score")

MAPPING: Final = ResourceMapping(
    "RiskAssessment",
    "ai_predictions",
    [
        Entry("label", "meta.security", FirstOf(Label())),
        Entry("tooth", f"extension[url={TOOTH}].valueCodeableConcept", Shown("tooth_number")),
        Entry("score", f"extension[url={SCORE}].valueQuantity", Shown("value, unit")),
        Entry("status", "status", STATUSES, required=True),
        Entry("patient", "subject", Reference(("Patient",))),
        Entry("effective", "", Choice("occurrence", Moment())),
        Entry("device", "performer", Reference(("Device",))),
        Entry("study", "basis", FirstOf(Reference(("ImagingStudy",)))),
        Entry("code", "prediction[].outcome", SchemeCode()),
        Entry("confidence", "prediction[].probabilityDecimal", Float(0, 1)),
        Entry("severity", "prediction[].qualitativeRisk", ConceptText()),
    ],
    template=lambda row: {"method": {"text": "Assessment by artificial intelligence"}},
)


def _load(connection: Connection, tenant_id: UUID, row_id: UUID) -> Rows | None:
    found = ai_finding.load_prediction(connection, tenant_id, row_id, is_risk=True)
    if found is None:
        return None
    data, row = found
    score = None
    if data["value"] is not None:
        score = ai_finding.Measured().put((data["value"], data["unit"]), None)
    tooth = data["tooth_number"]
    shown: Row = {
        **{name: row[name] for name in ("label", "status", "patient", "effective", "device")},
        **{name: row[name] for name in ("code", "confidence", "severity")},
        "study": row["part_of"],
        "tooth": tooth_concept(tooth) if tooth is not None else None,
        "score": score,
    }
    return Rows(shown)


def lens(public_url: str | None) -> ViewLens:
    origin = "a risk that an inference job has found; review it instead"
    return ViewLens(MAPPING, _load, origin)
