"""Which tables are presented as which FHIR resources, and by which column.

The migration makes a trigger from each entry: a row that changes outside the lenses marks the
resource of that row stale. A table may feed several resources, and several tables one resource.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Presented:
    """The rows of a table are the resource `resource_type` whose row id stands in `column`."""

    resource_type: str
    column: str = "id"


# Rows that are not presented although their table is: a condition on the changed row.
ONLY_WHERE: dict[str, str] = {"consents": "subject_type = 'PATIENT'"}

PRESENTED: dict[str, tuple[Presented, ...]] = {
    "patients": (Presented("Patient"),),
    "patient_identifiers": (Presented("Patient", "patient_id"),),
    "patient_addresses": (Presented("Patient", "patient_id"),),
    "user_tenants": (Presented("Practitioner", "user_id"),),
    # tenants is global; the one settings row of a tenant stands for the tenant.
    "tenant_settings": (Presented("Organization", "tenant_id"), Presented("Endpoint")),
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
    "ai_inference_jobs": (
        Presented("Task"),
        Presented("DiagnosticReport"),
        Presented("Provenance"),
        Presented("Device", "model_version_id"),
    ),
    "consents": (Presented("Consent"),),
}
