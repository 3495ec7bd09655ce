"""Consent over consents about a patient.

The row says one thing and when: that the patient permits a use (`granted_at`, until `revoked_at` or
`expires_at`), or that the patient does not (`refused_at`). An active Consent permits only where it
says so plainly; whatever else it says, it does not (`permits`). Drafts, proposals and errors say
nothing, nor does a refusal that has ended. Which of a patient's statements counts, the newest, is
for the reader of the rows. The covered entities (`scope`) have no place in the resource.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from interop.fhir.lens import JsonObject
from interop.fhir.mappings.concepts import Coding, Concept, Reference, codings, replaced
from interop.fhir.mappings.converters import (
    Codes,
    LastMoment,
    Moment,
    Text,
    first_moment,
    instant,
    last_moment,
)
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
ACT_CODE: Final = "http://terminology.hl7.org/CodeSystem/v3-ActCode"
# ppc-1: a policy is required. It is also the base that the provisions are exceptions to.
OPT_IN: Final = Coding(ACT_CODE, "OPTIN", "opt-in")
OPT_OUT: Final = Coding(ACT_CODE, "OPTOUT", "opt-out")

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
_RECORDED = path("meta.lastUpdated")
# What makes a Consent say more than `permits` can read; modifiers are never to be ignored.
_MODIFIERS: Final = ("modifierExtension", "implicitRules")


def permits(consent: JsonObject) -> bool:
    """Whether the terms of a Consent are a plain permission: an opt-in with no exception.

    R4 has no type in the root provision, for the policy is the base rule; many senders write their
    rule there all the same, so either may say permit, and each deny counts wherever it stands.
    """
    root = consent.get("provision") or {}
    policies = codings(consent.get("policyRule"))
    is_opt_in = any(
        item.get("code") == OPT_IN.code and item.get("system") in (None, OPT_IN.system)
        for item in policies
    )
    # OPTOUT, and OPTOUTE with its exceptions.
    is_opt_out = any(str(item.get("code")).startswith(OPT_OUT.code) for item in policies)
    denies = any(item.get("type") == "deny" for item in _provisions(root))
    is_modified = any(item.get(name) for item in (consent, root) for name in _MODIFIERS)
    says_yes = is_opt_in or root.get("type") == "permit"
    return says_yes and not (is_opt_out or denies or is_modified)


def _provisions(root: Any) -> Iterator[JsonObject]:
    """A provision and all that are nested in it, however deep."""
    waiting = [root]
    while waiting:
        item = waiting.pop()
        if isinstance(item, dict):
            yield item
            nested = item.get("provision")
            waiting.extend(nested if isinstance(nested, list) else [])


Statement = tuple[datetime | None, datetime | None, datetime | None]


@dataclass(frozen=True, slots=True)
class Decision:
    """(granted_at, revoked_at, refused_at) of status, terms and dates."""

    label: str = (
        "a plain permission (policyRule OPTIN or root provision permit, no deny anywhere) that is"
        " active: granted_at = the later of dateTime and provision.period.start; one that is"
        " inactive: revoked_at = our extension, else the grant itself; anything else that is"
        " active, and what is rejected: refused_at = dateTime, else provision.period.start, else"
        " meta.lastUpdated; draft, proposed, entered-in-error = all empty"
    )

    def get(self, node: JsonObject) -> Statement:
        status = node.get("status")
        is_permission = permits(node)
        if status == "rejected" or (status == "active" and not is_permission):
            return None, None, _refused_at(node)
        if status not in ("active", "inactive") or not is_permission:
            return None, None, None
        given = [first_moment(node.get("dateTime")), first_moment(_START.get(node))]
        granted = max((moment for moment in given if moment), default=UNKNOWN_TIME)
        if status == "active":
            return granted, None, None
        # Revoked at a time that nobody wrote down: it is as if it had never been given.
        return granted, max(Moment().get(_REVOKED.get(node)) or granted, granted), None

    def put(self, value: Statement, node: JsonObject) -> JsonObject:
        granted, revoked, refused = value
        if granted is not None:
            return self._granted(granted, revoked, node)
        result = _REVOKED.put({**node, "status": "active" if refused else "proposed"}, None)
        if refused is None:
            return result
        if permits(result):
            result["policyRule"] = replaced(result.get("policyRule"), **OPT_OUT.concept())
            result = path("provision.type").put(result, None)
        if self.get(result)[2] != refused:
            result["dateTime"] = instant(refused)
        return result

    def _granted(self, granted: datetime, revoked: datetime | None, node: JsonObject) -> JsonObject:
        result = {**node, "status": "active"}
        if not permits(result):
            result = _as_permission(result)
        if self.get(result)[0] != granted:
            result["dateTime"] = instant(granted)
        if self.get(result)[0] != granted:
            result = _START.put(result, instant(granted))
        result["status"] = "inactive" if revoked else "active"
        return _REVOKED.put(result, revoked and instant(revoked))


def _refused_at(consent: JsonObject) -> datetime:
    """When at the latest the patient has said no, so that no older permission outlives it.

    Less than a moment ("2026") was said by its end, and before it was recorded here.
    """
    recorded = first_moment(_RECORDED.get(consent))
    for said in (consent.get("dateTime"), _START.get(consent)):
        moment = last_moment(said)
        if moment is None:
            continue
        is_exact = moment == first_moment(said)
        if is_exact or recorded is None:
            return moment
        return max(min(moment, recorded), first_moment(said) or moment)
    return recorded or UNKNOWN_TIME


def _as_permission(consent: JsonObject) -> JsonObject:
    """The Consent with the terms of a plain permission in place of its own, and the same period."""
    kept = {key: item for key, item in consent.items() if key not in _MODIFIERS}
    period = (consent.get("provision") or {}).get("period")
    kept["policyRule"] = replaced(consent.get("policyRule"), **OPT_IN.concept())
    return path("provision").put(kept, {"period": period} if period else None)


def normalize(row: Row) -> Row:
    """What was never granted cannot be revoked."""
    return row if row["granted_at"] else {**row, "revoked_at": None}


def mapping(public_url: str | None) -> ResourceMapping:
    return ResourceMapping(
        "Consent",
        "consents",
        [
            Entry(("granted_at", "revoked_at", "refused_at"), "", Decision()),
            Entry("consent_type", "category", FirstOf(TYPES)),
            Entry("subject_id", "patient", Reference(("Patient",), public_url)),
            Entry("expires_at", "provision.period.end", LastMoment()),
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
