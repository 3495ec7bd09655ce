"""The functions of FHIRPath (N1 5) and of R4 (fhirpath.html#functions) that take plain values.

Each gets the collection that it is called on, the environment, and its arguments, evaluated. Those
that evaluate an argument for each item (where, all, select ...) are in `compiler`.
PREDICATES answer true, false or None (empty), FUNCTIONS a collection.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from interop.fhir.fhirpath_engine.environment import Environment
from interop.fhir.fhirpath_engine.items import (
    Collection,
    Item,
    children,
    descendants,
    is_type,
    navigate,
)
from interop.fhir.fhirpath_engine.moments import moment
from interop.fhir.fhirpath_engine.values import EvaluationError, key_of, plain, singleton
from interop.fhir.narrative import NarrativeError, check_narrative
from interop.fhir.references import referenced_type

Predicate = Callable[..., bool | None]
Function = Callable[..., Collection]

# -- existence (N1 5.1) ----------------------------------------------------------------------


def is_true(items: Collection) -> bool | None:
    """N1 4.5: a collection where a boolean is expected; anything that is there counts as true."""
    if not items:
        return None
    value = plain(items[0]) if len(items) == 1 else True
    return value if type(value) is bool else True


def _not(items: Collection, _env: Environment) -> bool | None:
    answer = is_true(items)
    return None if answer is None else not answer


def _subset(items: Collection, env: Environment, other: Collection) -> bool:
    env.budget.spend(len(items) + len(other))
    keys = {key_of(item) for item in other}
    return all(key_of(item) in keys for item in items)


def _is_distinct(items: Collection, env: Environment) -> bool:
    env.budget.spend(len(items))
    return len({key_of(item) for item in items}) == len(items)


def distinct(items: Collection) -> Collection:
    found: dict[Any, Any] = {}
    for item in items:
        found.setdefault(key_of(item), item)
    return list(found.values())


def _booleans(items: Collection) -> list[bool]:
    values = [plain(item) for item in items]
    if any(type(value) is not bool for value in values):
        raise EvaluationError("booleans expected")
    return values


# -- subsets and combinations (N1 5.3, 5.4) --------------------------------------------------


def _single(items: Collection, _env: Environment) -> Collection:
    if len(items) > 1:
        raise EvaluationError(f"single() of {len(items)} items")
    return items


def _whole(number: Collection) -> int:
    value = singleton(number)
    if type(value) is not int:
        raise EvaluationError("a whole number expected")
    return value


def _take(items: Collection, _env: Environment, number: Collection) -> Collection:
    return items[: max(_whole(number), 0)]


def _skip(items: Collection, _env: Environment, number: Collection) -> Collection:
    return items[max(_whole(number), 0) :]


def _intersect(items: Collection, env: Environment, other: Collection) -> Collection:
    env.budget.spend(len(items) + len(other))
    keys = {key_of(item) for item in other}
    return distinct([item for item in items if key_of(item) in keys])


def _exclude(items: Collection, env: Environment, other: Collection) -> Collection:
    env.budget.spend(len(items) + len(other))
    keys = {key_of(item) for item in other}
    return [item for item in items if key_of(item) not in keys]


# -- the tree, and types (N1 5.8, 6.3) -------------------------------------------------------


def _children(items: Collection, env: Environment) -> Collection:
    found = [child for item in items for child in children(item)]
    env.budget.spend(len(found))
    return found


def _descendants(items: Collection, env: Environment) -> Collection:
    found: Collection = []
    for item in items:
        for below in descendants(item):
            env.budget.spend(1)
            found.append(below)
    return found


_PYTHON_TYPES = {bool: "Boolean", int: "Integer", str: "String"}


def type_name(item: Any) -> str:
    """R4's name of an item's type, or FHIRPath's of a computed value."""
    if isinstance(item, Item):
        return item.type
    if isinstance(item, Decimal):
        return "System.Decimal"
    found = _PYTHON_TYPES.get(type(item))
    if found is None:
        found = "Quantity" if hasattr(item, "unit") else "DateTime"
        if hasattr(item, "is_date") and item.is_date:
            found = "Date"
        elif type(item).__name__ == "Time":
            found = "Time"
    return f"System.{found}"


def has_type(item: Any, wanted: str) -> bool:
    found = type_name(item)
    if found.startswith("System."):
        return found.removeprefix("System.") == wanted.removeprefix("System.")
    return is_type(found, wanted)


# -- of R4 (fhirpath.html#functions) ---------------------------------------------------------


