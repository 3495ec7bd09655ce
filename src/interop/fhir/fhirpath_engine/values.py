"""Equality, equivalence and order of FHIRPath values (N1 6.1, 6.2), and their text."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any

from interop.fhir.fhirpath_engine.items import QUANTITIES, Collection, Item
from interop.fhir.fhirpath_engine.moments import Moment, Time, compare, moment, time_of_day

UCUM = "http://unitsofmeasure.org"
_TIMES = frozenset(("date", "dateTime", "instant"))
_CALENDAR_UNITS = {
    "a": "year", "mo": "month", "wk": "week", "d": "day", "h": "hour", "min": "minute",
    "s": "second", "ms": "millisecond",
}  # fmt: skip


class EvaluationError(ValueError):
    """The expression cannot be evaluated on this resource."""


@dataclass(frozen=True, slots=True)
class Quantity:
    """A number with a unit: a UCUM code, or a calendar word (year, month ...)."""

    value: Decimal
    unit: str
    system: str | None = UCUM

    def calendar_unit(self) -> str:
        return _CALENDAR_UNITS.get(self.unit, self.unit)


def plain(item: Any) -> Any:
    """The value of an item as FHIRPath computes with it; None where it has only extensions."""
    if type(item) is not Item:
        return item
    value, type_ = item.value, item.type
    if type(value) is dict:
        return quantity(value) if type_ in QUANTITIES else item
    if type(value) is str:
        if type_ in _TIMES:
            return moment(value) or value
        if type_ == "time":
            return time_of_day(value) or value
    if type(value) is float:
        return Decimal(repr(value))
    return value


def quantity(value: dict[str, Any]) -> Quantity | None:
    """A FHIR Quantity as a value; None where it has no number."""
    number = value.get("value")
    if isinstance(number, bool) or not isinstance(number, int | float | Decimal):
        return None
    unit = value.get("code") or value.get("unit") or "1"
    return Quantity(Decimal(str(number)), str(unit), value.get("system"))


def singleton(items: Collection) -> Any:
    """The one value of a collection, None where it has none. Raises EvaluationError for many."""
    if not items:
        return None
    if len(items) > 1:
        raise EvaluationError(f"one value expected where there are {len(items)}")
    return plain(items[0])


def is_number(value: Any) -> bool:
    return isinstance(value, int | Decimal) and not isinstance(value, bool)


def text_of(value: Any) -> str | None:
    """`toString()`; None where it has no text."""
    if type(value) is str:
        return value
    if type(value) is bool:
        return "true" if value else "false"
    if isinstance(value, Moment | Time):
        return value.text
    if isinstance(value, Quantity):
        return f"{value.value} '{value.unit}'"
    if is_number(value):
        return str(getattr(value, "literal", value))
    return None


def equal(left: Collection, right: Collection) -> bool | None:
    """N1 6.1.1 over collections: empty where one is, false where the sizes differ."""
    if not left or not right:
        return None
    if len(left) != len(right):
        return False
    answer: bool | None = True
    for one, other in zip(left, right, strict=True):
        same = equal_values(one, other)
        if same is False:
            return False
        if same is None:
            answer = None
    return answer


def equal_values(left: Any, right: Any) -> bool | None:
    """N1 6.1.1 for two values."""
    one, other = plain(left), plain(right)
    if isinstance(one, Item) and isinstance(other, Item):
        return bool(one.value == other.value) and one.type == other.type
    if isinstance(one, Item) or isinstance(other, Item):
        return False
    if type(one) is bool or type(other) is bool:
        return one is other
    if isinstance(one, Quantity) and isinstance(other, Quantity):
        order = order_of(one, other)
        return None if order is None else order == 0
    if isinstance(one, Moment | Time) or isinstance(other, Moment | Time):
        if isinstance(one, str) or isinstance(other, str):
            return text_of(one) == text_of(other)
        if isinstance(one, Moment | Time) and isinstance(other, Moment | Time):
            order = compare(one, other)
            return None if order is None else order == 0
        return False
    if one is None or other is None:
        # Primitives that have only extensions.
        return one is other and getattr(left, "extra", None) == getattr(right, "extra", None)
    return bool(one == other)


def equivalent(left: Collection, right: Collection) -> bool:
    """N1 6.1.2: order, case, white space and finer digits do not count; empty is like empty."""
    if len(left) != len(right):
        return False
    rest = list(right)
    for one in left:
        match = next((other for other in rest if _equivalent_values(one, other)), _NONE)
        if match is _NONE:
            return False
        rest.remove(match)
    return True


_NONE = object()


def _equivalent_values(left: Any, right: Any) -> bool:
    one, other = plain(left), plain(right)
    if isinstance(one, str) and isinstance(other, str):
        return one.split() == other.split() or (one.casefold().split() == other.casefold().split())
    if is_number(one) and is_number(other):
        return _like_numbers(Decimal(one), Decimal(other))
    if isinstance(one, Item) and isinstance(other, Item):
        return _like_objects(one, other)
    return bool(equal_values(left, right))


def _like_numbers(one: Decimal, other: Decimal) -> bool:
    places = min(-min(_exponent(one), 0), -min(_exponent(other), 0))
    try:
        return round(one, places) == round(other, places)
    except InvalidOperation:
        return one == other


def _exponent(number: Decimal) -> int:
    exponent = number.as_tuple().exponent
    return exponent if isinstance(exponent, int) else 0


def _like_objects(one: Item, other: Item) -> bool:
    """Codings and concepts by system and code (R4 fhirpath.html), others by their content."""
    if one.type == other.type == "Coding":
        return all(one.value.get(key) == other.value.get(key) for key in ("system", "code"))
    if one.type == other.type == "CodeableConcept":
        ours = {(c.get("system"), c.get("code")) for c in one.value.get("coding", ())}
        return any((c.get("system"), c.get("code")) in ours for c in other.value.get("coding", ()))
    return bool(equal_values(one, other))


def order_of(left: Any, right: Any) -> int | None:
    """-1, 0 or 1 by N1 6.2; None where it is open. Raises EvaluationError for unlike values."""
    if left is None or right is None:
        return None
    if isinstance(left, Moment | Time) and isinstance(right, str):
        right = moment(right) if isinstance(left, Moment) else time_of_day(right)
        return None if right is None else compare(left, right)
    if isinstance(left, Moment | Time) and isinstance(right, Moment | Time):
        return compare(left, right)
    if isinstance(left, Quantity) and isinstance(right, Quantity):
        if left.calendar_unit() != right.calendar_unit():
            return None
        left, right = left.value, right.value
    elif isinstance(left, Quantity) and is_number(right):
        left = left.value
    elif not (is_number(left) and is_number(right)) and not (
        isinstance(left, str) and isinstance(right, str)
    ):
        raise EvaluationError(f"{type(left).__name__} and {type(right).__name__} have no order")
    return 0 if left == right else (-1 if left < right else 1)


def key_of(item: Any) -> Any:
    """Something hashable that is equal for equal values where that can be told by content."""
    value = plain(item)
    if isinstance(value, Item):
        return (value.type, _frozen(value.value))
    if isinstance(value, Moment | Time):
        return value.text
    if value is None and isinstance(item, Item):
        return ("", _frozen(item.extra))
    return (type(value) is bool, value)


def _frozen(value: Any) -> Any:
    if isinstance(value, dict):
        return frozenset((key, _frozen(part)) for key, part in value.items())
    if isinstance(value, list):
        return tuple(_frozen(part) for part in value)
    return value
