"""Claim over claims and claim_lines (R4 claim.html, oral).

The row knows more states than R4: what `active` means is in an extension of ours, and an active
claim that is sent again without it stays in the state that it has.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any, Final
from uuid import UUID

from interop.fhir.lens import Connection, JsonObject
from interop.fhir.mappings import statements
from interop.fhir.mappings.claim_item import lines, with_procedures, without_procedures
from interop.fhir.mappings.concepts import Coding, Reference
from interop.fhir.mappings.converters import Moment, Text, instant
from interop.fhir.mappings.lens import Entry, ResourceMapping, Row, Rows
from interop.fhir.mappings.money import CURRENCY, Amount
from interop.fhir.mappings.path import path
from interop.fhir.mappings.systems import OWN, own_extension
from interop.fhir.mappings.tables import TableLens
from interop.fhir.mappings.unknowns import UNKNOWN, ReferenceOrUnknown

STATE: Final = own_extension("claim-status")
SUBMITTED_AT: Final = own_extension("claim-submitted")
RESUBMITTED_AT: Final = own_extension("claim-resubmitted")
NUMBER: Final = f"{OWN}:claim-number"
ORAL: Final = Coding("http://terminology.hl7.org/CodeSystem/claim-type", "oral", "Oral")
NORMAL: Final = Coding("http://terminology.hl7.org/CodeSystem/processpriority", "normal", "Normal")

# The states that an R4 status may mean; the first is what it means without our extension.
STATES: Final[dict[str, tuple[str, ...]]] = {
    "draft": ("DRAFT",),
    "active": (
        "SUBMITTED",
        "ACCEPTED",
        "PENDING",
        "PAID",
        "PARTIALLY_PAID",
        "DENIED",
        "APPEALED",
        "CLOSED",
    ),
    "cancelled": ("VOID",),
    "entered-in-error": ("VOID",),
}
STATUS_OF: Final = {
    state: status for status, states in reversed(STATES.items()) for state in states
}

_STATE = path(f"extension[url={STATE}].valueCode")
_SUBMITTED = path(f"extension[url={SUBMITTED_AT}]")


def _code(state: str) -> str:
    return state.lower().replace("_", "-")


@dataclass(frozen=True, slots=True)
class State:
    """The state of a claim."""

    label: str = (
        "draft = DRAFT, active = SUBMITTED or what our extension says, cancelled or"
        " entered-in-error = VOID"
    )

    def get(self, node: JsonObject) -> str | None:
        states = STATES.get(str(node.get("status")), ())
        said = _STATE.get(node)
        return next((state for state in states if _code(state) == said), None) or next(
            iter(states), None
        )

    def put(self, value: str, node: JsonObject) -> JsonObject:
        status = STATUS_OF[value]
        is_plain = value == STATES[status][0]
        result = _STATE.put({**node, "status": status}, None if is_plain else _code(value))
        return result


@dataclass(frozen=True, slots=True)
class Number:
    """The number of a claim; the resource's own id stands in for a missing one."""

    label: str = f"identifier of {NUMBER}, else the first identifier, else the id"

    def get(self, node: JsonObject) -> str | None:
        items = [item for item in node.get("identifier") or [] if isinstance(item, dict)]
        ours = [item for item in items if item.get("system") == NUMBER]
        values = (Text().get(item.get("value")) for item in (*ours, *items))
        return next((value for value in values if value), None) or Text().get(node.get("id"))

    def put(self, value: str | None, node: JsonObject) -> JsonObject:
        others = [item for item in node.get("identifier") or [] if item.get("system") != NUMBER]
        ours = [{"system": NUMBER, "value": value}] if value else []
        return {**node, "identifier": [*ours, *others]}


@dataclass(frozen=True, slots=True)
class Submitted:
    """When a claim was sent: R4 has one date, `created`, which is that of a claim in force."""

    label: str = "created, once it is no draft; our extension where they differ"

    def get(self, node: JsonObject) -> datetime | None:
        said = _SUBMITTED.get(node)
        if said is not None:
            return Moment().get(said.get("valueDateTime"))
        return None if node.get("status") == "draft" else Moment().get(node.get("created"))

    def put(self, value: datetime | None, node: JsonObject) -> JsonObject:
        bare = _SUBMITTED.put(node, None)
        if value is not None and node.get("status") != "draft":
            return {**bare, "created": instant(value)}
        said = UNKNOWN if value is None else {"valueDateTime": instant(value)}
        return (
            bare if self.get(bare) == value else _SUBMITTED.put(bare, {"url": SUBMITTED_AT, **said})
        )


