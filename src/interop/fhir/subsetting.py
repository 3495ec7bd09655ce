"""Parts of resources: `_summary` and `_elements` (FHIR R4 search.html#summary, #elements).

What is left out is said: the resource carries the tag SUBSETTED. Mandatory elements always stay, so
that what is shown is of its type.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from interop.errors import BadRequest
from interop.fhir.definitions import definitions
from interop.fhir.lens import JsonObject

SUMMARIES = ("true", "text", "data", "count", "false")
MAX_ELEMENTS = 200
SUBSETTED = {
    "system": "http://terminology.hl7.org/CodeSystem/v3-ObservationValue",
    "code": "SUBSETTED",
    "display": "Resource encoded in summary mode",
}
# The server's word on what happened is never cut.
_WHOLE = ("OperationOutcome",)
_ALWAYS = ("resourceType", "id", "meta", "implicitRules")


@dataclass(frozen=True, slots=True)
class Subset:
    """What is asked of resources. `names` is for those asked for, `typed` for any of that type."""

    summary: str = "false"
    names: frozenset[str] = frozenset()
    typed: Mapping[str, frozenset[str]] = field(default_factory=dict)

    @property
    def cuts(self) -> bool:
        """Whether anything is left out of resources; `count` leaves resources out altogether."""
        return self.summary in ("true", "text", "data") or bool(self.names or self.typed)

    def require_elements_of(self, resource_type: str) -> None:
        """Raise BadRequest for a name that the type has not."""
        for name in sorted(self.names):
            _require(resource_type, name)

    def of(self, resource: JsonObject, *, is_asked_for: bool = True) -> JsonObject:
        """The part of a resource, tagged; included resources are not what was asked for."""
        type_ = str(resource.get("resourceType"))
        if type_ in _WHOLE or type_ not in definitions().resource_types:
            return resource
        names = self.typed.get(type_, frozenset()) | (self.names if is_asked_for else frozenset())
        if names:
            return _tagged(_kept(resource, type_, names))
        match self.summary:
            case "true":
                return _tagged(_summary(resource, type_))
            case "text":
                return _tagged(_kept(resource, type_, ("text",)))
            case "data":
                return _tagged({key: value for key, value in resource.items() if key != "text"})
            case _:
                return resource

    def of_page(self, bundle: JsonObject) -> JsonObject:
        """A Bundle of results with the part of each resource in it."""
        if bundle.get("type") not in ("searchset", "history"):
            return bundle
        entries = [
            {**entry, "resource": self.of(entry["resource"], is_asked_for=_is_match(entry))}
            if "resource" in entry
            else entry
            for entry in bundle.get("entry", ())
        ]
        return {**bundle, "entry": entries} if entries else bundle


def parse_subset(parameters: Iterable[tuple[str, str]]) -> Subset:
    """Read `_summary` and `_elements`. Raises BadRequest with what is accepted."""
    summary, listed, includes = "false", "", False
    for name, value in parameters:
        if name == "_summary":
            if value not in SUMMARIES:
                raise BadRequest(f"_summary={value[:32]!r}; accepted: {', '.join(SUMMARIES)}")
            summary = value
        elif name == "_elements":
            listed = value
        includes = includes or name.partition(":")[0] in ("_include", "_revinclude")
    if listed and summary != "false":
        raise BadRequest("_elements and _summary ask for different parts; send one of them")
    if includes and summary == "text":
        raise BadRequest("_summary=text goes without _include and _revinclude (search.html)")
    return _elements(listed) if listed else Subset(summary)


def _elements(listed: str) -> Subset:
    names: set[str] = set()
    typed: dict[str, set[str]] = {}
    parts = [part.strip() for part in listed.split(",")]
    if len(parts) > MAX_ELEMENTS:
        raise BadRequest(f"_elements lists {len(parts)} names; at most {MAX_ELEMENTS}")
    for part in parts:
        type_, dot, name = part.rpartition(".")
        if dot:
            if type_ not in definitions().resource_types:
                raise BadRequest(
                    f"_elements={part[:64]!r}; expected the name of an element at the top of a "
                    "resource, or <resource type>.<element>"
                )
            _require(type_, name)
            typed.setdefault(type_, set()).add(_plain(type_, name))
        elif part:
            names.add(name)
    return Subset(
        names=frozenset(names), typed={type_: frozenset(one) for type_, one in typed.items()}
    )


def _require(resource_type: str, name: str) -> None:
    if name not in _known(resource_type):
        accepted = ", ".join(definitions().types[resource_type])
        raise BadRequest(
            f"_elements: {resource_type} has no element {name[:64]!r}; accepted: {accepted}"
        )


@cache
def _known(resource_type: str) -> Mapping[str, str]:
    """Every way to write the name of an element -> its name: value, value[x], valueString."""
    found: dict[str, str] = {}
    for name, element in definitions().types[resource_type].items():
        forms = (f"{name}[x]", *(key for key, _ in element.keys())) if element.is_choice else ()
        found |= dict.fromkeys((name, *forms), name)
    return found


def _plain(resource_type: str, name: str) -> str:
    return _known(resource_type).get(name, name)


@cache
def _properties(type_: str) -> Mapping[str, tuple[str, str]]:
    """JSON property -> (element, type)."""
    return {
        key: (name, of)
        for name, element in definitions().types.get(type_, {}).items()
        for key, of in element.keys()
    }


@cache
def _mandatory(type_: str) -> frozenset[str]:
    table = definitions().types.get(type_, {})
    return frozenset(name for name, element in table.items() if element.minimum > 0)


def _kept(resource: JsonObject, type_: str, names: Collection[str]) -> JsonObject:
    """The elements named, those that are mandatory, and who the resource is."""
    wanted = {_plain(type_, name) for name in names} | _mandatory(type_)
    known = _properties(type_)
    return {
        key: value
        for key, value in resource.items()
        if key in _ALWAYS or known.get(key.lstrip("_"), ("", ""))[0] in wanted
    }


def _summary(value: JsonObject, type_: str) -> JsonObject:
    """The elements that R4 marks as summary at every level, and those that are mandatory."""
    marked = definitions().summaries.get(type_)
    if marked is None:
        return value
    known, mandatory = _properties(type_), _mandatory(type_)
    found: JsonObject = {}
    for key, content in value.items():
        name, of = known.get(key.lstrip("_"), ("", ""))
        if name in marked and key[0] != "_":
            found[key] = _summarised(content, of)
        elif name in marked or name in mandatory or key in _ALWAYS:
            found[key] = content
    return found


def _summarised(content: Any, type_: str) -> Any:
    if isinstance(content, list):
        return [_summarised(item, type_) for item in content]
    if not isinstance(content, dict):
        return content
    of = str(content.get("resourceType")) if type_ == "Resource" else type_
    # An element that has nothing of the summary would be empty, which JSON in FHIR may not be.
    return _summary(content, of) or content


def _tagged(resource: JsonObject) -> JsonObject:
    meta = resource.get("meta", {})
    tags = [tag for tag in meta.get("tag", ()) if tag.get("code") != SUBSETTED["code"]]
    head: JsonObject = {key: resource[key] for key in ("resourceType", "id") if key in resource}
    return {**head, "meta": {**meta, "tag": [*tags, SUBSETTED]}, **_rest(resource)}


def _rest(resource: JsonObject) -> JsonObject:
    return {k: v for k, v in resource.items() if k not in ("resourceType", "id", "meta")}


def _is_match(entry: JsonObject) -> bool:
    """Entries of a history are all asked for."""
    return bool(entry.get("search", {}).get("mode", "match") == "match")
