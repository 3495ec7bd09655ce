"""Task, DiagnosticReport, Provenance and Device over ai_inference_jobs and ai_model_versions.

A job that ran is a report even when it found nothing: "ran, found nothing" differs from "did not
run". What a model of the regulatory class EXPERIMENTAL says carries, in report and Device, that it
was trained on synthetic images and is not for clinical use.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, LiteralString
from uuid import UUID

from interop.fhir.lens import Connection
from interop.fhir.mappings import ai_review, references
from interop.fhir.mappings.ai_finding import DISPLAYS, Alternate, Label
from interop.fhir.mappings.concepts import Coding, Concept, ConceptText, Reference
from interop.fhir.mappings.converters import Codes, Converter, Moment, Text
from interop.fhir.mappings.imaging_study import Uid
from interop.fhir.mappings.lens import Entry, ResourceMapping, Row, Rows, constant
from interop.fhir.mappings.organization import dicomweb_address
from interop.fhir.mappings.places import Choice, FirstOf, References, Within
from interop.fhir.mappings.shared_type import SharedLens
from interop.fhir.mappings.statements import query
from interop.fhir.mappings.systems import (
    AI_ASSERTED,
    AI_DEVICE,
    DICOM,
    DICOM_UID,
    OWN,
    PARTICIPANT_TYPE,
    own,
    own_extension,
)
from interop.fhir.mappings.unknowns import UNKNOWN
from interop.fhir.mappings.views import Shown, ViewLens

DISCLAIMER: Final = "Trained on synthetic images. Not for clinical use."
MANUFACTURER: Final = "dental-interop"
IDEMPOTENCY_KEY: Final = f"{OWN}:ai-job-key"
REPORT: Final = Coding(DICOM, "126000", "Imaging Measurement Report")
RADIOLOGY: Final = Coding("http://terminology.hl7.org/CodeSystem/v2-0074", "RAD", "Radiology")
FULFILL: Final = Coding(
    "http://hl7.org/fhir/CodeSystem/task-code", "fulfill", "Fulfill the focal request"
)
CREATE: Final = Coding("http://terminology.hl7.org/CodeSystem/v3-DataOperation", "CREATE", "create")
ASSEMBLER: Final = Coding(PARTICIPANT_TYPE, "assembler", "Assembler")
# As what predictions are presented: findings, and risks.
_KINDS: Final = ("Observation", "RiskAssessment")
SR_TITLE: Final = "DICOM SR (TID 1500)"
SEG_TITLE: Final = "DICOM Segmentation"


@dataclass(frozen=True, slots=True)
class Attachment:
    """The address of the DICOM object with a title."""

    title: str

    @property
    def label(self) -> str:
        return f"url of the attachment with title {self.title!r}"

    def get(self, node: Any) -> str | None:
        if not isinstance(node, Mapping) or node.get("title") != self.title:
            return None
        return Text().get(node.get("url"))

    def put(self, value: str | None, node: Any) -> Any:
        return value and {"contentType": "application/dicom", "url": value, "title": self.title}


@dataclass(frozen=True, slots=True)
class Output:
    """An output of a Task, known by the text of its type."""

    text: str
    child: str
    converter: Converter

    @property
    def label(self) -> str:
        return f"{self.child} of the output with type {self.text!r}"

    def get(self, node: Any) -> Any:
        if not isinstance(node, Mapping) or (node.get("type") or {}).get("text") != self.text:
            return None
        return self.converter.get(node.get(self.child))

    def put(self, value: Any, node: Any) -> Any:
        old = node or {"type": {"text": self.text}}
        return {**old, self.child: self.converter.put(value, old.get(self.child))}


@dataclass(frozen=True, slots=True)
class DicomUid:
    """An Identifier that is a DICOM UID."""

    label: str = "Identifier urn:dicom:uid"

    def get(self, node: Any) -> str | None:
        return Uid().get((node or {}).get("value"))

    def put(self, value: str | None, node: Any) -> Any:
        return {"system": DICOM_UID, "value": Uid().put(value, None)}


TASK: Final = ResourceMapping(
    "Task",
    "ai_inference_jobs",
    [
        Entry("idempotency_key", f"identifier[system={IDEMPOTENCY_KEY}].value", Text()),
        Entry(
            "status",
            "status",
            Codes(
                {
                    "requested": "QUEUED",
                    "in-progress": "RUNNING",
                    "completed": "SUCCEEDED",
                    "failed": "FAILED",
                }
            ),
            required=True,
        ),
        Entry("state_reason", "statusReason.text", Text()),
        Entry("study", "focus", Reference(("ImagingStudy",))),
        Entry("patient", "for", Reference(("Patient",))),
        Entry("created_at", "authoredOn", Moment()),
        Entry("device", "owner", Reference(("Device",))),
        Entry("requester", "requester", Reference(("Practitioner",))),
        Entry("started_at", "executionPeriod.start", Moment()),
        Entry("completed_at", "executionPeriod.end", Moment()),
        Entry(
            "report",
            "output",
            FirstOf(Output("Report", "valueReference", Reference(("DiagnosticReport",)))),
        ),
        Entry(
            "sr_sop_instance_uid",
            "output",
            FirstOf(Output("DICOM SR", "valueIdentifier", DicomUid())),
        ),
        Entry(
            "seg_sop_instance_uid",
            "output",
            FirstOf(Output("DICOM SEG", "valueIdentifier", DicomUid())),
        ),
    ],
    template=constant({"intent": "order", "priority": "routine", "code": FULFILL.concept()}),
)

DIAGNOSTIC_REPORT: Final = ResourceMapping(
    "DiagnosticReport",
    "ai_inference_jobs",
    [
        Entry("label", "meta.security", FirstOf(Label())),
        Entry(
            "status", "status", Codes({"preliminary": "OPEN", "final": "REVIEWED"}), required=True
        ),
        Entry("patient", "subject", Reference(("Patient",))),
        Entry("encounter", "encounter", Reference(("Encounter",))),
        Entry("effective", "", Choice("effective", Moment())),
        Entry("issued", "issued", Moment()),
        Entry("performer", "performer", FirstOf(Alternate())),
        Entry("study", "imagingStudy", FirstOf(Reference(("ImagingStudy",)))),
        Entry("results", "result", References(Reference(("Observation",))), ()),
        Entry("conclusion", "conclusion", Text()),
        Entry("sr_url", "presentedForm", FirstOf(Attachment(SR_TITLE))),
        Entry("seg_url", "presentedForm", FirstOf(Attachment(SEG_TITLE))),
    ],
    template=constant({"category": [RADIOLOGY.concept()], "code": REPORT.concept()}),
)

PROVENANCE: Final = ResourceMapping(
    "Provenance",
    "ai_inference_jobs",
    [
        Entry("targets", "target", References(Reference((*_KINDS, "DiagnosticReport"))), ()),
        Entry("started_at", "occurredPeriod.start", Moment()),
        Entry("completed_at", "occurredPeriod.end", Moment()),
        Entry("recorded", "recorded", Moment()),
        Entry(
            "device",
            "agent",
            FirstOf(
                Within(
                    "who",
                    Reference(("Device",)),
                    {"type": ASSEMBLER.concept(), "role": [AI_DEVICE.concept()]},
                )
            ),
        ),
        Entry(
            "study",
            "entity",
            FirstOf(Within("what", Reference(("ImagingStudy",)), {"role": "source"})),
        ),
    ],
    template=constant({"reason": [AI_ASSERTED.concept()], "activity": CREATE.concept()}),
)


_JOB: Final = """
SELECT j.idempotency_key, j.status, j.state_reason, j.created_at, j.started_at, j.completed_at,
    j.sr_sop_instance_uid, j.seg_sop_instance_uid, j.requested_by_user_id, j.study_id,
    j.model_version_id, s.patient_id, s.encounter_id, s.study_uid, s.acquisition_datetime,
    m.name, m.regulatory_class, v.version_tag, t.slug
