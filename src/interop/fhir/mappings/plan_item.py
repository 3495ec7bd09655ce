"""ServiceRequest over treatment_plan_items: one planned procedure of a CarePlan.

The plan is what it is `basedOn`; without one the request is no part of a plan, and no row. CDT
codes are what a practice typed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final

from interop.fhir.lens import JsonObject
from interop.fhir.mappings.body_site import BodySite
from interop.fhir.mappings.concepts import Reference, codings, replaced
from interop.fhir.mappings.converters import Codes, Counted, Text
from interop.fhir.mappings.lens import Entry, ResourceMapping, Row
from interop.fhir.mappings.money import amount_of, money
from interop.fhir.mappings.places import FirstOf
from interop.fhir.mappings.refined import Refined
from interop.fhir.mappings.shared_type import Writable
from interop.fhir.mappings.systems import CDT, CDT_SYSTEMS, DENTAL, own_extension
from interop.fhir.mappings.through import ChildLens, Through

STATUS: Final = own_extension("plan-item-status")
PHASE: Final = own_extension("treatment-phase")
ORDER: Final = own_extension("treatment-order")
FEE: Final = own_extension("estimated-fee")
PATIENT_PORTION: Final = own_extension("estimated-patient-portion")
STATUSES: Final = Refined(
    "status",
    Codes(
        {
            "draft": "PLANNED",
            "active": "ACCEPTED",
            "revoked": "DECLINED",
            "completed": "COMPLETED",
            "on-hold": "PLANNED",
            "unknown": "PLANNED",
        }
    ),
    STATUS,
    {"CANCELLED": "DECLINED"},
    "PLANNED",
)


@dataclass(frozen=True, slots=True)
class PlannedService:
    """(cdt_code, description): the CDT coding, and what the service is called."""

    label: str = "CDT coding; text, else display"

    def get(self, node: Any) -> tuple[str | None, str | None]:
        coded = [item for item in codings(node) if Text().get(item.get("code"))]
        cdt = next((item for item in coded if item.get("system") in CDT_SYSTEMS), {})
        text = Text().get((node or {}).get("text"))
        return cdt.get("code"), text or Text().get(cdt.get("display"))

    def put(self, value: tuple[str | None, str | None], node: Any) -> Any:
        cdt, description = value
        shown = [{"system": CDT, "code": cdt}] if cdt else []
        return replaced(node, coding=shown, text=description) or None


@dataclass(frozen=True, slots=True)
class Cost:
    """An amount in the currency of the plan."""

    label: str = "Money in the currency of the plan; no more than two decimals"

    def get(self, node: Any) -> Decimal | None:
        return amount_of(node)

    def put(self, value: Decimal | None, node: Any) -> Any:
        if value is None:
            return None
        old = node if isinstance(node, Mapping) else {}
        return {**replaced(old), **money(value, old.get("currency"))}


def mapping(public_url: str | None) -> ResourceMapping:
    def template(row: Row) -> JsonObject:
        return {"intent": "plan", "category": [DENTAL.concept()]}

    plan = Reference(("CarePlan",), public_url)
    return ResourceMapping(
        "ServiceRequest",
        "treatment_plan_items",
        [
            Entry("phase", f"extension[url={PHASE}].valuePositiveInt", Counted(low=1), 1),
            Entry("sequence_order", f"extension[url={ORDER}].valueInteger", Counted(), 0),
            Entry("estimated_fee", f"extension[url={FEE}].valueMoney", Cost()),
            Entry(
                "estimated_patient_portion",
                f"extension[url={PATIENT_PORTION}].valueMoney",
                Cost(),
            ),
            Entry("plan_id", "basedOn", FirstOf(plan)),
            Entry("status", "", STATUSES),
            Entry(("cdt_code", "description"), "code", PlannedService()),
            Entry("patient_id", "subject", Reference(("Patient",), public_url)),
            Entry(("tooth_number", "surface"), "", BodySite()),
        ],
        template=template,
    )


def is_item(resource: JsonObject, row: Row) -> bool:
    """Whether a row can hold the request: a CDT code in a plan, to be done, not in error."""
    if resource.get("status") == "entered-in-error" or resource.get("doNotPerform") is True:
        return False
    return row["plan_id"] is not None and row["cdt_code"] is not None


def part(public_url: str | None) -> Writable:
    through = Through({"plan_id": "treatment_plans"})
    lens = ChildLens(mapping(public_url), through, needs=("plan_id", "cdt_code"))
    return Writable(lens, lambda resource: is_item(resource, lens.get(resource).row))
