"""The lines of a claim: Claim.item over claim_lines.

R4 names the procedure of a line by its number in Claim.procedure. `with_procedures` puts the
reference into the line itself, where an entry can read and write it; `without_procedures` brings it
back to where FHIR has it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from typing import Any, Final

from interop.fhir.lens import JsonObject
from interop.fhir.mappings.body_site import surface_concept, surface_of, tooth_concept, tooth_of
from interop.fhir.mappings.concepts import Reference, codings, replaced
from interop.fhir.mappings.converters import Day, Text, number
from interop.fhir.mappings.lens import Children, Entry
from interop.fhir.mappings.money import amount_of, currency_of, in_cents, money
from interop.fhir.mappings.places import without_choice
from interop.fhir.mappings.systems import CDT, CDT_SYSTEMS, own_extension

# The planned procedure that a line of a predetermination is about.
PLANNED: Final = own_extension("claim-item-planned")
_PROCEDURE: Final = "procedure"
# A net amount that a row has made and that still lacks the currency of its claim.
_NEW: Final = "new"
_MAX_INTEGER: Final = 2**31 - 1


@dataclass(frozen=True, slots=True)
class Whole:
    """A positive whole number, however it is written."""

    label: str = "positive whole number"

    def get(self, node: Any) -> int | None:
        value = number(node)
        if value is None or value != value.to_integral_value() or not 1 <= value <= _MAX_INTEGER:
            return None
        return int(value)

    def put(self, value: int | None, node: Any) -> int | None:
        return value


@dataclass(frozen=True, slots=True)
class CdtCode:
    """The CDT code of a service."""

    label: str = "code of CDT"

    def get(self, node: Any) -> str | None:
        ours = (item.get("code") for item in codings(node) if item.get("system") in CDT_SYSTEMS)
        return next(filter(Text().get, ours), None)

    def put(self, value: str | None, node: Any) -> Any:
        return value and replaced(node, coding=[{"system": CDT, "code": value}])


@dataclass(frozen=True, slots=True)
class Tooth:
    """A tooth by its FDI number."""

    label: str = "SNOMED CT (CID 4018, 4019), ADA Universal or ISO 3950"

    def get(self, node: Any) -> int | None:
        return tooth_of(node)

    def put(self, value: int | None, node: Any) -> Any:
        return None if value is None else tooth_concept(value)


@dataclass(frozen=True, slots=True)
class Surfaces:
    """The letters of all surfaces in a list; other sites stay."""

    label: str = "FDI surfaces"

    def get(self, node: Any) -> str | None:
        letters = "".join(surface_of(item) or "" for item in node or [])
        return letters if 0 < len(letters) <= 6 else None

    def put(self, value: str | None, node: Any) -> Any:
        others = [item for item in node or [] if surface_of(item) is None]
        return [*(surface_concept(letter) for letter in value or ""), *others] or None


@dataclass(frozen=True, slots=True)
class Serviced:
    """(service_start, service_end)."""

    label: str = "servicedDate = service_start; servicedPeriod = service_start, service_end"

    def get(self, node: JsonObject) -> tuple[date | None, date | None]:
        if "servicedPeriod" in node:
            period = node["servicedPeriod"]
            return Day().get(period.get("start")), Day().get(period.get("end"))
        return Day().get(node.get("servicedDate")), None

    def put(self, value: tuple[date | None, date | None], node: JsonObject) -> JsonObject:
        start, end = value
        rest = without_choice(node, "serviced")
        if end is None:
            return {**rest, "servicedDate": Day().put(start, None)} if start else rest
        period = {"start": Day().put(start, None), "end": Day().put(end, None)}
        return {**rest, "servicedPeriod": {key: at for key, at in period.items() if at}}


@dataclass(frozen=True, slots=True)
class Billed:
    """What is asked for a line."""

    label: str = "net, else unitPrice times quantity"

    def get(self, node: JsonObject) -> Decimal | None:
        if "net" in node:
            return amount_of(node["net"])
        price = amount_of(node.get("unitPrice"))
        count = number((node.get("quantity") or {}).get("value", 1))
        if price is None or count is None or not 0 <= count <= _MAX_INTEGER:
            return None
        return in_cents(price * count)

    def put(self, value: Decimal, node: JsonObject) -> JsonObject:
        old = node.get("net")
        currency = currency_of(old) or currency_of(node.get("unitPrice"))
        net = {**replaced(old), **money(value, currency)}
        return {**node, "net": net if currency else {**net, _NEW: True}}


def _is_line(item: JsonObject) -> bool:
    code = CdtCode().get(item.get("productOrService"))
    return code is not None and Whole().get(item.get("sequence")) is not None


def lines(public_url: str | None) -> Children:
    """The items of a claim that are rows: those with a CDT code."""
    return Children(
        "claim_lines",
        "item",
        [
            Entry("line_number", "sequence", Whole()),
            Entry("cdt_code", "productOrService", CdtCode()),
            Entry("tooth_number", "bodySite", Tooth()),
            Entry("surface", "subSite", Surfaces()),
            Entry(("service_start", "service_end"), "", Serviced()),
            Entry("quantity", "quantity.value", Whole(), 1),
            Entry("billed_amount", "", Billed(), Decimal("0.00")),
            Entry("procedure_id", _PROCEDURE, Reference(("Procedure",), public_url)),
            Entry(
                "treatment_plan_item_id",
                f"extension[url={PLANNED}].valueReference",
                Reference(("ServiceRequest",), public_url),
            ),
        ],
        key=("line_number",),
        order=("line_number",),
        admits=_is_line,
    )


def with_procedures(claim: JsonObject) -> JsonObject:
    """The claim with the reference of its first procedure in each line that names one."""
    named = _numbered(claim.get("procedure"))
    items = [
        {**item, _PROCEDURE: named[first]}
        if isinstance(item, dict) and (first := _first(item)) in named
        else item
        for item in claim.get("item") or []
    ]
    return {**claim, "item": items} if items else claim


def without_procedures(claim: JsonObject, currency: str) -> JsonObject:
    """The claim as FHIR has it; `currency` is that of amounts that rows have made."""
    procedures = list(claim.get("procedure") or [])
    items = [
        _settled(item, procedures, currency) if isinstance(item, dict) else item
        for item in claim.get("item") or []
    ]
    result = {**claim, "item": items} if items else claim
    return {**result, "procedure": procedures} if procedures else result


def _settled(item: JsonObject, procedures: list[Any], currency: str) -> JsonObject:
    net = item.get("net")
    if isinstance(net, dict) and net.pop(_NEW, False):
        net["currency"] = currency
    if _PROCEDURE not in item and _first(item) not in _numbered(procedures):
        return item
    result = {key: node for key, node in item.items() if key != _PROCEDURE}
    wanted = item.get(_PROCEDURE)
    known = _numbered(procedures)
    if wanted == known.get(_first(item)):
        return result
    others = list(item.get("procedureSequence") or [])[1:]
    numbers = [_number_of(wanted, procedures), *others] if wanted else others
    result.pop("procedureSequence", None)
    return {**result, "procedureSequence": numbers} if numbers else result


def _number_of(reference: JsonObject, procedures: list[Any]) -> int:
    """The number of a procedure among those of the claim, to which it is added where missing."""
    known = _numbered(procedures)
    found = next((at for at, named in known.items() if named == reference), None)
    if found is None:
        found = max((*_sequences(procedures), 0)) + 1
        procedures.append({"sequence": found, "procedureReference": reference})
    return found


def _numbered(procedures: Any) -> dict[int, JsonObject]:
    found: dict[int, JsonObject] = {}
    for item in procedures or []:
        if isinstance(item, Mapping) and isinstance(item.get("procedureReference"), dict):
            number_ = item.get("sequence")
            if isinstance(number_, int):
                found.setdefault(number_, item["procedureReference"])
    return found


def _sequences(procedures: Iterable[Any]) -> list[int]:
    numbers = (item.get("sequence") for item in procedures if isinstance(item, Mapping))
    return [item for item in numbers if isinstance(item, int)]


def _first(item: JsonObject) -> int:
    numbers = item.get("procedureSequence")
    first = numbers[0] if isinstance(numbers, list) and numbers else None
    return first if isinstance(first, int) else 0