FROM ai_inference_jobs AS j
JOIN ai_model_versions AS v ON v.id = j.model_version_id
JOIN ai_models AS m ON m.id = v.model_id
JOIN tenants AS t ON t.id = j.tenant_id
LEFT JOIN imaging_studies AS s ON s.tenant_id = j.tenant_id AND s.id = j.study_id
WHERE j.tenant_id = %s AND j.id = %s
"""
_FINDINGS: Final[LiteralString] = f"""
SELECT p.id, p.code, p.prediction_type, p.tooth_number, p.confidence, {ai_review.EVENTS} AS reviews
FROM ai_predictions AS p WHERE p.tenant_id = %s AND p.job_id = %s
ORDER BY p.tooth_number NULLS LAST, p.code, p.id
"""
_SERIES_OF: Final = """
SELECT e.series_uid FROM imaging_objects AS o
JOIN imaging_series AS e ON e.tenant_id = o.tenant_id AND e.id = o.series_id
WHERE o.tenant_id = %s AND o.sop_instance_uid = %s
"""


class _Job:
    """What is known of one job, with its references spelled out."""

    def __init__(self, connection: Connection, tenant_id: UUID, data: dict[str, Any]) -> None:
        self._connection = connection
        self._tenant_id = tenant_id
        self.data = data
        self.study = self.named("ImagingStudy", data["study_id"])
        self.patient = self.named("Patient", data["patient_id"])
        self.device = self.named("Device", data["model_version_id"])
        self.is_done = data["status"] == "SUCCEEDED"

    def named(self, resource_type: str, row: UUID | None) -> str | None:
        connection, tenant_id = self._connection, self._tenant_id
        return references.literal(connection, tenant_id, resource_type, row) if row else None

    def instance_url(self, public_url: str | None, sop_instance_uid: str | None) -> str | None:
        """Where DICOMweb has an object that the job has made."""
        if sop_instance_uid is None:
            return None
        found = query(self._connection, _SERIES_OF, self._tenant_id, sop_instance_uid)
        if not found:
            return None
        base = dicomweb_address(public_url, self.data["slug"])
        study, series = self.data["study_uid"], found[0]["series_uid"]
        return f"{base}/studies/{study}/series/{series}/instances/{sop_instance_uid}"


def _job(connection: Connection, tenant_id: UUID, row_id: UUID) -> _Job | None:
    found = query(connection, _JOB, tenant_id, row_id)
    return _Job(connection, tenant_id, found[0]) if found else None


def _load_task(connection: Connection, tenant_id: UUID, row_id: UUID) -> Rows | None:
    job = _job(connection, tenant_id, row_id)
    if job is None:
        return None
    taken = ("idempotency_key", "status", "state_reason", "created_at", "started_at")
    row = {name: job.data[name] for name in (*taken, "completed_at")}
    row |= {"study": job.study, "patient": job.patient, "device": job.device}
    row["requester"] = job.named("Practitioner", job.data["requested_by_user_id"])
    row["report"] = job.named("DiagnosticReport", row_id) if job.is_done else None
    row |= {name: job.data[name] for name in ("sr_sop_instance_uid", "seg_sop_instance_uid")}
    return Rows(row)


def _report_loader(public_url: str | None) -> Any:
    def load(connection: Connection, tenant_id: UUID, row_id: UUID) -> Rows | None:
        job = _job(connection, tenant_id, row_id)
        if job is None or not job.is_done:
            return None
        data = job.data
        findings = _findings(connection, tenant_id, row_id)
        is_reviewed = bool(findings) and all(item["review"].is_judged for item in findings)
        row: Row = {
            "label": "REVIEWED" if is_reviewed else "AI",
            "status": "REVIEWED" if is_reviewed else "OPEN",
            "patient": job.patient,
            "encounter": job.named("Encounter", data["encounter_id"]),
            "effective": data["acquisition_datetime"] or data["completed_at"],
            "issued": data["completed_at"],
            "performer": job.device,
            "study": job.study,
            "results": _named_findings(job, findings, ("Observation",)),
            "conclusion": conclusion(data, findings),
            "sr_url": job.instance_url(public_url, data["sr_sop_instance_uid"]),
            "seg_url": job.instance_url(public_url, data["seg_sop_instance_uid"]),
        }
        return Rows(row)

    return load


def _findings(connection: Connection, tenant_id: UUID, row_id: UUID) -> list[dict[str, Any]]:
    """The findings of a job as their reviews have left them, each with its `review`."""
    found = []
    for item in query(connection, _FINDINGS, tenant_id, row_id):
        review = ai_review.judge(item["reviews"])
        found.append({**review.applied_to(item), "review": review})
    return found


def _named_findings(
    job: _Job, findings: list[dict[str, Any]], kinds: tuple[str, ...] = _KINDS
) -> tuple[str, ...]:
    """The resources of findings; R4's reports have no place for a risk."""
    named = [(_KINDS[item["prediction_type"] == "RISK_SCORE"], item["id"]) for item in findings]
    return tuple(sorted(str(job.named(kind, id_)) for kind, id_ in named if kind in kinds))


