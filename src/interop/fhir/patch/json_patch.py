"""JSON Patch (RFC 6902) with JSON Pointer (RFC 6901) on a resource's JSON."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Any

from interop.errors import BadRequest, Unprocessable
from interop.fhir.lens import JsonObject
from interop.fhir.patch.limits import Budget, check_count, require_same_resource

OPERATIONS = ("add", "remove", "replace", "move", "copy", "test")
_INDEX = re.compile(r"0|[1-9][0-9]{0,8}")
_BAD_ESCAPE = re.compile(r"~(?![01])")
_MISSING = object()


def apply_json_patch(resource: JsonObject, operations: Sequence[Any]) -> JsonObject:
    """The resource after all operations, which hold together: one that fails fails the patch.

    Raises BadRequest for what is no JSON Patch, TooCostly, and Unprocessable for one that does not
    fit the resource, a failed test among them; each names the operation by its index.
    """
    listed = list(operations)
    check_count(listed)
    budget = Budget()
    patched = _Document(budget.copy(resource), budget)
    for index, operation in enumerate(listed):
        _Operation(index, operation).apply(patched)
    return require_same_resource(resource, patched.finished())


class _Operation:
    """One operation, read and checked."""

    def __init__(self, index: int, operation: Any) -> None:
        self._place = f"operation [{index}]"
        if not isinstance(operation, dict):
            raise BadRequest(f"{self._place} is not an object; expected op, path and more")
        self._members = operation
        self._op = operation.get("op")
        if self._op not in OPERATIONS:
            accepted = ", ".join(OPERATIONS)
            raise BadRequest(
                f"{self._place}: op is {str(self._op)[:32]!r}; accepted: {accepted}",
                expression=f"[{index}].op",
            )
        self._path = self._pointer("path")

    def apply(self, document: _Document) -> None:
        try:
            self._run(document)
        except _NotThere as error:
            raise Unprocessable(f"{self._place} ({self._op}): {error}") from None

    def _run(self, document: _Document) -> None:
        match self._op:
            case "add":
                document.add(self._path, document.budget.copy(self._value()))
            case "remove":
                document.remove(self._path)
            case "replace":
                document.replace(self._path, document.budget.copy(self._value()))
            case "move":
                source = self._pointer("from")
                if self._path[: len(source)] == source and self._path != source:
                    raise _NotThere("a value cannot be moved into itself")
                document.add(self._path, document.remove(source))
            case "copy":
                found = document.get(self._pointer("from"))
                document.add(self._path, document.budget.copy(found))
            case _:
                self._test(document)

    def _test(self, document: _Document) -> None:
        wanted = self._value()
        if not is_equal(document.get(self._path), wanted, document.budget.spend):
            raise _NotThere(f"the value at {self._members['path'][:200]!r} is another")

    def _value(self) -> Any:
        value = self._members.get("value", _MISSING)
        if value is _MISSING:
            raise BadRequest(f"{self._place} ({self._op}) has no value")
        return value

    def _pointer(self, member: str) -> list[str]:
        text = self._members.get(member)
        if not isinstance(text, str) or (text and text[0] != "/") or _BAD_ESCAPE.search(text):
            raise BadRequest(
                f"{self._place} ({self._op}): {member} is {str(text)[:200]!r}; expected a JSON "
                "Pointer such as /name/0/family, where ~1 stands for / and ~0 for ~"
            )
        return [part.replace("~1", "/").replace("~0", "~") for part in text.split("/")[1:]]


class _NotThere(Exception):
    """The operation does not fit the document."""


class _Document:
    """The resource while it is patched."""

    def __init__(self, root: Any, budget: Budget) -> None:
        self._root = root
        self.budget = budget
        # What a removal left empty, which FHIR does not allow (json.html), goes at the end.
        self._emptied: list[Any] = []

    def get(self, path: list[str]) -> Any:
        value = self._root
        for depth, part in enumerate(path):
            value = self._child(value, part, path[: depth + 1])
        return value

    def add(self, path: list[str], value: Any) -> None:
        if not path:
            self._root = value
            return
        owner, last = self.get(path[:-1]), path[-1]
        if isinstance(owner, dict):
            owner[last] = value
        elif isinstance(owner, list):
            owner.insert(len(owner) if last == "-" else _index(owner, last, path, end=1), value)
        else:
            raise _NotThere(f"{_shown(path[:-1])} holds no members")

    def remove(self, path: list[str]) -> Any:
        if not path:
            raise _NotThere("the whole resource cannot be removed")
        owner = self.get(path[:-1])
        value = self._child(owner, path[-1], path)
        del owner[int(path[-1]) if isinstance(owner, list) else path[-1]]
        if not owner:
            self._emptied.append(owner)
        return value

    def replace(self, path: list[str], value: Any) -> None:
        if not path:
            self._root = value
            return
        owner = self.get(path[:-1])
        self._child(owner, path[-1], path)
        owner[int(path[-1]) if isinstance(owner, list) else path[-1]] = value

    def finished(self) -> Any:
        empty = {id(one) for one in self._emptied if not one}
        return _without(self._root, empty) if empty else self._root

    def _child(self, owner: Any, part: str, path: list[str]) -> Any:
        if isinstance(owner, dict):
            if part in owner:
                return owner[part]
            known = ", ".join(sorted(owner)[:20])
            raise _NotThere(f"there is nothing at {_shown(path)}; beside it there is: {known}")
        if isinstance(owner, list):
            return owner[_index(owner, part, path)]
        raise _NotThere(f"there is nothing at {_shown(path)}")


def _index(owner: list[Any], part: str, path: list[str], end: int = 0) -> int:
    if not _INDEX.fullmatch(part) or int(part) >= len(owner) + end:
        raise _NotThere(
            f"{_shown(path)}: the array has {len(owner)} items, counted from 0"
            + (" (or - for its end)" if end else "")
        )
    return int(part)


def _shown(path: list[str]) -> str:
    return repr("".join("/" + part.replace("~", "~0").replace("/", "~1") for part in path)[:200])


def _without(value: Any, empty: set[int]) -> Any:
    """The same without the containers that were emptied, and those that this empties."""
    if isinstance(value, dict):
        kept = {key: _without(inner, empty) for key, inner in value.items()}
        return {
            key: inner
            for key, inner in kept.items()
            if not (_is_empty(inner) and (id(value[key]) in empty or not _is_empty(value[key])))
        }
    if isinstance(value, list):
        items = [(item, _without(item, empty)) for item in value]
        return [
            kept
            for item, kept in items
            if not (_is_empty(kept) and (id(item) in empty or not _is_empty(item)))
        ]
    return value


def _is_empty(value: Any) -> bool:
    return isinstance(value, dict | list) and not value


def is_equal(one: Any, other: Any, spend: Callable[[int], None] = lambda weight: None) -> bool:
    """RFC 6902 4.6: numbers by value, objects without order; true is not 1."""
    spend(1)
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(
            is_equal(value, other[key], spend) for key, value in one.items()
        )
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(
            is_equal(a, b, spend) for a, b in zip(one, other, strict=True)
        )
    if _is_number(one) and _is_number(other):
        return bool(one == other)
    return type(one) is type(other) and bool(one == other)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | Decimal) and not isinstance(value, bool)
