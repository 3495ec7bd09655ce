"""What the official R4 JSON Schema does not say, checked in one walk over a resource.

Choice exclusivity and required elements (the schema cannot require a primitive, since an extension
may stand in for its value), empty objects and arrays (json.html: never present), ext-1, narratives,
calendar dates, base64, contained resources (dom-2, dom-4), and the types that references may name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

from interop.fhir.definitions import Element, definitions
from interop.fhir.lens import JsonObject
from interop.fhir.narrative import NarrativeError, check_narrative
from interop.fhir.outcomes import Issue
from interop.fhir.primitives import PRIMITIVE_RULES
from interop.fhir.references import referenced_type

# References that official R4 examples make beyond the targets that R4 declares for the element.
_EXEMPLARY_TARGETS = {
    "DeviceMetric.parent": "DeviceDefinition",
    "DeviceUseStatement.reasonReference": "Procedure",
}


@dataclass(frozen=True, slots=True)
class _Property:
    """How a JSON property of a type is checked."""

    element: Element
    type: str
    is_primitive: bool
    rule: Callable[[Any], str | None] | None


def check_rules(
    resource: JsonObject, type_: str, issues: list[Issue]
) -> Iterator[tuple[str, JsonObject]]:
    """Add what is wrong to `issues`; yields each resource inside with its path."""
    walk = _Walk(resource, issues)
    walk.object(resource, type_, type_)
    yield from walk.inner
    for path, inner in walk.inner:
        yield from check_rules_at(inner, path, issues, resource)


def check_rules_at(
    resource: JsonObject, path: str, issues: list[Issue], container: JsonObject
) -> Iterator[tuple[str, JsonObject]]:
    """The same for a resource inside another, whose fragment references look in `container`."""
    is_contained = ".contained[" in path
    walk = _Walk(container if is_contained else resource, issues)
    walk.object(resource, str(resource["resourceType"]), path)
    if is_contained:
        if "contained" in resource:
            issues.append(Issue("invariant", f"{path} may not contain resources (dom-2)", path))
        meta = resource.get("meta")
        if isinstance(meta, dict) and ("versionId" in meta or "lastUpdated" in meta):
            place = f"{path}.meta"
            issues.append(Issue("invariant", f"{place} may not have a version (dom-4)", place))
    yield from walk.inner
    for inner_path, inner in walk.inner:
        yield from check_rules_at(inner, inner_path, issues, container)


@cache
def _properties(type_: str) -> dict[str, _Property]:
    tables = definitions()
    return {
        key: _Property(element, of, tables.is_primitive(of), PRIMITIVE_RULES.get(of))
        for element in tables.types.get(type_, {}).values()
        for key, of in element.keys()
    }


@cache
def _required(type_: str) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """(name, properties any of which will do) of each element that must be there."""
    return tuple(
        (element.name + "[x]" if element.is_choice else element.name, tuple(keys))
        for element in definitions().types.get(type_, {}).values()
        if element.minimum > 0
        for keys in [[k for key, _ in element.keys() for k in (key, "_" + key)]]
    )


class _Walk:
    def __init__(self, resource: JsonObject, issues: list[Issue]) -> None:
        self._resource = resource
        self._issues = issues
        self.inner: list[tuple[str, JsonObject]] = []

    def object(self, value: JsonObject, type_: str, path: str) -> None:
        """Check one object of a known type, and all below it."""
        if not value:
            self._report("structure", "an empty object; leave it out", path)
            return
        known = _properties(type_)
        choices: dict[str, str] = {}
        for key, content in value.items():
            self._not_empty(content, f"{path}.{key}")
            found = known.get(key[1:] if key[:1] == "_" else key)
            if found is None:
                continue  # resourceType, or unknown: the schema reports it
            if found.element.is_choice:
                other = choices.setdefault(found.element.name, key.lstrip("_"))
                if other != key.lstrip("_"):
                    self._report(
                        "structure",
                        f"both {other} and {key}; {found.element.name}[x] takes one",
                        f"{path}.{key}",
                    )
            if key[0] == "_":
                self._beside(content, found, f"{path}.{key}")
            else:
                self._property(content, found, value, f"{path}.{key}")
        for name, keys in _required(type_):
            if not any(key in value for key in keys):
                self._report("required", "this element is required", f"{path}.{name}")
        self._type_rules(value, type_, path)

    def _property(self, content: Any, found: _Property, owner: JsonObject, path: str) -> None:
        if not isinstance(content, list):
            self._value(content, found, path)
            return
        if not found.is_primitive and not found.element.is_list:
            self._report("structure", "an array; one object is expected", path)
            return
        for index, item in enumerate(content):
            place = f"{path}[{index}]"
            if item is None:
                self._null(found, owner, path, index)
            else:
                self._value(item, found, place)

    def _value(self, value: Any, found: _Property, path: str) -> None:
        if found.is_primitive:
            if found.rule is not None and (expected := found.rule(value)):
                self._report("value", f"expected {expected}", path)
            elif found.type == "xhtml":
                self._narrative(value, path)
        elif isinstance(value, dict):
            if found.type == "Resource":
                self._resource_inside(value, path)
                return
            self.object(value, found.type, path)
            if found.type == "Reference":
                self._reference(value, found.element, path)
        elif found.type != "Resource" and value is not None:
            # The official schema does not say that a complex type is an object.
            self._report("structure", f"an object is expected: {found.type}", path)

    def _beside(self, content: Any, found: _Property, path: str) -> None:
        """json.html: what stands beside a primitive, or beside each of an array, has extensions."""
        parts = content if isinstance(content, list) else [content]
        if isinstance(content, list) and not found.element.is_list:
            self._report("structure", "an array; one object is expected", path)
            return
        for index, part in enumerate(parts):
            place = f"{path}[{index}]" if isinstance(content, list) else path
            if isinstance(part, dict):
                self.object(part, "Element", place)
            elif part is not None:
                self._report("structure", "an object with id or extension is expected", place)

    def _not_empty(self, content: Any, path: str) -> None:
        if content is None or content in ("", [], {}):
            shown = {"": "empty text", "[]": "an empty array", "{}": "an empty object"}
            what = "null" if content is None else shown[str(content)]
            self._report("structure", f"{what}; leave the element out", path)

    def _null(self, found: _Property, owner: JsonObject, path: str, index: int) -> None:
        """json.html: null in an array stands for a primitive that has only extensions."""
        beside = owner.get("_" + path.rpartition(".")[2])
        has_extension = isinstance(beside, list) and index < len(beside) and beside[index]
        if not found.is_primitive or not has_extension:
            self._report("structure", "null; leave the item out", f"{path}[{index}]")

    def _resource_inside(self, value: JsonObject, path: str) -> None:
        type_ = value.get("resourceType")
        if not isinstance(type_, str) or type_ not in definitions().resource_types:
            self._report("structure", "resourceType must be an R4 resource type", path)
        else:
            self.inner.append((path, value))

    def _narrative(self, value: Any, path: str) -> None:
        try:
            check_narrative(value)
        except NarrativeError as error:
            self._report("value", str(error), path)
        except (TypeError, ValueError):
            self._report("value", "expected XHTML text", path)

    def _reference(self, value: JsonObject, element: Element, path: str) -> None:
        url = value.get("reference")
        type_ = referenced_type(value, self._resource)
        if isinstance(url, str) and url.startswith("#") and len(url) > 1 and type_ is None:
            self._report("not-found", f"no contained resource has the id {url[1:65]!r}", path)
        elif type_ and element.targets and type_ not in element.targets:
            if _EXEMPLARY_TARGETS.get(path.partition("[")[0]) == type_:
                return
            accepted = " | ".join(sorted(element.targets))
            self._report("value", f"a reference to {type_[:64]}; accepted: {accepted}", path)

    def _type_rules(self, value: JsonObject, type_: str, path: str) -> None:
        if type_ == "Extension":
            has_value = any(key.startswith(("value", "_value")) for key in value)
            if has_value == ("extension" in value):
                self._report("invariant", "exactly one of extension and value[x] (ext-1)", path)

    def _report(self, code: str, what: str, path: str) -> None:
        self._issues.append(Issue(code, f"{path}: {what}", path))