def conclusion(job: Mapping[str, Any], findings: list[dict[str, Any]]) -> str:
    """What was found, by which model, and what the model is good for."""
    sentences = [f"Analysis by {job['name']} {job['version_tag']}."]
    kept = [item for item in findings if item["review"].status != "REJECTED"]
    listed = [_phrase(item) for item in kept]
    sentences.append(f"Findings: {'; '.join(listed)}." if listed else "No findings.")
    if len(kept) < len(findings):
        sentences.append(f"Rejected on review: {len(findings) - len(kept)}.")
    if job["regulatory_class"] == "EXPERIMENTAL":
        sentences.append(DISCLAIMER)
    return " ".join(sentences)


def _phrase(finding: Mapping[str, Any]) -> str:
    # What the model called it says nothing of another code that a review has given it.
    kind = finding["prediction_type"].replace("_", " ").capitalize()
    unnamed = finding["code"] if "code" in finding["review"].edited else kind
    words: str = DISPLAYS.get(finding["code"] or "", unnamed)
    if finding["tooth_number"] is not None:
        words += f" at tooth {finding['tooth_number']}"
    if finding["confidence"] is not None:
        words += f" (certainty {finding['confidence']:.0%})"
    return words


def _load_provenance(connection: Connection, tenant_id: UUID, row_id: UUID) -> Rows | None:
    job = _job(connection, tenant_id, row_id)
    if job is None or not job.is_done:
        return None
    findings = _findings(connection, tenant_id, row_id)
    report = str(job.named("DiagnosticReport", row_id))
    completed: datetime = job.data["completed_at"] or job.data["created_at"]
    row = {
        "targets": tuple(sorted([*_named_findings(job, findings), report])),
        "started_at": job.data["started_at"],
        "completed_at": job.data["completed_at"],
        "recorded": completed,
        "device": job.device,
        "study": job.study,
    }
    return Rows(row)


