"""What the worker does in the databases of tenants: jobs, rendering, copies; each by itself."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from uuid import uuid4

import psycopg
import pytest

from interop import place_keeper
from interop.place_keeper import PlaceKeeper, tenants_here
from interop.services import Services, open_services
from interop.settings import Settings
from storage.database import Database
from storage.jobs import JobRunner, defer
from storage.tenancy import Tenant
from tests.conftest import MakePlacedTenant, MigratedDatabase
from tests.waiting import eventually

QUEUE = "keeper-test"


@pytest.fixture(scope="module")
def services(
    database: MigratedDatabase, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Services]:
    made = open_services(
        Settings(
            data_dir=tmp_path_factory.mktemp("data"),
            database_url=database.url,
            database_owner_url=database.owner_url,
        )
    )
    made.database.lends_to_schemas = True
    yield made
    made.close()


@pytest.fixture
def apart(placed_tenant: MakePlacedTenant, services: Services) -> Tenant:
    """A tenant with a database for itself."""
    slug = f"t{uuid4().hex[:12]}"
    made = placed_tenant(slug, slug.upper()[:16], "DATABASE")
    services.database.router.forget()
    return made


@pytest.fixture
def done() -> list[str]:
    """The words of the jobs that ran."""
    return []


@pytest.fixture
def keeper(
    services: Services, done: list[str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[PlaceKeeper]:
    monkeypatch.setattr(place_keeper, "LOOK_SECONDS", 0.1)
    monkeypatch.setattr(place_keeper, "MIRROR_SECONDS", 0.5)
    monkeypatch.setattr(place_keeper, "RUNNER_IDLE_SECONDS", 1.0)

    def prepare(runner: JobRunner) -> None:
        @runner.task("say", queue=QUEUE)
        def say(word: str) -> None:
            done.append(word)

    made, stop = PlaceKeeper(services, prepare), threading.Event()
    thread = threading.Thread(target=made.run, args=(stop,), daemon=True)
    thread.start()
    yield made
    stop.set()
    thread.join(10)
    made.close()


def queue_job(database: Database, tenant: Tenant, word: str) -> None:
    with database.connection(tenant.id) as connection:
        defer(connection, "say", {"word": word}, queue=QUEUE)


def threads() -> set[str]:
    return {thread.name for thread in threading.enumerate()}


def test_jobs_of_a_tenants_database_run_and_the_runner_leaves_when_idle(
    services: Services, apart: Tenant, keeper: PlaceKeeper, done: list[str]
) -> None:
    queue_job(services.database, apart, "first")
    assert eventually(lambda: done == ["first"])

    assert eventually(lambda: f"jobs-{apart.id}" not in threads())
    queue_job(services.database, apart, "second")
    assert eventually(lambda: done == ["first", "second"])


def test_a_place_that_comes_while_it_runs_is_taken_up(
    keeper: PlaceKeeper, services: Services, apart: Tenant, done: list[str]
) -> None:
    queue_job(services.database, apart, "new")

    assert eventually(lambda: done == ["new"])


def test_one_that_does_not_answer_holds_up_no_other(
    services: Services,
    database: MigratedDatabase,
    apart: Tenant,
    placed_tenant: MakePlacedTenant,
    keeper: PlaceKeeper,
    done: list[str],
) -> None:
    slug = f"t{uuid4().hex[:12]}"
    gone = placed_tenant(slug, slug.upper()[:16], "DATABASE")
    with psycopg.connect(database.owner_url, autocommit=True) as owner:
        name = f"interop_t_{gone.id.hex}"
        owner.execute(f"ALTER DATABASE {name} WITH ALLOW_CONNECTIONS false")
        owner.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                      " WHERE datname = %s", (name,))  # fmt: skip
        queue_job(services.database, apart, "all the same")

        assert eventually(lambda: done == ["all the same"])

        # And it is served again when it is back.
        owner.execute(f"ALTER DATABASE {name} WITH ALLOW_CONNECTIONS true")

    def is_queued() -> bool:
        try:
            queue_job(services.database, gone, "back")
        except psycopg.OperationalError:
            return False  # a connection of the pool that was ended
        return True

    assert eventually(is_queued)
    assert eventually(lambda: done == ["all the same", "back"], 60)


def test_what_the_platform_changes_comes_to_the_database(
    database: MigratedDatabase, apart: Tenant, keeper: PlaceKeeper
) -> None:
    code = f"R{uuid4().hex[:8].upper()}"
    with psycopg.connect(database.owner_url) as owner:
        owner.execute("INSERT INTO roles (code, name) VALUES (%s, 'New')", (code,))

    def is_there() -> bool:
        with database.connection(apart.id) as connection:
            return bool(
                connection.execute("SELECT 1 FROM roles WHERE code = %s", (code,)).fetchall()
            )

    assert eventually(is_there)


def test_stale_resources_are_rendered_when_told(
    services: Services, apart: Tenant, keeper: PlaceKeeper
) -> None:
    with services.database.connection(apart.id) as connection:
        connection.execute(
            "INSERT INTO patients (tenant_id, last_name) VALUES (%s, 'Ko')", (apart.id,)
        )

    def rendered() -> bool:
        with services.database.connection(apart.id) as connection:
            rows = connection.execute(
                "SELECT stale FROM fhir_resources WHERE resource_type = 'Patient'"
            ).fetchall()
        return rows == [(False,)]

    assert eventually(rendered)


def test_a_place_that_is_not_there_any_more_is_left(
    services: Services, database: MigratedDatabase, apart: Tenant, keeper: PlaceKeeper
) -> None:
    """As after a move: nothing of the worker stays connected to where the tenant was."""
    assert eventually(lambda: f"place-{apart.id}" in threads())
    with psycopg.connect(database.owner_url) as registry:
        registry.execute("UPDATE tenants SET place = '' WHERE id = %s", (apart.id,))

    assert eventually(lambda: f"place-{apart.id}" not in threads())


def test_tenants_of_schemas_are_served_with_those_of_the_platform(
    services: Services, placed_tenant: MakePlacedTenant, apart: Tenant
) -> None:
    slug = f"t{uuid4().hex[:12]}"
    schema = placed_tenant(slug, slug.upper()[:16], "SCHEMA")

    here = {tenant.id for tenant in tenants_here(services)}

    assert schema.id in here
    assert apart.id not in here


def test_the_worker_holds_no_connection_for_a_schema(
    services: Services, placed_tenant: MakePlacedTenant
) -> None:
    slugs = [f"t{uuid4().hex[:12]}" for _ in range(3)]
    schemas = [placed_tenant(slug, slug.upper()[:16], "SCHEMA") for slug in slugs]
    services.database.router.forget()

    for tenant in schemas:
        with services.database.connection(tenant.id) as connection:
            connection.execute(
                "INSERT INTO patients (tenant_id, last_name) VALUES (%s, 'Ko')", (tenant.id,)
            )
    for tenant in schemas:
        with services.database.connection(tenant.id) as connection:
            assert connection.execute("SELECT count(*) FROM patients").fetchone() == (1,)
            here = connection.execute("SELECT current_schema()").fetchone()
            assert here == (f"t_{tenant.id.hex}",)

    with services.database.platform_connection() as connection:
        assert connection.execute("SELECT current_schema()").fetchone() == ("public",)
    places = [services.database.router.place_of(tenant.id) for tenant in schemas]
    assert not any("pool" in vars(place) for place in places)