def _has_value(items: Collection, _env: Environment) -> bool:
    return len(items) == 1 and _is_value(items[0])


def _is_value(item: Any) -> bool:
    value = item.value if isinstance(item, Item) else item
    return value is not None and not isinstance(value, dict)


def _get_value(items: Collection, _env: Environment) -> Collection:
    return [plain(items[0])] if len(items) == 1 and _is_value(items[0]) else []


def _extension(items: Collection, _env: Environment, url: Collection) -> Collection:
    wanted = singleton(url)
    found = navigate(items, "extension")
    return [item for item in found if item.value.get("url") == wanted]


def _resolve(items: Collection, env: Environment) -> Collection:
    """What references name: contained resources, entries of the Bundle, or only a type."""
    return [found for item in items if (found := _resolved(item, env)) is not None]


def _resolved(item: Any, env: Environment) -> Item | None:
    reference = item.value if isinstance(item, Item) else item
    url = reference.get("reference") if isinstance(reference, dict) else reference
    if isinstance(url, str):
        if url.startswith("#"):
            return _contained(url[1:], env.root)
        if env.resolve is not None and (found := env.resolve(url, env.root)) is not None:
            return found
    named = reference if isinstance(reference, dict) else {"reference": url}
    type_ = referenced_type(named, {})
    return None if type_ is None else Item({"resourceType": type_}, type_)


def _contained(identifier: str, root: Item) -> Item | None:
    if not identifier:
        return root
    for found in navigate([root], "contained"):
        if found.value.get("id") == identifier:
            return found if isinstance(found, Item) else None
    return None


def _member_of(items: Collection, env: Environment, url: Collection) -> bool | None:
    value_set = singleton(url)
    if len(items) != 1 or not isinstance(items[0], Item) or not isinstance(value_set, str):
        return None
    return env.member_of(items[0], value_set)


def _conforms_to(items: Collection, env: Environment, url: Collection) -> bool | None:
    profile = singleton(url)
    if len(items) != 1 or not isinstance(items[0], Item) or not isinstance(profile, str):
        return None
    env.budget.spend(1000)
    return env.conforms_to(items[0], profile)


def _html_checks(items: Collection, _env: Environment) -> bool:
    try:
        for item in items:
            check_narrative(item.value)
    except (NarrativeError, TypeError, ValueError):
        return False
    return True


# -- dates (N1 5.9): of this moment ----------------------------------------------------------


def _now(_items: Collection, _env: Environment) -> Collection:
    return [moment(datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"))]


def _today(_items: Collection, _env: Environment) -> Collection:
    return [moment(datetime.now(UTC).date().isoformat())]


PREDICATES: dict[str, tuple[int, int, Predicate]] = {
    "empty": (0, 0, lambda items, _env: not items),
    "not": (0, 0, _not),
    "allTrue": (0, 0, lambda items, _env: all(_booleans(items))),
    "anyTrue": (0, 0, lambda items, _env: any(_booleans(items))),
    "allFalse": (0, 0, lambda items, _env: not any(_booleans(items))),
    "anyFalse": (0, 0, lambda items, _env: not all(_booleans(items))),
    "subsetOf": (1, 1, _subset),
    "supersetOf": (1, 1, lambda items, env, other: _subset(other, env, items)),
    "isDistinct": (0, 0, _is_distinct),
    "hasValue": (0, 0, _has_value),
    "memberOf": (1, 1, _member_of),
    "conformsTo": (1, 1, _conforms_to),
    "htmlChecks": (0, 0, _html_checks),
}

FUNCTIONS: dict[str, tuple[int, int, Function]] = {
    "count": (0, 0, lambda items, _env: [len(items)]),
    "distinct": (0, 0, lambda items, _env: distinct(items)),
    "single": (0, 0, _single),
    "first": (0, 0, lambda items, _env: items[:1]),
    "last": (0, 0, lambda items, _env: items[-1:]),
    "tail": (0, 0, lambda items, _env: items[1:]),
    "take": (1, 1, _take),
    "skip": (1, 1, _skip),
    "intersect": (1, 1, _intersect),
    "exclude": (1, 1, _exclude),
    "union": (1, 1, lambda items, _env, other: distinct([*items, *other])),
    "combine": (1, 1, lambda items, _env, other: [*items, *other]),
    "children": (0, 0, _children),
    "descendants": (0, 0, _descendants),
    "getValue": (0, 0, _get_value),
    "extension": (1, 1, _extension),
    "resolve": (0, 0, _resolve),
    "now": (0, 0, _now),
    "today": (0, 0, _today),
}
