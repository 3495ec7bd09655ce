"""What each data type contributes to each kind of search row (FHIR R4 search.html 3.1.1.4).

Rows are the columns of the table: token (system, code); string (value, value_exact); reference
(type, id, url, version, identifier system, identifier value); date (low, high); number (low, high);
quantity (low, high, system, code, unit, base unit, low and high in base units); uri (value).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from interop.fhir.definitions import Element
from interop.fhir.lens import JsonObject
from interop.fhir.references import parse_target
from interop.fhir.search.units import unit_of
from interop.fhir.search.values import (
    EARLIEST,
    INDEXED_CHARACTERS,
    LATEST,
    Interval,
    date_interval,
    exact_key,
    fold,
    phonetic_words,
)

Row = tuple[Any, ...]

CURRENCIES = "urn:iso:std:iso:4217"
# What the rows are called that modifiers search: of `identifier:of-type`, and of a token's texts.
OF_TYPE = ":of-type"
TEXT = ":text"


@dataclass(slots=True)
class Context:
    """What a converter may need beside the value."""

    resource: JsonObject
    own_base: str | None
    # The `id()` of Identifiers whose numbers must not stand in a search row, and what does instead.
    sensitive: frozenset[int] = frozenset()
    blind: Callable[[str], str] | None = None
    # The sensitive numbers themselves, where an expression of the tenant's may lead to one.
    hidden: tuple[str, ...] = ()

    def tells(self, row: Row) -> bool:
        """Whether a row holds a sensitive number, as it was sent or folded."""
        texts = [cell for cell in row if isinstance(cell, str)]
        return any(number in text for number in self.hidden for text in texts)

    def number(self, identifier: Any) -> str:
        """The value of an Identifier, as it may be indexed; without `blind` some not at all."""
        number: str = identifier.get("value", "")
        if number and id(identifier) in self.sensitive:
            return self.blind(number) if self.blind else ""
        return number


Converter = Callable[[Any, Context, Element | None], list[Row]]


# -- token ----------------------------------------------------------------------------------


def _coding(value: Any, _context: Context, _element: Element | None) -> list[Row]:
    return [(exact_key(value.get("system", "")), exact_key(value.get("code", "")))]


def _concept(value: Any, _context: Context, _element: Element | None) -> list[Row]:
    # A concept of text only is there, for :missing, and has no code to find it by.
    codings = value.get("coding") or [{}]
    return [(exact_key(c.get("system", "")), exact_key(c.get("code", ""))) for c in codings]


def _identifier(value: Any, context: Context, _element: Element | None) -> list[Row]:
    return [(exact_key(value.get("system", "")), exact_key(context.number(value)))]


def identifier_types(value: Any, context: Context, _element: Element | None) -> list[Row]:
    """The rows of `identifier:of-type`: the type's system, and its code with the value."""
    number = context.number(value)
    return [
        (exact_key(coding.get("system", "")), exact_key(f"{coding.get('code', '')}|{number}"))
        for coding in value.get("type", {}).get("coding", ())
    ]


def _contact(value: Any, _context: Context, _element: Element | None) -> list[Row]:
    return [("", exact_key(value.get("value", "")))]


def _code(value: Any, _context: Context, element: Element | None) -> list[Row]:
    system = element.code_system if element else None
    return [(system or "", exact_key(value))]


def _boolean(value: Any, _context: Context, _element: Element | None) -> list[Row]:
    return [("", "true" if value else "false")]


def _coding_text(value: Any, _context: Context, _element: Element | None) -> list[Row]:
    return _searched(value.get("display"))


def _concept_text(value: Any, _context: Context, _element: Element | None) -> list[Row]:
    displays = [coding.get("display") for coding in value.get("coding") or ()]
    return _searched(value.get("text"), *displays)


def _identifier_text(value: Any, context: Context, element: Element | None) -> list[Row]:
    return _concept_text(value.get("type") or {}, context, element)


def _searched(*texts: str | None) -> list[Row]:
    """The rows of `:text`, which looks for words in them and never for the exact text."""
    return [(fold(text)[:INDEXED_CHARACTERS], "") for text in texts if text]


