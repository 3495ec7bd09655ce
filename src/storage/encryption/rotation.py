"""Rotation of data keys while the server works.

A new data key seals at once; what the old ones have sealed stays readable and is sealed anew in
batches. There is nothing to resume from: what is done no longer matches, so a job that was cut off
is simply run again. A row that somebody changes meanwhile is left to them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import Any
from uuid import UUID

import psycopg
from psycopg_pool import PoolTimeout

from storage import resources
from storage.database import Connection, Database, vault_of
from storage.encryption.columns import PREFIX, SEALED, place
from storage.encryption.errors import SealBroken
from storage.jobs import defer

logger = logging.getLogger(__name__)

BATCH = 100
TASK = "reseal"
QUEUE = "keys"
ATTEMPTS = 12
ACTOR = "key-rotation"
# Other processes seal with the old key for two seconds more; the job comes after them.
DELAY_SECONDS = 5

Transaction = Callable[[], AbstractContextManager[Connection]]


@dataclass(frozen=True, slots=True)
class _Target:
    """A column that holds sealed values, and the key of its table besides the tenant."""

    table: str
    column: str
    key: tuple[str, ...]

    def place(self, values: tuple[Any, ...]) -> str:
        if self.table.startswith("fhir_"):
            return resources.body_place(*values)
        return place(self.table, self.column, *values)


_BODY = ("resource_type", "resource_id", "version")
_BODIES = (
    _Target("fhir_resources", "body", _BODY),
    _Target("fhir_history", "body", _BODY),
)


def targets(tenant_id: UUID | None) -> tuple[_Target, ...]:
    """Where sealed values of a tenant lie, or those of the platform (None)."""
    is_global = tenant_id is None
    rows = (
        _Target(table, column.name, ("id",))
        for table, columns in SEALED.items()
        for column in columns
        if column.is_global == is_global
    )
    return (*rows, *(() if is_global else _BODIES))


def rotate(database: Database, tenant_id: UUID | None) -> int:
    """Make a new data key and queue the job that seals anew. Returns the key's version."""
    version = database.vault.rotate(tenant_id)
    where = partial(database.connection, tenant_id) if tenant_id else database.platform_connection
    with where() as connection:
        defer_resealing(connection, tenant_id)
    return version


def defer_resealing(connection: Connection, tenant_id: UUID | None) -> None:
    """Queue the job, unless it waits already."""
    now = connection.execute(
        "SELECT now() + make_interval(secs => %s)", (DELAY_SECONDS,)
    ).fetchone()
    assert now is not None
    defer(
        connection,
        TASK,
        {"tenant_id": str(tenant_id) if tenant_id else None},
        queue=QUEUE,
        queueing_lock=f"{TASK}:{tenant_id}",
        lock=f"{TASK}:{tenant_id}",
        schedule_at=now[0],
    )


def reseal(database: Database, tenant_id: UUID | None, *, batch: int = BATCH) -> int:
    """Seal under the newest data key what older ones have sealed. Returns how many values."""
    version = database.vault.newest_version(tenant_id)
    if version is None:
        return 0
    return sum(
        changed
        for where in _transactions(database, tenant_id)
        for target in targets(tenant_id)
        for changed in _batches(where, tenant_id, target, version, batch)
    )


def _transactions(database: Database, tenant_id: UUID | None) -> Iterator[Transaction]:
    """Begins a transaction in each database that holds values of the tenant or the platform.

    Accounts are the platform's to seal, and lie in the databases of tenants too. One that does not
    answer is passed by, and raised at the end: the job that is run again finds the others done.
    """
    if tenant_id is not None:
        yield partial(database.connection, tenant_id)
        return
    yield database.platform_connection
    away: Exception | None = None
    for apart, home in database.router.apart().items():
        if not home.is_other_database:
            continue
        transaction = partial(database.connection, apart)
        try:
            with transaction() as connection:
                connection.execute("SELECT 1")
        except (psycopg.Error, PoolTimeout) as error:
            logger.warning("place_not_resealed", extra={"tenant_id": str(apart)})
            away = error
            continue
        yield transaction
    if away is not None:
        raise away


def _batches(
    transaction: Transaction, tenant_id: UUID | None, target: _Target, version: int, batch: int
) -> Iterator[int]:
    after: tuple[Any, ...] | None = None
    while True:
        with transaction() as connection:
            # Quietly: a number that is sealed anew is the same number, and no new version.
            resources.begin_write(connection, ACTOR)
            rows = _older(connection, tenant_id, target, version, after, batch)
            yield sum(_reseal_one(connection, tenant_id, target, row) for row in rows)
        if len(rows) < batch:
            return
        after = rows[-1][:-1]


def _older(
    connection: Connection,
    tenant_id: UUID | None,
    target: _Target,
    version: int,
    after: tuple[Any, ...] | None,
    batch: int,
) -> list[tuple[Any, ...]]:
    """The next values that are sealed under another version, along the primary key."""
    keys = ", ".join(target.key)
    beyond = f" AND ({keys}) > ({', '.join(['%s'] * len(target.key))})" if after else ""
    current = f"{PREFIX}{version}:"
    of_tenant, ours = _of_tenant(tenant_id)
    statement = (
        f"SELECT {keys}, {target.column} FROM {target.table} WHERE {of_tenant}{beyond}"
        f" AND left({target.column}, {len(PREFIX)}) = '{PREFIX}'"
        f" AND left({target.column}, {len(current)}) <> '{current}' ORDER BY {keys} LIMIT {batch}"
    )
    return connection.execute(statement.encode(), (*ours, *(after or ()))).fetchall()


def _of_tenant(tenant_id: UUID | None) -> tuple[str, tuple[UUID, ...]]:
    """The condition that every statement carries, and its value; global tables have none."""
    return ("true", ()) if tenant_id is None else ("tenant_id = %s", (tenant_id,))


def _reseal_one(
    connection: Connection, tenant_id: UUID | None, target: _Target, row: tuple[Any, ...]
) -> int:
    key, old = row[:-1], row[-1]
    vault, where = vault_of(connection), target.place(key)
    try:
        plain = vault.open(tenant_id, where, old, connection)
    except SealBroken:
        # It was moved or changed by hand; readers are told, and the rest is still to be done.
        logger.error("seal_broken", extra={"table": target.table, "column": target.column})
        return 0
    same = " AND ".join(f"{column} = %s" for column in (*target.key, target.column))
    of_tenant, ours = _of_tenant(tenant_id)
    return connection.execute(
        f"UPDATE {target.table} SET {target.column} = %s WHERE {of_tenant} AND {same}".encode(),
        (vault.seal(tenant_id, where, plain, connection), *ours, *key, old),
    ).rowcount
