"""What a patch may cost, and what it may never change."""

from __future__ import annotations

from typing import Any

from interop.errors import TooCostly, Unprocessable
from interop.fhir.json import MAX_DEPTH
from interop.fhir.lens import JsonObject

MAX_OPERATIONS = 1000
# Of all that the operations copy or look through, in values and characters: a patch that copies
# the resource into itself doubles it each time.
MAX_WEIGHT = 20_000_000


class Budget:
    """Counts what the operations of one patch write."""

    def __init__(self) -> None:
        self._left = MAX_WEIGHT

    def copy(self, value: Any, depth: int = 0) -> Any:
        """A deep copy. Raises TooCostly where the patch has written too much."""
        if depth > MAX_DEPTH:
            raise TooCostly(f"the patch nests values deeper than {MAX_DEPTH} levels")
        self.spend(len(value) if isinstance(value, str) else 1)
        if isinstance(value, dict):
            return {key: self.copy(inner, depth + 1) for key, inner in value.items()}
        if isinstance(value, list):
            return [self.copy(item, depth + 1) for item in value]
        return value

    def spend(self, weight: int) -> None:
        """Raise TooCostly where all that a patch may cost is spent."""
        self._left -= weight
        if self._left < 0:
            raise TooCostly("the patch copies or looks through too much; send fewer operations")


def check_count(operations: list[Any]) -> None:
    if len(operations) > MAX_OPERATIONS:
        raise TooCostly(f"{len(operations)} operations; a patch may have {MAX_OPERATIONS}")


def require_same_resource(before: JsonObject, after: Any) -> JsonObject:
    """Raise Unprocessable unless it is still a resource of that type and id."""
    if not isinstance(after, dict):
        raise Unprocessable("the patch leaves no resource")
    for name in ("resourceType", "id"):
        if after.get(name) != before.get(name):
            raise Unprocessable(f"a patch may not change {name}", expression=name)
    _check_depth(after, 0)
    return after


def _check_depth(value: Any, depth: int) -> None:
    if depth > MAX_DEPTH:
        raise TooCostly(f"the patch nests values deeper than {MAX_DEPTH} levels")
    if isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            _check_depth(inner, depth + 1)
