"""One read: authorized, in one transaction of one tenant, with exactly one audit row.

Statements travel in a pipeline without BEGIN and COMMIT: PostgreSQL runs what lies between two
Syncs as one transaction, the tenant's setting included. A search and what a function serves
(`served`) is one round trip; other retrievals see their rows before they write the audit row. The
audit row is written before a byte leaves, with `synchronous_commit` off (security.md G1); a read
that cannot write it fails.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import orjson
import psycopg
from psycopg.pq import TransactionStatus
from starlette.requests import Request

from interop.access import Caller, Filter, Letter
from interop.access.audit import INSERT_AUDIT, audit_parameters, mark_audited
from interop.access.http import caller_from
from interop.dicom.query.matching import Parameters
from interop.dicomweb import visibility
from interop.dicomweb.paths import is_uid
from interop.dicomweb.visibility import RESOURCE_TYPE
from interop.errors import NotFound, ServerError
from interop.services import Services
from storage.database import AsyncConnection, require_tenant
from storage.statements import Statement, function_call

_SETTINGS = "SELECT enter_tenant(%s), set_config('synchronous_commit', 'off', true)"
_BEGIN_SEARCH = "SELECT dicomweb_begin_search(%(tenant_id)s)"
_VISIBLE = (
    "SELECT FROM imaging_studies AS s WHERE s.tenant_id = %(tenant_id)s"
    " AND s.study_uid = %(study)s AND {condition}"
)

Row = tuple[Any, ...]


def services_of(request: Request) -> Services:
    """The parts of this process."""
    services: Services = request.app.state.services
    return services


async def permitted(request: Request, letter: Letter) -> tuple[Caller, Filter]:
    """The caller, and which studies it may do `letter` to. A refusal is audited."""
    caller = await caller_from(request)
    try:
        return caller, visibility.permitted(caller, letter)
    except ServerError:
        async with reading(services_of(request), caller, "ACCESS_DENIED") as read:
            read.details["letter"] = letter
            read.outcome = "FAILURE"
        raise


async def admitted(request: Request, letter: Letter) -> Caller:
    """The caller, permitted to do `letter` on imaging. Raises Unauthorized, Forbidden, NotFound.

    A study in the path that the caller may not see is not there, and one that is not there neither:
    callers of less than the whole tenant learn that before anything else is looked at. A refusal of
    a known caller is audited as well.
    """
    caller, filter_ = await permitted(request, letter)
    if letter == "r" and not filter_.is_whole_tenant:
        await _require_visible(request, caller, filter_)
    return caller


async def _require_visible(request: Request, caller: Caller, filter_: Filter) -> None:
    """Raise NotFound unless the caller may see the study in the path; audited then."""
    services = services_of(request)
    study: str = request.path_params["study"]
    # What is no UID can be the UID of nothing.
    parameters = Parameters(study=study if is_uid(study) else "", tenant_id=caller.tenant.id)
    condition = visibility.condition(filter_, parameters)
    seen = _VISIBLE.format(condition=condition)
    async with services.database.async_connection(caller.tenant.id) as connection:
        cursor = await connection.execute(seen.encode(), parameters.values)
        is_visible = await cursor.fetchone() is not None
    if is_visible:
        return
    lacks_consent = False
    async with reading(services, caller, "IMAGING_RETRIEVED") as read:
        if filter_.asks_consent:
            consented = visibility.condition(filter_.without_consent(), parameters) or "true"
            row = await read.row(_VISIBLE.format(condition=consented), parameters.values)
            lacks_consent = row is not None
        read.details["refused"] = "consent" if lacks_consent else "not found among what may be seen"
        raise NotFound


class Read:
    """The open transaction of a read, and what its audit row will say."""

    def __init__(self, connection: AsyncConnection, tenant_id: object) -> None:
        self._connection = connection
        self._tenant_id = tenant_id
        self.resource_id: str | None = None
        # Whose data is shown, where the resource does not tell.
        self.patient_id: UUID | None = None
        self.outcome = "SUCCESS"
        self.details: dict[str, Any] = {}

    async def rows(self, sql: str, parameters: Mapping[str, Any]) -> list[Row]:
        """Run one statement; `tenant_id` is bound beside `parameters`."""
        cursor = await self._connection.execute(
            sql.encode(), {**parameters, "tenant_id": self._tenant_id}
        )
        return await cursor.fetchall()

    async def row(self, sql: str, parameters: Mapping[str, Any]) -> Row | None:
        """The first row of one statement."""
        rows = await self.rows(sql, parameters)
        return rows[0] if rows else None


@dataclass(frozen=True, slots=True)
class PageQuery:
    """A query for one page: its columns, and after them the patient whose data a row is.

    `shown` ends a SELECT from the rows with those that the answer shows.
    """

    rows: str
    columns: Sequence[str]
    shown: str

    @property
    def logged(self) -> str:
        """The query that returns `columns`, and logs itself and the patients whom it shows.

        The log is the outer side of the join, so that it is written where nothing was found: one
        row of NULLs then. Rows come out of a CTE in the order in which they went in.
        """
        names = ", ".join(self.columns)
        return (
            f"WITH page({names}, patient) AS MATERIALIZED ({self.rows}), log AS MATERIALIZED ("
            " SELECT dicomweb_log_search(%(tenant_id)s, %(audit)s, ARRAY(SELECT DISTINCT patient"
            f" FROM (SELECT patient FROM page {self.shown}) AS shown WHERE patient IS NOT NULL)))"
            f" SELECT {names} FROM log LEFT JOIN page ON true"
        )


async def search(
    services: Services,
    caller: Caller,
    event_type: str,
    details: Mapping[str, Any],
    query: PageQuery,
    parameters: Mapping[str, Any],
    *,
    keeps_plan: bool = False,
) -> list[Row]:
    """Run one query, logged, in one round trip; one that fails is audited as well.

    The first column is never NULL.
    """
    tenant_id = caller.tenant.id
    require_tenant(tenant_id)
    audit = audit_text(caller, event_type, details)
    try:
        _, found = await services.database.run(
            tenant_id,
            Statement(_BEGIN_SEARCH, {"tenant_id": tenant_id}, keeps_plan=True),
            Statement(
                query.logged, {**parameters, "tenant_id": tenant_id, "audit": audit}, keeps_plan
            ),
        )
    except psycopg.Error:
        async with reading(services, caller, event_type) as read:
            read.details.update(details)
            read.outcome = "FAILURE"
        raise
    mark_audited()
    # Where nothing was found, the row that the log alone has made.
    return [] if found[0][0] is None else found


async def served(
    services: Services,
    caller: Caller,
    event_type: str,
    function: str,
    arguments: Mapping[str, Any],
    details: Mapping[str, Any],
) -> Row | None:
    """Call a function of `migrations/dicomweb.sql`: one round trip, audited with what it returns.

    None where there is nothing to serve, which is not audited yet: ask again inside `reading`.
    """
    tenant_id = caller.tenant.id
    require_tenant(tenant_id)
    audit = audit_text(caller, event_type, details)
    call = function_call(function, {"tenant_id": tenant_id, **arguments, "audit": audit})
    (rows,) = await services.database.run(tenant_id, call)
    if not rows:
        return None
    mark_audited()
    return rows[0]


def array_text(values: Iterable[object]) -> str:
    """An array of UIDs or numbers as PostgreSQL writes it; a driver would look at each value."""
    return "{" + ",".join(map(str, values)) + "}"


def audit_text(caller: Caller, event_type: str, details: Mapping[str, Any]) -> str:
    """The audit row of a read as the functions of the database take it."""
    audit = audit_parameters(caller, event_type, RESOURCE_TYPE, metadata=details)
    return orjson.dumps({**audit, "metadata": orjson.Fragment(audit["metadata"])}).decode()


@asynccontextmanager
async def reading(
    services: Services, caller: Caller, event_type: str, resource_id: str | None = None
) -> AsyncIterator[Read]:
    """Open a read for `caller`. A ServerError raised inside is audited and passed on."""
    tenant_id = caller.tenant.id
    require_tenant(tenant_id)
    refused: ServerError | None = None
    async with _transaction(services, tenant_id) as connection:
        await connection.execute(_SETTINGS, (tenant_id,))
        read = Read(connection, tenant_id)
        read.resource_id = resource_id
        try:
            yield read
        except ServerError as error:
            refused = error
            read.outcome = "FAILURE"
            read.details["status"] = error.http_status
        await connection.execute(
            INSERT_AUDIT,
            audit_parameters(
                caller,
                event_type,
                RESOURCE_TYPE,
                read.resource_id,
                outcome=read.outcome,
                metadata=read.details,
                patient_id=read.patient_id,
            ),
        )
    mark_audited()
    if refused is not None:
        raise refused


@asynccontextmanager
async def _transaction(services: Services, tenant_id: UUID) -> AsyncIterator[AsyncConnection]:
    """A pipeline that ends with its only Sync, and so is one transaction.

    Were it not, the tenant's setting would be gone: the query would see no rows and the audit row
    would be refused by its policy. The connection goes back as it came or not at all.
    """
    async with services.database.unbound_async_connection(tenant_id) as connection:
        await connection.set_autocommit(True)
        try:
            async with connection.pipeline():
                yield connection
        finally:
            if connection.info.transaction_status is TransactionStatus.IDLE:
                await connection.set_autocommit(False)
            else:
                await connection.close()
