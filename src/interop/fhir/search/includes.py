"""`_include` and `_revinclude`: what a page is to bring along (FHIR R4 search.html 3.1.1.5.4)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from interop.errors import BadRequest
from interop.fhir.definitions import SearchParameter, definitions
from interop.fhir.search.clauses import known_parameter
from interop.fhir.search.terms import APART, apart
from interop.fhir.visibility import Visibility
from storage.resource_search import SearchStatement
from storage.search_includes import ANY, Include

NAMES = ("_include", "_revinclude")
EVERY = "*"
# R4's own word, and STU3's.
ITERATE = ("iterate", "recurse")

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*|\*")


@dataclass(frozen=True, slots=True)
class IncludeRequest:
    """`_include=Source:parameter[:Target]` and its reverse. No parameter: every one.

    `source_type` is empty where `*` alone stands for every type.
    """

    source_type: str
    parameter: SearchParameter | None
    target_type: str | None
    reverse: bool
    iterate: bool = False


def read(types: Sequence[str], name: str, value: str) -> IncludeRequest:
    """Read one include of a search over `types`. Raises BadRequest, UnsupportedParameter."""
    kind, _, modifier = name.partition(":")
    if modifier and modifier not in ITERATE:
        raise BadRequest(f"{name[:64]!r}; accepted: {kind}, {kind}:iterate")
    reverse, iterate = kind == "_revinclude", bool(modifier)
    if value == EVERY:
        return IncludeRequest("", None, None, reverse, iterate)
    parts = value.split(":")
    if len(parts) not in (2, 3) or not all(map(_NAME.fullmatch, parts)):
        raise BadRequest(f"{name}={value[:64]!r}; expected <type>:<parameter>[:<target type>] or *")
    source, code, *target = parts
    known = definitions().resource_types
    if source not in known or (target and target[0] not in known):
        raise BadRequest(f"{name}={value[:64]!r} names an unknown resource type")
    for type_ in (source, *target):
        if type_ in APART:
            raise apart(type_)
    place = f"{name}={value[:64]!r}; the resources found are of type {', '.join(types)}"
    if not iterate and not reverse and source not in types:
        raise BadRequest(place)
    if not iterate and reverse and target and target[0] not in types:
        raise BadRequest(place)
    if code == EVERY:
        if target:
            raise BadRequest(f"{name}={value[:64]!r}: * goes without a target type")
        return IncludeRequest(source, None, None, reverse, iterate)
    parameter = known_parameter(source, code, name)
    if parameter.type != "reference":
        raise BadRequest(f"{name}={value[:64]!r}: {code} is not a reference")
    if target and parameter.targets and target[0] not in parameter.targets:
        raise BadRequest(f"{name}={value[:64]!r}: {code} refers to {', '.join(parameter.targets)}")
    return IncludeRequest(source, parameter, target[0] if target else None, reverse, iterate)


def brought_types(asked: IncludeRequest) -> tuple[str, ...]:
    """The types of resources that it may bring."""
    every = tuple(sorted(definitions().resource_types - set(APART)))
    if asked.reverse:
        return (asked.source_type,) if asked.source_type else every
    if asked.target_type:
        return (asked.target_type,)
    if asked.parameter is None:
        return every
    return asked.parameter.targets or every


def shown(
    visibility: Visibility, statement: SearchStatement, asked: Iterable[IncludeRequest]
) -> Mapping[str, str | None]:
    """The types that may come, with a condition on the row `i` where not all of one may be seen."""
    found: dict[str, str | None] = {}
    for type_ in sorted({type_ for one in asked for type_ in brought_types(one)}):
        filter_ = visibility.shown(type_)
        if filter_.ways and type_ not in APART:
            found[type_] = visibility.condition(statement.about(type_, "i"), filter_)
    return found


def resolved(asked: Iterable[IncludeRequest], seen: Mapping[str, str | None]) -> list[Include]:
    """The includes as the query has them, of the types that may be `seen`."""
    found: list[Include] = []
    for one in asked:
        code = one.parameter.code if one.parameter else ANY
        if not one.reverse:
            types = brought_types(one)
            is_any = one.parameter is not None and not one.parameter.targets and not one.target_type
            targets = (ANY,) if is_any else tuple(type_ for type_ in types if type_ in seen)
            if targets:
                found.append(Include(one.source_type, code, targets, False, one.iterate))
            continue
        for source in brought_types(one):
            if source in seen:
                codes = [code] if one.parameter else references_of(source)
                target = one.target_type or ANY
                found += [Include(source, each, (target,), True, one.iterate) for each in codes]
    return found


def references_of(resource_type: str) -> list[str]:
    """The parameters of a type by which it names other resources."""
    known = definitions().search_parameters[resource_type]
    return [code for code, one in known.items() if one.type == "reference" and one.has_index()]
