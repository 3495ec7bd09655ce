"""Consent over consents about a patient.

The row answers one question, whether a use is consented to now: `granted_at` without a later
`revoked_at` or `expires_at`. What is not a clear permission leaves `granted_at` empty. The covered
entities (`scope`) have no place in the resource and stay in the row.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from interop.fhir.lens import JsonObject
from interop.fhir.mappings.concepts import Coding, Concept, Reference
from interop.fhir.mappings.converters import Codes, Moment, Text
from interop.fhir.mappings.lens import Entry, ResourceMapping, Row, constant
from interop.fhir.mappings.path import path
from interop.fhir.mappings.places import FirstOf
from interop.fhir.mappings.systems import own, own_extension
from interop.fhir.mappings.tables import TableLens

REVOKED_AT: Final = own_extension("consent-revoked-at")
SOURCE: Final = own_extension("consent-source")
# A permission without any date was given at an unknown time, which the column cannot say.
UNKNOWN_TIME: Final = datetime(1970, 1, 1, tzinfo=UTC)
PRIVACY: Final = Coding(
    "http://terminology.hl7.org/CodeSystem/consentscope", "patient-privacy", "Privacy Consent"
)
# ppc-1: a policy is required; without one, what is not permitted is denied.
OPT_IN: Final = Coding("http://terminology.hl7.org/CodeSystem/v3-ActCode", "OPTIN", "opt-in")

TYPES: Final = Concept(
    {
        "AI_ANALYSIS": own("consent-type", "ai-analysis", "Analysis by artificial intelligence"),
        "RESEARCH": own("consent-type", "research", "Research"),
        "DATA_SHARING": own("consent-type", "data-sharing", "Data sharing"),
        "MARKETING": own("consent-type", "marketing", "Marketing"),
    }
)
SOURCES: Final = Codes(
    {"portal": "PORTAL", "in-clinic": "IN_CLINIC", "paper-scan": "PAPER_SCAN", "api": "API"}
)

_REVOKED = path(f"extension[url={REVOKED_AT}].valueDateTime")
_START = path("provision.period.start")


@dataclass(frozen=True, slots=True)
class Permission:
    """(granted_at, revoked_at) of status, dateTime and the root provision."""

    label: str = (
        "granted_at = dateTime, else provision.period.start, of a permission that is or was active;"
        " revoked_at = our extension, else the grant itself, of one that is inactive;"
        " draft, proposed and deny = not granted"
    )

    def get(self, node: JsonObject) -> tuple[datetime | None, datetime | None]:
        status = node.get("status")
        denies = (node.get("provision") or {}).get("type") == "deny"
        if denies or status not in ("active", "inactive"):
            return None, None
        granted = Moment().get(node.get("dateTime")) or Moment().get(_START.get(node))
        granted = granted or UNKNOWN_TIME
        if status == "active":
            return granted, None
        # Revoked at a time that nobody wrote down: it is as if it had never been given.
        return granted, Moment().get(_REVOKED.get(node)) or granted

    def put(self, value: tuple[datetime | None, datetime | None], node: JsonObject) -> JsonObject:
        granted, revoked = value
        status = "proposed" if granted is None else "inactive" if revoked else "active"
        result = {**node, "status": status}
        if granted is None:
            return _REVOKED.put(result, None)
        if self.get({**result, "status": "active"})[0] != granted:
            result["dateTime"] = Moment().put(granted, None)
        if (node.get("provision") or {}).get("type") == "deny":
            result = path("provision.type").put(result, "permit")
        return _REVOKED.put(result, Moment().put(revoked, None))


def normalize(row: Row) -> Row:
    """What was never granted cannot be revoked."""
    return row if row["granted_at"] else {**row, "revoked_at": None}


def mapping(public_url: str | None) -> ResourceMapping:
    return ResourceMapping(
        "Consent",
        "consents",
        [
            Entry(("granted_at", "revoked_at"), "", Permission()),
            Entry("consent_type", "category", FirstOf(TYPES)),
            Entry("subject_id", "patient", Reference(("Patient",), public_url)),
            Entry("expires_at", "provision.period.end", Moment()),
            Entry("source", f"extension[url={SOURCE}].valueCode", SOURCES, "API"),
            Entry("document_uri", "sourceAttachment.url", Text()),
        ],
        template=constant({"scope": PRIVACY.concept(), "policyRule": OPT_IN.concept()}),
    )


def lens(public_url: str | None) -> TableLens:
    """Consents of other subjects are no Consent resources: Consent.patient is a Patient."""
    return TableLens(
        mapping(public_url),
        needs=("subject_id", "consent_type"),
        where={"subject_type": "PATIENT"},
        normalize=normalize,
    )
