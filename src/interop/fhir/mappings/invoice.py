"""Invoice over invoices and invoice_line_items: what the platform charges the organization.

The server's own. R4 has no payment of an invoice but its status: `balanced` is paid, and when is in
an extension. What a practice charges its patients has no table; such an Invoice is kept whole.
"""

from __future__ import annotations

from datetime import date
from typing import Any, Final
from uuid import UUID

from interop.fhir.lens import Connection, JsonObject
from interop.fhir.mappings.concepts import Concept, Reference
from interop.fhir.mappings.converters import Codes, Day, Moment, Text
from interop.fhir.mappings.lens import Entry, ResourceMapping, Row, Rows
from interop.fhir.mappings.money import money
from interop.fhir.mappings.statements import query
from interop.fhir.mappings.systems import OWN, own, own_extension
from interop.fhir.mappings.views import Shown, ViewLens

NUMBER: Final = f"{OWN}:invoice-number"
STATE: Final = own_extension("invoice-status")
DUE: Final = own_extension("invoice-due-date")
PAID_AT: Final = own_extension("invoice-paid")
PERIOD: Final = own_extension("invoice-period")
ISSUER: Final = "the platform"

STATUSES: Final = {
    "DRAFT": "draft",
    "OPEN": "issued",
    "OVERDUE": "issued",
    "PAID": "balanced",
    "VOID": "cancelled",
    "UNCOLLECTIBLE": "cancelled",
}
ITEM_TYPES: Final = Concept(
    {
        "SUBSCRIPTION_FEE": own("invoice-item", "subscription-fee", "Subscription fee"),
        "AI_OVERAGE": own("invoice-item", "ai-overage", "AI inferences beyond the plan"),
        "STORAGE_OVERAGE": own("invoice-item", "storage-overage", "Storage beyond the plan"),
        "SUPPORT": own("invoice-item", "support", "Support"),
        "CREDIT": own("invoice-item", "credit", "Credit"),
        "TAX": own("invoice-item", "tax", "Tax"),
        "OTHER": own("invoice-item", "other", "Other"),
    }
)
_COMPONENTS: Final = {"CREDIT": "deduction", "TAX": "tax"}

MAPPING: Final = ResourceMapping(
    "Invoice",
    "invoices",
    [
        Entry("invoice_number", f"identifier[system={NUMBER}].value", Text()),
        Entry(
            "status",
            "status",
            Codes({code: code.upper() for code in dict.fromkeys(STATUSES.values())}),
        ),
        Entry("state", f"extension[url={STATE}].valueCode", Text()),
        Entry("recipient", "recipient", Reference(("Organization",))),
        Entry("issuer", "issuer", Shown("the platform")),
        Entry("created_at", "date", Moment()),
        Entry("period", f"extension[url={PERIOD}].valuePeriod", Shown("period_start, period_end")),
        Entry("due_date", f"extension[url={DUE}].valueDate", Day()),
        Entry("paid_at", f"extension[url={PAID_AT}].valueDateTime", Moment()),
        Entry("lines", "lineItem", Shown("each line: kind and description, quantity, amount")),
        Entry("total", "totalNet", Shown("total_amount, currency")),
    ],
)


def _load(connection: Connection, tenant_id: UUID, row_id: UUID) -> Rows | None:
    invoices = query(
        connection, "SELECT * FROM invoices WHERE tenant_id = %s AND id = %s", tenant_id, row_id
    )
    if not invoices:
        return None
    lines = query(
        connection,
        "SELECT item_type, description, quantity, amount FROM invoice_line_items"
        " WHERE tenant_id = %s AND invoice_id = %s ORDER BY created_at, id",
        tenant_id,
        row_id,
    )
    invoice = invoices[0]
    currency = invoice["currency"]
    return Rows(
        {
            "invoice_number": invoice["invoice_number"],
            "status": STATUSES[invoice["status"]].upper(),
            "state": invoice["status"].lower(),
            "recipient": f"Organization/{tenant_id}",
            "issuer": {"display": ISSUER},
            "created_at": invoice["created_at"],
            "period": _period(invoice["period_start"], invoice["period_end"]),
            "due_date": invoice["due_date"],
            "paid_at": invoice["paid_at"],
            "lines": [_line(n, line, currency) for n, line in enumerate(lines, 1)] or None,
            "total": money(invoice["total_amount"], currency),
        }
    )


def _period(start: date, end: date) -> JsonObject:
    return {"start": start.isoformat(), "end": end.isoformat()}


def _line(sequence: int, line: Row, currency: str) -> dict[str, Any]:
    concept = {**ITEM_TYPES.put(line["item_type"], None), "text": line["description"]}
    component = {
        "type": _COMPONENTS.get(line["item_type"], "base"),
        "amount": money(line["amount"], currency),
    }
    if line["quantity"] != 1:
        # The amount of a line is that of all of it; R4 has the quantity as a factor beside it.
        concept["text"] += f" ({line['quantity'].normalize():f})"
    return {
        "sequence": sequence,
        "chargeItemCodeableConcept": concept,
        "priceComponent": [component],
    }


def lens(public_url: str | None) -> ViewLens:
    return ViewLens(MAPPING, _load, "an invoice of the platform to this organization")
