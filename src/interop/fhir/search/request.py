"""Reading a search: which parameters are asked, with which modifiers, and how the page looks.

FHIR R4 search.html. What this server does not support is refused with 400 and the list of what it
does, because a filter that is ignored returns what was not asked for (fhir.md, complaint 3).
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

import orjson

from interop.errors import BadRequest, TooCostly, UnsupportedParameter
from interop.fhir.definitions import SearchParameter, definitions
from interop.fhir.search.clauses import known_parameter
from interop.fhir.search.filter_expression import term_of
from interop.fhir.search.terms import Budget, Term, touched
from interop.fhir.subsetting import SUMMARIES

DEFAULT_COUNT = 20
MAX_COUNT = 1000
MAX_CLAUSES = 50
MAX_SORT_KEYS = 4
MAX_INCLUDES = 20
CURSOR = "_cursor"
# How fhirpy's count() asks for the total, after Aidbox.
TOTAL_METHOD = "_totalMethod"

# Parameters about the answer, not about resources.
RESULT_PARAMETERS = (
    "_count", "_sort", "_include", "_revinclude", "_total", "_summary", "_format", CURSOR,
    TOTAL_METHOD, "_pretty", "_elements",
)  # fmt: skip
UNSORTABLE = ("composite", "special")

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")


@dataclass(frozen=True, slots=True)
class IncludeRequest:
    """`_include=Source:parameter[:Target]` and its reverse."""

    source_type: str
    parameter: SearchParameter
    target_type: str | None
    reverse: bool


@dataclass(frozen=True, slots=True)
class Cursor:
    """Where the page before ended: the sort keys and id of its last resource."""

    keys: tuple[str | None, ...]
    resource_id: str

    def encode(self) -> str:
        packed = orjson.dumps([list(self.keys), self.resource_id])
        return base64.urlsafe_b64encode(packed).rstrip(b"=").decode()

    @classmethod
    def decode(cls, text: str) -> Cursor:
        try:
            packed = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
            keys, resource_id = orjson.loads(packed)
            if all(k is None or isinstance(k, str) for k in keys) and isinstance(resource_id, str):
                return cls(tuple(keys), resource_id)
        except (ValueError, TypeError, binascii.Error):
            pass
        raise BadRequest(f"{CURSOR} is not one that this server gave; follow the next link as is")


@dataclass(slots=True)
class SearchRequest:
    """A search over one resource type, checked."""

    resource_type: str
    terms: list[Term] = field(default_factory=list)
    includes: list[IncludeRequest] = field(default_factory=list)
    sort: list[tuple[SearchParameter, bool]] = field(default_factory=list)
    count: int = DEFAULT_COUNT
    total: Literal["none", "accurate"] = "none"
    count_only: bool = False
    cursor: Cursor | None = None
    applied: list[tuple[str, str]] = field(default_factory=list)

    def types(self) -> list[str]:
        """Every resource type that the search may touch."""
        found = {self.resource_type}
        for one in self.terms:
            found.update(touched(one))
        for include in self.includes:
            if include.reverse:
                found.add(include.source_type)
            else:
                found.update(targets_of(include))
        return sorted(found)


def targets_of(include: IncludeRequest) -> tuple[str, ...]:
    """The types that a forward include may bring."""
    if include.target_type:
        return (include.target_type,)
    return include.parameter.targets or tuple(sorted(definitions().resource_types))


def parse(
    resource_type: str, pairs: Iterable[tuple[str, str]], *, lenient: bool = False
) -> SearchRequest:
    """Read the parameters of a search. Raises BadRequest, UnsupportedParameter, TooCostly.

    With `lenient` (Prefer: handling=lenient) unknown parameters are left out, of the self link too.
    """
    request = SearchRequest(resource_type)
    single: set[str] = set()
    budget = Budget()
    for name, value in pairs:
        if "\x00" in name or "\x00" in value:
            raise BadRequest(f"the parameter {name[:64]!r} holds a NUL character")
        try:
            _one(request, name, value, single, budget)
        except UnsupportedParameter:
            if not lenient:
                raise
            continue
        # The self link says what the server did: the largest page where a larger was asked for.
        request.applied.append((name, str(request.count) if name == "_count" else value))
    if len(request.terms) > MAX_CLAUSES:
        raise TooCostly(f"{len(request.terms)} search parameters; at most {MAX_CLAUSES}")
    return request


def _one(request: SearchRequest, name: str, value: str, single: set[str], budget: Budget) -> None:
    if name.partition(":")[0] in RESULT_PARAMETERS:
        if name not in ("_include", "_revinclude"):
            if name in single:
                raise BadRequest(f"{name} is given twice")
            single.add(name)
        _result_parameter(request, name, value)
    else:
        request.terms.append(term_of(request.resource_type, name, value, budget))


def _result_parameter(request: SearchRequest, name: str, value: str) -> None:
    match name:
        case "_count":
            request.count = _count(value)
        case "_sort":
            request.sort = _sort(request.resource_type, value)
        case "_total" if value in ("none", "estimate", "accurate"):
            request.total = "none" if value == "none" else "accurate"
        case "_summary" if value in SUMMARIES:
            request.count_only = value == "count"
        case "_include" | "_revinclude":
            request.includes.append(_include(request.resource_type, name, value))
            if len(request.includes) > MAX_INCLUDES:
                raise TooCostly(f"more than {MAX_INCLUDES} includes")
        case "_cursor":
            request.cursor = Cursor.decode(value)
        case "_format" | "_pretty" | "_elements":
            pass  # the form of the answer (negotiation.py, subsetting.py)
        case "_totalMethod" if value in ("count", "none"):
            request.total = "accurate" if value == "count" else "none"
        case "_total":
            raise BadRequest(f"_total={value[:32]}; accepted: none, estimate, accurate")
        case "_summary":
            raise UnsupportedParameter(f"_summary={value[:32]}; accepted: {', '.join(SUMMARIES)}")
        case _:
            raise UnsupportedParameter(f"{name[:64]!r} is not supported; accepted: _include=...")


def _count(value: str) -> int:
    if not value.isascii() or not value.isdigit():
        raise BadRequest(f"_count={value[:32]!r}; expected a whole number from 0 to {MAX_COUNT}")
    # search.html 3.1.1.5.3: a page may hold fewer than asked for, never more.
    return clamped(value)


def clamped(digits: str) -> int:
    """A page size as it was asked for, or the largest there is."""
    digits = digits.lstrip("0") or "0"
    return MAX_COUNT if len(digits) > 9 else min(int(digits), MAX_COUNT)


def _sort(resource_type: str, value: str) -> list[tuple[SearchParameter, bool]]:
    keys: list[tuple[SearchParameter, bool]] = []
    for key in value.split(","):
        parameter = known_parameter(resource_type, key.removeprefix("-"), "_sort")
        if parameter.type in UNSORTABLE:
            raise UnsupportedParameter(f"_sort={key}: {parameter.type} parameters have no order")
        keys.append((parameter, key.startswith("-")))
    if len(keys) > MAX_SORT_KEYS:
        raise TooCostly(f"_sort by {len(keys)} keys; at most {MAX_SORT_KEYS}")
    return keys


def _include(resource_type: str, name: str, value: str) -> IncludeRequest:
    parts = value.split(":")
    if len(parts) not in (2, 3) or not all(map(_NAME.fullmatch, parts)):
        raise BadRequest(f"{name}={value[:64]!r}; expected <type>:<parameter>[:<target type>]")
    source, code, *target = parts
    types = definitions().resource_types
    if source not in types or (target and target[0] not in types):
        raise BadRequest(f"{name}={value[:64]!r} names an unknown resource type")
    reverse = name == "_revinclude"
    if not reverse and source != resource_type:
        raise BadRequest(f"{name}={value[:64]!r}; the resources found are of type {resource_type}")
    parameter = known_parameter(source, code, name)
    if parameter.type != "reference":
        raise BadRequest(f"{name}={value[:64]!r}: {code} is not a reference")
    if reverse and target and target[0] != resource_type:
        raise BadRequest(f"{name}={value[:64]!r}; the resources found are of type {resource_type}")
    if target and parameter.targets and target[0] not in parameter.targets:
        raise BadRequest(f"{name}={value[:64]!r}: {code} refers to {', '.join(parameter.targets)}")
    return IncludeRequest(source, parameter, target[0] if target else None, reverse)
