"""What each permission of the organization opens: one table over all resource types of R4.

A type that the table does not name is refused, to tokens of every level. `docs/access.md` shows it.
"""

from __future__ import annotations

from dataclasses import dataclass

# Any permission at all: whoever works here may read it.
MEMBER = "member"
NOBODY = "nobody"
BREAK_GLASS = "break_glass"
READ_LETTERS = "rs"


@dataclass(frozen=True, slots=True)
class Group:
    """Resource types that the same permissions open.

    `is_shared`: they say nothing of a patient, so that neither a patient's app nor a user of one
    location is kept from reading them.
    """

    name: str
    read: str
    write: str
    types: tuple[str, ...]
    is_shared: bool = False

    def permission(self, letter: str) -> str:
        """The permission that the letter needs."""
        return self.read if letter in READ_LETTERS else self.write


GROUPS = (
    Group(
        "The patient's record",
        "view_patient",
        "edit_patient",
        (
            "AdverseEvent", "AllergyIntolerance", "Appointment", "AppointmentResponse", "Basic",
            "BodyStructure", "CarePlan", "CareTeam", "ClinicalImpression", "Communication",
            "CommunicationRequest", "Composition", "Condition", "Consent", "DetectedIssue",
            "DeviceRequest", "DeviceUseStatement", "DiagnosticReport", "DocumentManifest",
            "DocumentReference", "Encounter", "EpisodeOfCare", "FamilyMemberHistory", "Flag",
            "Goal", "Group", "Immunization", "ImmunizationEvaluation",
            "ImmunizationRecommendation", "List", "MeasureReport", "Media",
            "MedicationAdministration", "MedicationDispense", "MedicationRequest",
            "MedicationStatement", "MolecularSequence", "NutritionOrder", "Observation", "Patient",
            "Person", "Procedure", "Provenance", "QuestionnaireResponse", "RelatedPerson",
            "RequestGroup", "ResearchSubject", "RiskAssessment", "Schedule", "ServiceRequest",
            "Specimen", "SupplyDelivery", "SupplyRequest", "Task", "VisionPrescription",
        ),
    ),
    Group("Images", "view_imaging", "upload_imaging", ("ImagingStudy",)),
    Group(
        "Money",
        "manage_billing",
        "manage_billing",
        (
            "Account", "ChargeItem", "ChargeItemDefinition", "Claim", "ClaimResponse", "Coverage",
            "CoverageEligibilityRequest", "CoverageEligibilityResponse", "EnrollmentRequest",
            "EnrollmentResponse", "ExplanationOfBenefit", "Invoice", "PaymentNotice",
            "PaymentReconciliation",
        ),
    ),
    Group("Who did what", "view_audit_log", NOBODY, ("AuditEvent",)),
    Group(
        "Carriers of anything, and things that may be a patient's",
        "view_patient",
        "edit_patient",
        (
            "Binary", "BiologicallyDerivedProduct", "Bundle", "Contract", "Device", "DeviceMetric",
            "GuidanceResponse", "Linkage", "MessageHeader", "OperationOutcome", "Parameters",
            "Slot", "Substance", "VerificationResult",
        ),
    ),
    Group("Notifications", "manage_settings", "manage_settings", ("Subscription",)),
    Group(
        "People who work here", MEMBER, "manage_users", ("Practitioner", "PractitionerRole"), True
    ),
    Group(
        "The organization",
        MEMBER,
        "manage_settings",
        (
            "Endpoint", "HealthcareService", "InsurancePlan", "Location", "Organization",
            "OrganizationAffiliation",
        ),
        True,
    ),
    Group(
        "Definitions and terminology",
        MEMBER,
        "manage_settings",
        (
            "ActivityDefinition", "CapabilityStatement", "CatalogEntry",
            "CodeSystem", "CompartmentDefinition", "ConceptMap", "DeviceDefinition",
            "EffectEvidenceSynthesis", "EventDefinition", "Evidence", "EvidenceVariable",
            "ExampleScenario", "GraphDefinition", "ImplementationGuide", "Library", "Measure",
            "Medication", "MedicationKnowledge", "MedicinalProduct",
            "MedicinalProductAuthorization", "MedicinalProductContraindication",
            "MedicinalProductIndication", "MedicinalProductIngredient",
            "MedicinalProductInteraction", "MedicinalProductManufactured",
            "MedicinalProductPackaged", "MedicinalProductPharmaceutical",
            "MedicinalProductUndesirableEffect", "MessageDefinition", "NamingSystem",
            "ObservationDefinition", "OperationDefinition", "PlanDefinition", "Questionnaire",
            "ResearchDefinition", "ResearchElementDefinition", "ResearchStudy",
            "RiskEvidenceSynthesis", "SearchParameter", "SpecimenDefinition",
            "StructureDefinition", "StructureMap", "SubstanceNucleicAcid", "SubstancePolymer",
            "SubstanceProtein", "SubstanceReferenceInformation", "SubstanceSourceMaterial",
            "SubstanceSpecification", "TerminologyCapabilities", "TestReport", "TestScript",
            "ValueSet",
        ),
        True,
    ),
)  # fmt: skip

_BY_TYPE = {type_: group for group in GROUPS for type_ in group.types}


def group_of(resource_type: str) -> Group | None:
    """The group of a resource type; None for what is no type of R4."""
    return _BY_TYPE.get(resource_type)
