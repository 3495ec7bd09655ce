"""The read transaction: one tenant, one audit row, and nothing left behind in the pool (D12)."""

from __future__ import annotations

import asyncio
import random
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest

from interop.access import Caller, Scopes
from interop.dicomweb.reading import PageQuery, reading, search
from interop.errors import NotFound
from storage.database import Database
from storage.tenancy import Tenant

WHO = (
    "SELECT current_setting('app.tenant'), (SELECT count(*) FROM tenant_settings"
    " WHERE tenant_id = %(tenant_id)s), (SELECT count(*) FROM tenant_settings)"
)


def page(rows: str) -> PageQuery:
    """A query of three columns that shows nobody in particular."""
    return PageQuery(f"SELECT *, NULL::uuid FROM ({rows}) AS rows", ("a", "b", "c"), "")


def caller(tenant: Tenant) -> Caller:
    return Caller(tenant, "SYSTEM", None, "test", Scopes.parse("system/*.rs"), "request")


def count_audits(database: Database, tenant: Tenant, event: str) -> dict[str, int]:
    with database.connection(tenant.id) as connection:
        rows = connection.execute(
            "SELECT outcome, count(*) FROM audit_events WHERE tenant_id = %s AND event_type = %s"
            " GROUP BY 1",
            (tenant.id, event),
        ).fetchall()
    return dict(rows)


def run(database: Database, work: Any) -> None:
    async def main() -> None:
        # A pool of its own: two connections, so that every one is used again and again.
        own = Database(database.url, pool_size=2)
        await own.open_async()
        try:
            await work(SimpleNamespace(database=own))
        finally:
            await own.close_async()

    asyncio.run(main())


def test_reads_of_two_tenants_with_errors_and_cancellations_never_mix(
    database: Database, tenant: Tenant, other_tenant: Tenant
) -> None:
    draw = random.Random(3)

    async def one(services: Any, number: int) -> None:
        owner = draw.choice((tenant, other_tenant))
        try:
            if number % 3 == 0:
                rows = await search(services, caller(owner), "MIX", {"n": number}, page(WHO), {})
            else:
                async with reading(services, caller(owner), "MIX") as read:
                    rows = await read.rows(WHO, {})
                    if number % 5 == 0:
                        await read.rows("SELECT 1 / 0", {})
                    if number % 7 == 0:
                        raise NotFound()
                    if number % 11 == 0:
                        await asyncio.sleep(30)
        except (psycopg.Error, NotFound):
            return
        assert rows == [(str(owner.id), 1, 1)]

    async def work(services: Any) -> None:
        tasks = [asyncio.create_task(one(services, n)) for n in range(300)]
        await asyncio.sleep(0.3)
        while any(not task.done() for task in tasks):
            for number, task in enumerate(tasks):
                if number % 11 == 0:
                    task.cancel()
            await asyncio.sleep(0.05)
        for number, task in enumerate(tasks):
            if task.cancelled():
                assert number % 11 == 0
            else:
                task.result()
        for _ in range(4):
            async with services.database.async_connection(tenant.id) as connection:
                assert not connection.autocommit
                cursor = await connection.execute(WHO, {"tenant_id": tenant.id})
                assert await cursor.fetchall() == [(str(tenant.id), 1, 1)]

    run(database, work)


def test_each_read_leaves_one_audit_row_with_its_outcome(
    database: Database, tenant: Tenant
) -> None:
    async def work(services: Any) -> None:
        async with reading(services, caller(tenant), "ONE") as read:
            await read.rows(WHO, {})
        with pytest.raises(NotFound):
            async with reading(services, caller(tenant), "ONE"):
                raise NotFound()
        await search(services, caller(tenant), "ONE", {}, page(WHO), {})
        with pytest.raises(psycopg.Error):
            await search(services, caller(tenant), "ONE", {}, page("SELECT 1, 2, 1 / 0"), {})

    run(database, work)
    assert count_audits(database, tenant, "ONE") == {"SUCCESS": 2, "FAILURE": 2}


def test_g4_a_read_that_cannot_be_audited_fails_closed(database: Database, tenant: Tenant) -> None:
    async def work(services: Any) -> None:
        for event in ("X\x00",):
            with pytest.raises(psycopg.Error):
                async with reading(services, caller(tenant), event) as read:
                    await read.rows(WHO, {})
            with pytest.raises(psycopg.Error):
                await search(services, caller(tenant), event, {}, page(WHO), {})

    run(database, work)


def test_a_read_needs_a_tenant(database: Database, tenant: Tenant) -> None:
    nobody = SimpleNamespace(tenant=SimpleNamespace(id=None))

    async def work(services: Any) -> None:
        with pytest.raises(TypeError):
            async with reading(services, nobody, "X"):  # type: ignore[arg-type]
                pass

    run(database, work)
