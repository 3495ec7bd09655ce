"""A move that dies, or must not be made, leaves the tenant where it lived, and nothing else."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import UUID

import psycopg
import pytest
from psycopg import errors

from storage.database import Database
from storage.partitions import moving
from storage.partitions.moving import Event, MoveFailed, move, recover
from storage.partitions.moving_state import MoveUnderWay
from storage.partitions.provisioning import Destination
from storage.tenancy import Tenant
from tests.conftest import MigratedDatabase
from tests.integration.partitions.every_table import fill, fill_catalogs
from tests.integration.partitions.moving_world import World, without_moves

pytestmark = pytest.mark.usefixtures("short_memory")

HERE = Path(__file__).parent
STEPS = (
    "planned",
    "prepared",
    "noting",
    "copying",
    "copied",
    "caught up",
    "compared",
    "closed",
    "compared again",
    "settled",
)


@pytest.fixture(scope="module")
def full(world: World, tenant: Tenant, other_tenant: Tenant) -> Tenant:
    """A tenant with rows in every table, wherever it is; there is another one like it."""
    with psycopg.connect(world.owner.url) as connection:
        fill_catalogs(connection)
    for one in (tenant, other_tenant):
        with world.database.connection(one.id) as connection:
            fill(connection, one)
    return tenant


@pytest.fixture
def filled(world: World, full: Tenant) -> Tenant:
    """The same, among the tables of the installation."""
    if world.place(full).strategy != "ROW_LEVEL":
        move(world.owner, full.id, "ROW_LEVEL", grace_seconds=0.6)
    return full


@pytest.fixture(scope="module")
def mover(database: MigratedDatabase) -> Iterator[Callable[[Tenant, str, str], int]]:
    """Moves in another process that is killed at a step; returns how it ended."""
    process = subprocess.Popen(
        [sys.executable, os.fspath(HERE / "mover.py"), database.owner_url],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None and process.stdout is not None

    def run(tenant: Tenant, to: str, die_at: str) -> int:
        request = {"tenant": str(tenant.id), "to": to, "die_at": die_at}
        assert process.stdin is not None and process.stdout is not None
        print(json.dumps(request), file=process.stdin, flush=True)
        return int(process.stdout.readline())

    yield run
    process.stdin.close()
    assert process.wait(20) == 0
    process.stdout.close()


def write(world: World, tenant: Tenant) -> UUID:
    with world.database.connection(tenant.id) as connection:
        row = connection.execute(
            "INSERT INTO locations (tenant_id, name) VALUES (%s, 'late') RETURNING id",
            (tenant.id,),
        ).fetchone()
    assert row is not None
    return UUID(str(row[0]))


@pytest.mark.parametrize("step", STEPS)
def test_a_move_that_is_killed_is_undone_or_finished_by_the_next_command(
    world: World, filled: Tenant, mover: Callable[[Tenant, str, str], int], step: str
) -> None:
    before = world.rows(filled)

    assert mover(filled, "SCHEMA", step) == -9
    was_settled = world.place(filled).strategy == "SCHEMA"
    assert was_settled == (step == "settled")
    recover(world.owner, grace_seconds=0)

    assert world.is_tidy()
    assert without_moves(world.rows(filled)) == without_moves(before)
    write(world, filled)
    if was_settled:
        assert move(world.owner, filled.id, "ROW_LEVEL", grace_seconds=0).rows


@pytest.mark.parametrize("step", ["copied", "closed", "compared again", "settled"])
def test_a_killed_move_out_of_a_database_leaves_the_database_open(
    world: World, full: Tenant, mover: Callable[[Tenant, str, str], int], step: str
) -> None:
    if world.place(full).strategy != "DATABASE":
        move(world.owner, full.id, "DATABASE", grace_seconds=0)
    before = without_moves(world.rows(full))

    assert mover(full, "ROW_LEVEL", step) == -9
    if step == "settled":
        recover(world.owner, grace_seconds=0.5)
        assert world.place(full).strategy == "ROW_LEVEL"
        assert not world.execute(
            "SELECT FROM pg_database WHERE datname LIKE 'interop_t_%%' AND datname = %s",
            f"interop_t_{full.id.hex}",
        )
    else:
        recover(world.owner)
        assert world.place(full).strategy == "DATABASE"
        assert world.leftovers(full, world_place()) == {}
    assert world.is_tidy()

    assert without_moves(world.rows(full)) == before
    write(world, full)


def test_what_fails_after_the_switch_does_not_bring_the_tenant_back(
    world: World, filled: Tenant
) -> None:
    before = without_moves(world.rows(filled))

    def told(event: Event) -> None:
        if event.step == "settled":
            raise RuntimeError("the terminal is gone")

    for strategy in ("DATABASE", "ROW_LEVEL"):
        with pytest.raises(MoveFailed, match="moved all the same"):
            move(world.owner, filled.id, strategy, told=told, grace_seconds=0.6)

        assert world.place(filled).strategy == strategy
        assert world.is_tidy()
        assert without_moves(world.rows(filled)) == before
        with world.database.connection(filled.id):
            pass


def world_place() -> Destination:
    return Destination("ROW_LEVEL", "public")


def test_the_next_move_goes_on_after_one_that_was_killed_in_the_last_step(
    world: World, other_tenant: Tenant, filled: Tenant, mover: Callable[[Tenant, str, str], int]
) -> None:
    before = without_moves(world.rows(other_tenant))
    assert mover(other_tenant, "SCHEMA", "closed") == -9
    assert world.execute("SELECT place FROM tenants WHERE id = %s", other_tenant.id) == [("",)]

    moved = move(world.owner, other_tenant.id, "SCHEMA", grace_seconds=0)

    assert moved.destination.strategy == "SCHEMA"
    assert without_moves(world.rows(other_tenant)) == before
    assert world.is_tidy()


@pytest.mark.parametrize("step", ["caught up", "compared", "closed"])
def test_a_row_that_was_changed_at_the_destination_refuses_the_switch(
    world: World, filled: Tenant, step: str
) -> None:
    before = world.rows(filled)

    def tamper(event: Event) -> None:
        if event.step == step:
            world.execute(
                f"UPDATE t_{filled.id.hex}.patients SET dob = '1901-01-01' WHERE id IN"
                f" (SELECT id FROM t_{filled.id.hex}.patients LIMIT 1)"
            )

    with pytest.raises(MoveFailed, match=r"patients: .* rows at the source, .* not the same ones"):
        move(world.owner, filled.id, "SCHEMA", told=tamper)

    assert world.place(filled).strategy == "ROW_LEVEL"
    assert world.rows(filled) == before
    assert world.is_tidy()
    write(world, filled)


def test_a_row_that_is_missing_at_the_destination_refuses_the_switch(
    world: World, filled: Tenant
) -> None:
    def tamper(event: Event) -> None:
        if event.step == "closed":
            world.execute(
                f"DELETE FROM t_{filled.id.hex}.fhir_history WHERE ctid ="
                f" (SELECT min(ctid) FROM t_{filled.id.hex}.fhir_history)"
            )

    with pytest.raises(MoveFailed, match=r"fhir_history: 3 rows at the source, 2"):
        move(world.owner, filled.id, "SCHEMA", told=tamper)

    assert world.is_tidy()


def test_one_move_at_a_time(world: World, filled: Tenant, other_tenant: Tenant) -> None:
    refused: list[Exception] = []

    def second(event: Event) -> None:
        if event.step == "noting":
            try:
                move(world.owner, other_tenant.id, "ROW_LEVEL")
            except MoveUnderWay as error:
                refused.append(error)
            raise MoveFailed("enough")

    with pytest.raises(MoveFailed, match="enough"):
        move(world.owner, filled.id, "SCHEMA", told=second)

    assert len(refused) == 1
    assert world.is_tidy()


def test_whoever_began_before_is_waited_for_and_what_they_write_moves(
    world: World, filled: Tenant
) -> None:
    began, closed = threading.Event(), threading.Event()
    written: list[UUID] = []

    def slow_writer() -> None:
        with world.database.connection(filled.id) as connection:
            began.set()
            closed.wait(60)
            row = connection.execute(
                "INSERT INTO locations (tenant_id, name) VALUES (%s, 'slow') RETURNING id",
                (filled.id,),
            ).fetchone()
            assert row is not None
            written.append(row[0])

    def told(event: Event) -> None:
        if event.step == "compared":
            thread.start()
            assert began.wait(10)
        if event.step == "closed":
            threading.Timer(0.5, closed.set).start()

    thread = threading.Thread(target=slow_writer)
    moved = move(world.owner, filled.id, "SCHEMA", told=told, grace_seconds=0)
    thread.join()

    assert moved.held_seconds >= 0.4
    with world.database.connection(filled.id) as connection:
        found = connection.execute(
            "SELECT id FROM locations WHERE tenant_id = %s AND name = 'slow'", (filled.id,)
        ).fetchall()
    assert [row[0] for row in found] == written
    move(world.owner, filled.id, "ROW_LEVEL", grace_seconds=0)


def test_a_transaction_that_does_not_end_puts_the_move_off_and_clients_go_on(
    world: World, filled: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(moving, "OLDER_SECONDS", 0.3)
    monkeypatch.setattr(moving, "ATTEMPTS", 2)
    steps: list[str] = []
    began, enough = threading.Event(), threading.Event()

    def stay() -> None:
        with world.database.connection(filled.id) as connection:
            connection.execute("SELECT 1")
            began.set()
            enough.wait(60)

    def told(event: Event) -> None:
        steps.append(event.step)
        if event.step == "put off":
            write(world, filled)
        if steps.count("closed") == 2:
            threading.Timer(2, enough.set).start()

    thread = threading.Thread(target=stay)
    thread.start()
    assert began.wait(10)
    with pytest.raises(MoveFailed, match=r"tried 2 times.*process .* of interop_app"):
        move(world.owner, filled.id, "SCHEMA", told=told)
    thread.join()

    assert steps.count("closed") == 2
    assert world.is_tidy()
    write(world, filled)


def test_of_a_large_tenant_only_what_has_changed_is_compared_in_the_last_step(
    world: World, filled: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(moving, "FULL_COMPARISON_SECONDS", 0.0)
    late: list[UUID] = []

    def told(event: Event) -> None:
        if event.step == "compared":
            late.append(write(world, filled))
            with world.database.connection(filled.id) as connection:
                connection.execute("DELETE FROM fhir_pending WHERE tenant_id = %s", (filled.id,))

    before = without_moves(world.rows(filled))
    moved = move(world.owner, filled.id, "SCHEMA", told=told, grace_seconds=0)
    after = without_moves(world.rows(filled))

    assert not moved.is_compared_in_full
    assert after.pop("fhir_pending") == [] != before.pop("fhir_pending")
    came = {
        table: [row for row in rows if row not in before[table]] for table, rows in after.items()
    }
    # The place that was written, and its mark that it is to be shown.
    assert {table: len(rows) for table, rows in came.items() if rows} == {
        "locations": 1,
        "fhir_resources": 1,
    }
    assert all(str(late[0]) in row for rows in came.values() for row in rows)
    assert all(set(rows) <= set(after[table]) for table, rows in before.items())
    move(world.owner, filled.id, "ROW_LEVEL", grace_seconds=0)


def test_whoever_holds_the_old_route_is_turned_away(world: World, filled: Tenant) -> None:
    with psycopg.connect(world.database.conninfo, autocommit=True) as stale:
        stale.execute("SELECT enter_tenant(%s)", (filled.id,))
        move(world.owner, filled.id, "SCHEMA", grace_seconds=0)
        with pytest.raises(errors.CannotConnectNow):
            stale.execute("SELECT enter_tenant(%s)", (filled.id,))

    # Another process that remembers the old place: its next write finds the new one.
    old = Database(world.database.url)
    with old.connection(filled.id):
        pass
    old.router.home(filled.id)
    move(world.owner, filled.id, "ROW_LEVEL", grace_seconds=0)
    with old.connection(filled.id) as connection:
        assert connection.execute("SELECT current_schema()").fetchone() == ("public",)
    old.close()


def test_the_application_sees_nothing_of_the_notes(world: World, filled: Tenant) -> None:
    refusals: list[Exception] = []

    def told(event: Event) -> None:
        if event.step == "noting":
            with world.database.connection(filled.id) as connection:
                connection.execute(
                    "UPDATE patients SET last_name = 'noted' WHERE tenant_id = %s", (filled.id,)
                )
            for query in ("SELECT * FROM moves.changes", "SELECT moves.note_patients()"):
                try:
                    with world.database.connection(filled.id) as connection:
                        connection.execute(query.encode())
                except errors.InsufficientPrivilege as error:
                    refusals.append(error)
            raise MoveFailed("enough")

    with pytest.raises(MoveFailed, match="enough"):
        move(world.owner, filled.id, "SCHEMA", told=told)

    assert len(refusals) == 2


def test_who_says_that_a_tenant_moves_is_not_believed_where_it_lives(
    world: World, filled: Tenant
) -> None:
    with psycopg.connect(world.owner.url) as connection:
        connection.execute("SELECT enter_tenant(%s)", (filled.id,))
        connection.execute("SELECT set_config('app.moving', 'on', true)")
        for query in (
            "DELETE FROM audit_events WHERE tenant_id = %s",
            "UPDATE audit_events SET outcome = 'FAILURE' WHERE tenant_id = %s",
            "DELETE FROM phi_access_logs WHERE tenant_id = %s",
        ):
            with pytest.raises(errors.InsufficientPrivilege), connection.transaction():
                connection.execute(query.encode(), (filled.id,))


@pytest.mark.parametrize(
    ("strategy", "url", "said"),
    [
        ("ROW_LEVEL", None, "lives there already"),
        ("SHARDED", None, "one of ROW_LEVEL, SCHEMA, DATABASE"),
        ("SCHEMA", "postgresql://x/y", "for DATABASE only"),
        ("DATABASE", "postgresql://localhost", "names no database"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_made(
    world: World, filled: Tenant, strategy: str, url: str | None, said: str
) -> None:
    with pytest.raises(MoveFailed, match=said):
        move(world.owner, filled.id, strategy, url)
    assert world.is_tidy()


def test_only_the_owner_of_the_database_moves_a_tenant(world: World, filled: Tenant) -> None:
    with pytest.raises(MoveFailed, match="INTEROP_DATABASE_OWNER_URL"):
        move(world.database, filled.id, "SCHEMA")


def test_a_database_that_is_not_empty_is_left_alone(
    world: World, filled: Tenant, database: MigratedDatabase
) -> None:
    with pytest.raises(MoveFailed, match="not empty"):
        move(world.owner, filled.id, "DATABASE", database.owner_url)
    assert world.execute("SELECT count(*) > 0 FROM tenants") == [(True,)]
    assert world.is_tidy()


def test_an_address_that_somebody_else_has_is_found_before_the_switch(
    world: World, filled: Tenant
) -> None:
    with world.database.connection(filled.id) as connection:
        row = connection.execute(
            "INSERT INTO users (email, full_name) VALUES ('taken@example.org', 'A') RETURNING id"
        ).fetchone()
        assert row is not None
        connection.execute(
            "INSERT INTO user_tenants (tenant_id, user_id) VALUES (%s, %s)", (filled.id, row[0])
        )
    move(world.owner, filled.id, "DATABASE", grace_seconds=0)
    # Nobody else of the platform is it: the account went with the tenant.
    assert not world.execute("SELECT FROM users WHERE id = %s", row[0])
    world.execute("INSERT INTO users (email, full_name) VALUES ('taken@example.org', 'B')")
    steps: list[str] = []

    with pytest.raises(MoveFailed, match=r"taken@example\.org"):
        move(world.owner, filled.id, "ROW_LEVEL", told=lambda event: steps.append(event.step))

    assert "copying" not in steps
    assert world.place(filled).strategy == "DATABASE"
    assert world.is_tidy()
    world.execute("UPDATE users SET email = 'b@example.org' WHERE email = 'taken@example.org'")
    move(world.owner, filled.id, "ROW_LEVEL", grace_seconds=0.5)
    assert world.execute("SELECT email FROM users WHERE id = %s", row[0])


def test_an_account_of_a_person_who_belongs_elsewhere_too_stays_and_is_kept(
    world: World, filled: Tenant, other_tenant: Tenant
) -> None:
    with world.database.connection(filled.id) as connection:
        row = connection.execute(
            "INSERT INTO users (email, full_name) VALUES ('both@example.org', 'A') RETURNING id"
        ).fetchone()
        assert row is not None
        connection.execute(
            "INSERT INTO user_tenants (tenant_id, user_id) VALUES (%s, %s)", (filled.id, row[0])
        )
    with world.database.connection(other_tenant.id) as connection:
        connection.execute(
            "INSERT INTO user_tenants (tenant_id, user_id) VALUES (%s, %s)",
            (other_tenant.id, row[0]),
        )

    move(world.owner, filled.id, "DATABASE", grace_seconds=0)
    assert world.execute("SELECT full_name FROM users WHERE id = %s", row[0]) == [("A",)]
    with world.place(filled).connect(world.owner) as own:
        own.execute("UPDATE users SET full_name = 'changed there' WHERE id = %s", (row[0],))
    moved = move(world.owner, filled.id, "ROW_LEVEL", grace_seconds=0.5)

    assert moved.kept_accounts == 1
    assert world.execute("SELECT full_name FROM users WHERE id = %s", row[0]) == [("A",)]
