"""How one FHIR value becomes one column value and back.

`get` answers None for an absent node and for one that the column cannot hold: such a value stays
in the stored resource. `put` is called only when the column says something else than the node does
(lens.py), so a value that means the same, however it is written, is never rewritten.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from decimal import ROUND_HALF_UP, Decimal
from typing import Any, Final, Protocol

from interop.fhir.mappings.path import DATA_ABSENT_REASON

UCUM: Final = "http://unitsofmeasure.org"

# FHIR R4 datatypes.html#dateTime; a time must have seconds and a zone.
_DATE_TIME = re.compile(
    r"(\d{4})-(\d{2})-(\d{2})(?:T\d{2}:\d{2}:\d{2}(?:\.\d+)?(?:Z|[+-]\d{2}:\d{2}))?"
)
# FHIR R4 references.html#literal: the last two segments, before a version.
_LITERAL_REFERENCE = re.compile(
    r"(?P<base>https?://\S+/)?(?P<type>[A-Z][A-Za-z]+)/(?P<id>[A-Za-z0-9\-.]{1,64})"
    r"(?:/_history/[A-Za-z0-9\-.]{1,64})?"
)


class Converter(Protocol):
    """One node against one column, or against a tuple of columns."""

    @property
    def label(self) -> str:
        """What the conversion is, in a few words, for the generated documentation."""
        ...

    def get(self, node: Any) -> Any: ...

    def put(self, value: Any, node: Any) -> Any:
        """The node that says `value`, made from the old node; None to remove it."""
        ...


@dataclass(frozen=True, slots=True)
class Text:
    """A string; an empty one is no value, as FHIR has none."""

    label: str = "string"

    def get(self, node: Any) -> str | None:
        return node if isinstance(node, str) and node else None

    def put(self, value: str | None, node: Any) -> str | None:
        return value or None


@dataclass(frozen=True, slots=True)
class Boolean:
    """A boolean."""

    label: str = "boolean"

    def get(self, node: Any) -> bool | None:
        return node if isinstance(node, bool) else None

    def put(self, value: bool | None, node: Any) -> bool | None:
        return value


@dataclass(frozen=True, slots=True)
class Integer:
    """A whole number."""

    label: str = "integer"

    def get(self, node: Any) -> int | None:
        return node if isinstance(node, int) and not isinstance(node, bool) else None

    def put(self, value: int | None, node: Any) -> int | None:
        return value


def number(node: Any) -> Decimal | None:
    """A JSON number as a decimal with the digits that were sent."""
    if isinstance(node, bool) or not isinstance(node, int | float | Decimal):
        return None
    return Decimal(str(node))


@dataclass(frozen=True, slots=True)
class Float:
    """A number that a double precision column holds, within `low` and `high`."""

    low: float = float("-inf")
    high: float = float("inf")
    label: str = "decimal"

    def get(self, node: Any) -> float | None:
        value = number(node)
        if value is None or not self.low <= float(value) <= self.high:
            return None
        return float(value)

    def put(self, value: float | None, node: Any) -> Decimal | None:
        return None if value is None else Decimal(str(value))


@dataclass(frozen=True, slots=True)
class Day:
    """A full date; a year or a month has no counterpart in a date column."""

    label: str = "date; a partial date stays in the resource"

    def get(self, node: Any) -> date | None:
        if not isinstance(node, str) or not _DATE_TIME.fullmatch(node):
            return None
        try:
            return date.fromisoformat(node[:10])
        except ValueError:
            return None

    def put(self, value: date | None, node: Any) -> str | None:
        return None if value is None else value.isoformat()


@dataclass(frozen=True, slots=True)
class Moment:
    """A dateTime or instant; a bare date is midnight UTC, less than that stays in the resource."""

    label: str = "dateTime; a bare date is midnight UTC, a partial date stays in the resource"

    def get(self, node: Any) -> datetime | None:
        if not isinstance(node, str) or not _DATE_TIME.fullmatch(node):
            return None
        try:
            value = datetime.fromisoformat(node)
            return value.astimezone(UTC) if value.tzinfo else value.replace(tzinfo=UTC)
        except (ValueError, OverflowError):  # 2024-02-30, a leap second, before the year 1
            return None

    def put(self, value: datetime | None, node: Any) -> str | None:
        return None if value is None else instant(value)


def instant(value: datetime) -> str:
    """A point in time as FHIR writes it, in UTC."""
    return value.astimezone(UTC).isoformat().replace("+00:00", "Z")


@dataclass(frozen=True, slots=True)
class Codes:
    """A code of a required value set against an enum; several codes may mean one enum value."""

    codes: Mapping[str, str]
    label: str = ""
    enum_to_code: Mapping[str, str] = field(init=False)

    def __post_init__(self) -> None:
        first: dict[str, str] = {}
        for code, value in self.codes.items():
            first.setdefault(value, code)
        object.__setattr__(self, "enum_to_code", first)
        if not self.label:
            pairs = ", ".join(f"{code} = {value}" for code, value in self.codes.items())
            object.__setattr__(self, "label", pairs)

    def get(self, node: Any) -> str | None:
        return self.codes.get(node) if isinstance(node, str) else None

    def put(self, value: str | None, node: Any) -> str | None:
        return None if value is None else self.enum_to_code.get(value)


@dataclass(frozen=True, slots=True)
class Coding:
    """A code and how it is shown."""

    system: str
    code: str
    display: str | None = None

    def json(self) -> dict[str, str]:
        shown = {"system": self.system, "code": self.code}
        return {**shown, "display": self.display} if self.display else shown

    def concept(self) -> dict[str, Any]:
        return {"coding": [self.json()]}


def codings(concept: Any) -> list[dict[str, Any]]:
    """The codings of a CodeableConcept, whatever was sent."""
    items = concept.get("coding") if isinstance(concept, Mapping) else None
    return [item for item in items if isinstance(item, dict)] if isinstance(items, list) else []


def has_coding(concept: Any, *wanted: Coding) -> bool:
    """Whether a CodeableConcept says one of these codes."""
    pairs = {(item.system, item.code) for item in wanted}
    return any((item.get("system"), item.get("code")) in pairs for item in codings(concept))


def replaced(node: Any, **elements: Any) -> dict[str, Any]:
    """`elements` in place of the node, keeping only its id and extensions.

    The codings and the text of a CodeableConcept say one thing in several ways, as the display of a
    Reference does of its target: what stays of the old value would contradict the new one.
    """
    kept = {key: node[key] for key in ("id", "extension") if key in (node or {})}
    return {**kept, **{key: value for key, value in elements.items() if value}}


@dataclass(frozen=True, slots=True)
class Concept:
    """A CodeableConcept against an enum; `accepted` are further codes that mean an enum value."""

    codes: Mapping[str, Coding]
    accepted: Mapping[str, tuple[Coding, ...]] = field(default_factory=dict)
    label: str = ""

    def __post_init__(self) -> None:
        if not self.label:
            pairs = (f"{coding.code} = {value}" for value, coding in self.codes.items())
            object.__setattr__(self, "label", ", ".join(pairs))

    def get(self, node: Any) -> str | None:
        for value, coding in self.codes.items():
            if has_coding(node, coding, *self.accepted.get(value, ())):
                return value
        return None

    def put(self, value: str | None, node: Any) -> Any:
        if value is None or value not in self.codes:
            return None
        return replaced(node, coding=[self.codes[value].json()])


@dataclass(frozen=True, slots=True)
class ConceptText:
    """The text of a CodeableConcept."""

    label: str = "CodeableConcept.text"

    def get(self, node: Any) -> str | None:
        return Text().get(node.get("text")) if isinstance(node, Mapping) else None

    def put(self, value: str | None, node: Any) -> Any:
        return None if value is None else replaced(node, text=value)


@dataclass(frozen=True, slots=True)
class Reference:
    """A Reference to a resource of this server, as `Type/id`; others stay in the resource.

    Literal references of other servers, logical references by identifier and references to a
    contained resource have no row. An absolute one under `public_url` is kept whole: only with the
    tenant at hand can it be told whose it is (references.py).
    """

    types: tuple[str, ...]
    public_url: str | None = None

    @property
    def label(self) -> str:
        return f"Reference({' | '.join(self.types)})"

    def get(self, node: Any) -> str | None:
        literal = node.get("reference") if isinstance(node, Mapping) else None
        match = _LITERAL_REFERENCE.fullmatch(literal) if isinstance(literal, str) else None
        if match is None or match["type"] not in self.types:
            return None
        base = match["base"] or ""
        if base and not (self.public_url and base.startswith(f"{self.public_url}/t/")):
            return None
        return f"{base}{match['type']}/{match['id']}"

    def put(self, value: str | None, node: Any) -> Any:
        return None if value is None else replaced(node, reference=value)


@dataclass(frozen=True, slots=True)
class FirstOf:
    """The items of a list that another converter knows, the first of which is the value.

    The other items stay. Removing the value removes every item that would be read in its place.
    """

    item: Converter

    @property
    def label(self) -> str:
        return f"first {self.item.label}"

    def get(self, node: Any) -> Any:
        known = (self.item.get(item) for item in _items(node))
        return next((value for value in known if value is not None), None)

    def put(self, value: Any, node: Any) -> Any:
        items = _items(node)
        if value is None or (isinstance(value, tuple) and not any(v is not None for v in value)):
            return [item for item in items if self.item.get(item) is None] or None
        for index, item in enumerate(items):
            if self.item.get(item) is not None:
                return [*items[:index], self.item.put(value, item), *items[index + 1 :]]
        return [*items, self.item.put(value, None)]


@dataclass(frozen=True, slots=True)
class Within:
    """A child of a node, with what the node has besides it when it is new."""

    child: str
    converter: Converter
    fresh: Mapping[str, Any] = field(default_factory=dict)

    @property
    def label(self) -> str:
        return f"{self.child}: {self.converter.label}"

    def get(self, node: Any) -> Any:
        return self.converter.get(node.get(self.child)) if isinstance(node, Mapping) else None

    def put(self, value: Any, node: Any) -> Any:
        old = node if isinstance(node, Mapping) else self.fresh
        child = self.converter.put(value, old.get(self.child))
        rest = {key: item for key, item in old.items() if key != self.child}
        return {**rest, self.child: child} if child is not None else rest or None


@dataclass(frozen=True, slots=True)
class Choice:
    """One type of a choice element, on the resource itself: setting it drops the other types."""

    element: str
    converter: Converter
    suffix: str = "DateTime"

    @property
    def label(self) -> str:
        return f"{self.element}{self.suffix}: {self.converter.label}"

    def get(self, node: Any) -> Any:
        name = self.element + self.suffix
        return self.converter.get(node.get(name)) if isinstance(node, Mapping) else None

    def put(self, value: Any, node: Any) -> Any:
        name = self.element + self.suffix
        rest = without_choice(node, self.element)
        new = self.converter.put(value, (node or {}).get(name))
        return rest if new is None else {**rest, name: new}


def without_choice(node: Any, element: str) -> dict[str, Any]:
    """The node without any type of a choice element (`value[x]`) and their siblings."""
    variant = re.compile(f"_?{element}[A-Z]")
    return {key: item for key, item in (node or {}).items() if not variant.match(key)}


@dataclass(frozen=True, slots=True)
class CodeOf:
    """The code that a CodeableConcept has in one system."""

    system: str

    @property
    def label(self) -> str:
        return f"code of {self.system}"

    def get(self, node: Any) -> str | None:
        ours = (item.get("code") for item in codings(node) if item.get("system") == self.system)
        return next((code for code in ours if isinstance(code, str) and code), None)

    def put(self, value: str | None, node: Any) -> Any:
        return value and replaced(node, coding=[Coding(self.system, value).json()])


@dataclass(frozen=True, slots=True)
class Notes:
    """The texts of all annotations, parted by blank lines; text that was added is a new one."""

    label: str = "all note[].text, parted by blank lines"

    def get(self, node: Any) -> str | None:
        texts = [item.get("text") for item in _items(node) if isinstance(item, Mapping)]
        return "\n\n".join(text for text in texts if isinstance(text, str)) or None

    def put(self, value: str | None, node: Any) -> Any:
        before = self.get(node)
        if value and before and value.startswith(before + "\n\n"):
            return [*_items(node), {"text": value[len(before) + 2 :]}]
        return [{"text": value}] if value else None


@dataclass(frozen=True, slots=True)
class FirstAndRest:
    """A list of strings on its parent as (first, the rest joined): given names, address lines.

    A rest without a first has `null` in its place, with the reason that FHIR wants for it.
    """

    name: str
    joint: str = " "

    @property
    def label(self) -> str:
        return f"{self.name}[0], {self.name}[1..]"

    def get(self, node: Any) -> tuple[str | None, str | None]:
        items = _items(node.get(self.name)) if isinstance(node, Mapping) else []
        rest = [item for item in items[1:] if isinstance(item, str)]
        first = items[0] if items and isinstance(items[0], str) else None
        return first, self.joint.join(rest) or None

    def put(self, value: tuple[str | None, str | None], node: Any) -> Any:
        first, rest = value
        keep = {key: item for key, item in (node or {}).items() if key.lstrip("_") != self.name}
        if first and not rest:
            return {**keep, self.name: [first]}
        if first:
            return {**keep, self.name: [first, rest]}
        if not rest:
            return keep or None
        absent = {"extension": [{"url": DATA_ABSENT_REASON, "valueCode": "unknown"}]}
        return {**keep, self.name: [None, rest], f"_{self.name}": [absent, None]}


def _items(node: Any) -> list[Any]:
    return node if isinstance(node, list) else []


@dataclass(frozen=True, slots=True)
class Fixed:
    """A node of a list that is known by a fixed part; its value is in one child of it.

    Within a FirstOf it finds, say, the component with a code or the identifier of a type.
    """

    known_by: str
    coding: Coding
    child: str
    converter: Converter

    @property
    def label(self) -> str:
        return f"{self.known_by} {self.coding.code}: {self.converter.label}"

    def get(self, node: Any) -> Any:
        if not isinstance(node, Mapping) or not has_coding(node.get(self.known_by), self.coding):
            return None
        return self.converter.get(node.get(self.child))

    def put(self, value: Any, node: Any) -> Any:
        old = node or {self.known_by: self.coding.concept()}
        return {**old, self.child: self.converter.put(value, old.get(self.child))}


@dataclass(frozen=True, slots=True)
class Quantity:
    """A quantity in one UCUM unit; others are accepted by conversion.

    `places` are the decimals that the column keeps; more of them stay in the resource.
    """

    unit: str
    shown: str = ""
    # unit -> (factor, offset): value * factor + offset in our unit
    accepted: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    low: float = float("-inf")
    high: float = float("inf")
    places: int | None = None

    @property
    def label(self) -> str:
        others = f" (also {', '.join(self.accepted)})" if self.accepted else ""
        return f"Quantity in {self.unit}{others}"

    def get(self, node: Any) -> Any:
        if not isinstance(node, Mapping) or node.get("comparator"):
            return None
        value, unit = number(node.get("value")), node.get("code") or node.get("unit")
        if value is None or node.get("system", UCUM) != UCUM:
            return None
        if unit != self.unit:
            if unit is None or unit not in self.accepted:
                return None
            factor, offset = self.accepted[unit]
            value = Decimal(str(round(float(value) * factor + offset, 4)))
        if self.places is not None:
            value = value.quantize(Decimal(1).scaleb(-self.places), ROUND_HALF_UP)
        if not self.low <= float(value) <= self.high:
            return None
        return float(value) if self.places is None else value

    def put(self, value: Any, node: Any) -> Any:
        if value is None:
            return None
        kept = {key: node[key] for key in ("id", "extension") if key in (node or {})}
        unit = {"unit": self.shown or self.unit, "system": UCUM, "code": self.unit}
        return {**kept, "value": plain(Decimal(str(value))), **unit}


def plain(value: Decimal) -> Decimal:
    """A decimal without the zeros and the exponent that a column's type has added."""
    normal = value.normalize()
    return normal if normal.as_tuple().exponent <= 0 else normal.quantize(Decimal(1))  # type: ignore[operator]


@dataclass(frozen=True, slots=True)
class References:
    """All references of some types in a list, as a sorted tuple; others stay."""

    reference: Reference

    @property
    def label(self) -> str:
        return f"list of {self.reference.label}"

    def get(self, node: Any) -> tuple[str, ...]:
        return tuple(
            sorted({found for item in _items(node) if (found := self.reference.get(item))})
        )

    def put(self, value: tuple[str, ...], node: Any) -> Any:
        kept = [item for item in _items(node) if self.reference.get(item) in (None, *value)]
        known = {self.reference.get(item) for item in kept}
        added = [self.reference.put(item, None) for item in value if item not in known]
        return [*kept, *added] or None


NO_NODE: Final[tuple[Any, ...]] = (None, {}, [])


def compact(value: Any) -> Any:
    """The JSON without empty objects and lists, which FHIR does not know."""
    if isinstance(value, Mapping):
        items = ((key, compact(item)) for key, item in value.items())
        return {key: item for key, item in items if item not in NO_NODE}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [item for item in map(compact, value) if item not in NO_NODE]
    return value
