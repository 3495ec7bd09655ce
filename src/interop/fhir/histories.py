"""Histories of a resource, a type and the whole server (FHIR R4 http.html#history).

Every version is judged by its own content (security.md D5): where a caller may see less than
everything, versions are looked at in the order of time until a page is full. Pages are cut at a
position in time, so that what is written meanwhile moves nothing.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from urllib.parse import urlencode
from uuid import UUID

import orjson

from interop.access import Caller, Filter, decide
from interop.access.audit import audit_parameters
from interop.errors import BadRequest, Forbidden, NotFound, TooCostly, UnsupportedParameter
from interop.fhir import bundles, json
from interop.fhir.definitions import definitions
from interop.fhir.negotiation import FORM_PARAMETERS
from interop.fhir.rendering import render_one, render_stale
from interop.fhir.search.request import DEFAULT_COUNT, clamped
from interop.fhir.search.values import date_interval
from interop.fhir.visibility import Visibility
from storage import histories
from storage.database import Database
from storage.histories import Entry, Position, Span
from storage.resource_visibility import Candidate, judge_async

CURSOR = "_cursor"
ACCEPTED = ("_count", "_since", "_at", "_sort", "_total")
SORTS = {"-_lastUpdated": False, "_lastUpdated": True}
# A row may change again while its resource is rendered; nobody needs more than a few turns.
RENDER_TURNS = 5
JUDGED_AT_ONCE = 50
# A page of a caller who may see little ends here, with what it has: its next link goes on.
MAX_JUDGED = 1000


@dataclass(slots=True)
class HistoryRequest:
    """What a history interaction asks for, checked."""

    count: int = DEFAULT_COUNT
    counts_only: bool = False
    with_total: bool = False
    since: datetime | None = None
    at: tuple[datetime, datetime] | None = None
    ascending: bool = False
    after: Position | None = None
    applied: list[tuple[str, str]] = field(default_factory=list)

    def span(self, types: tuple[str, ...] | None, resource_id: str | None) -> Span:
        low, high = self.at or (None, None)
        return Span(types, resource_id, self.since, low, high, self.ascending)

    @property
    def is_whole(self) -> bool:
        """Whether every version is asked for."""
        return self.since is None and self.at is None


def parse(parameters: Sequence[tuple[str, str]]) -> HistoryRequest:
    """Read the parameters of a history. Raises BadRequest and UnsupportedParameter."""
    asked = HistoryRequest()
    for name, value in parameters:
        if any(name == one for one, _ in asked.applied):
            raise BadRequest(f"{name[:64]} is given twice")
        _one(asked, name, value)
        if name != CURSOR:
            kept = str(asked.count) if name == "_count" else value
            asked.applied.append((name, kept))
    return asked


def _one(asked: HistoryRequest, name: str, value: str) -> None:
    match name:
        case "_since":
            asked.since = _interval(name, value)[0]
            # Versions have milliseconds; so has the time in the next link.
            asked.since += timedelta(microseconds=-asked.since.microsecond % 1000)
        case "_at":
            asked.at = _interval(name, value)
        case "_count":
            if not (value.isascii() and value.isdigit()):
                raise BadRequest(f"_count={value[:32]!r}; expected a whole number")
            asked.count = clamped(value)
            asked.counts_only = asked.counts_only or asked.count == 0
        case "_sort":
            if value not in SORTS:
                raise BadRequest(f"_sort={value[:32]!r}; accepted: {', '.join(SORTS)}")
            asked.ascending = SORTS[value]
        case "_total":
            if value not in ("none", "estimate", "accurate"):
                raise BadRequest(f"_total={value[:32]!r}; accepted: none, estimate, accurate")
            asked.with_total = value != "none"
        case "_summary" if value == "count":
            asked.counts_only = True
        case "_cursor":
            asked.after = _position(value)
        case _ if name not in FORM_PARAMETERS:
            raise UnsupportedParameter(
                f"history has no parameter {name[:64]!r}; accepted: {', '.join(ACCEPTED)}"
            )


def _interval(name: str, value: str) -> tuple[datetime, datetime]:
    try:
        return date_interval(value)
    except ValueError:
        raise BadRequest(
            f"{name}={value[:32]!r}; expected a moment such as 2026-05-17T09:30:00.000Z"
            + (" or a date" if name == "_at" else "")
        ) from None


def _position(value: str) -> Position:
    try:
        packed = base64.urlsafe_b64decode(value + "=" * (-len(value) % 4))
        time, type_, id_, version = orjson.loads(packed)
        if isinstance(type_, str) and isinstance(id_, str) and isinstance(version, int):
            moment = datetime.fromisoformat(time)
            if moment.tzinfo and "\x00" not in type_ + id_ and 0 <= version < 2**63:
                return Position(moment, type_, id_, version)
    except (ValueError, TypeError, binascii.Error):
        pass
    raise BadRequest(f"{CURSOR} is not one that this server gave; follow the next link as is")


def _packed(position: Position) -> str:
    found = (position.time, position.resource_type, position.resource_id, position.version)
    return base64.urlsafe_b64encode(orjson.dumps(found)).rstrip(b"=").decode()


class HistoryReader:
    """Histories of one caller."""

    def __init__(self, database: Database, caller: Caller, own_base: str) -> None:
        self._database = database
        self._caller = caller
        self._own_base = own_base
        self._visibility = Visibility(caller, own_base)

    async def page(
        self, resource_type: str, resource_id: str, parameters: Sequence[tuple[str, str]]
    ) -> bytes:
        """A page as a Bundle. '' for what the history is not limited to.

        Raises NotFound where a resource has no version that the caller may see, and BadRequest.
        """
        asked = parse(parameters)
        filters = self._filters(resource_type)
        are_open = all(filter_.is_whole_tenant for filter_ in filters.values())
        is_everything = are_open and len(filters) == len(definitions().resource_types)
        span = asked.span(None if is_everything else tuple(filters), resource_id or None)
        audit = audit_parameters(
            self._caller, "FHIR_HISTORY", resource_type or None, resource_id or None
        )
        await self._render(resource_type, resource_id)
        pages = _Judged(self, filters, audit) if not are_open else _Open(self, audit)
        url = "/".join(part for part in (self._own_base, resource_type, resource_id) if part)
        url = f"{url}/_history"
        if asked.counts_only:
            total = await pages.count(span)
            return bundles.history(self._own_base, [], [("self", _url(url, asked, None))], total)
        found = await pages.page(span, asked.after, asked.count)
        if not found.entries and not found.is_known:
            raise NotFound
        links = [("self", _url(url, asked, asked.after))]
        if found.next_after is not None:
            links.append(("next", _url(url, asked, found.next_after)))
        known = await self._total(asked, span, found) if are_open else found.total(asked)
        return bundles.history(self._own_base, found.entries, links, known)

    async def _total(self, asked: HistoryRequest, span: Span, found: _Found) -> int | None:
        """How many versions there are, where it is known or asked for."""
        first = found.entries[0] if found.entries else None
        if span.resource_id and asked.is_whole and not (asked.after or asked.ascending) and first:
            # Versions are numbered without gaps: the newest number is how many there are.
            return first.version.version
        if (known := found.total(asked)) is not None or not asked.with_total:
            return known
        return await histories.count(self._database, self._caller.tenant.id, span, None)

    def _filters(self, resource_type: str) -> dict[str, Filter]:
        """What may be seen of each type. Raises Forbidden where that is nothing at all."""
        if resource_type:
            return {resource_type: decide(self._caller, "r", resource_type).require()}
        found = {
            type_: decide(self._caller, "r", type_).filter
            for type_ in sorted(definitions().resource_types)
        }
        allowed = {type_: filter_ for type_, filter_ in found.items() if filter_.ways}
        if not allowed:
            raise Forbidden("the token's scopes and the user's roles let no type be read")
        return allowed

    async def _render(self, resource_type: str, resource_id: str) -> None:
        """History must show a change of rows as a read would."""
        if resource_id:
            key = (self._caller.tenant.id, resource_type, resource_id)
            await asyncio.to_thread(render_one, self._database, *key, self._own_base)

    # -- for the two ways of going through pages ------------------------------------------

    async def versions(
        self, span: Span, after: Position | None, limit: int, audit: dict[str, object] | None
    ) -> histories.Page:
        """A page of versions, after rendering where something it touches is stale."""
        tenant_id = self._caller.tenant.id
        for _ in range(RENDER_TURNS):
            page = await histories.page(self._database, tenant_id, span, after, limit, audit)
            if not page.is_stale:
                return page
            done = await asyncio.to_thread(
                render_stale, self._database, tenant_id, span.types, None, self._own_base
            )
            if not done:
                break
        # What cannot be rendered is shown as it last was, and logged.
        return await histories.page(
            self._database, tenant_id, span, after, limit, audit, even_if_stale=True
        )

    async def count(self, span: Span, audit: dict[str, object] | None) -> int:
        return await histories.count(self._database, self._caller.tenant.id, span, audit)

    async def audit(self, shown: Sequence[Entry], audit: dict[str, object]) -> None:
        keys = [(entry.resource_type, entry.resource_id) for entry in shown]
        await histories.audit_shown(self._database, self._caller.tenant.id, keys, audit)

    async def visible(self, entries: Sequence[Entry], filters: dict[str, Filter]) -> list[Entry]:
        """Those entries that the filter of their type admits, each judged by its own content."""
        by_type: dict[str, list[int]] = defaultdict(list)
        seen: set[int] = set()
        for index, entry in enumerate(entries):
            if filters[entry.resource_type].is_whole_tenant:
                seen.add(index)
            elif entry.judged_body is not None:
                by_type[entry.resource_type].append(index)
        for type_, indexes in by_type.items():
            candidates = [self._candidate(str(index), entries[index]) for index in indexes]
            query, values = self._visibility.judging(type_, filters[type_])
            tenant_id: UUID = self._caller.tenant.id
            named = await judge_async(self._database, tenant_id, query, values, candidates)
            seen |= {int(name) for name in named}
        return [entry for index, entry in enumerate(entries) if index in seen]

    def _candidate(self, name: str, entry: Entry) -> Candidate:
        assert entry.judged_body is not None
        resource = json.loads(entry.judged_body.encode())
        return self._visibility.candidate(name, resource, entry.row_id, entry.version.last_updated)


@dataclass(slots=True)
class _Found:
    """What goes into a page, and where the next one begins."""

    entries: list[Entry]
    next_after: Position | None
    is_known: bool = True

    def total(self, asked: HistoryRequest) -> int | None:
        """The total, where one page holds everything."""
        is_all = asked.after is None and self.next_after is None
        return len(self.entries) if is_all else None


class _Open:
    """Pages of a caller who may see everything: audited in the round trip that reads them."""

    def __init__(self, reader: HistoryReader, audit: dict[str, object]) -> None:
        self._reader = reader
        self._audit = audit

    async def page(self, span: Span, after: Position | None, count: int) -> _Found:
        page = await self._reader.versions(span, after, count + 1, self._audit)
        entries = page.entries[:count]
        more = len(page.entries) > count
        return _Found(entries, entries[-1].position if more else None, page.is_known)

    async def count(self, span: Span) -> int:
        return await self._reader.count(span, self._audit)


class _Judged:
    """Pages of a caller who may see less: versions in the order of time, each judged."""

    def __init__(
        self, reader: HistoryReader, filters: dict[str, Filter], audit: dict[str, object]
    ) -> None:
        self._reader = reader
        self._filters = filters
        self._audit = audit

    async def page(self, span: Span, after: Position | None, count: int) -> _Found:
        found, last = await self._through(span, after, count + 1)
        entries = found[:count]
        is_known = bool(entries) or await self._is_known(span)
        audit = self._audit
        if not is_known:
            audit = {**audit, "outcome": "FAILURE", "phi_action": None}
        await self._reader.audit(entries, audit)
        next_after = entries[-1].position if len(found) > count else last
        return _Found(entries, next_after, is_known)

    async def count(self, span: Span) -> int:
        found, last = await self._through(span, None, MAX_JUDGED)
        if last is not None:
            raise TooCostly(f"more than {MAX_JUDGED} versions to be looked at; narrow it by _since")
        await self._reader.audit([], self._audit)
        return len(found)

    async def _is_known(self, span: Span) -> bool:
        """Whether the caller may know that there is the resource of which nothing is shown."""
        if span.resource_id is None:
            return True
        whole = replace(span, since=None, at_low=None, at_high=None)
        return bool((await self._through(whole, None, 1))[0])

    async def _through(
        self, span: Span, after: Position | None, wanted: int
    ) -> tuple[list[Entry], Position | None]:
        """Visible versions, and where looking ended if there is more to look at."""
        found: list[Entry] = []
        for _ in range(MAX_JUDGED // JUDGED_AT_ONCE):
            page = await self._reader.versions(span, after, JUDGED_AT_ONCE, None)
            found += await self._reader.visible(page.entries, self._filters)
            if len(page.entries) < JUDGED_AT_ONCE:
                return found, None
            after = page.entries[-1].position
            if len(found) >= wanted:
                break
        return found, after


def _url(url: str, asked: HistoryRequest, after: Position | None) -> str:
    """The page as the server understood what was asked."""
    pairs = [*asked.applied]
    if after is not None:
        pairs.append((CURSOR, _packed(after)))
    query = urlencode(pairs, safe=":")
    return url + (f"?{query}" if query else "")
