"""One read: authorized, in one transaction of one tenant, with exactly one audit row.

Statements travel in a pipeline, so a read costs two round trips: tenant setting and query in the
first, audit row and COMMIT in the second. The audit row is written before a byte leaves, with
`synchronous_commit` off (security.md G1); a read whose audit row cannot be written fails.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from starlette.requests import Request

from interop.access import Caller, Letter, authorize
from interop.access.audit import INSERT_AUDIT, audit_parameters
from interop.access.http import caller_from
from interop.errors import ServerError
from interop.services import Services
from storage.database import AsyncConnection, require_tenant

_SETTINGS = (
    "SELECT set_config('app.tenant', %s, true), set_config('synchronous_commit', 'off', true)"
)
RESOURCE_TYPE = "ImagingStudy"

Row = tuple[Any, ...]


def services_of(request: Request) -> Services:
    """The parts of this process."""
    services: Services = request.app.state.services
    return services


async def admitted(request: Request, letter: Letter) -> Caller:
    """The caller, permitted to do `letter` on imaging. Raises Unauthorized, Forbidden, NotFound.

    A refusal of a known caller is audited as well.
    """
    caller = await caller_from(request)
    try:
        authorize(caller, RESOURCE_TYPE, letter)
    except ServerError:
        async with reading(services_of(request), caller, "ACCESS_DENIED") as read:
            read.details["letter"] = letter
            read.outcome = "FAILURE"
        raise
    return caller


class Read:
    """The open transaction of a read, and what its audit row will say."""

    def __init__(self, connection: AsyncConnection, tenant_id: object) -> None:
        self._connection = connection
        self._tenant_id = tenant_id
        self.resource_id: str | None = None
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


@asynccontextmanager
async def reading(
    services: Services, caller: Caller, event_type: str, resource_id: str | None = None
) -> AsyncIterator[Read]:
    """Open a read for `caller`. A ServerError raised inside is audited and passed on."""
    tenant_id = caller.tenant.id
    require_tenant(tenant_id)
    async with services.database.async_pool.connection() as connection:
        async with connection.pipeline():
            await connection.execute(_SETTINGS, (str(tenant_id),))
            read = Read(connection, tenant_id)
            read.resource_id = resource_id
            refused: ServerError | None = None
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
                ),
            )
            await connection.commit()
    if refused is not None:
        raise refused
