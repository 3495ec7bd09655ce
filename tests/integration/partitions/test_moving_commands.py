"""`interop tenant move` as an operator types it, and the worker that ends what has died."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from uuid import uuid4

import psycopg
import pytest
from click.testing import Result
from typer.testing import CliRunner

from interop.cli import app
from interop.command_line import CommandFailed
from interop.move_duty import look
from interop.services import Services
from interop.settings import Settings
from storage.database import Database
from storage.partitions import moving_state
from storage.partitions.provisioning import current
from storage.tenancy import Tenant, TenantDirectory
from tests.conftest import MigratedDatabase
from tests.integration.partitions.moving_world import World, opened

Run = Callable[..., Result]


@pytest.fixture
def run(database: Database, owner_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setenv("INTEROP_DATABASE_URL", database.url)
    monkeypatch.setenv("INTEROP_DATABASE_OWNER_URL", owner_url)
    monkeypatch.setenv("INTEROP_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "200")
    return lambda *arguments: CliRunner().invoke(
        app, ["tenant", *arguments], catch_exceptions=False
    )


@pytest.fixture(scope="module")
def world(database: MigratedDatabase) -> Iterator[World]:
    with opened(database) as made:
        yield made


@pytest.fixture
def slug(run: Run) -> str:
    name = f"c{uuid4().hex[:10]}"
    assert run("create", name).exit_code == 0
    return name


def found(world: World, slug: str) -> Tenant:
    tenant = TenantDirectory(world.database).by_slug(slug)
    assert tenant is not None
    return tenant


def test_a_tenant_is_moved_and_the_operator_told(run: Run, world: World, slug: str) -> None:
    told = json.loads(run("move", slug, "--to", "SCHEMA", "--json").stdout)

    assert (told["from"], told["to"], told["tables"]["tenant_settings"]) == (
        "ROW_LEVEL",
        "SCHEMA",
        1,
    )
    assert told["rows"] == sum(told["tables"].values())
    assert current(world.owner, found(world, slug).id).strategy == "SCHEMA"
    back = run("move", slug, "--to", "ROW_LEVEL")
    assert "tenant_settings" in back.stdout
    assert world.is_tidy()


def test_what_cannot_be_is_said_in_one_line(run: Run, slug: str) -> None:
    with pytest.raises(CommandFailed, match="lives there already"):
        run("move", slug, "--to", "ROW_LEVEL")
    with pytest.raises(CommandFailed, match="there is no tenant 'nobody'"):
        run("move", "nobody", "--to", "SCHEMA")
    with pytest.raises(CommandFailed, match="SLUG and --to are needed"):
        run("move", slug)


def died_in_the_last_step(world: World, tenant: Tenant) -> None:
    """As a mover leaves it that is killed when it has closed the tenant's place."""
    state = moving_state.State(
        tenant.id,
        current(world.owner, tenant.id),
        moving_state.Destination("SCHEMA", place_of(tenant)),
    )
    with moving_state.registry(world.owner) as registry:
        moving_state.write(registry, world.owner, state)
        registry.execute("UPDATE tenants SET place = '' WHERE id = %s", (tenant.id,))


def place_of(tenant: Tenant) -> str:
    return f"t_{tenant.id.hex}"


def test_a_move_that_has_died_is_undone_by_abort(run: Run, world: World, slug: str) -> None:
    tenant = found(world, slug)
    died_in_the_last_step(world, tenant)

    told = json.loads(run("move", "--abort", "--json").stdout)

    assert told == {"tenant_id": str(tenant.id), "recovered": "undone", "lives": "ROW_LEVEL"}
    assert world.is_tidy()
    assert "no move was cut off" in run("move", "--abort").stdout


def test_the_worker_undoes_a_move_that_has_died_and_leaves_one_that_lives_alone(
    run: Run, world: World, slug: str, tmp_path: Path
) -> None:
    tenant = found(world, slug)
    settings = Settings(
        data_dir=tmp_path,
        database_url=world.database.url,
        database_owner_url=world.owner.url,
    )
    services = cast(Services, SimpleNamespace(database=world.database, settings=settings))
    died_in_the_last_step(world, tenant)

    with moving_state.registry(world.owner):
        look(services)
        assert world.execute("SELECT place FROM tenants WHERE id = %s", tenant.id) == [("",)]
    wait_for_the_lock(world.owner.url)
    look(services)

    assert world.is_tidy()
    with world.database.connection(tenant.id) as connection:
        assert connection.execute("SELECT current_schema()").fetchone() == ("public",)


def wait_for_the_lock(url: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("SELECT pg_advisory_lock(%s)", (moving_state.LOCK,))
        row: Any = connection.execute(
            "SELECT pg_advisory_unlock(%s)", (moving_state.LOCK,)
        ).fetchone()
        assert row == (True,)