# search.html 3.1.1.4.11: CodeableConcept.text, Coding.display, Identifier.type.text.
TEXTS: dict[str, Converter] = {
    "Coding": _coding_text,
    "CodeableConcept": _concept_text,
    "Identifier": _identifier_text,
}


# -- string ---------------------------------------------------------------------------------


def _text(value: Any, _context: Context, _element: Element | None) -> list[Row]:
    return [(fold(value)[:INDEXED_CHARACTERS], value)]


def _parts(value: Any, names: tuple[str, ...]) -> Iterator[str]:
    for name in names:
        part = value.get(name)
        if isinstance(part, str):
            yield part
        elif isinstance(part, list):
            yield from (text for text in part if isinstance(text, str))


_NAME = ("text", "family", "given", "prefix", "suffix")
_ADDRESS = ("text", "line", "city", "district", "state", "postalCode", "country")


def _human_name(value: Any, context: Context, element: Element | None) -> list[Row]:
    return [row for part in _parts(value, _NAME) for row in _text(part, context, element)]


def _address(value: Any, context: Context, element: Element | None) -> list[Row]:
    return [row for part in _parts(value, _ADDRESS) for row in _text(part, context, element)]


def _phonetic(value: Any, _context: Context, _element: Element | None) -> list[Row]:
    parts = [value] if isinstance(value, str) else _parts(value, ("text", "family", "given"))
    return [(code, code) for part in parts for code in phonetic_words(part)]


# -- reference ------------------------------------------------------------------------------


def _reference(value: Any, context: Context, _element: Element | None) -> list[Row]:
    identifier = value.get("identifier", {})
    by_identifier = (
        exact_key(identifier.get("system", "")),
        exact_key(context.number(identifier)),
    )
    url = value.get("reference", "")
    if not url or url.startswith("#"):
        return [("", "", "", "", *by_identifier)]
    target = parse_target(url)
    if target.is_local(context.own_base):
        return [(target.resource_type, target.resource_id, "", "", *by_identifier)]
    return [(target.resource_type, "", exact_key(url), "", *by_identifier)]


def _canonical(value: Any, context: Context, _element: Element | None) -> list[Row]:
    target = parse_target(value)
    if target.is_local(context.own_base):
        return [(target.resource_type, target.resource_id, "", "", "", "")]
    url, _, version = value.partition("|")
    return [(target.resource_type, "", exact_key(url), exact_key(version), "", "")]


def _attachment(value: Any, context: Context, element: Element | None) -> list[Row]:
    return _canonical(value["url"], context, element) if "url" in value else []


def _resource(value: Any, _context: Context, _element: Element | None) -> list[Row]:
    return [(value.get("resourceType", ""), value.get("id", ""), "", "", "", "")]


# -- date -----------------------------------------------------------------------------------


def _interval(text: str) -> list[Interval]:
    try:
        return [date_interval(text)]
    except ValueError:
        return []  # the gate refuses impossible dates of clients; rows of the database may differ


def _date(value: Any, _context: Context, _element: Element | None) -> list[Row]:
    return [*_interval(value)]


def _period(value: Any, _context: Context, _element: Element | None) -> list[Row]:
    start, end = value.get("start"), value.get("end")
    if start is None and end is None:
        return []
    low = _interval(start)[0][0] if start and _interval(start) else EARLIEST
    high = _interval(end)[0][1] if end and _interval(end) else LATEST
    return [(low, high)]


def _timing(value: Any, context: Context, element: Element | None) -> list[Row]:
    """The span of all events, or the bounds of the repetition."""
    events = [interval for event in value.get("event", ()) for interval in _interval(event)]
    if events:
        return [(min(low for low, _ in events), max(high for _, high in events))]
    return _period(value.get("repeat", {}).get("boundsPeriod", {}), context, element)


# -- number and quantity --------------------------------------------------------------------


def _number(value: Any, _context: Context, _element: Element | None) -> list[Row]:
    return [(float(value), float(value))]


def _number_range(value: Any, _context: Context, _element: Element | None) -> list[Row]:
    bounds = _bounds(value.get("low", {}).get("value"), value.get("high", {}).get("value"))
    return [bounds] if bounds else []


