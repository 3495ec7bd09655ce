"""Every event type of the audit log: what it is in FHIR and in DICOM, and what it does to PHI.

FHIR: AuditEvent.type, subtype and action (IHE BALP 1.1 for the RESTful ones). DICOM: the event of
PS3.15 A.5.3. `phi_action` is phi_access_logs.action where the event shows or changes data of a
patient; None where it does not. A test walks the source and live rows for types that are missing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

REST = ("http://terminology.hl7.org/CodeSystem/audit-event-type", "rest", "RESTful Operation")
DCM = "http://dicom.nema.org/resources/ontology/DCM"
INTERACTION = "http://hl7.org/fhir/restful-interaction"
OWN = "urn:dental-interop:audit-event"

# PS3.15 A.5.3, PS3.16 CID 400 and 401: audit event ids and their types.
DICOM_EVENTS = {
    "110100": "Application Activity",
    "110101": "Audit Log Used",
    "110102": "Begin Transferring DICOM Instances",
    "110103": "DICOM Instances Accessed",
    "110104": "DICOM Instances Transferred",
    "110105": "DICOM Study Deleted",
    "110106": "Export",
    "110107": "Import",
    "110108": "Network Entry",
    "110109": "Order Record",
    "110110": "Patient Record",
    "110111": "Procedure Record",
    "110112": "Query",
    "110113": "Security Alert",
    "110114": "User Authentication",
}

Action = Literal["C", "R", "U", "D", "E"]
PhiAction = Literal["READ", "SEARCH", "CREATE", "UPDATE", "DELETE", "EXPORT", "PRINT"]
Coding = tuple[str, str, str]


@dataclass(frozen=True, slots=True)
class EventType:
    """One kind of event. `dicom` is a code of DICOM_EVENTS."""

    code: str
    action: Action
    dicom: str
    phi_action: PhiAction | None = None
    # The FHIR interaction where the event is one; the type is then BALP's `rest`.
    interaction: str | None = None

    @property
    def type(self) -> Coding:
        """AuditEvent.type."""
        return REST if self.interaction else (DCM, self.dicom, DICOM_EVENTS[self.dicom])

    @property
    def subtypes(self) -> tuple[Coding, ...]:
        """AuditEvent.subtype: the FHIR interaction, and our own name for the event."""
        own = (OWN, self.code, self.code.replace("_", " ").capitalize())
        if self.interaction is None:
            return (own,)
        # BALP's pattern for a query is `search`; search-type is a kind of it.
        return ((INTERACTION, self.interaction, self.interaction), own)


def _listed(*types: EventType) -> dict[str, EventType]:
    return {one.code: one for one in types}


EVENT_TYPES: dict[str, EventType] = _listed(
    # FHIR interactions
    EventType("FHIR_READ", "R", "110110", "READ", "read"),
    EventType("FHIR_VREAD", "R", "110110", "READ", "vread"),
    EventType("FHIR_HISTORY", "R", "110110", "READ", "history-instance"),
    EventType("FHIR_SEARCH", "E", "110112", "SEARCH", "search"),
    EventType("FHIR_CREATE", "C", "110110", "CREATE", "create"),
    EventType("FHIR_UPDATE", "U", "110110", "UPDATE", "update"),
    EventType("FHIR_PATCH", "U", "110110", "UPDATE", "patch"),
    EventType("FHIR_DELETE", "D", "110110", "DELETE", "delete"),
    EventType("FHIR_BATCH", "E", "110110", None, "batch"),
    EventType("FHIR_OPERATION", "E", "110110", "READ", "operation"),
    EventType("FHIR_CAPABILITIES", "R", "110100", None, "capabilities"),
    # DICOMweb
    EventType("IMAGING_SEARCHED", "E", "110112", "SEARCH"),
    EventType("IMAGING_RETRIEVED", "R", "110104", "READ"),
    EventType("IMAGING_METADATA_VIEWED", "R", "110103", "READ"),
    EventType("IMAGING_FRAMES_RETRIEVED", "R", "110103", "READ"),
    EventType("IMAGING_BULK_DATA_RETRIEVED", "R", "110103", "READ"),
    EventType("IMAGING_RENDERED", "R", "110103", "READ"),
    EventType("IMAGING_STORE_REFUSED", "C", "110104"),
    EventType("IMAGING_DELETED", "D", "110105", "DELETE"),
    EventType("IMAGING_FILE_STORED", "C", "110107", "CREATE"),
    EventType("IMAGING_FILE_RETRIEVED", "R", "110103", "READ"),
    EventType("IMAGING_CHANGES_LISTED", "E", "110112", "SEARCH"),
    # Objects that come in or go out, whatever the door
    EventType("DICOM_INSTANCE_STORED", "C", "110104", "CREATE"),
    EventType("DICOM_INSTANCE_RESTORED", "U", "110104", "UPDATE"),
    EventType("DICOM_INSTANCE_REFUSED", "C", "110104"),
    EventType("IMAGES_IMPORTED", "C", "110107"),
    EventType("IMAGES_EXPORTED", "R", "110106", "EXPORT"),
    EventType("IMAGES_SENT", "R", "110104", "EXPORT"),
    EventType("IMAGES_WITHHELD", "E", "110113"),
    EventType("IMAGES_PULLED", "C", "110107"),
    EventType("DICOM_INSTANCE_DAMAGED", "E", "110113"),
    # DIMSE
    EventType("DICOM_ECHO", "E", "110100"),
    EventType("DICOM_QUERY", "E", "110112", "SEARCH"),
    EventType("DICOM_ASSOCIATION_BEGAN", "E", "110102"),
    EventType("DICOM_ASSOCIATION_REJECTED", "E", "110113"),
    EventType("DICOM_TRANSFER_FAILED", "C", "110104"),
    EventType("DICOM_COMMITMENT_ASKED", "E", "110103"),
    EventType("DICOM_COMMITMENT_VERIFIED", "E", "110103"),
    EventType("DICOM_COMMITMENT_REPORTED", "E", "110103"),
    EventType("DICOM_AE_CREATED", "C", "110100"),
    EventType("DICOM_AE_UPDATED", "U", "110100"),
    EventType("DICOM_AE_DISABLED", "U", "110100"),
    # Who comes in
    EventType("LOGIN_SUCCESS", "E", "110114"),
    EventType("LOGIN_FAILED", "E", "110114"),
    EventType("LOGIN_CHALLENGED", "E", "110114"),
    EventType("LOGOUT", "E", "110114"),
    EventType("TOKEN_ISSUED", "E", "110114"),
    EventType("TOKEN_REFUSED", "E", "110114"),
    EventType("TOKEN_REVOKED", "E", "110114"),
    EventType("TOKEN_INTROSPECTED", "E", "110114"),
    EventType("APP_AUTHORIZED", "E", "110114"),
    EventType("LAUNCH_CREATED", "E", "110114"),
    EventType("ACCESS_UNAUTHENTICATED", "E", "110113"),
    EventType("ACCESS_DENIED", "E", "110113"),
    EventType("EMERGENCY_ACCESS", "E", "110113"),
    # Administration
    EventType("CONFIG_CHANGED", "U", "110100"),
    EventType("CONFIG_VIEWED", "R", "110100"),
    EventType("TENANT_CREATED", "C", "110100"),
    EventType("TENANT_MOVED", "U", "110100"),
    EventType("CLIENT_CREATED", "C", "110100"),
    EventType("JOBS_LISTED", "R", "110100"),
    EventType("QUARANTINE_LISTED", "R", "110103"),
    EventType("QUARANTINE_VIEWED", "R", "110103", "READ"),
    EventType("QUARANTINE_RELEASED", "U", "110104", "UPDATE"),
    EventType("QUARANTINE_DISCARDED", "D", "110105"),
    EventType("AI_MODEL_DEPLOYED", "U", "110100"),
    # AI
    EventType("IMAGE_ANALYZED", "E", "110103", "READ"),
    EventType("IMAGE_ANALYSIS_FAILED", "E", "110103"),
    EventType("AI_OVERRIDE", "U", "110110", "UPDATE"),
    # The log itself
    EventType("AUDIT_LOG_USED", "R", "110101"),
    EventType("AUDIT_LOG_VERIFIED", "E", "110101"),
    EventType("AUDIT_LOG_PRUNED", "D", "110101"),
)


def phi_action(event_type: str) -> PhiAction | None:
    """What the event does to a patient's data, for phi_access_logs."""
    known = EVENT_TYPES.get(event_type)
    return known.phi_action if known else None
