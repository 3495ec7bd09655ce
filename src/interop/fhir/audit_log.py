"""AuditEvent: read and search straight from the log, which is never copied into fhir_resources.

Nobody writes one by FHIR: the server makes them. Looking at the log is itself logged. A token in a
patient's context sees the events about that patient, and nothing of other patients in them.
"""

from __future__ import annotations

import base64
import json as standard_json
from datetime import datetime
from typing import Any
from urllib.parse import urlencode
from uuid import UUID

from interop.access import Caller, Filter
from interop.access.audit import INSERT_AUDIT, audit_parameters, mark_audited
from interop.errors import BadRequest, Forbidden, NotFound, UnsupportedParameter
from interop.fhir import bundles, json
from interop.fhir.mappings.audit_event import CLIENT_ID, audit_event
from interop.fhir.search.request import clamped
from interop.fhir.search.values import date_interval
from interop.fhir.versions import Version
from storage.audit_events import EVENT_TYPES, Coding
from storage.audit_queries import PATIENT_ROW, AuditQuery, AuditRow, row_of
from storage.database import AsyncConnection, Database

RESOURCE_TYPE = "AuditEvent"
DEFAULT_COUNT = 50
INTERACTIONS = ("read", "search-type")
PARAMETERS = (
    "_id", "_lastUpdated", "action", "agent", "date", "entity", "outcome", "patient", "subtype",
    "type",
)  # fmt: skip
_PREFIXES = ("eq", "ge", "le", "gt", "lt", "sa", "eb")


class AuditLog:
    """What one caller sees of the log. Raises Forbidden where the filter cannot be applied."""

    def __init__(self, database: Database, caller: Caller, own_base: str, filter_: Filter) -> None:
        self._database = database
        self._caller = caller
        self._own_base = own_base
        self._tenant_id = caller.tenant.id
        self._only: UUID | None = None
        if not filter_.is_whole_tenant:
            patients = {
                way.patient_id
                for way in filter_.ways
                if not (way.units or way.consent or way.constraints)
            }
            if len(patients) != 1 or None in patients or len(filter_.ways) != 1:
                raise Forbidden("the audit log is open to the whole organization or one patient")
            self._only = patients.pop()

    async def read(self, resource_id: str) -> Version:
        """One event. Raises NotFound."""
        query = AuditQuery(self._tenant_id, 1)
        try:
            query.ids = [UUID(resource_id)]
        except ValueError:
            query.ids = []
        async with self._database.async_connection(self._tenant_id) as connection:
            rows = await self._rows(connection, query)
            outcome = "SUCCESS" if rows else "FAILURE"
            await self._record(connection, resource_id, outcome, {})
        mark_audited()
        if not rows:
            raise NotFound
        body = json.dumps(audit_event(rows[0], self._own_base))
        return Version(RESOURCE_TYPE, resource_id, 1, rows[0].timestamp, body)

    async def search(self, pairs: list[tuple[str, str]]) -> bytes:
        """A page of events, newest first. Raises BadRequest and UnsupportedParameter."""
        async with self._database.async_connection(self._tenant_id) as connection:
            query = AuditQuery(self._tenant_id, DEFAULT_COUNT)
            for name, value in pairs:
                await self._apply(connection, query, name, value)
            count = query.limit
            query.limit = count + 1
            rows = await self._rows(connection, query)
            asked = f"{RESOURCE_TYPE}?{urlencode(pairs)}"
            details = {
                "parameters": sorted({name for name, _ in pairs}),
                "query": base64.b64encode(asked[:4096].encode()).decode(),
            }
            await self._record(connection, None, "SUCCESS", details, query.patient_id)
        mark_audited()
        return self._bundle(pairs, rows, count)

    async def _rows(self, connection: AsyncConnection, query: AuditQuery) -> list[AuditRow]:
        if self._only is not None:
            if query.patient_id not in (None, self._only):
                return []
            query.patient_id = query.only_patient_id = self._only
        statement, values = query.statement()
        cursor = await connection.execute(statement.encode(), values)
        return [row_of(row) for row in await cursor.fetchall()]

    async def _record(
        self,
        connection: AsyncConnection,
        resource_id: str | None,
        outcome: str,
        details: dict[str, Any],
        patient_id: UUID | None = None,
    ) -> None:
        """The log says who looked at it."""
        await connection.execute("SELECT set_config('synchronous_commit', 'off', true)")
        event = "FHIR_READ" if resource_id else "FHIR_SEARCH"
        await connection.execute(
            INSERT_AUDIT,
            audit_parameters(
                self._caller,
                event,
                RESOURCE_TYPE,
                resource_id,
                outcome=outcome,
                metadata=details,
                patient_id=patient_id,
            ),
        )

    # -- parameters ---------------------------------------------------------------------

    async def _apply(
        self, connection: AsyncConnection, query: AuditQuery, name: str, value: str
    ) -> None:
        if _result_parameter(query, name, value):
            return
        match name:
            case "date" | "_lastUpdated":
                _narrow(query, name, value)
            case "_id":
                query.ids = [_uuid(name, one) for one in value.split(",")]
            case "patient" | "patient:Patient":
                query.patient_id = await self._patient(connection, value)
            case "agent" | "agent:Practitioner":
                query.user_id = _uuid(name, value.rpartition("/")[2])
            case "agent:identifier":
                query.api_client_id = _uuid(name, value.removeprefix(f"{CLIENT_ID}|"))
            case "entity":
                query.things = [_thing(one) for one in value.split(",")]
            case "type" | "subtype" | "action":
                known = [code for code, type_ in EVENT_TYPES.items() if _is(type_, name, value)]
                former = query.event_types
                query.event_types = known if former is None else sorted({*known} & {*former})
            case "outcome":
                query.outcomes = _outcomes(value)
            case _:
                raise UnsupportedParameter(
                    f"AuditEvent has no search parameter {name[:64]!r} here; accepted: "
                    f"{', '.join(PARAMETERS)}, agent:identifier, _count, _sort=-date"
                )

    async def _patient(self, connection: AsyncConnection, value: str) -> UUID:
        """patients.id of a Patient by its logical id; an unknown one matches nothing."""
        logical = value.removeprefix(f"{self._own_base}/").removeprefix("Patient/")
        cursor = await connection.execute(PATIENT_ROW, (self._tenant_id, logical))
        if (row := await cursor.fetchone()) is not None:
            found: UUID = row[0]
            return found
        try:
            return UUID(logical)
        except ValueError:
            return UUID(int=0)

    # -- the answer ---------------------------------------------------------------------

    def _bundle(self, pairs: list[tuple[str, str]], rows: list[AuditRow], count: int) -> bytes:
        page = rows[:count]
        kept = [pair for pair in pairs if pair[0] != "_cursor"]
        links = [("self", self._url(pairs))]
        if len(rows) > count:
            last = [page[-1].transaction, str(page[-1].id)]
            cursor = base64.urlsafe_b64encode(standard_json.dumps(last).encode()).decode()
            links.append(("next", self._url([*kept, ("_cursor", cursor)])))
        entries = [
            bundles.Entry(
                "match",
                RESOURCE_TYPE,
                str(row.id),
                json.dumps(audit_event(row, self._own_base)).decode(),
            )
            for row in page
        ]
        return bundles.searchset(self._own_base, entries, links, None)

    def _url(self, pairs: list[tuple[str, str]]) -> str:
        query = urlencode(pairs, safe=":|,/$")
        return f"{self._own_base}/{RESOURCE_TYPE}" + (f"?{query}" if query else "")


