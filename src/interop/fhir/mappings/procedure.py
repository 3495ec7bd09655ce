"""Procedure over procedures (US Core Procedure, Dental Data Exchange dental-procedure).

CDT codes are what a practice typed: the code table itself is the ADA's and is not shipped.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from interop.fhir.lens import JsonObject
from interop.fhir.mappings.body_site import BodySite
from interop.fhir.mappings.concepts import Reference, codings, replaced
from interop.fhir.mappings.converters import Codes, Moment, Text
from interop.fhir.mappings.lens import Entry, ResourceMapping, Row
from interop.fhir.mappings.places import FirstOf, Notes, Within, without_choice
from interop.fhir.mappings.systems import CDT, CDT_SYSTEMS, DENTAL
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
        template=_template,
    )


def lens(public_url: str | None) -> TableLens:
    return TableLens(mapping(public_url), needs=("patient_id",), normalize=normalize)