_JOBS: Final = ("ai_inference_jobs", "id")
_ORIGIN: Final = "of an inference job, which is not deleted over FHIR"


# -- reviews --------------------------------------------------------------------------------------

VERIFIER: Final = Coding(PARTICIPANT_TYPE, "verifier", "Verifier")
REVIEWS: Final = Concept(
    {
        "CONFIRMED": own("review", "confirmed", "Confirmed a finding of the AI"),
        "REJECTED": own("review", "rejected", "Rejected a finding of the AI"),
        "EDITED": own("review", "edited", "Corrected a finding of the AI"),
    }
)
COMMENT: Final = own_extension("review-comment")
REVIEW: Final = ResourceMapping(
    "Provenance",
    "ai_review_events",
    [
        Entry("comment", f"extension[url={COMMENT}].valueString", Text()),
        Entry("targets", "target", References(Reference(_KINDS)), ()),
        Entry("recorded", "recorded", Moment()),
        Entry("reason", "reason", FirstOf(ConceptText())),
        Entry("action", "activity", REVIEWS),
        Entry("agent", "agent", Shown("reviewer_id as verifier; empty: data-absent-reason")),
    ],
)
_REVIEW: Final = """
SELECT e.review_action AS action, e.reason_code AS reason, e.comment, e.reviewer_id,
    e.created_at AS recorded, e.prediction_id, p.prediction_type
FROM ai_review_events AS e
JOIN ai_predictions AS p ON p.tenant_id = e.tenant_id AND p.id = e.prediction_id
WHERE e.tenant_id = %s AND e.id = %s
"""


def _load_review(connection: Connection, tenant_id: UUID, row_id: UUID) -> Rows | None:
    found = query(connection, _REVIEW, tenant_id, row_id)
    if not found:
        return None
    data = found[0]
    kind = _KINDS[data["prediction_type"] == "RISK_SCORE"]
    who: dict[str, Any] = UNKNOWN
    if data["reviewer_id"] is not None:
        who = {
            "reference": references.literal(
                connection, tenant_id, "Practitioner", data["reviewer_id"]
            )
        }
    data["targets"] = (references.literal(connection, tenant_id, kind, data["prediction_id"]),)
    data["agent"] = [{"type": VERIFIER.concept(), "who": who}]
    return Rows({column: data[column] for column in REVIEW.columns})


def task(public_url: str | None) -> ViewLens:
    return ViewLens(TASK, _load_task, _ORIGIN, _JOBS)


def diagnostic_report(public_url: str | None) -> ViewLens:
    load = _report_loader(public_url)
    return ViewLens(DIAGNOSTIC_REPORT, load, _ORIGIN, _JOBS, ("conclusionCode",))


def provenance(public_url: str | None) -> SharedLens:
    """Of what a job has made, and of what was said of it."""
    review = "of a review, which stays as it was made"
    return SharedLens(
        [
            ViewLens(PROVENANCE, _load_provenance, _ORIGIN, _JOBS),
            ViewLens(REVIEW, _load_review, review, ("ai_review_events", "id")),
        ]
    )
