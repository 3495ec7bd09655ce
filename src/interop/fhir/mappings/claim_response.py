"""ClaimResponse over claims, claim_lines and claim_status_events: what the payer has said so far.

The server's own: a row's amounts and events come from whoever exchanges claims with the payer. A
ClaimResponse that a client sends is kept whole. There is none of a claim that is not answered yet.
"""

from __future__ import annotations

from datetime import UTC
from decimal import Decimal
from typing import Any, Final
from uuid import UUID

from interop.fhir.lens import Connection, JsonObject
from interop.fhir.mappings import references
from interop.fhir.mappings.claim import ORAL
from interop.fhir.mappings.concepts import Coding, Reference
from interop.fhir.mappings.converters import Codes, Text, instant
from interop.fhir.mappings.lens import Entry, ResourceMapping, Row, Rows, constant
from interop.fhir.mappings.money import money
from interop.fhir.mappings.statements import query
from interop.fhir.mappings.systems import own
from interop.fhir.mappings.unknowns import UNKNOWN
from interop.fhir.mappings.views import Shown, ViewLens

_ADJUDICATION: Final = "http://terminology.hl7.org/CodeSystem/adjudication"
_PAYMENT: Final = "http://terminology.hl7.org/CodeSystem/ex-paymenttype"
# What each amount is, in the order in which they are listed.
CATEGORIES: Final = {
    "billed": Coding(_ADJUDICATION, "submitted", "Submitted Amount"),
    "allowed": Coding(_ADJUDICATION, "eligible", "Eligible Amount"),
    "paid": Coding(_ADJUDICATION, "benefit", "Benefit Amount"),
    "patient": own("adjudication", "patient-responsibility", "Patient responsibility"),
}
OUTCOMES: Final = {
    "SUBMITTED": "queued",
    "ACCEPTED": "queued",
    "PENDING": "queued",
    "APPEALED": "queued",
    "PARTIALLY_PAID": "partial",
    "PAID": "complete",
    "DENIED": "complete",
    "CLOSED": "complete",
    "VOID": "complete",
}
# States in which the payer has answered; in others an event says so.
ANSWERED: Final = ("ACCEPTED", "PENDING", "PAID", "PARTIALLY_PAID", "DENIED", "APPEALED", "CLOSED")

MAPPING: Final = ResourceMapping(
    "ClaimResponse",
    "claims",
    [
        Entry("status", "status", Codes({"active": "ACTIVE", "cancelled": "VOID"}), required=True),
        Entry("patient", "patient", Reference(("Patient",))),
        Entry("created", "created", Text()),
        Entry("insurer", "insurer", Shown("the payer's Organization, else its name")),
        Entry("requestor", "requestor", Reference(("Organization",))),
        Entry("request", "request", Reference(("Claim",))),
        Entry("outcome", "outcome", Text()),
        Entry("disposition", "disposition", Text()),
        Entry("items", "item", Shown("billed, allowed, paid, patient's amount of each line")),
        Entry("totals", "total", Shown("billed, allowed and paid in all")),
        Entry("payment", "payment", Shown("what was paid, once it was")),
        Entry("notes", "processNote", Shown("the messages of the status events, oldest first")),
    ],
    template=constant({"type": ORAL.concept(), "use": "claim"}),
)


def _load(connection: Connection, tenant_id: UUID, row_id: UUID) -> Rows | None:
    claims = query(
        connection,
        "SELECT c.*, p.payer_name FROM claims AS c LEFT JOIN patient_insurance_policies AS p"
        " ON p.tenant_id = c.tenant_id AND p.id = c.insurance_policy_id"
        " WHERE c.tenant_id = %s AND c.id = %s",
        tenant_id,
        row_id,
    )
    events = query(
        connection,
        "SELECT status, reason_code, message, occurred_at FROM claim_status_events"
        " WHERE tenant_id = %s AND claim_id = %s ORDER BY occurred_at, id",
        tenant_id,
        row_id,
    )
    if not claims or (claims[0]["status"] not in ANSWERED and not events):
        return None
    lines = query(
        connection,
        "SELECT line_number, billed_amount, allowed_amount, paid_amount, patient_responsibility"
        " FROM claim_lines WHERE tenant_id = %s AND claim_id = %s ORDER BY line_number",
        tenant_id,
        row_id,
    )
    return Rows(_row(connection, claims[0], events, lines))


def _row(connection: Connection, claim: Row, events: list[Row], lines: list[Row]) -> Row:
    tenant_id, currency = claim["tenant_id"], claim["currency"]
    latest = events[-1] if events else None
    moments = [claim["adjudicated_at"], latest and latest["occurred_at"], claim["created_at"]]
    totals = (
        claim["total_billed_amount"],
        claim["total_allowed_amount"],
        claim["total_paid_amount"],
    )
    return {
        "status": "VOID" if claim["status"] == "VOID" else "ACTIVE",
        "patient": references.literal(connection, tenant_id, "Patient", claim["patient_id"]),
        "created": instant(next(moment for moment in moments if moment)),
        "insurer": _insurer(connection, claim),
        "requestor": f"Organization/{tenant_id}",
        "request": references.literal(connection, tenant_id, "Claim", claim["id"]),
        # A draft with events was sent once.
        "outcome": OUTCOMES.get(claim["status"], "queued"),
        "disposition": (latest and latest["message"]) or claim["status"].replace("_", " ").lower(),
        "items": [_item(line, currency) for line in lines] or None,
        "totals": _amounts(totals, currency),
        "payment": _payment(claim),
        "notes": _notes(events),
    }


def _insurer(connection: Connection, claim: Row) -> JsonObject:
    if claim["payer_id"] is not None:
        payer = references.literal(
            connection, claim["tenant_id"], "Organization", claim["payer_id"]
        )
        return {"reference": payer}
    return {"display": claim["payer_name"]} if claim["payer_name"] else UNKNOWN


def _item(line: Row, currency: str) -> JsonObject:
    columns = ("billed_amount", "allowed_amount", "paid_amount", "patient_responsibility")
    amounts = tuple(line[column] for column in columns)
    return {"itemSequence": line["line_number"], "adjudication": _amounts(amounts, currency)}


def _amounts(amounts: tuple[Decimal | None, ...], currency: str) -> list[JsonObject]:
    return [
        {"category": coding.concept(), "amount": money(amount, currency)}
        for coding, amount in zip(CATEGORIES.values(), amounts, strict=False)
        if amount is not None
    ]


def _payment(claim: Row) -> JsonObject | None:
    if claim["total_paid_amount"] is None or claim["status"] not in ("PAID", "PARTIALLY_PAID"):
        return None
    is_whole = claim["status"] == "PAID"
    kind = Coding(_PAYMENT, "complete" if is_whole else "partial")
    shown: dict[str, Any] = {
        "type": kind.concept(),
        "amount": money(claim["total_paid_amount"], claim["currency"]),
    }
    if claim["adjudicated_at"]:
        shown["date"] = claim["adjudicated_at"].astimezone(UTC).date().isoformat()
    return shown


def _notes(events: list[Row]) -> list[JsonObject] | None:
    said = [event for event in events if event["message"]]
    return [
        {
            "number": number,
            "type": "print",
            "text": " ".join(filter(None, (event["reason_code"], event["message"]))),
        }
        for number, event in enumerate(said, 1)
    ] or None


def lens(public_url: str | None) -> ViewLens:
    return ViewLens(MAPPING, _load, "what the payer said of a claim; it goes with the claim")
