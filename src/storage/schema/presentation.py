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
    through another row (the patient of a note is that of its visit); with `arrives`, that the row
    comes or goes matters too.
    """

    resource_type: str
    column: str = "id"
    source: str | None = None
    when: tuple[str, ...] = ()
    arrives: bool = False

    @property
    def follows_arrivals(self) -> bool:
        """Whether a row that comes or goes changes the resource."""
        return self.arrives or not self.when

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
    # The tenant itself, and those that name it as a payer or as whom they refer patients to.
    "tenants": "SELECT s.tenant_id, s.id, t.id AS organization_id FROM {rows} AS t"
    " JOIN tenant_settings AS s ON s.tenant_id = t.id OR EXISTS (SELECT FROM fhir_resources AS o"
    " WHERE o.tenant_id = s.tenant_id AND o.resource_type = 'Organization' AND o.row_id = t.id)",
    "external_contacts": "SELECT m.tenant_id, m.id FROM {rows} AS c JOIN patient_relationships AS m"
    " ON m.tenant_id = c.tenant_id AND m.external_contact_id = c.id",
    "roles": "SELECT m.tenant_id, m.id FROM {rows} AS r JOIN user_roles AS m ON m.role_id = r.id",
    "fee_schedules": "SELECT s.tenant_id, s.payer_id, i.procedure_catalog_id FROM {rows} AS s"
    " LEFT JOIN fee_schedule_items AS i ON i.tenant_id = s.tenant_id"
    " AND i.fee_schedule_id = s.id",
    "knowledge_localizations": "SELECT v.tenant_id, v.document_id FROM {rows} AS t"
    " JOIN knowledge_versions AS v ON v.tenant_id = t.tenant_id AND v.id = t.version_id",
    "conversations": "SELECT m.tenant_id, m.id FROM {rows} AS c"
    " JOIN messages AS m ON m.tenant_id = c.tenant_id AND m.conversation_id = c.id",
    "conversation_participants": "SELECT m.tenant_id, m.id FROM {rows} AS p JOIN messages AS m"
    " ON m.tenant_id = p.tenant_id AND m.conversation_id = p.conversation_id"
    " AND m.sent_at >= p.joined_at",
    # The catalogues of the platform: terminology is everybody's, of the others what records name.
    "code_systems": "SELECT s.tenant_id, c.id FROM {rows} AS c CROSS JOIN tenant_settings AS s",
    "code_values": "SELECT s.tenant_id, v.code_system_id FROM {rows} AS v"
    " CROSS JOIN tenant_settings AS s",
    "drug_reference": "SELECT m.tenant_id, d.id FROM {rows} AS d"
    " JOIN patient_medications AS m ON m.drug_id = d.id UNION SELECT a.tenant_id, d.id"
    " FROM {rows} AS d JOIN patient_allergies AS a ON a.drug_id = d.id",
    "material_reference": "SELECT m.tenant_id, r.id FROM {rows} AS r"
    " JOIN procedure_materials AS m ON m.material_id = r.id UNION SELECT a.tenant_id, r.id"
    " FROM {rows} AS r JOIN patient_allergies AS a ON a.material_id = r.id",
    "ai_model_versions": "SELECT j.tenant_id, v.id FROM {rows} AS v"
    " JOIN ai_inference_jobs AS j ON j.model_version_id = v.id",
    "ai_models": "SELECT j.tenant_id, v.id FROM {rows} AS m"
    " JOIN ai_model_versions AS v ON v.model_id = m.id"
    " JOIN ai_inference_jobs AS j ON j.model_version_id = v.id",
    "equipment_reference": "SELECT s.tenant_id, e.id FROM {rows} AS e"
    " JOIN imaging_studies AS s ON s.performing_device_id = e.id",
}

# Of the roles and teams of a member, what changes with the membership.
_MEMBER = ("user_type", "status", "default_location_id")
_ROLES_OF_MEMBER = (
    "SELECT r.tenant_id, r.id AS role_id FROM {rows} AS m"
    " JOIN user_roles AS r ON r.tenant_id = m.tenant_id AND r.user_id = m.user_id"
)
_TEAMS_OF_MEMBER = (
    "SELECT t.tenant_id, t.team_id FROM {rows} AS m"
    " JOIN team_members AS t ON t.tenant_id = m.tenant_id AND t.user_id = m.user_id"
)
# A payer's name is the policy's, where no tenant is named.
_CLAIMS_OF_POLICY = (
    "SELECT c.tenant_id, c.id AS claim_id FROM {rows} AS p"
    " JOIN claims AS c ON c.tenant_id = p.tenant_id AND c.insurance_policy_id = p.id"
)
_DOCUMENTS_OF = (
    "SELECT d.tenant_id, d.id AS document_id FROM {{rows}} AS o JOIN documents AS d"
    " ON d.tenant_id = o.tenant_id AND d.owner_type = '{owner}' AND d.owner_id = o.id"
)
_TERMINOLOGY = "SELECT s.tenant_id, c.id FROM {rows} AS s CROSS JOIN code_systems AS c"

# The records that may have fields of a tenant's own, and as what they are presented.
CUSTOM_FIELDS: dict[str, str] = {
    "PATIENT": "Patient",
    "ENCOUNTER": "Encounter",
    "PROCEDURE": "Procedure",
    "TREATMENT_PLAN": "CarePlan",
    "IMAGING_STUDY": "ImagingStudy",
    "CLAIM": "Claim",
    "LOCATION": "Location",
    "USER": "Practitioner",
}


def _values_of(entity_type: str) -> str:
    return f"SELECT tenant_id, entity_id FROM {{rows}} AS r WHERE entity_type = '{entity_type}'"


def _values_of_definition(entity_type: str) -> str:
    return (
        "SELECT v.tenant_id, v.entity_id FROM {rows} AS d JOIN custom_field_values AS v"
        " ON v.tenant_id = d.tenant_id AND v.definition_id = d.id"
        f" AND v.entity_type = '{entity_type}'"
    )


def _of_parent(child: str, link: str, where: str = "true") -> str:
    """The rows that belong to the changed ones, which alone say of which patient they are."""
    return (
        f"SELECT c.tenant_id, c.id AS child_id FROM {{rows}} AS p JOIN {child} AS c"
        f" ON c.tenant_id = p.tenant_id AND c.{link} = p.id AND {where}"
    )


_OF_PATIENT = ("patient_id",)
_OF_VISIT = ("patient_id", "encounter_id")
_NOTES_OF_VISIT = _of_parent("clinical_notes", "encounter_id")
# What lies beside a study's DICOM objects and is none (imaging_file.py).
_FILES_OF_STUDY = _of_parent("imaging_objects", "study_id", "c.object_type <> 'DICOM'")
_PICTURES_OF_STUDY = _of_parent(
    "imaging_objects", "study_id", "c.object_type IN ('JPEG', 'PNG', 'MP4')"
)
# A tooth of a chart has the chart's id with its last byte exclusive-or the tooth (tooth_chart.py).
_CHARTED_TEETH = """
SELECT c.tenant_id, (left(c.id::text, 34) || lpad(to_hex(('x' || right(c.id::text, 2))::bit(8)::int
    # CASE WHEN tooth ~ '^[0-9]' THEN tooth::int ELSE ascii(tooth) END), 2, '0'))::uuid AS tooth_id
FROM {rows} AS c CROSS JOIN LATERAL jsonb_object_keys(CASE jsonb_typeof(c.chart_json -> 'teeth')
    WHEN 'object' THEN c.chart_json -> 'teeth' ELSE '{{}}' END) AS tooth
WHERE c.tooth_numbering_system = 'FDI' AND tooth ~ '^([1-4][1-8]|[5-8][1-5])$'
    OR c.tooth_numbering_system = 'UNIVERSAL' AND tooth ~ '^([1-9]|[12][0-9]|3[0-2]|[A-T])$'
"""
_FINDINGS = "SELECT * FROM {rows} AS rows WHERE prediction_type <> 'RISK_SCORE'"
_RISKS = "SELECT * FROM {rows} AS rows WHERE prediction_type = 'RISK_SCORE'"
_REVIEWED = (
    "SELECT e.tenant_id, p.id AS prediction_id FROM {rows} AS e JOIN ai_predictions AS p"
    " ON p.tenant_id = e.tenant_id AND p.id = e.prediction_id AND p.prediction_type"
)

PRESENTED: dict[str, tuple[Presented, ...]] = {
    "patients": (Presented("Patient"),),
    "patient_identifiers": (Presented("Patient", "patient_id"),),
    "patient_addresses": (Presented("Patient", "patient_id"),),
    "patient_insurance_policies": (
        Presented("Coverage"),
        Presented("Organization", "payer_id"),
        Presented("ClaimResponse", "claim_id", _CLAIMS_OF_POLICY, when=("payer_name",)),
    ),
    "patient_relationships": (Presented("RelatedPerson"),),
    "external_contacts": (Presented("RelatedPerson"),),
    "user_tenants": (
        Presented("Practitioner", "user_id"),
        Presented("PractitionerRole"),
        Presented("PractitionerRole", "role_id", _ROLES_OF_MEMBER, _MEMBER),
        Presented("CareTeam", "team_id", _TEAMS_OF_MEMBER, _MEMBER),
    ),
    "user_roles": (Presented("PractitionerRole"),),
    "roles": (Presented("PractitionerRole"),),
    "teams": (Presented("CareTeam"),),
    "team_members": (Presented("CareTeam", "team_id"),),
    "users": (Presented("Practitioner", "user_id"),),
    # The one settings row of a tenant stands for the tenant.
    "tenant_settings": (
        Presented("Organization", "tenant_id"),
        Presented("Endpoint"),
        Presented("CodeSystem", "id", _TERMINOLOGY, ("tenant_id",), arrives=True),
        Presented("ValueSet", "id", _TERMINOLOGY, ("tenant_id",), arrives=True),
    ),
    "tenants": (Presented("Organization", "organization_id"), Presented("Endpoint")),
    "locations": (Presented("Location"),),
    "encounters": (
        Presented("Encounter"),
        Presented(
            "Appointment",
            source="SELECT * FROM {rows} AS rows WHERE scheduled_start_at IS NOT NULL",
        ),
        Presented(
            "DocumentReference",
            "document_id",
            _DOCUMENTS_OF.format(owner="ENCOUNTER"),
            ("patient_id",),
        ),
        Presented("DocumentReference", "child_id", _NOTES_OF_VISIT, _OF_PATIENT),
        Presented("Composition", "child_id", _NOTES_OF_VISIT, _OF_PATIENT),
        Presented(
            "Observation", "child_id", _of_parent("clinical_outcomes", "encounter_id"), _OF_PATIENT
        ),
        Presented(
            "Condition",
            "child_id",
            _of_parent("encounter_diagnoses", "encounter_id", "c.condition_id IS NULL"),
            _OF_PATIENT,
        ),
    ),
    "encounter_diagnoses": (
        Presented("Encounter", "encounter_id"),
        Presented("Condition", source="SELECT * FROM {rows} AS rows WHERE condition_id IS NULL"),
    ),
    "clinical_notes": (Presented("DocumentReference"), Presented("Composition")),
    "clinical_note_amendments": (
        Presented("DocumentReference", "note_id"),
        Presented("Composition", "note_id"),
    ),
    "patient_social_history": (Presented("Observation"),),
    "tooth_chart_snapshots": (
        Presented("Observation"),
        Presented("Observation", "tooth_id", _CHARTED_TEETH),
    ),
    "treatment_plans": (
        Presented("CarePlan"),
        Presented(
            "ServiceRequest", "child_id", _of_parent("treatment_plan_items", "plan_id"), _OF_PATIENT
        ),
    ),
    "treatment_plan_items": (Presented("ServiceRequest"), Presented("CarePlan", "plan_id")),
    "treatment_plan_procedures": (Presented("Procedure", "procedure_id"),),
    "clinical_outcomes": (Presented("Observation"),),
    "image_annotations": (
        Presented("Observation", source="SELECT * FROM {rows} AS rows WHERE source_type = 'USER'"),
    ),
    "patient_conditions": (Presented("Condition"),),
    "procedures": (
        Presented("Procedure"),
        Presented(
            "Observation", "child_id", _of_parent("clinical_outcomes", "procedure_id"), _OF_PATIENT
        ),
    ),
    "imaging_studies": (
        Presented("ImagingStudy"),
        Presented("Device", "performing_device_id"),
        Presented("DocumentReference", "child_id", _FILES_OF_STUDY, _OF_VISIT),
        Presented("Media", "child_id", _PICTURES_OF_STUDY, _OF_VISIT),
    ),
    "imaging_series": (Presented("ImagingStudy", "study_id"),),
    "imaging_objects": (
        Presented("ImagingStudy", "study_id"),
        Presented(
            "DocumentReference",
            source="SELECT * FROM {rows} AS rows WHERE object_type <> 'DICOM'",
        ),
        Presented(
            "Media",
            source="SELECT * FROM {rows} AS rows WHERE object_type IN ('JPEG', 'PNG', 'MP4')",
        ),
    ),
    "perio_measurements": (
        Presented("Observation", "observation_id"),
        Presented("Observation", "exam_observation_id"),
    ),
    "vital_signs": (Presented("Observation"),),
    "ai_predictions": (
        Presented("Observation", source=_FINDINGS),
        Presented("RiskAssessment", source=_RISKS),
    ),
    "ai_review_events": (
        Presented("Provenance", source="SELECT * FROM {rows} AS rows"),
        Presented("Observation", "prediction_id", f"{_REVIEWED} <> 'RISK_SCORE'"),
        Presented("RiskAssessment", "prediction_id", f"{_REVIEWED} = 'RISK_SCORE'"),
        Presented("DiagnosticReport", "job_id"),
    ),
    "ai_inference_jobs": (
        Presented("Task"),
        Presented("DiagnosticReport"),
        Presented("Provenance"),
        Presented("Device", "model_version_id"),
    ),
    "consents": (Presented("Consent"),),
    "claims": (
        Presented("Claim"),
        Presented("ClaimResponse"),
        Presented("Organization", "payer_id"),
        Presented(
            "DocumentReference", "document_id", _DOCUMENTS_OF.format(owner="CLAIM"), ("patient_id",)
        ),
    ),
    "claim_lines": (Presented("Claim", "claim_id"), Presented("ClaimResponse", "claim_id")),
    "claim_status_events": (Presented("ClaimResponse", "claim_id"),),
    "procedure_catalog": (Presented("ChargeItemDefinition"),),
    "fee_schedule_items": (Presented("ChargeItemDefinition", "procedure_catalog_id"),),
    "fee_schedules": (
        Presented("ChargeItemDefinition", "procedure_catalog_id"),
        Presented("Organization", "payer_id"),
    ),
    "patient_medications": (
        Presented("MedicationStatement"),
        Presented("MedicationRequest"),
        Presented("Medication", "drug_id"),
    ),
    "patient_allergies": (
        Presented("AllergyIntolerance"),
        Presented("Medication", "drug_id"),
        Presented("Device", "material_id"),
    ),
    "procedure_materials": (
        Presented("Procedure", "procedure_id"),
        Presented("Device", "material_id"),
    ),
    "referrals": (
        Presented("ServiceRequest"),
        Presented("Task"),
        Presented("Organization", "to_tenant_id"),
    ),
    "invoices": (Presented("Invoice"),),
    "invoice_line_items": (Presented("Invoice", "invoice_id"),),
    "documents": (Presented("DocumentReference"),),
    "messages": (Presented("Communication"),),
    "conversations": (
        Presented("Communication", when=("conversation_type", "subject", "patient_id")),
    ),
    "conversation_participants": (
        Presented(
            "Communication", when=("user_id", "patient_id", "joined_at", "left_at"), arrives=True
        ),
    ),
    "webhook_subscriptions": (Presented("Subscription"),),
    "knowledge_documents": (Presented("Library"),),
    "knowledge_versions": (Presented("Library", "document_id"),),
    "knowledge_localizations": (Presented("Library", "document_id"),),
    "workflows": (Presented("PlanDefinition"),),
    "code_systems": (Presented("CodeSystem"), Presented("ValueSet")),
    "code_values": (Presented("CodeSystem", "code_system_id"),),
    "drug_reference": (Presented("Medication"),),
    "material_reference": (Presented("Device"),),
    "equipment_reference": (Presented("Device"),),
    "ai_models": (Presented("Device"),),
    "ai_model_versions": (Presented("Device"),),
    "custom_field_definitions": (
        Presented("StructureDefinition"),
        *(
            Presented(
                resource_type,
                "entity_id",
                _values_of_definition(entity_type),
                ("field_key", "data_type", "is_active", "phi_sensitivity_level"),
            )
            for entity_type, resource_type in CUSTOM_FIELDS.items()
        ),
    ),
    "custom_field_values": tuple(
        Presented(resource_type, "entity_id", _values_of(entity_type))
        for entity_type, resource_type in CUSTOM_FIELDS.items()
    ),
}
