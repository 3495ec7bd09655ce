"""Type search: from parameters to a page of stored bytes in one statement (R4 search.html)."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlencode

from psycopg import errors

from interop.access import Caller, Filter
from interop.access.audit import audit_parameters, mark_audited
from interop.errors import BadRequest, TooCostly, Unavailable
from interop.fhir import bundles
from interop.fhir.outcomes import left_out
from interop.fhir.rendering import render_stale
from interop.fhir.search.blinding import (
    asks_for_identifier,
    search_blinding,
    without_numbers,
)
from interop.fhir.search.catalog import ParametersChanged, used
from interop.fhir.search.clauses import Clause
from interop.fhir.search.code_sets import CodeSet, CodeSets, asks_for_code_sets, resolved
from interop.fhir.search.includes import resolved as resolved_includes
from interop.fhir.search.includes import shown
from interop.fhir.search.request import (
    CURSOR,
    Cursor,
    SearchRequest,
    Total,
)
from interop.fhir.search.term_conditions import TermConditions
from interop.fhir.sensitive import Blind
from interop.fhir.visibility import Visibility
from storage import resources
from storage.database import Database
from storage.resource_search import SearchStatement
from storage.search_pages import COUNTED, After, PageQuery, Pages, SortKey, page_query, run_page

MAX_INCLUDED = 1000
# Rows may change while others are rendered; a busy ingest must not keep a reader for ever.
RENDER_TURNS = 5
# Of a query the audit row keeps so many characters.
LONGEST_QUERY = 4096


@dataclass(frozen=True, slots=True)
class Query:
    """The statement of a page, its values, and what it is a page of."""

    page: PageQuery
    values: list[str]
    pages: Pages


class Searcher:
    """Searches of one caller, among what the policy's `filter_` admits."""

    def __init__(
        self,
        database: Database,
        caller: Caller,
        own_base: str,
        filter_: Filter | Mapping[str, Filter],
    ) -> None:
        """`filter_` is that of the type, or those of several by their names."""
        self._database = database
        self._caller = caller
        self._own_base = own_base
        self._filter = filter_
        self._visibility = Visibility(caller, own_base)

    async def search(self, request: SearchRequest) -> bytes:
        """A page of results as a Bundle. Raises BadRequest and TooCostly."""
        tenant_id = self._caller.tenant.id
        blind = await search_blinding(
            self._database, tenant_id, request.resource_type, request.terms
        )
        code_sets = await self._code_sets(request)
        query = self._query(request, blind, code_sets)
        audit = audit_parameters(
            self._caller,
            request.event,
            None if request.is_over_types else request.resource_type,
            metadata={
                "parameters": sorted({name for name, _ in request.applied}),
                # IHE BALP: the query as it was asked, in base64.
                "query": _base64(self._url(_kept(request), request.cursor)),
            },
        )
        rows = await self._rows(request, query, audit)
        rows = await resources.opened_rows(self._database, tenant_id, rows)
        return self._bundle(request, rows, await self._total(request, query, rows))

    async def _code_sets(self, request: SearchRequest) -> CodeSets | None:
        """The codes of value sets and hierarchies that the search names, if it names any."""
        asking = {t: terms for t, terms in request.asked.items() if asks_for_code_sets(t, terms)}
        if not asking:
            return None

        def resolve() -> CodeSets:
            found: dict[tuple[str, Clause], CodeSet] = {}
            with self._database.connection(self._caller.tenant.id) as connection:
                for type_, terms in asking.items():
                    found |= resolved(connection, self._caller, self._own_base, type_, terms)
            return found

        return await asyncio.to_thread(resolve)

    async def _rows(
        self, request: SearchRequest, query: Query, audit: dict[str, Any]
    ) -> list[tuple[Any, ...]]:
        """Run the search, again after rendering where something it touches is stale."""
        tenant_id = self._caller.tenant.id
        for _ in range(RENDER_TURNS):
            rows = await self._found(query, audit)
            if not any(row[0] == "stale" for row in rows):
                return rows
            rendered = await asyncio.to_thread(
                render_stale, self._database, tenant_id, request.types(), None, self._own_base
            )
            if not rendered:
                break
        # What cannot be rendered is shown as it last was, and logged.
        return await self._found(query, {**audit, "even_if_stale": True})

    async def _found(self, query: Query, audit: dict[str, Any]) -> list[tuple[Any, ...]]:
        """Run the search once; audited unless its rows say that something is stale."""
        with _refusals():
            rows = await run_page(
                self._database,
                self._caller.tenant.id,
                query.page,
                query.values,
                resources.json_text(audit),
            )
        if any(row[0] == "audited" for row in rows):
            mark_audited()
        return rows

    async def _total(
        self, request: SearchRequest, query: Query, rows: list[tuple[Any, ...]]
    ) -> int | None:
        """The total that was asked for: beyond COUNTED an estimate is the planner's."""
        counted = next((int(row[1]) for row in rows if row[0] == "total"), None)
        if counted is None or request.total != "estimate" or counted <= COUNTED:
            return counted
        with _refusals():
            found = await resources.call(
                self._database,
                self._caller.tenant.id,
                "fhir_estimate",
                query.pages.all_rows(),
                query.values,
            )
        return max(counted, int(found[0][0]))

    def _query(
        self, request: SearchRequest, blind: Blind | None, code_sets: CodeSets | None
    ) -> Query:
        values: list[str] = []
        conditions = TermConditions(self._visibility, self._own_base, blind, code_sets)
        statements: list[SearchStatement] = []
        # Those of the terms are required with them.
        parameters = used(request.beside_terms())
        for type_, terms in request.asked.items():
            statement = SearchStatement(type_, values)
            self._visibility.restrict(statement, self._filter_of(type_))
            for parameter in parameters:
                statement.require_parameter(parameter.definition_id, parameter.epoch)
            for term in terms:
                conditions.require(statement, term)
            statements.append(statement)
        pages = Pages(statements, _order(request), _after(request))
        counts_only = request.count_only or request.count == 0
        seen = shown(self._visibility, SearchStatement("", values), request.includes)
        page = page_query(
            pages,
            limit=0 if counts_only else request.count,
            includes=resolved_includes(request.includes, seen),
            include_limit=MAX_INCLUDED,
            shown=seen,
            stale_types=request.types(),
            total=_asked_total(request, counts_only=counts_only),
        )
        return Query(page, values, pages)

    def _filter_of(self, type_: str) -> Filter:
        return self._filter if isinstance(self._filter, Filter) else self._filter[type_]

    # -- the answer ---------------------------------------------------------------------

    def _bundle(
        self, request: SearchRequest, rows: list[tuple[Any, ...]], total: int | None
    ) -> bytes:
        matches = sorted((row for row in rows if row[0] == "match"), key=lambda row: int(row[1]))
        page = matches[: request.count]
        included = [row for row in rows if row[0] == "include"]
        if len(included) > MAX_INCLUDED:
            raise TooCostly(
                f"more than {MAX_INCLUDED} resources would be included; ask for a smaller _count"
            )
        links = [("self", self._url(request, request.cursor))]
        if len(matches) > len(page) > 0:
            last = page[-1]
            type_ = last[2] if request.is_over_types else ""
            links.append(("next", self._url(request, Cursor(tuple(last[6] or ()), last[3], type_))))
        entries = [bundles.Entry(row[0], row[2], row[3], row[7]) for row in (*page, *included)]
        outcome = left_out(request.left_out) if request.left_out else None
        return bundles.searchset(self._own_base, entries, links, total, outcome)

    def _url(self, request: SearchRequest, cursor: Cursor | None) -> str:
        """What was searched, as the server understood it."""
        pairs = [pair for pair in request.applied if pair[0] != CURSOR]
        if cursor is not None:
            pairs.append((CURSOR, cursor.encode()))
        query = urlencode(pairs, safe=":|,/$")
        url = f"{self._own_base}/{request.path}" if request.path else self._own_base
        return f"{url}?{query}" if query else url


