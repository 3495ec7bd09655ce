"""$lastn: the newest Observations of each code (R4 observation-operation-lastn.html)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from interop.access import Caller, Filter
from interop.errors import BadRequest, TooCostly
from interop.fhir.search.code_sets import CodeSets
from interop.fhir.search.request import MAX_COUNT, SearchRequest, parse
from interop.fhir.search.searching import Query, Searcher
from interop.fhir.search.term_conditions import TermConditions
from interop.fhir.sensitive import Blind
from interop.fhir.visibility import Visibility
from storage.database import Database
from storage.newest import newest_of_each
from storage.resource_search import SearchStatement
from storage.search_pages import Pages

OBSERVATION = "Observation"
MAXIMUM = "max"
SUBJECTS = ("patient", "subject")
# What the operation is about: without one of these it would go through all that was ever measured.
ABOUT = ("code", "category", "combo-code", "component-code")


def parse_lastn(pairs: Sequence[tuple[str, str]]) -> tuple[SearchRequest, int]:
    """The search and how many of each code. Raises BadRequest and UnsupportedParameter."""
    maximum = 1
    rest: list[tuple[str, str]] = []
    for name, value in pairs:
        if name == MAXIMUM:
            if not (value.isascii() and value.isdigit() and 0 < int(value[:9]) <= MAX_COUNT):
                raise BadRequest(f"max={value[:32]!r}; expected a number from 1 to {MAX_COUNT}")
            maximum = int(value)
        else:
            rest.append((name, value))
    request = parse(OBSERVATION, rest)
    named = {name.partition(":")[0].partition(".")[0] for name, _ in rest}
    for needed in (SUBJECTS, ABOUT):
        if not named & set(needed):
            raise BadRequest(f"$lastn needs one of the parameters {', '.join(needed)}")
    if request.sort or request.cursor or request.includes or "_count" in named:
        raise BadRequest("$lastn has one page in its own order: no _sort, _count or _include")
    request.event = "FHIR_OPERATION"
    request.options = (MAXIMUM,)
    request.path = f"{OBSERVATION}/$lastn"
    request.count = MAX_COUNT
    request.total = "none"
    request.applied = list(pairs)
    return request, maximum


class LastSearcher(Searcher):
    """A search that shows of what it finds the newest of each code."""

    def __init__(
        self, database: Database, caller: Caller, own_base: str, filter_: Filter, maximum: int
    ) -> None:
        super().__init__(database, caller, own_base, filter_)
        self._maximum = maximum
        self._of = filter_
        self._seen = Visibility(caller, own_base)
        self._base = own_base

    def _query(
        self, request: SearchRequest, blind: Blind | None, code_sets: CodeSets | None
    ) -> Query:
        statement = SearchStatement(OBSERVATION)
        self._seen.restrict(statement, self._of)
        conditions = TermConditions(self._seen, self._base, blind, code_sets)
        for term in request.terms:
            conditions.require(statement, term)
        page = newest_of_each(statement, self._maximum, MAX_COUNT, request.types())
        return Query(page, statement.values, Pages([statement]))

    def _bundle(
        self, request: SearchRequest, rows: list[tuple[Any, ...]], total: int | None
    ) -> bytes:
        if sum(row[0] == "match" for row in rows) > MAX_COUNT:
            raise TooCostly(f"more than {MAX_COUNT} Observations; ask for fewer codes")
        return super()._bundle(request, rows, total)
