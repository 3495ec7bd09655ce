"""Communication over messages, conversations and conversation_participants.

A message to or from a patient is part of the patient's record (`subject`). What colleagues say of a
case is `about` the patient, which R4's patient compartment does not include: an app of the patient
does not read it. Chats of teams are nobody's record and are not presented.
"""

from __future__ import annotations

from typing import Any, Final
from uuid import UUID

from interop.fhir.lens import Connection, JsonObject
from interop.fhir.mappings import references
from interop.fhir.mappings.concepts import Concept, ConceptText, Reference
from interop.fhir.mappings.converters import Codes, Moment
from interop.fhir.mappings.lens import Entry, ResourceMapping, Row, Rows
from interop.fhir.mappings.places import FirstOf
from interop.fhir.mappings.statements import query
from interop.fhir.mappings.systems import own, own_extension
from interop.fhir.mappings.views import Shown, ViewLens

CONVERSATION: Final = own_extension("conversation")
KINDS: Final = Concept(
    {
        "PATIENT_MESSAGING": own("conversation-type", "patient-messaging", "Patient messaging"),
        "CASE_DISCUSSION": own("conversation-type", "case-discussion", "Case discussion"),
    }
)
STATUSES: Final = {
    "QUEUED": "preparation",
    "SENT": "in-progress",
    "DELIVERED": "completed",
    "READ": "completed",
    "FAILED": "stopped",
}

MAPPING: Final = ResourceMapping(
    "Communication",
    "messages",
    [
        Entry("conversation", f"extension[url={CONVERSATION}].valueIdentifier", Shown("its id")),
        Entry(
            "status",
            "status",
            Codes({code: code.upper() for code in dict.fromkeys(STATUSES.values())}),
        ),
        Entry("conversation_type", "category", FirstOf(KINDS)),
        Entry("patient", "subject", Reference(("Patient",))),
        Entry("topic", "topic", ConceptText()),
        Entry("about", "about", Shown("the patient of a case discussion")),
        Entry("sent_at", "sent", Moment()),
        Entry("recipients", "recipient", Shown("who took part when it was sent")),
        Entry("sender", "sender", Reference(("Patient", "Practitioner"))),
        Entry("payload", "payload", Shown("content; of a file its name")),
    ],
)

_MESSAGE: Final = """
SELECT m.conversation_id, m.sender_user_id, m.sender_patient_id, m.content_type, m.content,
    m.sent_at, m.delivery_state, c.conversation_type, c.subject, c.patient_id
FROM messages AS m JOIN conversations AS c
    ON c.tenant_id = m.tenant_id AND c.id = m.conversation_id
WHERE m.tenant_id = %s AND m.id = %s AND c.patient_id IS NOT NULL
    AND c.conversation_type <> 'TEAM_CHAT'
"""
_RECIPIENTS: Final = """
SELECT user_id, patient_id FROM conversation_participants
WHERE tenant_id = %s AND conversation_id = %s AND joined_at <= %s
    AND (left_at IS NULL OR left_at > %s) ORDER BY joined_at, id
"""


def _load(connection: Connection, tenant_id: UUID, row_id: UUID) -> Rows | None:
    found = query(connection, _MESSAGE, tenant_id, row_id)
    if not found:
        return None
    message = found[0]
    at = message["sent_at"]
    parts = query(connection, _RECIPIENTS, tenant_id, message["conversation_id"], at, at)
    senders = (message["sender_user_id"], message["sender_patient_id"])
    others = [part for part in parts if (part["user_id"], part["patient_id"]) != senders]
    return Rows(_row(connection, tenant_id, message, others))


def _row(connection: Connection, tenant_id: UUID, message: Row, others: list[Row]) -> Row:
    people = [*others, {"user_id": message["sender_user_id"]}]
    users = references.literals(
        connection, tenant_id, "Practitioner", [one["user_id"] for one in people]
    )
    ids = [message["patient_id"], message["sender_patient_id"]]
    ids += [other["patient_id"] for other in others]
    patients = references.literals(connection, tenant_id, "Patient", ids)
    is_record = message["conversation_type"] == "PATIENT_MESSAGING"
    patient = patients[message["patient_id"]]
    sender = users.get(message["sender_user_id"]) or patients.get(message["sender_patient_id"])
    recipients = [
        {"reference": users.get(other["user_id"]) or patients[other["patient_id"]]}
        for other in others
    ]
    return {
        "conversation": {"value": str(message["conversation_id"])},
        "status": STATUSES[message["delivery_state"]].upper(),
        "conversation_type": message["conversation_type"],
        "patient": patient if is_record else None,
        "topic": message["subject"],
        "about": None if is_record else [{"reference": patient}],
        "sent_at": message["sent_at"],
        "recipients": recipients or None,
        "sender": sender,
        "payload": [_payload(message)] if message["content"] else None,
    }


def _payload(message: Row) -> JsonObject:
    if message["content_type"] == "FILE":
        return {"contentAttachment": {"title": message["content"]}}
    content: dict[str, Any] = {"contentString": message["content"]}
    return content


def lens(public_url: str | None) -> ViewLens:
    return ViewLens(MAPPING, _load, "a message of a conversation on this server")
