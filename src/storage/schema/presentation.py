"""Which tables are presented as which FHIR resources, and by which column.

The migration makes a trigger from each entry: a row that changes outside the lenses marks the
resource of that row stale. A table may feed several resources, and several tables one resource.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Presented:
    """The rows of a table are the resource `resource_type` whose row id stands in `column`.

    `source`: how the rows with that column follow from the changed `{rows}`, where they are not
    simply those. `when`: only a change of these columns matters, for a resource that shows them
    through another row (the patient of a note is that of its visit).
    """

    resource_type: str
    column: str = "id"
    source: str | None = None
    when: tuple[str, ...] = ()

    def rows(self, table: str, changed: str) -> str:
        """The SELECT of the rows to present, given the one of those that have changed."""
        return (self.source or source_of(table)).format(rows=changed)


def source_of(table: str) -> str:
    """How the rows to present follow from the changed rows of a table, for all that it shows."""
    return SOURCES.get(table, "SELECT * FROM {rows} AS rows")


# How the rows to present follow from the changed rows, where they are not simply those rows. The
# tables users and tenants are global, so the statement finds their rows of the tenants that the
# writer may see: its own, or all for the owner of the database.
SOURCES: dict[str, str] = {
    "consents": "SELECT * FROM {rows} AS rows WHERE subject_type = 'PATIENT'",
    "users": "SELECT m.tenant_id, m.user_id FROM {rows} AS u"
    " JOIN user_tenants AS m ON m.user_id = u.id",
    # What a review says of a finding, the report of its job says too.
    "ai_review_events": "SELECT e.tenant_id, e.prediction_id, p.job_id FROM {rows} AS e"
    " JOIN ai_predictions AS p ON p.tenant_id = e.tenant_id AND p.id = e.prediction_id",
    "tenants": "SELECT s.tenant_id, s.id FROM {rows} AS t"
    " JOIN tenant_settings AS s ON s.tenant_id = t.id",
}

PRESENTED: dict[str, tuple[Presented, ...]] = {
    "patients": (Presented("Patient"),),
    "patient_identifiers": (Presented("Patient", "patient_id"),),
    "patient_addresses": (Presented("Patient", "patient_id"),),
    "patient_insurance_policies": (
        Presented("Coverage"),
        Presented("Organization", "payer_id"),
    ),
    "user_tenants": (Presented("Practitioner", "user_id"),),
    "users": (Presented("Practitioner", "user_id"),),
    # The one settings row of a tenant stands for the tenant.
    "tenant_settings": (Presented("Organization", "tenant_id"), Presented("Endpoint")),
    "tenants": (Presented("Organization", "tenant_id"), Presented("Endpoint")),
    "locations": (Presented("Location"),),
    "encounters": (Presented("Encounter"),),
    "patient_conditions": (Presented("Condition"),),
    "procedures": (Presented("Procedure"),),
    "imaging_studies": (Presented("ImagingStudy"),),
    "imaging_series": (Presented("ImagingStudy", "study_id"),),
    "imaging_objects": (Presented("ImagingStudy", "study_id"),),
    "perio_measurements": (
        Presented("Observation", "observation_id"),
        Presented("Observation", "exam_observation_id"),
    ),
    "vital_signs": (Presented("Observation"),),
    "ai_predictions": (Presented("Observation"),),
    "ai_review_events": (
        Presented("Observation", "prediction_id"),
        Presented("DiagnosticReport", "job_id"),
    ),
    "ai_inference_jobs": (
        Presented("Task"),
        Presented("DiagnosticReport"),
        Presented("Provenance"),
        Presented("Device", "model_version_id"),
    ),
    "consents": (Presented("Consent"),),
}
