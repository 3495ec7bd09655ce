"""DocumentReference over documents: consent forms, reports and pictures in the object store.

The server's own: the bytes came in through another door. Where they lie is nobody's to know, so the
attachment says what it is and how big, and why it has no address. What belongs to a visit or to a
claim belongs to the patient of it.
"""

from __future__ import annotations

from typing import Any, Final
from uuid import UUID

from interop.fhir.lens import Connection, JsonObject
from interop.fhir.mappings import references
from interop.fhir.mappings.concepts import ConceptText, Reference
from interop.fhir.mappings.converters import Codes, Moment, Text, instant
from interop.fhir.mappings.lens import Entry, ResourceMapping, Row, Rows, constant
from interop.fhir.mappings.path import DATA_ABSENT_REASON
from interop.fhir.mappings.statements import query
from interop.fhir.mappings.systems import own_extension
from interop.fhir.mappings.views import Shown, ViewLens

SHA_256: Final = own_extension("attachment-sha256")
NO_ADDRESS: Final = {"extension": [{"url": DATA_ABSENT_REASON, "valueCode": "unsupported"}]}

MAPPING: Final = ResourceMapping(
    "DocumentReference",
    "documents",
    [
        Entry("doc_status", "docStatus", Codes({"final": "SIGNED"})),
        Entry("document_type", "type", ConceptText()),
        Entry("patient", "subject", Reference(("Patient",))),
        Entry("created_at", "date", Moment()),
        Entry("signer", "authenticator", Reference(("Practitioner",))),
        Entry("organization", "custodian", Reference(("Organization",))),
        Entry("title", "description", Text()),
        Entry("content", "content", Shown("media_type, byte_size, title, hash, signed_at")),
        Entry("context", "context", Shown("the visit or the claim that owns it")),
    ],
    template=constant({"status": "current"}),
)

_DOCUMENT: Final = """
SELECT d.*, CASE d.owner_type WHEN 'PATIENT' THEN d.owner_id WHEN 'ENCOUNTER' THEN e.patient_id
    WHEN 'CLAIM' THEN c.patient_id END AS patient_id
FROM documents AS d
LEFT JOIN encounters AS e ON e.tenant_id = d.tenant_id AND d.owner_type = 'ENCOUNTER'
    AND e.id = d.owner_id
LEFT JOIN claims AS c ON c.tenant_id = d.tenant_id AND d.owner_type = 'CLAIM' AND c.id = d.owner_id
WHERE d.tenant_id = %s AND d.id = %s
"""


def _load(connection: Connection, tenant_id: UUID, row_id: UUID) -> Rows | None:
    found = query(connection, _DOCUMENT, tenant_id, row_id)
    if not found:
        return None
    document = found[0]

    def literal(resource_type: str, target: UUID | None) -> str | None:
        if target is None:
            return None
        return references.literal(connection, tenant_id, resource_type, target)

    owner, owner_id = document["owner_type"], document["owner_id"]
    encounter = literal("Encounter", owner_id) if owner == "ENCOUNTER" else None
    claim = literal("Claim", owner_id) if owner == "CLAIM" else None
    return Rows(
        {
            "doc_status": "SIGNED" if document["signed_at"] else None,
            "document_type": document["document_type"],
            "patient": literal("Patient", document["patient_id"]),
            "created_at": document["created_at"],
            "signer": literal("Practitioner", document["signer_id"]),
            "organization": f"Organization/{tenant_id}",
            "title": document["title"],
            "content": [{"attachment": _attachment(document)}],
            "context": _context(encounter, claim),
        }
    )


def _attachment(document: Row) -> JsonObject:
    shown: dict[str, Any] = {
        "extension": [{"url": SHA_256, "valueString": document["hash"]}],
        "contentType": document["media_type"],
        "_url": NO_ADDRESS,
        "size": document["byte_size"],
        "title": document["title"],
        "creation": instant(document["signed_at"]) if document["signed_at"] else None,
    }
    # A size is an unsignedInt: what is larger has none here.
    if document["byte_size"] is not None and document["byte_size"] >= 2**31:
        del shown["size"]
    return {name: node for name, node in shown.items() if node not in (None, "")}


def _context(encounter: str | None, claim: str | None) -> JsonObject | None:
    if encounter:
        return {"encounter": [{"reference": encounter}]}
    return {"related": [{"reference": claim}]} if claim else None


def lens(public_url: str | None) -> ViewLens:
    return ViewLens(MAPPING, _load, "a document that this server keeps")
