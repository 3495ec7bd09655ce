"""What R4 itself asks of every element beyond its structure: invariants and required bindings.

The gate has looked at structure, primitives, references and narrative; this looks at the rules of
each type (R4 conformance-rules.html#constraints), at codes, and at references whose type only the
Bundle tells. One pass over the resource; only elements that something is asked of become Items.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any

from interop.fhir.definitions import definitions, read_table
from interop.fhir.fhirpath_engine import FhirPathError, Item, compile_condition
from interop.fhir.validation.bindings import shown
from interop.fhir.validation.scope import Rule, Scope

# Rules that the gate keeps: on structure, references, extensions, contained resources, narrative.
OF_THE_GATE = frozenset(("ele-1", "ext-1", "dom-2", "dom-4", "ref-1", "txt-1", "txt-2"))
_COMPLEX, _PRIMITIVE, _RESOURCE = range(3)


@dataclass(frozen=True, slots=True)
class _Property:
    """One JSON property of a type, and what R4 asks of it where the type asks not."""

    type: str
    kind: int
    targets: frozenset[str]
    value_set: str | None  # required
    extensible: str | None
    rules: tuple[Rule, ...]

    def asks(self) -> bool:
        return bool(self.value_set or self.extensible or self.rules)


@dataclass(frozen=True, slots=True)
class _Plan:
    rules: tuple[Rule, ...]
    properties: dict[str, _Property]


class _Plans(dict[str, _Plan]):
    """What is asked of each type, made at its first use."""

    def __missing__(self, type_: str) -> _Plan:
        tables = definitions()
        properties: dict[str, _Property] = {}
        for element in tables.types.get(type_, {}).values():
            path = f"{type_}.{element.name}"
            asked = _asked().get(path, {})
            rules = () if path in tables.types else rules_of(path + "[x]" * element.is_choice)
            rules += rules_of(asked.get("profile", ""))
            for key, of in element.keys():
                kind = _COMPLEX
                if of == "Resource":
                    kind = _RESOURCE
                elif tables.is_primitive(of) or of == "xhtml":
                    kind = _PRIMITIVE
                properties[key] = _Property(
                    of, kind, element.targets, asked.get("required"), asked.get("extensible"), rules
                )
        plan = _Plan(rules_of(type_), properties)
        if properties or plan.rules:
            self[type_] = plan
        return plan


@cache
def _asked() -> dict[str, dict[str, str]]:
    """Element -> its required or extensible value set, and the Quantity profile it takes."""
    asked: dict[str, dict[str, str]] = read_table("bindings")
    return asked


def bindings_of(path: str) -> dict[str, str]:
    """Strength -> value set, of an element as R4 itself binds it."""
    return _asked().get(path, {})


@cache
def _stated() -> dict[str, list[list[str]]]:
    rules: dict[str, list[list[str]]] = read_table("invariants")
    return rules


@cache
def rules_of(type_: str) -> tuple[Rule, ...]:
    """The invariants of a type, those of what it specializes included."""
    tables = definitions()
    stated = list(_stated().get(type_, ()))
    if type_ in tables.resource_types and type_ not in ("Bundle", "Binary", "Parameters"):
        stated += _stated().get("DomainResource", ())
    if type_ in ("Age", "Count", "Distance", "Duration"):
        stated += _stated().get("Quantity", ())
    return tuple(rule_of(*row) for row in stated if row[0] not in OF_THE_GATE)


def rule_of(key: str, severity: str, expression: str, human: str) -> Rule:
    """Raises FhirPathError where the expression is not one that is supported."""
    return Rule(key, severity, compile_condition(expression), human)


def uncompiled() -> list[tuple[str, str]]:
    """The rules of R4 that have no closure, and why: none."""
    found = []
    for rows in _stated().values():
        for key, _, expression, _ in rows:
            try:
                compile_condition(expression)
            except FhirPathError as error:
                found.append((key, str(error)))
    return found


_PLANS = _Plans()


def check_base(item: Item, scope: Scope) -> None:
    """Report what a resource, or another element, breaks of R4's own rules, with all below it."""
    plan = _PLANS[item.type]
    if plan.rules:
        scope.breaks(plan.rules, item)
    for key, value in item.value.items():
        property_ = plan.properties.get(key)
        if property_ is None:
            if key[:1] == "_" and key[1:] in plan.properties:
                _extensions(value, key, item, scope)
        elif property_.kind != _PRIMITIVE:
            _below(value, key, property_, item, scope)
        elif property_.asks():
            _primitive(value, key, property_, item, scope)


def _parts(value: Any) -> Iterable[tuple[int | None, Any]]:
    return enumerate(value) if type(value) is list else ((None, value),)


def _below(value: Any, key: str, property_: _Property, owner: Item, scope: Scope) -> None:
    for index, part in _parts(value):
        if type(part) is not dict:
            continue
        type_ = part.get("resourceType") if property_.kind == _RESOURCE else property_.type
        if type(type_) is not str:
            continue
        child = Item(part, type_, None, owner, key, index)
        if property_.asks():
            _check_property(child, property_, scope)
        if type_ == "Extension" and scope.with_profiles:
            scope.extension(child)
        if property_.targets and scope.entries:
            _target(child, property_.targets, scope)
        check_base(child, scope)


def _primitive(value: Any, key: str, property_: _Property, owner: Item, scope: Scope) -> None:
    for index, part in _parts(value):
        if part is not None:
            _check_property(Item(part, property_.type, None, owner, key, index), property_, scope)


def _check_property(item: Item, property_: _Property, scope: Scope) -> None:
    if property_.rules:
        scope.breaks(property_.rules, item)
    if property_.value_set is not None:
        if scope.codes.has(item, property_.value_set) is False:
            what = f"{shown(item)} is not in {property_.value_set}, which is required here"
            scope.add("code-invalid", what, item)
    elif (
        property_.extensible is not None
        and scope.with_warnings
        and scope.codes.has(item, property_.extensible) is False
    ):
        what = f"{shown(item)} is not in {property_.extensible}; others only for what it lacks"
        scope.add("code-invalid", what, item, "warning")


def _extensions(value: Any, key: str, owner: Item, scope: Scope) -> None:
    """The extensions beside primitives."""
    for index, part in _parts(value):
        if type(part) is not dict or type(part.get("extension")) is not list:
            continue
        beside = Item(part, "Element", None, owner, key[1:], index)
        for at, extension in enumerate(part["extension"]):
            if type(extension) is dict:
                item = Item(extension, "Extension", None, beside, "extension", at)
                if scope.with_profiles:
                    scope.extension(item)
                check_base(item, scope)


def _target(reference: Item, targets: frozenset[str], scope: Scope) -> None:
    """A reference whose type the Bundle tells (urn:uuid); the gate read the others."""
    url = reference.value.get("reference")
    found = scope.entries.get(url) if type(url) is str and url[:4] == "urn:" else None
    if found is not None and found.type not in targets:
        accepted = " | ".join(sorted(targets))
        scope.add("value", f"a reference to {found.type}; accepted: {accepted}", reference)
