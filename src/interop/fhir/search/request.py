"""Reading a search: which parameters are asked, with which modifiers, and how the page looks.

FHIR R4 search.html. What this server does not support is refused with 400 and the list of what it
does, because a filter that is ignored returns what was not asked for (fhir.md, complaint 3).
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import orjson

from interop.errors import BadRequest, TooCostly, UnsupportedParameter
from interop.fhir.definitions import SearchParameter
from interop.fhir.search.clauses import known_parameter
from interop.fhir.search.filter_expression import term_of
from interop.fhir.search.full_text import FULL_TEXT
from interop.fhir.search.includes import NAMES as INCLUDES
from interop.fhir.search.includes import IncludeRequest, brought_types
from interop.fhir.search.includes import read as read_include
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
    "_count", "_sort", "_total", "_summary", "_format", CURSOR,
    TOTAL_METHOD, "_pretty", "_elements",
)  # fmt: skip
UNSORTABLE = ("composite", "special")
Total = Literal["none", "estimate", "accurate"]
TOTALS: dict[str, Total] = {"none": "none", "estimate": "estimate", "accurate": "accurate"}


@dataclass(frozen=True, slots=True)
class Cursor:
    """Where the page before ended: the sort keys and id of its last resource.

    Also its type, in a search over several.
    """

    keys: tuple[str | None, ...]
    resource_id: str
    resource_type: str = ""

    def encode(self) -> str:
        place = [list(self.keys), self.resource_id]
        packed = orjson.dumps([*place, self.resource_type] if self.resource_type else place)
        return base64.urlsafe_b64encode(packed).rstrip(b"=").decode()

    @classmethod
    def decode(cls, text: str) -> Cursor:
        try:
            packed = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
            keys, resource_id, *rest = orjson.loads(packed)
            resource_type = rest[0] if rest else ""
            texts = (*(key for key in keys if key is not None), resource_id, resource_type)
            if len(rest) < 2 and all(isinstance(one, str) for one in texts):
                return cls(tuple(keys), resource_id, resource_type)
        except (ValueError, TypeError, binascii.Error):
            pass
        raise BadRequest(f"{CURSOR} is not one that this server gave; follow the next link as is")


@dataclass(slots=True)
class SearchRequest:
    """A search, checked: what it asks of the resources of each type, and how the page looks.

    `path` is where below the base URL it was asked: a type, a compartment, or nothing.
    """

    path: str
    asked: dict[str, list[Term]]
    includes: list[IncludeRequest] = field(default_factory=list)
    sort: list[tuple[SearchParameter, bool]] = field(default_factory=list)
    count: int = DEFAULT_COUNT
    total: Total = "none"
    count_only: bool = False
    cursor: Cursor | None = None
    applied: list[tuple[str, str]] = field(default_factory=list)
    # What the audit calls it, and which parameters of `applied` are an operation's and no search's.
    event: str = "FHIR_SEARCH"
    options: tuple[str, ...] = ()
    # Why parameters were left out, in the answer to who asked to be told so (handling=lenient).
    left_out: list[str] = field(default_factory=list)
    # The type by which the names of parameters were understood, where nothing is searched as well.
    read_as: str = ""

    @property
    def resource_types(self) -> tuple[str, ...]:
        """The types searched, in the order of their pages."""
        return tuple(self.asked)

    @property
    def resource_type(self) -> str:
        """The type, or the first of several."""
        return next(iter(self.asked), "")

    @property
    def terms(self) -> list[Term]:
        """What is asked of the type, or of the first of several."""
        return self.asked.get(self.resource_type, [])

    @property
    def is_over_types(self) -> bool:
        """Whether several types could be searched, whichever there are."""
        return self.path in ("", "_search") or self.path.endswith(("/*", "/$everything"))

    def beside_terms(self) -> list[SearchParameter]:
        """The parameters by which it sorts and includes."""
        included = [one.parameter for one in self.includes if one.parameter is not None]
        return [*included, *(parameter for parameter, _ in self.sort)]

    def types(self) -> list[str]:
        """Every resource type that the search may touch."""
        found = set(self.asked)
        for terms in self.asked.values():
            for one in terms:
                found.update(touched(one))
        for include in self.includes:
            found.update(brought_types(include))
        return sorted(found)


def parse(
    resource_type: str, pairs: Iterable[tuple[str, str]], *, lenient: bool = False
) -> SearchRequest:
    """Read the parameters of a search over a type. Raises as `parse_over` does."""
    return parse_over([resource_type], pairs, path=resource_type, lenient=lenient)


def parse_over(
    types: Iterable[str],
    pairs: Iterable[tuple[str, str]],
    *,
    path: str,
    lenient: bool = False,
    ignored: Sequence[str] = (),
) -> SearchRequest:
    """Read the parameters of a search. Raises BadRequest, UnsupportedParameter, TooCostly.

    Every type must have each of them. With `lenient` (Prefer: handling=lenient) unknown ones are
    left out, of the self link too, and `left_out` says why. `ignored` ones are read by the caller.
    """
    asked: dict[str, list[Term]] = {type_: [] for type_ in sorted(types)}
    request = SearchRequest(path, asked, read_as=next(iter(asked)))
    single: set[str] = set()
    budget = Budget()
    for name, value in pairs:
        if "\x00" in name or "\x00" in value:
            raise BadRequest(f"the parameter {name[:64]!r} holds a NUL character")
        try:
            if name not in ignored:
                _one(request, name, value, single, budget)
        except UnsupportedParameter as refusal:
            if not lenient:
                raise
            request.left_out.append(f"{name[:64]!r} was left out: {refusal.diagnostics}")
            continue
        # The self link says what the server did: the largest page where a larger was asked for.
        request.applied.append((name, str(request.count) if name == "_count" else value))
    if len(request.terms) > MAX_CLAUSES:
        raise TooCostly(f"{len(request.terms)} search parameters; at most {MAX_CLAUSES}")
    return request


def _one(request: SearchRequest, name: str, value: str, single: set[str], budget: Budget) -> None:
    first = name.partition(":")[0]
    if first in INCLUDES:
        request.includes.append(read_include(request.resource_types, name, value))
        if len(request.includes) > MAX_INCLUDES:
            raise TooCostly(f"more than {MAX_INCLUDES} includes")
    elif first in RESULT_PARAMETERS:
        if name in single:
            raise BadRequest(f"{name} is given twice")
        single.add(name)
        _result_parameter(request, name, value)
    else:
        # Each before any is kept: what one type refuses is not asked of another either.
        terms = [(type_, term_of(type_, name, value, budget)) for type_ in request.asked]
        for type_, asked in terms:
            request.asked[type_].append(asked)


def _result_parameter(request: SearchRequest, name: str, value: str) -> None:
    match name:
        case "_count":
            request.count = _count(value)
        case "_sort":
            request.sort = _sort(request.resource_types, value)
        case "_total" if value in TOTALS:
            request.total = TOTALS[value]
        case "_summary" if value in SUMMARIES:
            request.count_only = value == "count"
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
            raise UnsupportedParameter(f"{name[:64]!r} is not supported; it has no modifiers")


def _count(value: str) -> int:
    if not value.isascii() or not value.isdigit():
        raise BadRequest(f"_count={value[:32]!r}; expected a whole number from 0 to {MAX_COUNT}")
    # search.html 3.1.1.5.3: a page may hold fewer than asked for, never more.
    return clamped(value)


def clamped(digits: str) -> int:
    """A page size as it was asked for, or the largest there is."""
    digits = digits.lstrip("0") or "0"
    return MAX_COUNT if len(digits) > 9 else min(int(digits), MAX_COUNT)


def _sort(types: Sequence[str], value: str) -> list[tuple[SearchParameter, bool]]:
    keys: list[tuple[SearchParameter, bool]] = []
    for key in value.split(","):
        found = [known_parameter(type_, key.removeprefix("-"), "_sort") for type_ in types]
        if not found:
            continue
        parameter = found[0]
        if parameter.type in UNSORTABLE or parameter.code in FULL_TEXT:
            raise UnsupportedParameter(f"_sort={key}: {parameter.type} parameters have no order")
        keys.append((parameter, key.startswith("-")))
    if len(keys) > MAX_SORT_KEYS:
        raise TooCostly(f"_sort by {len(keys)} keys; at most {MAX_SORT_KEYS}")
    return keys
