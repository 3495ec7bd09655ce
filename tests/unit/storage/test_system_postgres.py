"""The same schema and the same locks on Debian's PostgreSQL server, through a plain URL.

The owner here may not bypass row-level security, as on a managed server.
"""

from __future__ import annotations

from collections.abc import Iterator
from uuid import uuid4

import psycopg
import pytest

from storage.database import APP_ROLE, Database
from storage.embedded import OWNER_ROLE, SUPERUSER, EmbeddedPostgres
from storage.jobs import defer
from storage.migrations import upgrade
from storage.postgres_binaries import PostgresBinariesNotFound, system_binaries
from storage.tenancy import Tenant, TenantDirectory


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedPostgres]:
    try:
        binaries = system_binaries()
    except PostgresBinariesNotFound as error:
        pytest.skip(f"the system's PostgreSQL is not installed: {error}")
    data_dir = tmp_path_factory.mktemp("system") / "postgres"
    with EmbeddedPostgres(data_dir, binaries=binaries) as running:
        with psycopg.connect(running.url(SUPERUSER, "postgres"), autocommit=True) as connection:
            connection.execute(f"ALTER ROLE {OWNER_ROLE} NOBYPASSRLS")
        upgrade(running.owner_url)
        yield running


@pytest.fixture(scope="module")
def system_database(server: EmbeddedPostgres) -> Iterator[Database]:
    # One login for everything, as a managed database hands out: the role is taken on connecting.
    database = Database(server.owner_url, role=APP_ROLE)
    yield database
    database.close()


@pytest.fixture(scope="module")
def tenants(server: EmbeddedPostgres) -> Iterator[tuple[Tenant, Tenant]]:
    owner = Database(server.owner_url)
    directory = TenantDirectory(owner)
    yield directory.create("demo", ae_title="INTEROP"), directory.create("other")
    owner.close()


def add_patient(database: Database, tenant: Tenant) -> None:
    with database.connection(tenant.id) as connection:
        connection.execute(
            "INSERT INTO patients (tenant_id, id, first_name, last_name, created_by, updated_by)"
            " VALUES (%s, %s, 'Test', 'Patient', 'test', 'test')",
            (tenant.id, uuid4()),
        )


def count_patients(connection: psycopg.Connection[tuple[object, ...]]) -> object:
    row = connection.execute("SELECT count(*) FROM patients").fetchone()
    return row[0] if row else None


def test_server_is_of_a_version_that_is_promised(system_database: Database) -> None:
    with system_database.platform_connection() as connection:
        assert connection.info.server_version >= 150000


def test_migrating_again_changes_nothing(server: EmbeddedPostgres) -> None:
    upgrade(server.owner_url)


def test_tenant_sees_its_own_rows_and_no_others(
    system_database: Database, tenants: tuple[Tenant, Tenant]
) -> None:
    mine, theirs = tenants
    add_patient(system_database, mine)

    with system_database.connection(mine.id) as connection:
        assert count_patients(connection) == 1
    with system_database.connection(theirs.id) as connection:
        assert count_patients(connection) == 0
    with system_database.platform_connection() as connection:
        assert count_patients(connection) == 0


def test_row_of_another_tenant_cannot_be_written(
    system_database: Database, tenants: tuple[Tenant, Tenant]
) -> None:
    mine, theirs = tenants

    with (
        pytest.raises(psycopg.errors.InsufficientPrivilege, match="row-level security"),
        system_database.connection(theirs.id) as connection,
    ):
        connection.execute(
            "INSERT INTO patients (tenant_id, id, first_name, last_name, created_by, updated_by)"
            " VALUES (%s, %s, 'Test', 'Patient', 'test', 'test')",
            (mine.id, uuid4()),
        )


def test_owner_without_bypass_sees_nothing_without_a_tenant(
    server: EmbeddedPostgres, system_database: Database, tenants: tuple[Tenant, Tenant]
) -> None:
    add_patient(system_database, tenants[0])

    with psycopg.connect(server.owner_url) as connection:
        assert count_patients(connection) == 0


def test_application_role_cannot_shed_its_locks(
    server: EmbeddedPostgres, tenants: tuple[Tenant, Tenant]
) -> None:
    with psycopg.connect(server.app_url, autocommit=True) as connection:
        row = connection.execute(
            "SELECT rolsuper, rolbypassrls FROM pg_roles WHERE rolname = current_user"
        ).fetchone()
        assert row == (False, False)
        for statement in (
            "ALTER TABLE patients DISABLE ROW LEVEL SECURITY",
            f"SET ROLE {OWNER_ROLE}",
            "DROP POLICY tenant_isolation ON patients",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(statement)


def test_changed_row_marks_its_resource_stale(
    system_database: Database, tenants: tuple[Tenant, Tenant]
) -> None:
    add_patient(system_database, tenants[0])

    with system_database.connection(tenants[0].id) as connection:
        row = connection.execute(
            "SELECT count(*) > 0 FROM fhir_resources WHERE resource_type = 'Patient' AND stale"
        ).fetchone()
    assert row == (True,)


def test_job_is_queued_by_the_application_role(
    system_database: Database, tenants: tuple[Tenant, Tenant]
) -> None:
    with system_database.connection(tenants[0].id) as connection:
        assert defer(connection, "task", {"tenant_id": str(tenants[0].id)}) is not None
