"""Type search: from parameters to a page of stored bytes in one statement (R4 search.html)."""

from __future__ import annotations

import asyncio
import base64
from dataclasses import replace
from typing import Any
from urllib.parse import urlencode

from psycopg import errors

from interop.access import Caller, Filter
from interop.access.audit import audit_parameters, mark_audited
from interop.errors import BadRequest, TooCostly, Unavailable
from interop.fhir import bundles
from interop.fhir.definitions import definitions
from interop.fhir.rendering import render_stale
from interop.fhir.search.blinding import search_blinding, without_numbers
from interop.fhir.search.code_sets import CodeSets, asks_for_code_sets, resolved
from interop.fhir.search.request import (
    CURSOR,
    Cursor,
    IncludeRequest,
    SearchRequest,
    targets_of,
)
from interop.fhir.search.term_conditions import TermConditions
from interop.fhir.sensitive import Blind
from interop.fhir.visibility import Visibility
from storage import resources
from storage.database import Database
from storage.resource_search import After, Include, SearchStatement, SortKey

MAX_INCLUDED = 1000
# Rows may change while others are rendered; a busy ingest must not keep a reader for ever.
RENDER_TURNS = 5
# Of a query the audit row keeps so many characters.
LONGEST_QUERY = 4096


class Searcher:
    """Searches of one caller, among what the policy's `filter_` admits."""

    def __init__(self, database: Database, caller: Caller, own_base: str, filter_: Filter) -> None:
        self._database = database
        self._caller = caller
        self._own_base = own_base
        self._filter = filter_
        self._visibility = Visibility(caller, own_base)

    async def search(self, request: SearchRequest) -> bytes:
        """A page of results as a Bundle. Raises BadRequest and TooCostly."""
        statement = SearchStatement(request.resource_type)
        tenant_id = self._caller.tenant.id
        blind = await search_blinding(
            self._database, tenant_id, request.resource_type, request.terms
        )
        code_sets = await self._code_sets(request)
        query = self._query(request, statement, blind, code_sets)
        audit = audit_parameters(
            self._caller,
            "FHIR_SEARCH",
            request.resource_type,
            metadata={
                "parameters": sorted({name for name, _ in request.applied}),
                # IHE BALP: the query as it was asked, in base64.
                "query": _base64(self._url(_kept(request), request.cursor)),
            },
        )
        # Of the matches the last may only say that there is a next page: nobody is shown it.
        audit["page_size"] = request.count
        rows = await self._rows(request, query, statement.values, audit)
        rows = await resources.opened_rows(self._database, tenant_id, rows)
        return self._bundle(request, rows)

    async def _code_sets(self, request: SearchRequest) -> CodeSets | None:
        """The codes of value sets and hierarchies that the search names, if it names any."""
        if not asks_for_code_sets(request.resource_type, request.terms):
            return None

        def resolve() -> CodeSets:
            with self._database.connection(self._caller.tenant.id) as connection:
                named = (self._own_base, request.resource_type, request.terms)
                return resolved(connection, self._caller, *named)

        return await asyncio.to_thread(resolve)

    async def _rows(
        self, request: SearchRequest, query: str, values: list[str], audit: dict[str, Any]
    ) -> list[tuple[Any, ...]]:
        """Run the search, again after rendering where something it touches is stale."""
        tenant_id = self._caller.tenant.id
        for _ in range(RENDER_TURNS):
            rows = await self._found(query, values, audit)
            if not any(row[0] == "stale" for row in rows):
                return rows
            rendered = await asyncio.to_thread(
                render_stale, self._database, tenant_id, request.types(), None, self._own_base
            )
            if not rendered:
                break
        # What cannot be rendered is shown as it last was, and logged.
        return await self._found(query, values, {**audit, "even_if_stale": True})

    async def _found(
        self, query: str, values: list[str], audit: dict[str, Any]
    ) -> list[tuple[Any, ...]]:
        """Run the search once; audited unless its rows say that something is stale."""
        parameters = (query, values, resources.json_text(audit))
        try:
            tenant_id = self._caller.tenant.id
            rows = await resources.call(self._database, tenant_id, "fhir_search", *parameters)
        except errors.QueryCanceled:
            raise Unavailable("the search took too long; narrow it") from None
        if "even_if_stale" in audit or not any(row[0] == "stale" for row in rows):
            mark_audited()
        return rows

    def _query(
        self,
        request: SearchRequest,
        statement: SearchStatement,
        blind: Blind | None,
        code_sets: CodeSets | None,
    ) -> str:
        self._visibility.restrict(statement, self._filter)
        conditions = TermConditions(self._visibility, self._own_base, blind, code_sets)
        for term in request.terms:
            conditions.require(statement, term)
        order = [
            _sort_key(statement, parameter.code, parameter.type, descending)
            for parameter, descending in request.sort
        ]
        after = None
        if request.cursor is not None:
            if len(request.cursor.keys) != len(order):
                raise BadRequest(f"{CURSOR} belongs to another _sort; follow the next link as is")
            after = After(request.cursor.keys, request.cursor.resource_id)
        counts_only = request.count_only or request.count == 0
        includes = self._includes(request)
        brought = (
            type_
            for include in includes
            for type_ in ((include.source_type,) if include.reverse else include.target_types)
        )
        return statement.page(
            order=order,
            after=after,
            limit=0 if counts_only else request.count,
            includes=includes,
            include_limit=MAX_INCLUDED,
            visible=self._visibility.included(statement, brought),
            stale_types=request.types(),
            with_total=counts_only or request.total == "accurate",
        )

    def _includes(self, request: SearchRequest) -> list[Include]:
        """Only of types that the caller may see; which of them is part of the query as well."""
        found: list[Include] = []
        for include in request.includes:
            types = tuple(filter(self._may_see, self._brought_types(include)))
            if types:
                found.append(
                    Include(include.source_type, include.parameter.code, types, include.reverse)
                )
        return found

    def _brought_types(self, include: IncludeRequest) -> tuple[str, ...]:
        return (include.source_type,) if include.reverse else targets_of(include)

    def _may_see(self, resource_type: str) -> bool:
        return bool(self._visibility.shown(resource_type).ways)

    # -- the answer ---------------------------------------------------------------------

    def _bundle(self, request: SearchRequest, rows: list[tuple[Any, ...]]) -> bytes:
        matches = sorted((row for row in rows if row[0] == "match"), key=lambda row: int(row[1]))
        page = matches[: request.count]
        included = [row for row in rows if row[0] == "include"]
        if len(included) > MAX_INCLUDED:
            raise TooCostly(
                f"more than {MAX_INCLUDED} resources would be included; ask for a smaller _count"
            )
        total = next((int(row[1]) for row in rows if row[0] == "total"), None)
        links = [("self", self._url(request, request.cursor))]
        if len(matches) > len(page) > 0:
            last = page[-1]
            cursor = Cursor(tuple(last[6] or ()), last[3])
            links.append(("next", self._url(request, cursor)))
        entries = [bundles.Entry(row[0], row[2], row[3], row[7]) for row in (*page, *included)]
        return bundles.searchset(self._own_base, entries, links, total)

    def _url(self, request: SearchRequest, cursor: Cursor | None) -> str:
        """What was searched, as the server understood it."""
        pairs = [pair for pair in request.applied if pair[0] != CURSOR]
        if cursor is not None:
            pairs.append((CURSOR, cursor.encode()))
        query = urlencode(pairs, safe=":|,/$")
        return f"{self._own_base}/{request.resource_type}" + (f"?{query}" if query else "")


def _kept(request: SearchRequest) -> SearchRequest:
    """What the audit keeps of a request."""
    return replace(request, applied=without_numbers(request.resource_type, request.applied))


def _base64(text: str) -> str:
    return base64.b64encode(text[:LONGEST_QUERY].encode()).decode()


def _sort_key(statement: SearchStatement, code: str, type_: str, descending: bool) -> SortKey:
    if code == "_id":
        return SortKey("r.resource_id", "text", descending)
    if code == "_lastUpdated":
        return SortKey("r.last_updated", "timestamptz", descending)
    return statement.sort_key(type_, code, descending)


def supported_parameters(resource_type: str) -> list[str]:
    """The names of the search parameters of a type, for the CapabilityStatement."""
    known = definitions().search_parameters[resource_type]
    return [code for code, parameter in known.items() if parameter.has_index()]
