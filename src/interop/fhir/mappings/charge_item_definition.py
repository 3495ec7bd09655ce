"""ChargeItemDefinition over procedure_catalog: a service that the practice offers, and its fees.

What the service is, a client may write. The fees are rows of fee schedules, which are kept where
prices are made: they are shown as property groups of their own, beside those that a client adds.
Durations and what a service needs (tooth, surface) have no place in the resource.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from interop.fhir.lens import Connection, JsonObject
from interop.fhir.mappings import references
from interop.fhir.mappings.concepts import codings, replaced
from interop.fhir.mappings.converters import Text
from interop.fhir.mappings.lens import Entry, ResourceMapping, Row
from interop.fhir.mappings.money import money
from interop.fhir.mappings.statements import query
from interop.fhir.mappings.systems import CDT, CDT_SYSTEMS, OWN, own, own_extension
from interop.fhir.mappings.tables import TableLens

CUSTOM: Final = f"{OWN}:procedure-code"
CATEGORY: Final = own_extension("procedure-category")
FEE_SCHEDULE: Final = own_extension("fee-schedule")
FEE_LOCATION: Final = own_extension("fee-schedule-location")
FEE_PAYER: Final = own_extension("fee-schedule-payer")
ALLOWED: Final = own("fee", "allowed", "Allowed amount")


@dataclass(frozen=True, slots=True)
class CatalogCode:
    """(code_system, code) of a service."""

    label: str = f"CDT, else {CUSTOM}"

    def get(self, node: Any) -> tuple[str, str] | None:
        for kind, systems in (("CDT", CDT_SYSTEMS), ("CUSTOM", (CUSTOM,))):
            ours = (item.get("code") for item in codings(node) if item.get("system") in systems)
            code = next(filter(Text().get, ours), None)
            if code:
                return kind, code
        return None

    def put(self, value: tuple[str, str], node: Any) -> Any:
        kind, code = value
        system = CDT if kind == "CDT" else CUSTOM
        return replaced(node, coding=[{"system": system, "code": code}])


@dataclass(frozen=True, slots=True)
class InUse:
    """Whether a definition is in use."""

    label: str = "draft, retired = false, else true"

    def get(self, node: Any) -> bool:
        return node not in ("draft", "retired")

    def put(self, value: bool, node: Any) -> str:
        return "active" if value else "retired"


@dataclass(frozen=True, slots=True)
class OwnGroups:
    """The property groups of fee schedules; the client's stay."""

    label: str = "one for each fee schedule: applicability, base and allowed amount"

    def get(self, node: Any) -> list[JsonObject] | None:
        return [item for item in node or [] if _is_fee(item)] or None

    def put(self, value: list[JsonObject] | None, node: Any) -> Any:
        others = [item for item in node or [] if not _is_fee(item)]
        return [*others, *(value or [])] or None


def _is_fee(group: Any) -> bool:
    extensions = group.get("extension") if isinstance(group, Mapping) else None
    return any(item.get("url") == FEE_SCHEDULE for item in extensions or [])


def _template(row: Row) -> JsonObject:
    return {"url": f"urn:uuid:{row['id']}"} if row.get("id") else {}


MAPPING: Final = ResourceMapping(
    "ChargeItemDefinition",
    "procedure_catalog",
    [
        Entry("description", "title", Text()),
        Entry("is_active", "status", InUse()),
        Entry(("code_system", "code"), "code", CatalogCode()),
        Entry("category", f"extension[url={CATEGORY}].valueString", Text()),
    ],
    template=_template,
)
# Shown over what TableLens presents, and never written.
FEES: Final = Entry("fees", "propertyGroup", OwnGroups())

_FEES: Final = """
SELECT s.id, s.name, s.currency, s.location_id, s.payer_id, s.effective_from, s.effective_until,
    i.fee, i.allowed_amount
FROM fee_schedule_items AS i JOIN fee_schedules AS s
    ON s.tenant_id = i.tenant_id AND s.id = i.fee_schedule_id
WHERE i.tenant_id = %s AND i.procedure_catalog_id = %s ORDER BY s.effective_from, s.name, s.id
"""


class CatalogLens(TableLens):
    """A service with its fees laid over."""

    shown: Final = (FEES,)

    def present(
        self, connection: Connection, tenant_id: UUID, row_id: UUID, stored: JsonObject | None
    ) -> JsonObject | None:
        presented = super().present(connection, tenant_id, row_id, stored)
        if presented is None or not self.exists(connection, tenant_id, row_id):
            return presented
        rows = query(connection, _FEES, tenant_id, row_id)
        fees = [_group(connection, tenant_id, row) for row in rows]
        return FEES.put({"fees": fees or None}, presented)

    def overlay(
        self, connection: Connection, tenant_id: UUID, row_id: UUID, resource: JsonObject
    ) -> JsonObject:
        """The fees are not the client's to say."""
        return self.present(connection, tenant_id, row_id, resource) or resource


def _group(connection: Connection, tenant_id: UUID, row: Row) -> JsonObject:
    extensions = [{"url": FEE_SCHEDULE, "valueIdentifier": {"value": str(row["id"])}}]
    for column, url, type_ in (
        ("location_id", FEE_LOCATION, "Location"),
        ("payer_id", FEE_PAYER, "Organization"),
    ):
        if row[column]:
            target = references.literal(connection, tenant_id, type_, row[column])
            extensions.append({"url": url, "valueReference": {"reference": target}})
    until = f" until {row['effective_until']}" if row["effective_until"] else ""
    components = [
        {"type": "base", "amount": money(row["fee"], row["currency"])},
    ]
    if row["allowed_amount"] is not None:
        amount = money(row["allowed_amount"], row["currency"])
        components.append({"type": "informational", "code": ALLOWED.concept(), "amount": amount})
    return {
        "extension": extensions,
        "applicability": [{"description": f"{row['name']}, from {row['effective_from']}{until}"}],
        "priceComponent": components,
    }


def lens(public_url: str | None) -> CatalogLens:
    return CatalogLens(MAPPING, needs=("code",), beside=("id",))
