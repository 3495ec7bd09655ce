"""Batches over libpq: one transaction, nothing left behind, errors and cancellations survived."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Any

import psycopg
import pytest
from psycopg_pool import PoolTimeout

from storage import statements
from storage.database import Database
from storage.statements import Statement, StatementPool, positional
from storage.tenancy import Tenant

BIND = Statement("SELECT set_config('app.tenant', %(t)s, true)", {"t": "bound"}, keeps_plan=True)
TENANT = Statement("SELECT coalesce(current_setting('app.tenant', true), '')", {})
PID = Statement("SELECT pg_backend_pid()", {})


def with_pool(
    database: Database,
    work: Callable[[StatementPool], Awaitable[None]],
    *,
    size: int = 2,
    timeout: float = 30.0,
) -> None:
    async def main() -> None:
        pool = StatementPool(database.conninfo, size=size, timeout=timeout)
        try:
            await work(pool)
        finally:
            await pool.close()

    asyncio.run(main())


def value(number: int, *, keeps_plan: bool = True) -> Statement:
    return Statement("SELECT %(n)s::int", {"n": number}, keeps_plan)


def test_names_become_numbers_and_one_name_is_one_parameter() -> None:
    text, names = positional("SELECT %(a)s, %(b)s, %(a)s, '%%' LIKE '%%'")

    assert text == b"SELECT $1, $2, $1, '%' LIKE '%'"
    assert names == ("a", "b")


def test_values_come_back_as_psycopg_reads_them(database: Database) -> None:
    sql = (
        "SELECT %(text)s::text, %(number)s::bigint, %(none)s::text, %(list)s::text[],"
        " '\\x00ff'::bytea, true, '2026-05-17 10:00+00'::timestamptz"
    )
    values = {"text": "Müller 'x' {,}", "number": 1 << 40, "none": None, "list": ['a"b', "c,d"]}

    async def work(pool: StatementPool) -> None:
        for keeps_plan in (True, False):
            ((row,),) = await pool.run(Statement(sql, values, keeps_plan))
            assert row[:4] == tuple(values.values())
            assert bytes(row[4]) == b"\x00\xff"
            assert row[5] is True
            assert row[6].isoformat() == "2026-05-17T10:00:00+00:00"

    with_pool(database, work)


def test_a_batch_is_one_transaction_and_its_tenant_ends_with_it(database: Database) -> None:
    async def work(pool: StatementPool) -> None:
        for _ in range(3):
            bound, inside, pid = await pool.run(BIND, TENANT, PID)
            assert (bound, inside) == ([("bound",)], [("bound",)])
            ((after,),), same = await pool.run(TENANT, PID)
            assert after == "" and same == pid

    with_pool(database, work, size=1)


def test_a_failed_batch_leaves_nothing_and_its_connection_goes_on(
    database: Database, tenant: Tenant
) -> None:
    bind = Statement(BIND.sql, {"t": str(tenant.id)}, keeps_plan=True)
    audit = Statement(
        "SELECT write_audit_event(%(t)s, jsonb_build_object('actor_type', 'SYSTEM',"
        " 'event_type', %(e)s::text))",
        {"t": tenant.id, "e": "HALF"},
    )
    broken = Statement("SELECT 1 / %(n)s::int", {"n": 0})

    async def work(pool: StatementPool) -> None:
        before = await pool.run(PID)
        with pytest.raises(psycopg.errors.DivisionByZero):
            await pool.run(bind, audit, broken)
        with pytest.raises(psycopg.errors.UndefinedTable):
            await pool.run(Statement("SELECT * FROM nothing_like_it", {}))
        with pytest.raises(psycopg.DataError, match="NUL"):
            await pool.run(Statement(BIND.sql, {"t": "a\x00b"}))
        assert await pool.run(PID) != before  # what was prepared in vain took its connection along
        await pool.run(bind)
        before = await pool.run(PID)
        with pytest.raises(psycopg.errors.DivisionByZero):
            await pool.run(bind, audit, broken)
        assert await pool.run(PID) == before

    with_pool(database, work, size=1)
    with database.connection(tenant.id) as connection:
        found = connection.execute(
            "SELECT count(*) FROM audit_events WHERE tenant_id = %s AND event_type = 'HALF'",
            (tenant.id,),
        ).fetchone()
    assert found == (0,)


def test_a_prepared_statement_that_fails_at_first_can_be_run_again(database: Database) -> None:
    risky = "SELECT 1 / %(n)s::int"

    async def work(pool: StatementPool) -> None:
        with pytest.raises(psycopg.errors.DivisionByZero):
            await pool.run(Statement(risky, {"n": 0}, keeps_plan=True))
        for _ in range(2):
            assert await pool.run(Statement(risky, {"n": 1}, keeps_plan=True)) == [[(1,)]]
        with pytest.raises(psycopg.errors.DivisionByZero):
            await pool.run(Statement(risky, {"n": 0}, keeps_plan=True))
        assert await pool.run(Statement(risky, {"n": 1}, keeps_plan=True)) == [[(1,)]]

    with_pool(database, work, size=1)


def test_more_statements_than_plans_are_kept(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(statements, "MAX_PLANS", 5)
    held = Statement("SELECT count(*)::int FROM pg_prepared_statements", {})

    async def work(pool: StatementPool) -> None:
        for number in range(40):
            sql = f"SELECT %(n)s::int + {number % 13}"
            assert await pool.run(Statement(sql, {"n": 1}, keeps_plan=True)) == [
                [(1 + number % 13,)]
            ]
            (((count,),),) = await pool.run(held)
            assert count <= 5

    with_pool(database, work, size=1)


def test_long_statements_are_fewer_plans(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A plan takes room by what it does: a long search as much as many short calls."""
    monkeypatch.setattr(statements, "MAX_PLANNED", 5_000)
    held = Statement("SELECT count(*)::int FROM pg_prepared_statements", {})

    async def work(pool: StatementPool) -> None:
        for number in range(40):
            sql = f"SELECT $1::int + {number}{' ' * 1000}"
            assert await pool.run(Statement(sql, {"n": 1}, keeps_plan=True)) == [[(1 + number,)]]
            (((count,),),) = await pool.run(held)
            assert count <= 6

    with_pool(database, work, size=1)


