"""Compartments: what is logically around one patient, encounter, practitioner, person or device.

FHIR R4 compartmentdefinition.html, the five that R4 defines. The patient's is that of
`interop.access.compartments`, which also says what a patient may see; it is the only one that
access rests on. The others are tables of the official CompartmentDefinitions: resource type, and
the search parameters by which its resources belong.
"""

from __future__ import annotations

from functools import cache

from interop.access.compartments import is_in_compartment, patient_parameters
from interop.errors import BadRequest
from interop.fhir.definitions import definitions
from interop.fhir.search.terms import APART, Member, apart

PATIENT = "Patient"

_ENCOUNTER = """
CarePlan encounter | CareTeam encounter | ChargeItem context | Claim encounter
ClinicalImpression encounter | Communication encounter | CommunicationRequest encounter
Composition encounter | Condition encounter | DeviceRequest encounter | DiagnosticReport encounter
DocumentManifest related-ref | DocumentReference encounter | ExplanationOfBenefit encounter
Media encounter | MedicationAdministration context | MedicationRequest encounter
NutritionOrder encounter | Observation encounter | Procedure encounter
QuestionnaireResponse encounter | RequestGroup encounter | ServiceRequest encounter
VisionPrescription encounter
"""
_RELATED_PERSON = """
AdverseEvent recorder | AllergyIntolerance asserter | Appointment actor
AppointmentResponse actor | Basic author | CarePlan performer | CareTeam participant
ChargeItem enterer performer-actor | Claim payee | Communication sender recipient
CommunicationRequest sender recipient requester | Composition author | Condition asserter
Coverage policy-holder subscriber payor | DocumentManifest author recipient
DocumentReference author | Encounter participant | ExplanationOfBenefit payee | Invoice recipient
MedicationAdministration performer | MedicationStatement source | Observation performer
Patient link | Person link | Procedure performer | Provenance agent
QuestionnaireResponse author source | RequestGroup participant | Schedule actor
ServiceRequest performer | SupplyRequest requester
"""
_PRACTITIONER = """
Account subject | AdverseEvent recorder | AllergyIntolerance recorder asserter | Appointment actor
AppointmentResponse actor | AuditEvent agent | Basic author | CarePlan performer
CareTeam participant | ChargeItem enterer performer-actor
Claim enterer provider payee care-team | ClaimResponse requestor | ClinicalImpression assessor
Communication sender recipient | CommunicationRequest sender recipient requester
Composition subject author attester | Condition asserter
CoverageEligibilityRequest enterer provider | CoverageEligibilityResponse requestor
DetectedIssue author | DeviceRequest requester performer | DiagnosticReport performer
DocumentManifest subject author recipient | DocumentReference subject author authenticator
Encounter practitioner participant | EpisodeOfCare care-manager
ExplanationOfBenefit enterer provider payee care-team | Flag author | Group member
Immunization performer | Invoice participant | Linkage author | List source
Media subject operator | MedicationAdministration performer
MedicationDispense performer receiver | MedicationRequest requester | MedicationStatement source
MessageHeader receiver author responsible enterer | NutritionOrder provider
Observation performer | Patient general-practitioner | PaymentNotice provider
PaymentReconciliation requestor | Person practitioner | PractitionerRole practitioner
Procedure performer | Provenance agent | QuestionnaireResponse author source
RequestGroup participant author | ResearchStudy principalinvestigator | RiskAssessment performer
Schedule actor | ServiceRequest performer requester | Specimen collector
SupplyDelivery supplier receiver | SupplyRequest requester | VisionPrescription prescriber
"""
_DEVICE = """
Account subject | Appointment actor | AppointmentResponse actor | AuditEvent agent
ChargeItem enterer performer-actor | Claim procedure-udi item-udi detail-udi subdetail-udi
Communication sender recipient | CommunicationRequest sender recipient | Composition author
DetectedIssue author | DeviceRequest device subject requester performer | DeviceUseStatement device
DiagnosticReport subject | DocumentManifest subject author | DocumentReference subject author
ExplanationOfBenefit procedure-udi item-udi detail-udi subdetail-udi | Flag author | Group member
Invoice participant | List subject source | Media subject | MedicationAdministration device
MessageHeader target | Observation subject device | Provenance agent | QuestionnaireResponse author
RequestGroup author | RiskAssessment performer | Schedule actor | ServiceRequest performer requester
Specimen subject | SupplyRequest requester
"""
_OTHERS = {
    "Device": _DEVICE,
    "Encounter": _ENCOUNTER,
    "Practitioner": _PRACTITIONER,
    "RelatedPerson": _RELATED_PERSON,
}
OWNERS = (*_OTHERS, PATIENT)


@cache
def members(owner_type: str) -> dict[str, tuple[str, ...]]:
    """The types that belong to a compartment, by which parameters; of its own type the owner."""
    if owner_type == PATIENT:
        found = {
            type_: patient_parameters(type_)
            for type_ in definitions().resource_types
            if is_in_compartment(type_)
        }
    else:
        rows = _OTHERS[owner_type].replace("\n", " | ").split("|")
        found = {type_: tuple(codes) for type_, *codes in filter(None, map(str.split, rows))}
    return {owner_type: (), **found}


def member(owner_type: str, owner_id: str, resource_type: str) -> Member:
    """That a resource of the type belongs to the compartment. Raises BadRequest where none can."""
    known = members(owner_type)
    if resource_type in APART:
        raise apart(resource_type)
    if resource_type not in known:
        raise BadRequest(
            f"{resource_type} is not in the compartment of a {owner_type}; accepted: *, "
            f"{', '.join(sorted(set(known) - set(APART)))}"
        )
    return Member(owner_type, owner_id, known[resource_type], resource_type == owner_type)
