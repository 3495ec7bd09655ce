"""Procedure over procedures (US Core Procedure, Dental Data Exchange dental-procedure).

CDT codes are what a practice typed: the code table itself is the ADA's and is not shipped. The
planned procedures that it fulfils are what it is `basedOn`; a material of the catalogue that was
used is a Device, with the amount and the lot beside the reference, for a recall.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any, Final

from interop.fhir.lens import JsonObject
from interop.fhir.mappings.body_site import BodySite
from interop.fhir.mappings.concepts import Reference, codings, replaced
from interop.fhir.mappings.converters import Codes, Day, Moment, Text, number, plain
from interop.fhir.mappings.lens import Children, Entry, ResourceMapping, Row
from interop.fhir.mappings.places import FirstOf, Notes, Within, without_choice
from interop.fhir.mappings.systems import CDT, CDT_SYSTEMS, DENTAL, own_extension
from interop.fhir.mappings.tables import TableLens

STATUSES: Final = Codes(
    {
        "preparation": "PLANNED",
        "in-progress": "IN_PROGRESS",
        "not-done": "NOT_DONE",
        "on-hold": "ON_HOLD",
        "stopped": "STOPPED",
        "completed": "COMPLETED",
        "entered-in-error": "ENTERED_IN_ERROR",
        "unknown": "UNKNOWN",
    }
)


@dataclass(frozen=True, slots=True)
class Service:
    """(cdt_code, code_system_uri, code, description): the CDT coding and the first other one."""

    label: str = "CDT coding; first other coding; text, else display"

    def get(self, node: Any) -> tuple[str | None, ...]:
        coded = [item for item in codings(node) if Text().get(item.get("code"))]
        cdt = next((item for item in coded if item.get("system") in CDT_SYSTEMS), {})
        other = next((item for item in coded if item.get("system") not in CDT_SYSTEMS), {})
        displays = (Text().get(item.get("display")) for item in (cdt, other))
        text = Text().get((node or {}).get("text"))
        description = text or next((display for display in displays if display), None)
        return cdt.get("code"), Text().get(other.get("system")), other.get("code"), description

    def put(self, value: tuple[str | None, ...], node: Any) -> Any:
        cdt, uri, code, description = value
        shown = [{"system": CDT, "code": cdt}] if cdt else []
        if code:
            shown.append({"system": uri, "code": code} if uri else {"code": code})
        return replaced(node, coding=shown, text=description) or None


@dataclass(frozen=True, slots=True)
class Performed:
    """(start_at, end_at): a point in time, or a period."""

    label: str = "performedDateTime = start_at; performedPeriod = start_at, end_at"

    def get(self, node: JsonObject) -> tuple[datetime | None, datetime | None]:
        if "performedPeriod" in node:
            period = node["performedPeriod"]
            return Moment().get(period.get("start")), Moment().get(period.get("end"))
        return Moment().get(node.get("performedDateTime")), None

    def put(self, value: tuple[datetime | None, datetime | None], node: JsonObject) -> JsonObject:
        start, end = value
        rest = without_choice(node, "performed")
        if end is None:
            return (
                rest if start is None else {**rest, "performedDateTime": Moment().put(start, None)}
            )
        period = {"start": Moment().put(start, None), "end": Moment().put(end, None)}
        return {**rest, "performedPeriod": {key: at for key, at in period.items() if at}}


AMOUNT: Final = own_extension("material-amount")
LOT: Final = own_extension("material-lot")
EXPIRY: Final = own_extension("material-expiry")
_PLACES: Final = Decimal("0.001")


@dataclass(frozen=True, slots=True)
class MaterialAmount:
    """(quantity, unit) in whatever unit."""

    label: str = "Quantity: value, unit; no more than three decimals"

    def get(self, node: Any) -> tuple[Decimal | None, str | None] | None:
        if not isinstance(node, Mapping) or node.get("comparator"):
            return None
        value = number(node.get("value"))
        if value is not None and not (0 <= value < 10**9 and value == value.quantize(_PLACES)):
            value = None
        unit = Text().get(node.get("unit")) or Text().get(node.get("code"))
        return (value, unit) if value is not None or unit else None

    def put(self, value: tuple[Decimal | None, str | None], node: Any) -> Any:
        amount, unit = value
        shown = {"value": None if amount is None else plain(amount), "unit": unit}
        return {key: item for key, item in shown.items() if item is not None} or None


def materials(public_url: str | None) -> Children:
    """What was used of the platform's catalogue of materials."""
    device = Reference(("Device",), public_url)
    return Children(
        "procedure_materials",
        "usedReference",
        [
            Entry(("quantity", "unit"), f"extension[url={AMOUNT}].valueQuantity", MaterialAmount()),
            Entry("lot_number", f"extension[url={LOT}].valueString", Text()),
            Entry("expires_on", f"extension[url={EXPIRY}].valueDate", Day()),
            Entry("material_id", "", device),
        ],
        admits=lambda item: device.get(item) is not None,
        needs=("material_id",),
    )


def fulfilled(public_url: str | None) -> Children:
    """The planned procedures that were done."""
    item = Reference(("ServiceRequest",), public_url)
    return Children(
        "treatment_plan_procedures",
        "basedOn",
        [Entry("plan_item_id", "", item)],
        key=("plan_item_id",),
        admits=lambda node: item.get(node) is not None,
        needs=("plan_item_id",),
    )


def normalize(row: Row) -> Row:
    """A system without a code names nothing."""
    return {**row, "code_system_uri": row["code_system_uri"] if row["code"] else None}


def _template(row: Row) -> dict[str, Any]:
    is_dental = row["tooth_number"] is not None or row["cdt_code"] is not None
    return {"category": DENTAL.concept()} if is_dental else {}


def mapping(public_url: str | None) -> ResourceMapping:
    practitioner = Reference(("Practitioner",), public_url)
    return ResourceMapping(
        "Procedure",
        "procedures",
        [
            Entry("status", "status", STATUSES, "COMPLETED", required=True),
            Entry(("cdt_code", "code_system_uri", "code", "description"), "code", Service()),
            Entry("patient_id", "subject", Reference(("Patient",), public_url)),
            Entry("encounter_id", "encounter", Reference(("Encounter",), public_url)),
            Entry("provider_id", "performer", FirstOf(Within("actor", practitioner))),
            Entry(("start_at", "end_at"), "", Performed()),
            Entry(("tooth_number", "surface"), "", BodySite()),
            Entry("notes", "note", Notes()),
        ],
        [materials(public_url), fulfilled(public_url)],
        template=_template,
    )


def lens(public_url: str | None) -> TableLens:
    return TableLens(
        mapping(public_url), needs=("patient_id",), parent="procedure_id", normalize=normalize
    )