@dataclass(frozen=True, slots=True)
class Insurance:
    """The coverage that is asked to pay: that of the focal insurance."""

    converter: Reference

    @property
    def label(self) -> str:
        return f"coverage of the focal item, else of the first: {self.converter.label}"

    def get(self, node: Any) -> str | None:
        at = self._at(node)
        return None if at is None else self.converter.get(node[at].get("coverage"))

    def put(self, value: str | None, node: Any) -> Any:
        coverage = ReferenceOrUnknown(self.converter)
        at = self._at(node)
        if at is None:
            return [{"sequence": 1, "focal": True, "coverage": coverage.put(value, None)}]
        changed = {**node[at], "coverage": coverage.put(value, node[at].get("coverage"))}
        return [*node[:at], changed, *node[at + 1 :]]

    def _at(self, node: Any) -> int | None:
        items = [item if isinstance(item, dict) else {} for item in node or []]
        focal = (index for index, item in enumerate(items) if item.get("focal") is True)
        return next(focal, 0 if items else None)


class ClaimMapping(ResourceMapping):
    """Reads and writes the procedures of lines where FHIR has them."""

    def get(self, resource: JsonObject) -> Rows:
        return super().get(with_procedures(resource))

    def put(self, rows: Rows, resource: JsonObject | None) -> JsonObject:
        result = super().put(rows, with_procedures(resource) if resource else None)
        return without_procedures(result, rows.row["currency"])


def _template(row: Row) -> JsonObject:
    found: JsonObject = {
        "type": ORAL.concept(),
        "use": "claim",
        "priority": NORMAL.concept(),
        "insurance": [{"sequence": 1, "focal": True, "coverage": UNKNOWN}],
        "provider": UNKNOWN,
    }
    if row.get("tenant_id"):
        found["provider"] = {"reference": f"Organization/{row['tenant_id']}"}
    if row.get("created_at"):
        found["created"] = instant(row["created_at"])
    return found


def mapping(public_url: str | None) -> ResourceMapping:
    return ClaimMapping(
        "Claim",
        "claims",
        [
            Entry("claim_number", "", Number()),
            Entry("status", "", State(), "DRAFT"),
            Entry("submitted_at", "", Submitted()),
            Entry("resubmitted_at", f"extension[url={RESUBMITTED_AT}].valueDateTime", Moment()),
            Entry("patient_id", "patient", Reference(("Patient",), public_url)),
            Entry("payer_id", "insurer", Reference(("Organization",), public_url)),
            Entry(
                "insurance_policy_id", "insurance", Insurance(Reference(("Coverage",), public_url))
            ),
            Entry(
                ("total_billed_amount", "currency"), "total", Amount(), (Decimal("0.00"), CURRENCY)
            ),
        ],
        [lines(public_url)],
        template=_template,
    )


class ClaimLens(TableLens):
    """Claims, whose state a payer's answer moves on while their senders send them again."""

    def write(
        self,
        connection: Connection,
        tenant_id: UUID,
        row_id: UUID,
        resource: JsonObject,
        actor: str,
    ) -> list[str]:
        if resource.get("status") == "active" and _STATE.get(resource) is None:
            resource = self._in_its_state(connection, tenant_id, row_id, resource)
        return super().write(connection, tenant_id, row_id, resource, actor)

    def overlay(
        self, connection: Connection, tenant_id: UUID, row_id: UUID, resource: JsonObject
    ) -> JsonObject:
        """What a client sends, in the state that the claim is in."""
        if resource.get("status") != "active" or _STATE.get(resource) is not None:
            return resource
        return self._in_its_state(connection, tenant_id, row_id, resource)

    def _in_its_state(
        self, connection: Connection, tenant_id: UUID, row_id: UUID, resource: JsonObject
    ) -> JsonObject:
        key = {"tenant_id": tenant_id, "id": row_id}
        found = statements.select(connection, "claims", ("status",), key)
        state = found[0]["status"] if found else None
        if state not in STATES["active"]:
            return resource
        return State().put(state, resource)


def lens(public_url: str | None) -> ClaimLens:
    return ClaimLens(
        mapping(public_url),
        needs=("patient_id", "claim_number"),
        parent="claim_id",
        beside=("created_at", "tenant_id"),
    )
