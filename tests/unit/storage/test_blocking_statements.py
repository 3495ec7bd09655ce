"""Batches of threads: one transaction and one round trip, on connections that the pool lends."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest
from psycopg.pq import TransactionStatus

from storage import places, statements
from storage.blocking_statements import run_batch, savepoint
from storage.database import Database
from storage.statements import Statement
from storage.tenancy import Tenant
from tests.conftest import MakePlacedTenant, MigratedDatabase

BIND = Statement("SELECT set_config('app.tenant', %(t)s, true)", {"t": "bound"}, keeps_plan=True)
TENANT = Statement("SELECT coalesce(current_setting('app.tenant', true), '')", {})
PID = Statement("SELECT pg_backend_pid()", {})


@pytest.fixture
def one(database: Database) -> Any:
    """A database with a single connection."""
    single = Database(database.url, pool_size=1)
    yield single
    single.close()


def value(number: int, *, keeps_plan: bool = True) -> Statement:
    return Statement("SELECT %(n)s::int", {"n": number}, keeps_plan)


def test_a_batch_is_one_transaction_and_its_tenant_ends_with_it(
    one: Database, tenant: Tenant
) -> None:
    for _ in range(3):
        bound, inside, pid = one.run_blocking(tenant.id, BIND, TENANT, PID)
        assert (bound, inside) == ([("bound",)], [("bound",)])
        ((after,),), same = one.run_blocking(tenant.id, TENANT, PID)
        assert after == "" and same == pid


def test_a_failed_batch_leaves_nothing_and_its_connection_goes_on(
    one: Database, tenant: Tenant
) -> None:
    bind = Statement(BIND.sql, {"t": str(tenant.id)}, keeps_plan=True)
    audit = Statement(
        "SELECT write_audit_event(%(t)s, jsonb_build_object('actor_type', 'SYSTEM',"
        " 'event_type', 'HALF'))",
        {"t": tenant.id},
    )
    broken = Statement("SELECT 1 / %(n)s::int", {"n": 0})
    one.run_blocking(tenant.id, bind)
    before = one.run_blocking(tenant.id, PID)

    with pytest.raises(psycopg.errors.DivisionByZero):
        one.run_blocking(tenant.id, bind, audit, broken)
    with pytest.raises(psycopg.DataError, match="NUL"):
        one.run_blocking(tenant.id, Statement(BIND.sql, {"t": "a\x00b"}))

    assert one.run_blocking(tenant.id, PID) == before
    with one.connection(tenant.id) as connection:
        found = connection.execute(
            "SELECT count(*) FROM audit_events WHERE tenant_id = %s AND event_type = 'HALF'",
            (tenant.id,),
        ).fetchone()
    assert found == (0,)


def test_what_was_prepared_in_vain_takes_its_connection_along(
    one: Database, tenant: Tenant
) -> None:
    risky = "SELECT 1 / %(n)s::int"
    before = one.run_blocking(tenant.id, PID)

    with pytest.raises(psycopg.errors.DivisionByZero):
        one.run_blocking(tenant.id, Statement(risky, {"n": 0}, keeps_plan=True))

    assert one.run_blocking(tenant.id, PID) != before
    assert one.run_blocking(tenant.id, Statement(risky, {"n": 1}, keeps_plan=True)) == [[(1,)]]


def test_plans_of_ours_and_of_psycopg_live_side_by_side(
    one: Database, tenant: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(statements, "MAX_PLANS", 5)
    for number in range(40):
        added = number % 13
        sql = f"SELECT %(n)s::int + {added}"
        found = one.run_blocking(tenant.id, Statement(sql, {"n": 1}, keeps_plan=True))
        assert found == [[(1 + added,)]]
        with one.connection(tenant.id) as connection:
            # Prepared by psycopg, and still there when ours are given up.
            row = connection.execute("SELECT %s::int + 100", (number,), prepare=True).fetchone()
            assert row == (number + 100,)
            kept = connection.execute(
                "SELECT count(*) FROM pg_prepared_statements WHERE name LIKE 'p%'"
            ).fetchone()
            assert kept is not None and kept[0] <= 5


def test_what_psycopg_deallocates_after_a_rollback_is_prepared_again(
    one: Database, tenant: Tenant
) -> None:
    before = one.run_blocking(tenant.id, PID, value(1))
    with pytest.raises(psycopg.errors.DivisionByZero), one.connection(tenant.id) as connection:
        for number in range(10):  # psycopg prepares what it has seen five times
            connection.execute("SELECT %s::int", (number,))
        connection.execute("SELECT 1 / 0")
    with one.connection(tenant.id) as connection:
        kept = connection.execute("SELECT name FROM pg_prepared_statements").fetchall()
    assert not [name for (name,) in kept if name.startswith("p")]

    assert one.run_blocking(tenant.id, PID, value(2)) == [*before[:1], [(2,)]]
    assert one.run_blocking(tenant.id, PID, value(3)) == [*before[:1], [(3,)]]


def test_what_was_deallocated_is_known_where_a_schema_has_the_connection(
    database: MigratedDatabase, placed_tenant: MakePlacedTenant
) -> None:
    """There a batch stands within a transaction, and could not be run again."""
    single = Database(database.url, pool_size=1)
    single.lends_to_schemas = True
    apart = placed_tenant("apart", "APART", "SCHEMA")
    try:
        assert single.run_blocking(apart.id, value(1)) == [[(1,)]]
        with pytest.raises(psycopg.errors.DivisionByZero), single.connection(apart.id) as lent:
            for number in range(10):
                lent.execute("SELECT %s::int", (number,))
            lent.execute("SELECT 1 / 0")

        assert single.run_blocking(apart.id, value(2)) == [[(2,)]]
        with single.connection(apart.id) as lent:
            kept = lent.execute("SELECT name FROM pg_prepared_statements").fetchall()
        assert [name for (name,) in kept if name.startswith("p")] == ["p2"]
        assert single.run_blocking(apart.id, value(3)) == [[(3,)]]
    finally:
        single.close()


def test_a_transaction_that_a_batch_began_is_begun_again_where_its_plan_is_gone(
    one: Database, tenant: Tenant
) -> None:
    begin = Statement("BEGIN", {})
    with one.unbound_connection(tenant.id) as connection:
        assert run_batch(connection, (begin, value(1))) == [[(1,)]]
        for number in range(10):
            connection.execute("SELECT %s::int", (number,))
        connection.rollback()

        assert run_batch(connection, (begin, value(2))) == [[(2,)]]
        assert connection.info.transaction_status == TransactionStatus.INTRANS


def test_a_batch_after_a_savepoint_that_failed_finds_its_plans(
    one: Database, tenant: Tenant
) -> None:
    with one.connection(tenant.id) as connection:
        assert run_batch(connection, (value(1),)) == [[(1,)]]
        for number in range(10):
            connection.execute("SELECT %s::int", (number,))
        with pytest.raises(psycopg.errors.DivisionByZero), savepoint(connection):
            connection.execute("SELECT 1 / 0")
        left = connection.execute("SELECT name FROM pg_prepared_statements").fetchall()
        assert not [name for (name,) in left if name.startswith("p")]

        assert run_batch(connection, (value(2),)) == [[(2,)]]


def test_a_batch_and_a_result_larger_than_the_socket_come_whole(
    one: Database, tenant: Tenant
) -> None:
    text = "x" * 3_000_000
    sql = "SELECT repeat(%(text)s, 4), length(%(text)s)"
    batch = [Statement(sql, {"text": text}) for _ in range(3)]

    found = one.run_blocking(tenant.id, *batch)

    assert found == [[(text * 4, len(text))]] * 3


def test_a_connection_that_the_database_closed_is_replaced(
    one: Database, database: Database, tenant: Tenant
) -> None:
    (((pid,),),) = one.run_blocking(tenant.id, PID)
    with ThreadPoolExecutor(1) as threads, psycopg.connect(database.url, autocommit=True) as other:
        running = threads.submit(one.run_blocking, tenant.id, Statement("SELECT pg_sleep(30)", {}))
        while (
            other.execute(
                "SELECT FROM pg_stat_activity WHERE pid = %s AND state = 'active'", (pid,)
            ).rowcount
            == 0
        ):
            pass
        other.execute("SELECT pg_terminate_backend(%s)", (pid,))

        with pytest.raises(psycopg.OperationalError):
            running.result(20)

    assert one.run_blocking(tenant.id, value(4)) == [[(4,)]]


def test_threads_never_get_the_rows_of_another(database: Database, tenant: Tenant) -> None:
    def ask(number: int) -> None:
        if number % 5 == 0:
            with pytest.raises(psycopg.errors.DivisionByZero):
                database.run_blocking(tenant.id, value(number), Statement("SELECT 1 / 0", {}))
            return
        rows = database.run_blocking(tenant.id, value(number, keeps_plan=number % 2 == 0), TENANT)
        assert rows == [[(number,)], [("",)]]

    with ThreadPoolExecutor(12) as threads:
        assert list(threads.map(ask, range(1, 300))) == [None] * 299


def test_who_comes_to_the_place_that_a_tenant_has_left_asks_again(
    database: Database, tenant: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(places, "PAUSE_SECONDS", 0.01)
    answers = iter((True, False))
    forgotten: list[str] = []
    monkeypatch.setattr(database.router, "forget", lambda: forgotten.append("homes"))
    moved = Statement(
        "DO $$ BEGIN RAISE cannot_connect_now USING MESSAGE = 'elsewhere',"
        " CONSTRAINT = 'tenants_place', TABLE = 'tenants'; END $$",
        {},
    )
    run = database._run_blocking

    def once(batch: tuple[Statement, ...]) -> Any:
        return run((moved, *batch) if next(answers) else batch)

    monkeypatch.setattr(database, "_run_blocking", once)

    assert database.run_blocking(tenant.id, value(7)) == [[(7,)]]
    assert len(forgotten) == 1
