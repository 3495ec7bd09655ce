"""CarePlan over treatment_plans (US Core CarePlan).

The planned procedures are ServiceRequests that are based on the plan; the plan names them in
`activity`, which follows from their rows. An activity of a client's own stays.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final
from uuid import UUID

from interop.fhir.lens import Connection, JsonObject
from interop.fhir.mappings import references
from interop.fhir.mappings.concepts import Coding, Reference
from interop.fhir.mappings.converters import Codes, Moment, Text
from interop.fhir.mappings.lens import Entry, ResourceMapping, Row
from interop.fhir.mappings.money import amount_of, currency_of, money
from interop.fhir.mappings.path import path
from interop.fhir.mappings.places import Notes
from interop.fhir.mappings.refined import Refined
from interop.fhir.mappings.shared_type import SharedLens, Writable
from interop.fhir.mappings.systems import DENTAL, own_extension
from interop.fhir.mappings.tables import TableLens

ASSESS_PLAN: Final = Coding(
    "http://hl7.org/fhir/us/core/CodeSystem/careplan-category", "assess-plan"
)
STATUS: Final = own_extension("treatment-plan-status")
PRESENTED_AT: Final = own_extension("treatment-plan-presented-at")
DECIDED_AT: Final = own_extension("treatment-plan-decided-at")
TOTAL: Final = own_extension("treatment-plan-total")
COVERED: Final = own_extension("treatment-plan-insurance-share")
# US Core wants a narrative. What it says holds whatever the rows come to say.
NARRATIVE: Final = {
    "status": "additional",
    "div": '<div xmlns="http://www.w3.org/1999/xhtml">A dental treatment plan. Its planned'
    " procedures are its activities.</div>",
}
STATUSES: Final = Refined(
    "status",
    Codes(
        {
            "draft": "DRAFT",
            "active": "ACCEPTED",
            "revoked": "DECLINED",
            "completed": "COMPLETED",
            "on-hold": "DRAFT",
            "unknown": "DRAFT",
        }
    ),
    STATUS,
    {"PRESENTED": "DRAFT", "PARTIALLY_ACCEPTED": "ACCEPTED"},
    "DRAFT",
)
_TOTAL = path(f"extension[url={TOTAL}].valueMoney")
_COVERED = path(f"extension[url={COVERED}].valueMoney")
Costs = tuple[Decimal | None, Decimal | None, str | None]


@dataclass(frozen=True, slots=True)
class PlanCosts:
    """(total_estimated_cost, estimated_insurance_coverage, currency) in extensions with Money."""

    label: str = f"extensions {TOTAL} and {COVERED}, valueMoney of one currency"

    def get(self, node: JsonObject) -> Costs:
        total, covered = _TOTAL.get(node), _COVERED.get(node)
        amounts = amount_of(total), amount_of(covered)
        named = (currency_of(item) for item, amount in zip((total, covered), amounts, strict=True)
                 if amount is not None)  # fmt: skip
        return *amounts, next((currency for currency in named if currency), None)

    def put(self, value: Costs, node: JsonObject) -> JsonObject:
        total, covered, currency = value
        result = node
        for place, amount in ((_TOTAL, total), (_COVERED, covered)):
            shown = None if amount is None else money(amount, currency)
            result = place.put(result, shown)
        return result


@dataclass(frozen=True, slots=True)
class Activities:
    """References to ServiceRequests in activities, as a sorted tuple; other activities stay."""

    reference: Reference

    @property
    def label(self) -> str:
        return f"all references: {self.reference.label}; follows from the rows of the plan's items"

    def get(self, node: Any) -> tuple[str, ...]:
        return tuple(sorted({found for item in _items(node) if (found := self._of(item))}))

    def put(self, value: tuple[str, ...], node: Any) -> Any:
        kept = [item for item in _items(node) if self._of(item) in (None, *value)]
        known = {self._of(item) for item in kept}
        added = [{"reference": {"reference": item}} for item in value if item not in known]
        return [*kept, *added] or None

    def _of(self, activity: Any) -> str | None:
        named = activity.get("reference") if isinstance(activity, Mapping) else None
        return self.reference.get(named)


def _items(node: Any) -> list[Any]:
    return node if isinstance(node, list) else []


def normalize(row: Row) -> Row:
    """A currency is that of an amount, and has three letters."""
    amounts = (row["total_estimated_cost"], row["estimated_insurance_coverage"])
    is_said = any(amount is not None for amount in amounts)
    return {**row, "currency": currency_of(row) if is_said else None}


def mapping(public_url: str | None) -> ResourceMapping:
    def template(row: Row) -> JsonObject:
        categories = [ASSESS_PLAN.concept(), DENTAL.concept()]
        return {"text": NARRATIVE, "intent": "plan", "category": categories}

    item = Reference(("ServiceRequest",), public_url)
    return ResourceMapping(
        "CarePlan",
        "treatment_plans",
        [
            Entry(("total_estimated_cost", "estimated_insurance_coverage", "currency"), "",
                  PlanCosts()),
            Entry("presented_at", f"extension[url={PRESENTED_AT}].valueDateTime", Moment()),
            Entry("decided_at", f"extension[url={DECIDED_AT}].valueDateTime", Moment()),
            Entry("status", "", STATUSES),
            Entry("title", "title", Text()),
            Entry("patient_id", "subject", Reference(("Patient",), public_url)),
            Entry("created_by_id", "author", Reference(("Practitioner",), public_url)),
            Entry("items", "activity", Activities(item), ()),
            Entry("notes", "note", Notes()),
        ],
        template=template,
    )  # fmt: skip


def is_plan(resource: JsonObject) -> bool:
    """Whether a row can hold the CarePlan: a plan for a patient that was not made in error."""
    return resource.get("status") != "entered-in-error"


_OWN_ITEMS: Final = (
    "SELECT id FROM treatment_plan_items WHERE tenant_id = %s AND plan_id = %s"
    " ORDER BY phase, sequence_order, id"
)
# A ServiceRequest that is no planned procedure (any more); `Type/id` that nobody has is no such.
_KNOWN: Final = (
    "SELECT r.deleted OR EXISTS (SELECT FROM treatment_plan_items AS i"
    " WHERE i.tenant_id = r.tenant_id AND i.id = r.row_id)"
    " FROM fhir_resources AS r WHERE r.tenant_id = %s AND r.resource_type = 'ServiceRequest'"
    " AND r.resource_id = %s"
)


class PlanLens(TableLens):
    """A plan with the references to its items."""

    def derive(
        self, connection: Connection, tenant_id: UUID, row_id: UUID, row: Row, said: Row
    ) -> Row:
        rows = connection.execute(_OWN_ITEMS, (tenant_id, row_id)).fetchall()
        own = references.literals(
            connection, tenant_id, "ServiceRequest", [item for (item,) in rows]
        )
        spelled = {
            references.local_part(connection, tenant_id, item) or item: item
            for item in said.get("items") or ()
        }
        shown = {spelled.get(item, item) for item in own.values()}
        others = (
            item
            for local, item in spelled.items()
            if item not in shown and not self._is_settled(connection, tenant_id, local)
        )
        return {"items": tuple(sorted({*shown, *others}))}

    def _is_settled(self, connection: Connection, tenant_id: UUID, reference: str) -> bool:
        """Whether the rows say of a reference whether it is an item of this plan."""
        resource_id = reference.partition("/")[2]
        found = connection.execute(_KNOWN, (tenant_id, resource_id)).fetchone()
        return bool(found and found[0])

    def overlay(
        self, connection: Connection, tenant_id: UUID, row_id: UUID, resource: JsonObject
    ) -> JsonObject:
        """The client's resource, with the activities that follow from the rows."""
        return self.present(connection, tenant_id, row_id, resource) or resource


def lens(public_url: str | None) -> SharedLens:
    plan = PlanLens(
        mapping(public_url), needs=("patient_id",), normalize=normalize, derived=("items",)
    )
    return SharedLens((), (Writable(plan, is_plan),))
