"""fixed[x] and pattern[x] against what stands in a resource (R4 elementdefinition.html)."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from interop.fhir import json


def is_fixed(value: Any, fixed: Any) -> bool:
    """Exactly the same: no element more, numbers with the same digits' value."""
    if isinstance(fixed, dict):
        return (
            isinstance(value, dict)
            and value.keys() == fixed.keys()
            and all(is_fixed(value[key], part) for key, part in fixed.items())
        )
    if isinstance(fixed, list):
        return (
            isinstance(value, list)
            and len(value) == len(fixed)
            and all(is_fixed(one, part) for one, part in zip(value, fixed, strict=True))
        )
    return _is_same(value, fixed)


def matches_pattern(value: Any, pattern: Any) -> bool:
    """All that the pattern says is there; of a list, each of its items somewhere."""
    if isinstance(pattern, dict):
        return isinstance(value, dict) and all(
            key in value and matches_pattern(value[key], part) for key, part in pattern.items()
        )
    if isinstance(pattern, list):
        return isinstance(value, list) and all(
            any(matches_pattern(one, part) for one in value) for part in pattern
        )
    return _is_same(value, pattern)


def _is_same(value: Any, wanted: Any) -> bool:
    if isinstance(value, bool) or isinstance(wanted, bool):
        return value is wanted
    if isinstance(value, int | float | Decimal) and isinstance(wanted, int | float | Decimal):
        return Decimal(str(value)) == Decimal(str(wanted))
    return bool(value == wanted)


def shown(value: Any) -> str:
    """A fixed value or pattern, for a message."""
    return json.dumps(value).decode()[:200]
