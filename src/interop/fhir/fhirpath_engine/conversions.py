"""Conversions, text and arithmetic of FHIRPath (N1 5.5, 5.6, 5.7, 6.6)."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from decimal import Decimal, InvalidOperation, Overflow, localcontext
from typing import Any

from interop.fhir.fhirpath_engine.environment import MAX_TEXT, Environment
from interop.fhir.fhirpath_engine.functions import Function, Predicate
from interop.fhir.fhirpath_engine.items import Collection
from interop.fhir.fhirpath_engine.moments import Moment, Time, moment, shifted, time_of_day
from interop.fhir.fhirpath_engine.patterns import is_found, replaced
from interop.fhir.fhirpath_engine.values import (
    EvaluationError,
    Quantity,
    is_number,
    singleton,
    text_of,
)

MAX_DIGITS = 40
_INTEGER = re.compile(r"[+-]?[0-9]{1,18}")
_DECIMAL = re.compile(r"[+-]?[0-9]{1,40}(?:\.[0-9]{1,40})?")
_QUANTITY = re.compile(r"([+-]?[0-9]{1,40}(?:\.[0-9]{1,40})?)\s*(?:'([^']+)'|([a-z]+))?")
_TRUE = frozenset(("true", "t", "yes", "y", "1", "1.0"))
_FALSE = frozenset(("false", "f", "no", "n", "0", "0.0"))

# -- conversions -----------------------------------------------------------------------------


def _boolean(value: Any) -> bool | None:
    if type(value) is bool:
        return value
    text = (text_of(value) or "").lower()
    return True if text in _TRUE else (False if text in _FALSE else None)


def _integer(value: Any) -> int | None:
    if isinstance(value, bool | int):
        return int(value)
    return int(value) if isinstance(value, str) and _INTEGER.fullmatch(value) else None


def _decimal(value: Any) -> Decimal | None:
    if isinstance(value, bool | int | Decimal):
        return Decimal(value)
    return Decimal(value) if isinstance(value, str) and _DECIMAL.fullmatch(value) else None


def _date(value: Any) -> Moment | None:
    text = value.text if isinstance(value, Moment) else value
    return moment(text.partition("T")[0]) if isinstance(text, str) else None


def _date_time(value: Any) -> Moment | None:
    text = value.text if isinstance(value, Moment) else value
    return moment(text) if isinstance(text, str) else None


def _time(value: Any) -> Time | None:
    if isinstance(value, Time):
        return value
    return time_of_day(value) if isinstance(value, str) else None


def _quantity(value: Any) -> Quantity | None:
    if isinstance(value, Quantity):
        return value
    if isinstance(value, bool | int | Decimal):
        return Quantity(Decimal(value), "1")
    found = _QUANTITY.fullmatch(value) if isinstance(value, str) else None
    return Quantity(Decimal(found[1]), found[2] or found[3] or "1") if found else None


_CONVERSIONS: dict[str, Callable[[Any], Any]] = {
    "Boolean": _boolean,
    "Integer": _integer,
    "Decimal": _decimal,
    "String": text_of,
    "Date": _date,
    "DateTime": _date_time,
    "Time": _time,
    "Quantity": _quantity,
}


def _converter(convert: Callable[[Any], Any]) -> Function:
    def converted(items: Collection, _env: Environment) -> Collection:
        value = singleton(items)
        found = None if value is None else convert(value)
        return [] if found is None else [found]

    return converted


def _converts(convert: Callable[[Any], Any]) -> Predicate:
    def converts(items: Collection, _env: Environment) -> bool | None:
        value = singleton(items)
        return None if value is None else convert(value) is not None

    return converts


# -- text ------------------------------------------------------------------------------------


def text(items: Collection) -> str | None:
    """The one text of a collection; None where it is empty."""
    value = singleton(items)
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, Moment | Time):
        return value.text
    raise EvaluationError(f"text expected, found {type(value).__name__}")


def _text_test(test: Callable[[str, str], bool]) -> Predicate:
    def tested(items: Collection, _env: Environment, other: Collection) -> bool | None:
        value, wanted = text(items), text(other)
        return None if value is None or wanted is None else test(value, wanted)

    return tested


def _text_change(change: Callable[[str], Any]) -> Function:
    def changed(items: Collection, _env: Environment) -> Collection:
        value = text(items)
        return [] if value is None else [change(value)]

    return changed


def _index_of(items: Collection, _env: Environment, other: Collection) -> Collection:
    value, wanted = text(items), text(other)
    return [] if value is None or wanted is None else [value.find(wanted)]


def _substring(items: Collection, _env: Environment, *arguments: Collection) -> Collection:
    value, start = text(items), singleton(arguments[0])
    length = singleton(arguments[1]) if len(arguments) > 1 else None
    if value is None or type(start) is not int or not 0 <= start < len(value):
        return []
    return [value[start:] if length is None else value[start : start + max(length, 0)]]


def _replace(
    items: Collection, env: Environment, pattern: Collection, substitution: Collection
) -> Collection:
    value, wanted, by = text(items), text(pattern), text(substitution)
    if value is None or wanted is None or by is None:
        return []
    if (value.count(wanted) + 1) * len(by) > MAX_TEXT:
        raise EvaluationError(f"a text of more than {MAX_TEXT} characters")
    return [env.budget.text(value.replace(wanted, by))]


def _replace_matches(
    items: Collection, _env: Environment, pattern: Collection, substitution: Collection
) -> Collection:
    value, wanted, by = text(items), text(pattern), text(substitution)
    if value is None or wanted is None or by is None:
        return []
    return [replaced(wanted, value, by)]


def _split(items: Collection, _env: Environment, separator: Collection) -> Collection:
    value, by = text(items), text(separator)
    return [] if value is None or not by else list(value.split(by))


def _join(items: Collection, env: Environment, *separator: Collection) -> Collection:
    by = text(separator[0]) if separator else ""
    parts = [text([item]) or "" for item in items]
    if len(parts) * len(by or "") + sum(map(len, parts)) > MAX_TEXT:
        raise EvaluationError(f"a text of more than {MAX_TEXT} characters")
    return [env.budget.text((by or "").join(parts))] if parts else []


# -- numbers ---------------------------------------------------------------------------------


def _number_function(compute: Callable[..., Any]) -> Function:
    def computed(items: Collection, _env: Environment, *arguments: Collection) -> Collection:
        values = [singleton(items), *(singleton(argument) for argument in arguments)]
        if any(value is None for value in values):
            return []
        if not all(map(is_number, values)):
            raise EvaluationError("a number expected")
        return calculated(lambda: compute(*(Decimal(value) for value in values)))

    return computed


def calculated(compute: Callable[[], Any]) -> Collection:
    """The result of a calculation; nothing where it has none (N1 6.6: division by zero)."""
    with localcontext() as context:
        context.prec = MAX_DIGITS
        try:
            found = compute()
        except (ArithmeticError, InvalidOperation, Overflow, ValueError):
            return []
    return [] if found is None else [found]


def arithmetic(operator: str, left: Any, right: Any, env: Environment) -> Collection:
    """`left operator right` for two plain values."""
    if isinstance(left, Moment) and isinstance(right, Quantity) and operator in ("+", "-"):
        amount = right.value if operator == "+" else -right.value
        found = shifted(left, amount, right.calendar_unit())
        return [] if found is None else [found]
    if operator == "+" and isinstance(left, str) and isinstance(right, str):
        return [env.budget.text(left + right)]
    if isinstance(left, Quantity) and isinstance(right, Quantity):
        if left.unit != right.unit or operator not in ("+", "-"):
            return []
        return [Quantity(value, left.unit) for value in _numbers(operator, left.value, right.value)]
    if not is_number(left) or not is_number(right):
        raise EvaluationError(f"{operator} takes numbers")
    return _numbers(operator, left, right)


def _numbers(operator: str, left: int | Decimal, right: int | Decimal) -> Collection:
    one, other = Decimal(left), Decimal(right)
    operations: dict[str, Callable[[], Any]] = {
        "+": lambda: one + other,
        "-": lambda: one - other,
        "*": lambda: one * other,
        "/": lambda: one / other,
        "div": lambda: int(one // other),
        "mod": lambda: one % other,
    }
    found = calculated(operations[operator])
    if operator in "+-*mod" and type(left) is int and type(right) is int:
        return [int(value) for value in found]
    return found


def _power(base: Decimal, exponent: Decimal) -> Any:
    return base**exponent if abs(exponent) <= 1000 else None


def _rounded(value: Decimal, *places: Decimal) -> Decimal:
    return round(value, int(places[0]) if places else 0)


PREDICATES: dict[str, tuple[int, int, Predicate]] = {
    "startsWith": (1, 1, _text_test(str.startswith)),
    "endsWith": (1, 1, _text_test(str.endswith)),
    "contains": (1, 1, _text_test(str.__contains__)),
    "matches": (1, 1, _text_test(lambda value, pattern: is_found(pattern, value))),
    "matchesFull": (1, 1, _text_test(lambda value, pattern: is_found(f"^(?:{pattern})$", value))),
    **{f"convertsTo{name}": (0, 0, _converts(to)) for name, to in _CONVERSIONS.items()},
}

FUNCTIONS: dict[str, tuple[int, int, Function]] = {
    **{f"to{name}": (0, 0, _converter(to)) for name, to in _CONVERSIONS.items()},
    "indexOf": (1, 1, _index_of),
    "substring": (1, 2, _substring),
    "upper": (0, 0, _text_change(str.upper)),
    "lower": (0, 0, _text_change(str.lower)),
    "trim": (0, 0, _text_change(str.strip)),
    "length": (0, 0, _text_change(len)),
    "toChars": (0, 0, lambda items, _env: list(text(items) or "")),
    "replace": (2, 2, _replace),
    "replaceMatches": (2, 2, _replace_matches),
    "split": (1, 1, _split),
    "join": (0, 1, _join),
    "abs": (0, 0, _number_function(abs)),
    "ceiling": (0, 0, _number_function(lambda value: math.ceil(value))),
    "floor": (0, 0, _number_function(lambda value: math.floor(value))),
    "truncate": (0, 0, _number_function(int)),
    "round": (0, 1, _number_function(_rounded)),
    "exp": (0, 0, _number_function(Decimal.exp)),
    "ln": (0, 0, _number_function(Decimal.ln)),
    "log": (1, 1, _number_function(lambda value, base: value.ln() / base.ln())),
    "power": (1, 1, _number_function(_power)),
    "sqrt": (0, 0, _number_function(Decimal.sqrt)),
}