def _bounds(low: Any, high: Any) -> tuple[float, float] | None:
    """A range of which one end may be open; None where both are."""
    if low is None and high is None:
        return None
    return (-math.inf if low is None else float(low), math.inf if high is None else float(high))


def _quantity(value: Any, _context: Context, _element: Element | None) -> list[Row]:
    number = value.get("value")
    if number is None:
        return []
    comparator = value.get("comparator", "")
    low = None if comparator.startswith("<") else number
    high = None if comparator.startswith(">") else number
    return _quantities(low, high, value)


def _quantities(low: Any, high: Any, unit: Any) -> list[Row]:
    """The row of a range in a unit, and in base units where it is one of UCUM."""
    bounds = _bounds(low, high)
    if bounds is None:
        return []
    system, code, printed = (exact_key(unit.get(name, "")) for name in ("system", "code", "unit"))
    known = unit_of(system, code)
    try:
        in_base = (
            ("", None, None)
            if known is None
            else (
                known.name,
                -math.inf if low is None else known.in_base(low),
                math.inf if high is None else known.in_base(high),
            )
        )
    except OverflowError:
        in_base = ("", None, None)
    return [(*bounds, system, code, printed, *in_base)]


def _quantity_range(value: Any, _context: Context, _element: Element | None) -> list[Row]:
    low, high = value.get("low") or {}, value.get("high") or {}
    return _quantities(low.get("value"), high.get("value"), low or high)


def _money(value: Any, _context: Context, _element: Element | None) -> list[Row]:
    amount, currency = value.get("value"), value.get("currency", "")
    system = CURRENCIES if currency else ""
    return _quantities(amount, amount, {"system": system, "code": currency, "unit": currency})


def _sampled(value: Any, _context: Context, _element: Element | None) -> list[Row]:
    """A series of samples covers what lies between its stated limits."""
    low, high = value.get("lowerLimit"), value.get("upperLimit")
    if low is None or high is None:
        return []
    return _quantities(low, high, value.get("origin", {}))


# -- uri and special ------------------------------------------------------------------------


def _uri(value: Any, _context: Context, _element: Element | None) -> list[Row]:
    return [(exact_key(value),)]


def _canonical_uri(value: Any, _context: Context, _element: Element | None) -> list[Row]:
    """A canonical is found with its version and without."""
    url, bar, _ = value.partition("|")
    return [(exact_key(value),), (exact_key(url),)] if bar else [(exact_key(value),)]


def _position(value: Any, _context: Context, _element: Element | None) -> list[Row]:
    if value.get("latitude") is None or value.get("longitude") is None:
        return []
    return [(float(value["latitude"]), float(value["longitude"]))]


CONVERTERS: dict[tuple[str, str], Converter] = {
    ("token", "Coding"): _coding,
    ("token", "CodeableConcept"): _concept,
    ("token", "Identifier"): _identifier,
    ("token", "ContactPoint"): _contact,
    ("token", "boolean"): _boolean,
    ("token", "code"): _code,
    ("token", "id"): _code,
    ("token", "string"): _code,
    ("token", "uri"): _code,
    ("string", "string"): _text,
    ("string", "markdown"): _text,
    ("string", "HumanName"): _human_name,
    ("string", "Address"): _address,
    ("phonetic", "HumanName"): _phonetic,
    ("phonetic", "string"): _phonetic,
    ("reference", "Reference"): _reference,
    ("reference", "canonical"): _canonical,
    ("reference", "uri"): _canonical,
    ("reference", "Attachment"): _attachment,
    ("reference", "Resource"): _resource,
    ("date", "date"): _date,
    ("date", "dateTime"): _date,
    ("date", "instant"): _date,
    ("date", "Period"): _period,
    ("date", "Timing"): _timing,
    ("number", "decimal"): _number,
    ("number", "integer"): _number,
    ("number", "Range"): _number_range,
    ("quantity", "Quantity"): _quantity,
    ("quantity", "Age"): _quantity,
    ("quantity", "Duration"): _quantity,
    ("quantity", "Range"): _quantity_range,
    ("quantity", "Money"): _money,
    ("quantity", "SampledData"): _sampled,
    ("uri", "uri"): _uri,
    ("uri", "url"): _uri,
    ("uri", "canonical"): _canonical_uri,
    ("special", "Location.position"): _position,
}