@contextmanager
def _refusals() -> Iterator[None]:
    """What a query of a search fails with, as the client is to know it."""
    try:
        yield
    except errors.QueryCanceled:
        raise Unavailable("the search took too long; narrow it") from None
    except errors.ObjectNotInPrerequisiteState:
        raise ParametersChanged from None


def _kept(request: SearchRequest) -> SearchRequest:
    """What the audit keeps of a request."""
    if request.asked and not any(
        asks_for_identifier(type_, one) for type_, terms in request.asked.items() for one in terms
    ):
        return request
    kept = [
        pair if pair[0] in request.options else without_numbers(request.read_as, [pair])[0]
        for pair in request.applied
    ]
    return replace(request, applied=kept)


def _base64(text: str) -> str:
    return base64.b64encode(text[:LONGEST_QUERY].encode()).decode()


def _order(request: SearchRequest) -> list[SortKey]:
    return [_sort_key(one.code, one.type, descending) for one, descending in request.sort]


def _sort_key(code: str, type_: str, descending: bool) -> SortKey:
    if code == "_id":
        return SortKey("r.resource_id", "text", descending)
    if code == "_lastUpdated":
        return SortKey("r.last_updated", "timestamptz", descending)
    return SortKey.of(type_, code, descending)


def _after(request: SearchRequest) -> After | None:
    cursor = request.cursor
    if cursor is None:
        return None
    if len(cursor.keys) != len(request.sort) or bool(cursor.resource_type) != request.is_over_types:
        raise BadRequest(f"{CURSOR} belongs to another search; follow the next link as is")
    return After(cursor.keys, cursor.resource_id, cursor.resource_type)


def _asked_total(request: SearchRequest, *, counts_only: bool) -> Total:
    """Who asks for a count only asks for it whatever _total says."""
    return "accurate" if counts_only and request.total == "none" else request.total