def _result_parameter(query: AuditQuery, name: str, value: str) -> bool:
    """Apply what says how the answer looks; False for what says which events it has."""
    match name:
        case "_count":
            if not (value.isascii() and value.isdigit()):
                raise BadRequest(f"_count={value[:32]!r}; expected a whole number")
            query.limit = max(clamped(value), 1)
        case "_cursor":
            query.after = _cursor_of(value)
        case "_sort":
            return value in ("-date", "-_lastUpdated")
        case "_summary":
            return value != "count"
        case _:
            return name in ("_format", "_pretty", "_total", "_elements")
    return True


def _cursor_of(value: str) -> tuple[int, UUID]:
    try:
        transaction, row_id = standard_json.loads(base64.urlsafe_b64decode(value))
        return int(transaction), UUID(row_id)
    except (ValueError, TypeError):
        raise BadRequest("_cursor is not one of ours; follow the next link as is") from None


def _narrow(query: AuditQuery, name: str, value: str) -> None:
    """One date condition. An event is one moment, so every prefix is a bound of it."""
    prefix, text = (value[:2], value[2:]) if value[:2] in _PREFIXES else ("eq", value)
    try:
        start, end = date_interval(text)
    except ValueError:
        raise BadRequest(
            f"{name}={value[:32]!r}; expected a date with one of {', '.join(_PREFIXES)}"
        ) from None
    low: datetime | None = {"eq": start, "ge": start, "gt": end, "sa": end}.get(prefix)
    high: datetime | None = {"eq": end, "le": end, "lt": start, "eb": start}.get(prefix)
    if low is not None:
        query.low = max(low, query.low) if query.low else low
    if high is not None:
        query.high = min(high, query.high) if query.high else high


def _uuid(name: str, value: str) -> UUID:
    try:
        return UUID(value)
    except ValueError:
        raise BadRequest(f"{name}={value[:64]!r}; expected an id of this server (a UUID)") from None


def _thing(value: str) -> tuple[str | None, str]:
    kind, _, resource_id = value.rpartition("/")
    return kind.rpartition("/")[2] or None, resource_id


def _is(type_: Any, name: str, value: str) -> bool:
    """Whether an event type has one of the tokens."""
    codings: tuple[Coding, ...]
    if name == "action":
        return type_.action in [one.rpartition("|")[2] for one in value.split(",")]
    codings = (type_.type,) if name == "type" else type_.subtypes
    for one in value.split(","):
        system, bar, code = one.rpartition("|")
        for coding in codings:
            if (not bar or system in ("", coding[0])) and code in ("", coding[1]):
                return True
    return False


def _outcomes(value: str) -> list[str]:
    codes = [one.rpartition("|")[2] for one in value.split(",")]
    if unknown := [code for code in codes if code not in ("0", "4", "8", "12")]:
        raise BadRequest(f"outcome={unknown[0][:32]!r}; accepted: 0, 4, 8, 12")
    return codes