def test_concurrent_callers_errors_and_cancellations_never_mix(database: Database) -> None:
    draw = random.Random(7)

    async def one(pool: StatementPool, number: int) -> None:
        try:
            if number % 5 == 0:
                await pool.run(value(number), Statement("SELECT 1 / 0", {}))
            elif number % 7 == 0:
                await pool.run(Statement("SELECT pg_sleep(0.05)", {}), value(number))
            else:
                rows = await pool.run(value(number, keeps_plan=number % 2 == 0), TENANT)
                assert rows == [[(number,)], [("",)]]
        except psycopg.errors.DivisionByZero:
            assert number % 5 == 0

    async def work(pool: StatementPool) -> None:
        tasks = [asyncio.create_task(one(pool, number)) for number in range(1, 400)]
        for _ in range(40):
            await asyncio.sleep(0.005)
            draw.choice(tasks).cancel()
        done = await asyncio.gather(*tasks, return_exceptions=True)
        for result in done:
            assert result is None or isinstance(result, asyncio.CancelledError)
        assert pool.open_connections <= 3
        assert await asyncio.gather(*(pool.run(value(n)) for n in range(20))) == [
            [[(n,)]] for n in range(20)
        ]

    with_pool(database, work, size=3)


def test_a_result_larger_than_the_socket_comes_whole(database: Database) -> None:
    async def work(pool: StatementPool) -> None:
        text = "x" * 3_000_000
        sql = "SELECT repeat(%(text)s, 4), length(%(text)s)"
        ((row,),) = await pool.run(Statement(sql, {"text": text}))
        assert row == (text * 4, len(text))

    with_pool(database, work)


def test_a_full_pool_makes_callers_wait_and_then_refuses(database: Database) -> None:
    async def work(pool: StatementPool) -> None:
        slow = asyncio.create_task(pool.run(Statement("SELECT pg_sleep(0.6)", {}), value(1)))
        await asyncio.sleep(0.1)
        with pytest.raises(PoolTimeout):
            await pool.run(value(2))
        assert (await slow)[1] == [(1,)]
        assert await pool.run(value(3)) == [[(3,)]]

    with_pool(database, work, size=1, timeout=0.2)


def test_connections_that_the_database_closed_are_replaced(database: Database) -> None:
    async def work(pool: StatementPool) -> None:
        pids = await asyncio.gather(*(pool.run(PID, Statement("SELECT pg_sleep(0.1)", {}))
                                      for _ in range(2)))  # fmt: skip
        running = asyncio.create_task(pool.run(Statement("SELECT pg_sleep(30)", {})))
        await asyncio.sleep(0.1)
        with psycopg.connect(database.url, autocommit=True) as other:
            for ((pid,),), _ in pids:
                other.execute("SELECT pg_terminate_backend(%s)", (pid,))
        with pytest.raises(psycopg.OperationalError):
            await running
        await asyncio.sleep(0.1)
        assert pool.open_connections == 0
        assert await pool.run(value(4)) == [[(4,)]]

    with_pool(database, work)


def test_an_old_connection_is_replaced(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statements, "MAX_AGE_SECONDS", -1.0)

    async def work(pool: StatementPool) -> None:
        first, second = await pool.run(PID), await pool.run(PID)
        assert first != second

    with_pool(database, work)


def test_an_unreachable_database_is_an_error_each_time() -> None:
    async def main() -> None:
        pool = StatementPool("host=127.0.0.1 port=1 dbname=x connect_timeout=2", size=1)
        for _ in range(3):
            with pytest.raises(psycopg.OperationalError):
                await pool.run(PID)
        assert pool.open_connections == 0

    asyncio.run(main())


def test_a_closed_pool_ends_what_waits_and_what_runs(database: Database) -> None:
    async def main() -> None:
        pool = StatementPool(database.conninfo, size=1)
        running: asyncio.Task[Any] = asyncio.create_task(
            pool.run(Statement("SELECT pg_sleep(0.3)", {}), value(1))
        )
        await asyncio.sleep(0.1)
        waiting = asyncio.create_task(pool.run(value(2)))
        await asyncio.sleep(0.05)
        await pool.close()
        with pytest.raises(psycopg.OperationalError, match="closed"):
            await waiting
        assert (await running)[1] == [(1,)]
        assert pool.open_connections == 0

    asyncio.run(main())
