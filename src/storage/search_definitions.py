"""Search parameters that tenants define: what this process knows of them. SQL only.

Who indexes a resource takes what is known here, and writes by which epoch it did so; what is out of
date is refused by the database (migrations/search_parameters.sql), forgotten with `forget`, and
read anew.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from storage.database import Connection, Database

# The row that stands for building everything anew.
EVERYTHING = "*"
BUILDING, READY, DROPPING = "BUILDING", "READY", "DROPPING"
REMEMBERED_TENANTS = 10_000

LISTED = (
    "SELECT definition_id, definition, status, epoch, total, done, position"
    " FROM fhir_search_parameters WHERE tenant_id = %s ORDER BY definition_id"
)
EPOCH = "SELECT coalesce(max(epoch), 0) FROM fhir_search_epochs WHERE tenant_id = %s"


@dataclass(frozen=True, slots=True)
class Definition:
    """A row of fhir_search_parameters."""

    definition_id: str
    definition: str
    status: str
    epoch: int
    total: int
    done: int
    position: str


@dataclass(frozen=True, slots=True)
class Known:
    """The parameters of a tenant as they were at some moment."""

    epoch: int = 0
    definitions: tuple[Definition, ...] = ()
    read_at: float = 0.0


_known: dict[UUID, Known] = {}
_outdated: set[UUID] = set()
_lock = threading.Lock()


def known(tenant_id: UUID) -> Known:
    """What this process knows of a tenant's parameters; nothing where it never read them."""
    return _known.get(tenant_id, _NOTHING)


_NOTHING = Known()


def forget(tenant_id: UUID) -> None:
    """Have the next writer read the parameters anew."""
    with _lock:
        _outdated.add(tenant_id)


def of_writer(connection: Connection, tenant_id: UUID) -> Known:
    """The parameters to index by: what is known, unless that was found to be out of date."""
    return read(connection, tenant_id) if tenant_id in _outdated else known(tenant_id)


def read(connection: Connection, tenant_id: UUID) -> Known:
    """Read the parameters of a tenant, and remember them."""
    epoch = connection.execute(EPOCH, (tenant_id,)).fetchone()
    rows = connection.execute(LISTED, (tenant_id,)).fetchall()
    return _remember(tenant_id, epoch[0] if epoch else 0, rows)


async def read_async(database: Database, tenant_id: UUID) -> Known:
    """The same for a reader."""
    async with database.async_connection(tenant_id) as connection:
        epoch = await (await connection.execute(EPOCH, (tenant_id,))).fetchone()
        rows = await (await connection.execute(LISTED, (tenant_id,))).fetchall()
    return _remember(tenant_id, epoch[0] if epoch else 0, rows)


def _remember(tenant_id: UUID, epoch: int, rows: Sequence[tuple[Any, ...]]) -> Known:
    found = Known(epoch, tuple(Definition(*row) for row in rows), time.monotonic())
    with _lock:
        if len(_known) >= REMEMBERED_TENANTS:
            _known.clear()
        _known[tenant_id] = found
        _outdated.discard(tenant_id)
    return found
