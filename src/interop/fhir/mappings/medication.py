"""MedicationStatement over patient_medications, and MedicationRequest of the same rows (US Core).

The list of what a patient takes is MedicationStatement, which clients write. US Core reads the list
as MedicationRequest (Medication List Guidance): each row is shown so too, as an order where
somebody prescribed it, else as a plan that was reported. A MedicationRequest that a client sends is
its own: an order is not yet what a patient takes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from typing import Any, Final
from uuid import UUID

from interop.fhir.lens import Connection, JsonObject
from interop.fhir.mappings import references
from interop.fhir.mappings.concepts import ConceptText, Reference, codings, replaced
from interop.fhir.mappings.converters import Boolean, Codes, Day, Text, number, plain
from interop.fhir.mappings.lens import Entry, ResourceMapping, Row, Rows
from interop.fhir.mappings.path import path
from interop.fhir.mappings.places import Choice, FirstOf, without_choice
from interop.fhir.mappings.shared_type import SharedLens, Writable
from interop.fhir.mappings.statements import select
from interop.fhir.mappings.systems import own_extension
from interop.fhir.mappings.tables import TableLens
from interop.fhir.mappings.views import ViewLens

# The entry of the platform's catalogue that is meant.
DRUG: Final = own_extension("catalogue-drug")
PRESCRIBER: Final = own_extension("medication-prescriber")
STATUSES: Final = Codes(
    {
        "active": "ACTIVE",
        "on-hold": "ON_HOLD",
        "completed": "COMPLETED",
        "stopped": "STOPPED",
        "entered-in-error": "ENTERED_IN_ERROR",
    }
)


@dataclass(frozen=True, slots=True)
class Drug:
    """(code_system_uri, code, name): the first coding; text, else its display, else the code."""

    label: str = "first coding; text, else display, else code"

    def get(self, node: Any) -> tuple[str | None, ...]:
        coded = [item for item in codings(node) if Text().get(item.get("code"))]
        first = coded[0] if coded else {}
        text = Text().get((node or {}).get("text"))
        name = text or Text().get(first.get("display")) or first.get("code")
        return Text().get(first.get("system")), first.get("code"), name

    def put(self, value: tuple[str | None, ...], node: Any) -> Any:
        uri, code, name = value
        coding = {"system": uri, "code": code}
        shown = {key: item for key, item in coding.items() if item}
        return replaced(node, coding=[shown] if code else None, text=name) or None


@dataclass(frozen=True, slots=True)
class Medicine:
    """The same on a resource, where a contained Medication or a name may stand for the concept."""

    label: str = (
        f"medicationCodeableConcept: {Drug().label}; else the code of a contained Medication, or"
        " the display of the reference"
    )

    def get(self, node: JsonObject) -> tuple[str | None, ...]:
        if "medicationCodeableConcept" in node:
            return Drug().get(node["medicationCodeableConcept"])
        reference = node.get("medicationReference") or {}
        target = str(reference.get("reference", ""))
        for item in node.get("contained") or []:
            if target == f"#{item.get('id')}" and item.get("resourceType") == "Medication":
                return Drug().get(item.get("code"))
        return None, None, Text().get(reference.get("display"))

    def put(self, value: tuple[str | None, ...], node: JsonObject) -> JsonObject:
        concept = Drug().put(value, node.get("medicationCodeableConcept"))
        rest = without_choice(node, "medication")
        return {**rest, "medicationCodeableConcept": concept} if concept else rest


@dataclass(frozen=True, slots=True)
class Course:
    """(start_date, stop_date) of the effective period; a moment is a period that has only begun."""

    label: str = "effectivePeriod = start_date, stop_date; effectiveDateTime = start_date"

    def get(self, node: JsonObject) -> tuple[date | None, date | None]:
        period = node.get("effectivePeriod")
        if isinstance(period, Mapping):
            return Day().get(period.get("start")), Day().get(period.get("end"))
        return Day().get(node.get("effectiveDateTime")), None

    def put(self, value: tuple[date | None, date | None], node: JsonObject) -> JsonObject:
        days = {"start": Day().put(value[0], None), "end": Day().put(value[1], None)}
        rest = without_choice(node, "effective")
        period = {key: day for key, day in days.items() if day}
        return {**rest, "effectivePeriod": period} if period else rest


_FREQUENCY: Final = path("timing.code")
Dose = tuple[str | None, float | None, str | None, str | None, str | None]


@dataclass(frozen=True, slots=True)
class Dosage:
    """(dosage, dose_quantity, dose_unit, route, frequency) of the first dosage."""

    label: str = (
        "first: text; doseAndRate[0].doseQuantity value and unit; route and timing.code as text,"
        " else display"
    )

    def get(self, node: Any) -> Dose:
        first = _first(node)
        dose = _first(first.get("doseAndRate")).get("doseQuantity") or {}
        amount = number(dose.get("value"))
        quantity = float(amount) if amount is not None and amount >= 0 else None
        return (
            Text().get(first.get("text")),
            quantity,
            Text().get(dose.get("unit")) or Text().get(dose.get("code")),
            _words(first.get("route")),
            _words((first.get("timing") or {}).get("code")),
        )

    def put(self, value: Dose, node: Any) -> Any:
        text, quantity, unit, route, frequency = value
        first, others = _first(node), (node or [])[1:]
        now = self.get(node)
        changed = dict(first)
        if now[0] != text:
            changed = _set(changed, "text", text)
        if now[1:3] != (quantity, unit):
            changed = _set(changed, "doseAndRate", _dose(quantity, unit))
        if now[3] != route:
            changed = _set(changed, "route", ConceptText().put(route, first.get("route")))
        if now[4] != frequency:
            changed = _FREQUENCY.put(changed, frequency and {"text": frequency})
        # Without a first dosage the next one would be read in its place.
        return [changed, *others] if changed else None


def _first(node: Any) -> JsonObject:
    first = node[0] if isinstance(node, list) and node else None
    return first if isinstance(first, dict) else {}


def _words(concept: Any) -> str | None:
    """What a CodeableConcept is called."""
    displays = (Text().get(item.get("display")) for item in codings(concept))
    return ConceptText().get(concept) or next((words for words in displays if words), None)


def _dose(quantity: float | None, unit: str | None) -> Any:
    amount = {"value": None if quantity is None else _decimal(quantity), "unit": unit}
    shown = {key: item for key, item in amount.items() if item is not None}
    return [{"doseQuantity": shown}] if shown else None


def _decimal(value: float) -> Any:
    return plain(number(value) or number(0))  # type: ignore[arg-type]


def _set(node: JsonObject, name: str, value: Any) -> JsonObject:
    rest = {key: item for key, item in node.items() if key.lstrip("_") != name}
    return {**rest, name: value} if value else rest


@dataclass(frozen=True, slots=True)
class Person:
    """(id, name) of a practitioner: a Reference and its display."""

    reference: Reference

    @property
    def label(self) -> str:
        return f"{self.reference.label}, display"

    def get(self, node: Any) -> tuple[str | None, str | None] | None:
        name = Text().get(node.get("display")) if isinstance(node, Mapping) else None
        reference = self.reference.get(node)
        return (reference, name) if reference or name else None

    def put(self, value: tuple[str | None, str | None], node: Any) -> Any:
        return replaced(node, reference=value[0], display=value[1]) or None


def statement_mapping(public_url: str | None) -> ResourceMapping:
    practitioner = Reference(("Practitioner",), public_url)
    return ResourceMapping(
        "MedicationStatement",
        "patient_medications",
        [
            Entry(
                ("prescriber_id", "prescriber_name"),
                f"extension[url={PRESCRIBER}].valueReference",
                Person(practitioner),
            ),
            Entry("status", "status", STATUSES, "ACTIVE", required=True),
            Entry(
                "drug_id",
                f"extension[url={DRUG}].valueReference",
                Reference(("Medication",), public_url),
            ),
            Entry(("code_system_uri", "code", "name"), "", Medicine()),
            Entry("patient_id", "subject", Reference(("Patient",), public_url)),
            Entry("encounter_id", "context", Reference(("Encounter",), public_url)),
            Entry(("start_date", "stop_date"), "", Course()),
            Entry(
                ("dosage", "dose_quantity", "dose_unit", "route", "frequency"), "dosage", Dosage()
            ),
        ],
    )


def is_taken(resource: JsonObject) -> bool:
    """Whether the statement is of a medication that the patient takes or took."""
    return STATUSES.get(resource.get("status")) is not None


def normalize(row: Row) -> Row:
    """A system without a code names nothing."""
    return {**row, "code_system_uri": row["code_system_uri"] if row["code"] else None}


def statement(public_url: str | None) -> SharedLens:
    lens = TableLens(
        statement_mapping(public_url),
        needs=("patient_id", "name"),
        normalize=normalize,
        links={"prescriber_id": ("Practitioner",)},
    )
    return SharedLens((), (Writable(lens, is_taken),))


# -- the same rows as US Core reads them --------------------------------------------------------

_BOUNDS: Final = "dosageInstruction[].timing.repeat.boundsPeriod"
REQUEST: Final = ResourceMapping(
    "MedicationRequest",
    "patient_medications",
    [
        Entry("status", "status", STATUSES, required=True),
        Entry("intent", "intent", Codes({"order": "ORDER", "plan": "PLAN"}), required=True),
        Entry("is_reported", "", Choice("reported", Boolean(), "Boolean")),
        Entry(("code_system_uri", "code", "name"), "medicationCodeableConcept", Drug()),
        Entry("patient", "subject", Reference(("Patient",))),
        Entry("encounter", "encounter", Reference(("Encounter",))),
        Entry("statement", "supportingInformation", FirstOf(Reference(("MedicationStatement",)))),
        Entry(("prescriber", "prescriber_name"), "requester", Person(Reference(("Practitioner",)))),
        Entry(
            ("dosage", "dose_quantity", "dose_unit", "route", "frequency"),
            "dosageInstruction",
            Dosage(),
        ),
        Entry("start_date", f"{_BOUNDS}.start", Day()),
        Entry("stop_date", f"{_BOUNDS}.end", Day()),
    ],
)
_SHOWN: Final = (
    "patient_id", "encounter_id", "code_system_uri", "code", "name", "status", "start_date",
    "stop_date", "dosage", "dose_quantity", "dose_unit", "route", "frequency", "prescriber_id",
    "prescriber_name",
)  # fmt: skip


def _load_request(connection: Connection, tenant_id: UUID, row_id: UUID) -> Rows | None:
    key = {"tenant_id": tenant_id, "id": row_id}
    found = select(connection, "patient_medications", _SHOWN, key)
    if not found:
        return None
    row = normalize(found[0])

    def named(resource_type: str, target: UUID | None) -> str | None:
        return references.literal(connection, tenant_id, resource_type, target) if target else None

    is_prescribed = row["prescriber_id"] is not None or row["prescriber_name"] is not None
    row["patient"] = named("Patient", row.pop("patient_id"))
    row["encounter"] = named("Encounter", row.pop("encounter_id"))
    row["prescriber"] = named("Practitioner", row.pop("prescriber_id"))
    row["statement"] = named("MedicationStatement", row_id)
    row["intent"] = "ORDER" if is_prescribed else "PLAN"
    row["is_reported"] = None if is_prescribed else True
    return Rows({column: row[column] for column in REQUEST.columns})


def request(public_url: str | None) -> ViewLens:
    origin = "made of a MedicationStatement; delete that"
    return ViewLens(REQUEST, _load_request, origin, ("patient_medications", "id"))
