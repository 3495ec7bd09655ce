"""AuditEvent from a row of the log, by the patterns of IHE BALP 1.1 (RESTful ones) and PS3.15 A.5.

BALP names client and server by the direction of the data: of a read the client is the destination,
of a query and a write it is the source.
"""

from __future__ import annotations

from typing import Any

from interop.fhir.lens import JsonObject
from interop.fhir.versions import instant
from storage.audit_events import DCM, EVENT_TYPES, EventType
from storage.audit_queries import AuditRow

BALP = "https://profiles.ihe.net/ITI/BALP"
ENTITY_TYPE = "http://terminology.hl7.org/CodeSystem/audit-entity-type"
ENTITY_ROLE = "http://terminology.hl7.org/CodeSystem/object-role"
PARTICIPATION = "http://terminology.hl7.org/CodeSystem/v3-ParticipationType"
PARTICIPANT_TYPE = "http://terminology.hl7.org/CodeSystem/provenance-participant-type"
SOURCE_TYPE = "http://terminology.hl7.org/CodeSystem/security-source-type"
ACT_REASON = "http://terminology.hl7.org/CodeSystem/v3-ActReason"
CLIENT_ID = "urn:dental-interop:api-client"
DICOM_UID = "urn:dicom:uid"

SOURCE = (DCM, "110153", "Source Role ID")
DESTINATION = (DCM, "110152", "Destination Role ID")
APPLICATION = (DCM, "110150", "Application")
CUSTODIAN = (PARTICIPANT_TYPE, "custodian", "Custodian")
RECIPIENT = (PARTICIPATION, "IRCP", "information recipient")
AUTHOR = (PARTICIPATION, "AUT", "author (originator)")

_PROFILES = {"C": "Create", "R": "Read", "U": "Update", "D": "Delete", "E": "Query"}
_BALP_INTERACTIONS = {"read", "vread", "search", "create", "update", "patch", "delete"}
UNKNOWN = EventType("UNKNOWN", "E", "110100")


def audit_event(row: AuditRow, own_base: str) -> JsonObject:
    """The resource of one row; `own_base` is the server that recorded it."""
    kind = EVENT_TYPES.get(row.event_type, UNKNOWN)
    resource: JsonObject = {
        "resourceType": "AuditEvent",
        "id": str(row.id),
        "meta": {"versionId": "1", "lastUpdated": instant(row.timestamp)},
        "type": _coding(*kind.type),
        "subtype": [_coding(*subtype) for subtype in kind.subtypes],
        "action": kind.action,
        "recorded": instant(row.timestamp),
        "outcome": outcome_of(row),
        "agent": _agents(row, kind, own_base),
        "source": {
            "observer": {"display": own_base},
            "type": [_coding(SOURCE_TYPE, "4", "Application Server")],
        },
    }
    if refused := (row.metadata or {}).get("refused"):
        resource["outcomeDesc"] = str(refused)
    if profile := _profile(row, kind):
        resource["meta"]["profile"] = [profile]
    if purposes := sorted({purpose for _, purpose, _ in row.accesses or () if purpose}):
        resource["purposeOfEvent"] = [{"coding": [_coding(ACT_REASON, one)]} for one in purposes]
    if entities := _entities(row, kind):
        resource["entity"] = entities
    return resource


def outcome_of(row: AuditRow) -> str:
    """0 success, 4 the client's failure, 8 ours (R4 valueset-audit-event-outcome.html)."""
    if row.outcome == "SUCCESS":
        return "0"
    status = (row.metadata or {}).get("status", 400)
    return "8" if isinstance(status, int) and status >= 500 else "4"


def _profile(row: AuditRow, kind: EventType) -> str | None:
    """The BALP profile that the event meets: those are of what succeeded, over a network."""
    if kind.interaction not in _BALP_INTERACTIONS or row.outcome != "SUCCESS" or not row.ip_address:
        return None
    patient = "Patient" if row.accesses and len(row.accesses) == 1 else ""
    return f"{BALP}/StructureDefinition/IHE.BasicAudit.{patient}{_PROFILES[kind.action]}"


def _agents(row: AuditRow, kind: EventType, own_base: str) -> list[dict[str, Any]]:
    client_role, server_role = {
        "R": (DESTINATION, SOURCE),
        "D": (APPLICATION, CUSTODIAN),
    }.get(kind.action, (SOURCE, DESTINATION))
    if row.api_client_id is not None:
        who: dict[str, Any] = {"identifier": {"system": CLIENT_ID, "value": str(row.api_client_id)}}
    else:
        who = {"display": "server" if row.ip_address is None else "operator or unknown client"}
    client: dict[str, Any] = {
        "type": _concept(*client_role),
        "who": who,
        "requestor": row.user_id is None,
    }
    if row.ip_address is not None:
        client["network"] = {"address": row.ip_address, "type": "2"}
    server = {
        "type": _concept(*server_role),
        "who": {"display": own_base},
        "requestor": False,
        "network": {"address": own_base, "type": "5"},
    }
    if row.user_id is None:
        return [client, server]
    user = {
        "type": _concept(*(RECIPIENT if kind.action in "RE" else AUTHOR)),
        "who": {"reference": f"Practitioner/{row.user_id}"},
        "requestor": True,
    }
    return [client, server, user]


def _entities(row: AuditRow, kind: EventType) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    if row.request_id:
        system = f"{BALP}/CodeSystem/BasicAuditEntityType"
        found.append(
            {
                "what": {"identifier": {"value": row.request_id}},
                "type": _coding(system, "XrequestId"),
            }
        )
    for patient, _, _ in row.accesses or ():
        found.append(
            {
                "what": {"reference": f"Patient/{patient}"},
                "type": _coding(ENTITY_TYPE, "1", "Person"),
                "role": _coding(ENTITY_ROLE, "1", "Patient"),
            }
        )
    metadata = row.metadata or {}
    thing: dict[str, Any] = {"type": _coding(ENTITY_TYPE, "2", "System Object")}
    if kind.interaction == "search":
        query = {**thing, "role": _coding(ENTITY_ROLE, "24", "Query")}
        if isinstance(metadata.get("query"), str):
            query["query"] = metadata["query"]
        if metadata.get("parameters"):
            query["description"] = ", ".join(map(str, metadata["parameters"]))
        found.append(query)
    elif row.resource_type and row.resource_id:
        role = _coding(ENTITY_ROLE, "4", "Domain Resource")
        found.append({**thing, "role": role, "what": _what(row.resource_type, row.resource_id)})
    return found


def _what(resource_type: str, resource_id: str) -> dict[str, Any]:
    if resource_type == "ImagingStudy" and "." in resource_id:
        return {"identifier": {"system": DICOM_UID, "value": f"urn:oid:{resource_id}"}}
    if resource_type[:1].isupper() and resource_type.isalpha() and not resource_type.isupper():
        return {"reference": f"{resource_type}/{resource_id}"}
    return {"identifier": {"value": resource_id}, "display": resource_type}


def _coding(system: str, code: str, display: str | None = None) -> dict[str, str]:
    found = {"system": system, "code": code}
    return {**found, "display": display} if display else found


def _concept(system: str, code: str, display: str) -> dict[str, Any]:
    return {"coding": [_coding(system, code, display)]}
