"""Which slice an element belongs to: discriminators (R4 profiling.html#discriminator).

By value, pattern, exists, type and profile. A discriminator that cannot be decided here (it looks
at what no resource at hand holds) makes its slice one that nothing is said about.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from interop.fhir.fhirpath_engine import (
    EvaluationError,
    FhirPathError,
    Item,
    compile_values,
    is_type,
)
from interop.fhir.references import referenced_type
from interop.fhir.validation.matching import is_fixed, matches_pattern
from interop.fhir.validation.scope import Scope
from interop.fhir.validation.structure import Node, Row

CORE = "http://hl7.org/fhir/StructureDefinition/"
# Whether an element is in the slice; None where that cannot be decided.
Matcher = Callable[[Item, Scope], bool | None]


def matcher(slicing: Row, slice_: Node) -> Matcher:
    """Whether an element is of this slice: all discriminators say so."""
    tests = [
        _test(str(row.get("type")), str(row.get("path", "$this")), slice_)
        for row in slicing.get("discriminator", ())
    ]
    if not tests:
        return lambda _item, _scope: None

    def matches(item: Item, scope: Scope) -> bool | None:
        answer: bool | None = True
        for test in tests:
            found = test(item, scope)
            if found is False:
                return False
            if found is None:
                answer = None
        return answer

    return matches


def _test(kind: str, path: str, slice_: Node) -> Matcher:
    try:
        find = compile_values(path)
    except FhirPathError:
        return lambda _item, _scope: None
    makers: dict[str, Callable[[str, Node], Callable[[list[Any], Scope], bool | None] | None]] = {
        "value": _by_value,
        "pattern": _by_value,
        "exists": _by_existence,
        "type": _by_type,
        "profile": _by_profile,
    }
    decide = makers[kind](path, slice_) if kind in makers else None
    if decide is None:
        return lambda _item, _scope: None
    stays = kind in ("type", "profile") and path.endswith("resolve()")
    if stays:
        # The reference itself says of what type its target is; what it names may not be here.
        before = path.removesuffix("resolve()").removesuffix(".")
        find = compile_values(before or "$this")

    def test(item: Item, scope: Scope) -> bool | None:
        environment = scope.environment(item)
        try:
            found = find([item], environment)
        except EvaluationError:
            return None
        return decide(found, scope)

    return test


# -- by value and pattern ---------------------------------------------------------------------

_Wanted = Callable[[list[Any], Scope], bool | None]


def _by_value(path: str, slice_: Node) -> _Wanted | None:
    """What the slice fixes at the path, or at an element above it, or binds there."""
    node: Node | None = slice_
    parts = [] if path == "$this" else path.split(".")
    for index in range(len(parts) + 1):
        if node is None:
            return None
        if (fixed := node.fixed()) is not None:
            return _equals(fixed, parts[index:])
        if index < len(parts):
            if parts[index] == "url" and (url := _extension_url(node)):
                return _equals(("fixed", url), [])
            node = node.children.get(parts[index]) or _choice(node, parts[index])
    return _bound(node)


def _choice(node: Node, name: str) -> Node | None:
    return node.children.get(name + "[x]")


def _extension_url(node: Node) -> str | None:
    """An extension slice without a fixed url is told by the URL of its profile."""
    for type_ in node.types():
        profiles = type_.get("profile", ())
        if type_.get("code") == "Extension" and len(profiles) == 1:
            return str(profiles[0]).partition("|")[0]
    return None


def _equals(fixed: tuple[str, Any], rest: list[str]) -> _Wanted | None:
    """A test for what a fixed value or pattern says of the path `rest` below it."""
    kind, value = fixed
    wanted = _inside(value, rest)
    if not wanted:
        return None
    same = is_fixed if kind == "fixed" and not rest else matches_pattern

    def test(found: list[Any], _scope: Scope) -> bool:
        values = [item.value if isinstance(item, Item) else item for item in found]
        return all(any(same(one, part) for one in values) for part in wanted)

    return test


def _inside(value: Any, path: list[str]) -> list[Any]:
    values = [value]
    for name in path:
        below = [one.get(name) for one in values if isinstance(one, dict)]
        values = []
        for one in below:
            values += one if isinstance(one, list) else [one] * (one is not None)
    return values


def _bound(node: Node | None) -> _Wanted | None:
    """A required binding tells slices apart where nothing is fixed."""
    binding = node.row.get("binding", {}) if node else {}
    url = binding.get("valueSet")
    if binding.get("strength") != "required" or not isinstance(url, str):
        return None

    def test(found: list[Any], scope: Scope) -> bool | None:
        answers = [scope.codes.has(item, url) for item in found if isinstance(item, Item)]
        if any(answers):
            return True
        return None if not answers or None in answers else False

    return test


# -- by existence, type and profile -----------------------------------------------------------


def _at(path: str, slice_: Node) -> Node | None:
    node: Node | None = slice_
    for part in path.split("."):
        if node is None or part in ("$this", "resolve()", ""):
            return node
        node = node.children.get(part) or _choice(node, part)
    return node


def _by_existence(path: str, slice_: Node) -> _Wanted | None:
    node = _at(path, slice_)
    if node is None:
        return None
    if node.row.get("max") == "0":
        return lambda found, _scope: not found
    if node.row.get("min", 0) > 0:
        return lambda found, _scope: bool(found)
    return None


def _by_type(path: str, slice_: Node) -> _Wanted | None:
    node = _at(path, slice_)
    if node is None or not node.types():
        return None
    if path.endswith("resolve()"):
        return _reference_type(node)
    accepted = [str(type_.get("code")) for type_ in node.types()]

    def test(found: list[Any], _scope: Scope) -> bool:
        return any(
            isinstance(item, Item) and is_type(item.type, type_)
            for item in found
            for type_ in accepted
        )

    return test


def _reference_type(node: Node) -> _Wanted | None:
    targets = [url for type_ in node.types() for url in type_.get("targetProfile", ())]

    def test(found: list[Any], scope: Scope) -> bool | None:
        types = {scope.library.type_of(url) for url in targets}
        for item in found:
            target = scope.referenced(item)
            type_ = target.type if target else referenced_type(item.value, {})
            if type_ is None:
                return None
            if type_ in types:
                return True
        return False

    return test


def _by_profile(path: str, slice_: Node) -> _Wanted | None:
    node = _at(path, slice_)
    if node is None:
        return None
    is_reference = path.endswith("resolve()")
    key = "targetProfile" if is_reference else "profile"
    profiles = [url for type_ in node.types() for url in type_.get(key, ())]
    if not profiles:
        return None

    def test(found: list[Any], scope: Scope) -> bool | None:
        answer: bool | None = False
        for item in found:
            target = scope.referenced(item) if is_reference else item
            for url in profiles:
                says = _conforms(target, item, url, scope)
                if says:
                    return True
                if says is None:
                    answer = None
        return answer

    return test


def _conforms(target: Item | None, item: Item, url: str, scope: Scope) -> bool | None:
    if target is not None:
        return scope.conforms(target, url)
    wanted, named = scope.library.type_of(url), referenced_type(item.value, {})
    return False if wanted and named and wanted != named else None
