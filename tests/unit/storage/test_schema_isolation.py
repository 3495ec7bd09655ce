"""The second and third lock at work: what the application role sees and writes, and cannot."""

from __future__ import annotations

from uuid import UUID, uuid4

import psycopg
import pytest
from psycopg import errors

from storage.database import Connection, Database
from storage.schema import metadata
from storage.tenancy import Tenant
from tests.conftest import MigratedDatabase, mirror_platform

pytestmark = pytest.mark.strategies


def patient(connection: Connection, tenant: Tenant, last_name: str = "Ko") -> UUID:
    row = connection.execute(
        "INSERT INTO patients (tenant_id, last_name) VALUES (%s, %s) RETURNING id",
        (tenant.id, last_name),
    ).fetchone()
    assert row is not None
    return UUID(str(row[0]))


@pytest.fixture(scope="module")
def theirs(database: Database, other_tenant: Tenant) -> UUID:
    """A patient of the other tenant."""
    with database.connection(other_tenant.id) as connection:
        return patient(connection, other_tenant, "Theirs")


@pytest.fixture(scope="module")
def role_of_theirs(database: Database, other_tenant: Tenant) -> UUID:
    with database.connection(other_tenant.id) as connection:
        row = connection.execute(
            "INSERT INTO roles (tenant_id, code, name) VALUES (%s, 'CLINICIAN', 'Clinician')"
            " RETURNING id",
            (other_tenant.id,),
        ).fetchone()
    assert row is not None
    return UUID(str(row[0]))


def test_without_a_tenant_every_tenant_table_is_empty(database: Database, theirs: UUID) -> None:
    with database.platform_connection() as connection:
        for table in metadata.sorted_tables:
            if table.info["scope"] == "tenant":
                found = connection.execute(f"SELECT count(*) FROM {table.name}").fetchone()
                assert found == (0,), table.name


def test_without_a_tenant_nothing_can_be_written(database: Database, tenant: Tenant) -> None:
    with (
        pytest.raises(errors.InsufficientPrivilege, match="row-level security"),
        database.platform_connection() as connection,
    ):
        patient(connection, tenant)


def test_the_setting_of_a_finished_transaction_does_not_linger(
    database: Database, other_tenant: Tenant, theirs: UUID
) -> None:
    """After COMMIT the setting is '' and not NULL (reliability.md M12)."""
    place = database.router.place_of(other_tenant.id)
    with psycopg.connect(place.conninfo) as connection:
        connection.execute("SELECT set_config('app.tenant', %s, true)", (str(other_tenant.id),))
        assert connection.execute("SELECT count(*) FROM patients").fetchone() != (0,)
        connection.commit()

        left = connection.execute("SELECT current_setting('app.tenant', true)").fetchone()
        seen = connection.execute("SELECT count(*) FROM patients").fetchone()

    assert left == ("",)
    assert seen == (0,)


def test_another_tenants_row_is_neither_seen_nor_changed_nor_deleted(
    database: Database, tenant: Tenant, other_tenant: Tenant, theirs: UUID
) -> None:
    with database.connection(tenant.id) as connection:
        seen = connection.execute("SELECT 1 FROM patients WHERE id = %s", (theirs,)).fetchall()
        changed = connection.execute(
            "UPDATE patients SET last_name = 'Taken' WHERE id = %s", (theirs,)
        ).rowcount
        deleted = connection.execute("DELETE FROM patients WHERE id = %s", (theirs,)).rowcount

    assert (seen, changed, deleted) == ([], 0, 0)


def test_a_row_cannot_be_written_for_another_tenant(
    database: Database, tenant: Tenant, other_tenant: Tenant
) -> None:
    with (
        pytest.raises(errors.InsufficientPrivilege, match="row-level security"),
        database.connection(tenant.id) as connection,
    ):
        patient(connection, other_tenant)


def test_a_row_cannot_be_moved_to_another_tenant(
    database: Database, tenant: Tenant, other_tenant: Tenant
) -> None:
    with (
        pytest.raises(errors.InsufficientPrivilege, match="row-level security"),
        database.connection(tenant.id) as connection,
    ):
        mine = patient(connection, tenant)
        connection.execute(
            "UPDATE patients SET tenant_id = %s WHERE id = %s", (other_tenant.id, mine)
        )


@pytest.mark.parametrize("whose", ["theirs", "nobody"])
def test_a_reference_to_another_tenants_row_is_refused_like_one_to_nothing(
    database: Database, tenant: Tenant, theirs: UUID, whose: str
) -> None:
    target = theirs if whose == "theirs" else uuid4()

    with (
        pytest.raises(errors.ForeignKeyViolation, match="fk_encounters_tenant_id_patient_id"),
        database.connection(tenant.id) as connection,
    ):
        connection.execute(
            "INSERT INTO encounters (tenant_id, patient_id) VALUES (%s, %s)", (tenant.id, target)
        )


def test_the_owner_cannot_link_tenants_either(owner_url: str, tenant: Tenant, theirs: UUID) -> None:
    """The third lock needs no policy: the key itself names the tenant."""
    with psycopg.connect(owner_url) as connection, pytest.raises(errors.ForeignKeyViolation):
        connection.execute(
            "INSERT INTO encounters (tenant_id, patient_id) VALUES (%s, %s)", (tenant.id, theirs)
        )


@pytest.mark.parametrize("whose", ["theirs", "nobody"])
def test_a_role_of_another_tenant_cannot_be_given(
    database: Database, tenant: Tenant, role_of_theirs: UUID, whose: str
) -> None:
    """roles may belong to the platform, so a trigger stands in for the composite key."""
    target = role_of_theirs if whose == "theirs" else uuid4()

    with (
        pytest.raises(errors.ForeignKeyViolation, match=r"user_roles\.role_id: no row"),
        database.connection(tenant.id) as connection,
    ):
        connection.execute(
            "INSERT INTO user_roles (tenant_id, user_id, role_id) VALUES (%s, %s, %s)",
            (tenant.id, member(connection, tenant), target),
        )


def member(connection: Connection, tenant: Tenant) -> UUID:
    row = connection.execute("INSERT INTO users (full_name) VALUES ('A') RETURNING id").fetchone()
    assert row is not None
    connection.execute(
        "INSERT INTO user_tenants (tenant_id, user_id) VALUES (%s, %s)", (tenant.id, row[0])
    )
    return UUID(str(row[0]))


def test_rows_of_the_platform_are_read_and_given_but_not_written(
    database: MigratedDatabase, owner_url: str, tenant: Tenant
) -> None:
    with psycopg.connect(owner_url) as owner:
        row = owner.execute(
            "INSERT INTO roles (code, name) VALUES ('RESIDENT', 'Resident') RETURNING id"
        ).fetchone()
    assert row is not None
    mirror_platform(database, tenant)

    with database.connection(tenant.id) as connection:
        seen = connection.execute("SELECT code FROM roles WHERE id = %s", (row[0],)).fetchone()
        connection.execute(
            "INSERT INTO user_roles (tenant_id, user_id, role_id) VALUES (%s, %s, %s)",
            (tenant.id, member(connection, tenant), row[0]),
        )
        changed = connection.execute(
            "UPDATE roles SET name = 'Mine' WHERE id = %s", (row[0],)
        ).rowcount

    assert seen == ("RESIDENT",)
    assert changed == 0
    with (
        pytest.raises(errors.InsufficientPrivilege, match="row-level security"),
        database.connection(tenant.id) as connection,
    ):
        connection.execute("INSERT INTO roles (code, name) VALUES ('INTERN', 'Intern')")


def test_a_provider_must_be_a_member_of_the_tenant(
    database: Database, tenant: Tenant, other_tenant: Tenant
) -> None:
    with database.connection(other_tenant.id) as connection:
        stranger = member(connection, other_tenant)

    with (
        pytest.raises(errors.ForeignKeyViolation, match="provider_id"),
        database.connection(tenant.id) as connection,
    ):
        connection.execute(
            "INSERT INTO encounters (tenant_id, patient_id, provider_id) VALUES (%s, %s, %s)",
            (tenant.id, patient(connection, tenant), stranger),
        )


@pytest.mark.parametrize("statement", ["UPDATE {} SET patient_id = NULL", "DELETE FROM {}"])
@pytest.mark.parametrize("log", ["audit_events", "phi_access_logs"])
def test_the_application_cannot_rewrite_the_log(
    database: Database, tenant: Tenant, log: str, statement: str
) -> None:
    with (
        pytest.raises(errors.InsufficientPrivilege, match="permission denied"),
        database.connection(tenant.id) as connection,
    ):
        connection.execute(statement.format(log))


def test_two_tenants_may_use_the_same_uids_and_identifiers(
    database: Database, tenant: Tenant, other_tenant: Tenant
) -> None:
    for owner in (tenant, other_tenant):
        with database.connection(owner.id) as connection:
            connection.execute(
                "INSERT INTO imaging_studies (tenant_id, patient_id, study_uid)"
                " VALUES (%s, %s, '1.2.3')",
                (owner.id, patient(connection, owner)),
            )

    with database.connection(tenant.id) as connection:
        found = connection.execute(
            "SELECT tenant_id FROM imaging_studies WHERE study_uid = '1.2.3'"
        ).fetchall()
    assert found == [(tenant.id,)]


def test_jobs_can_be_deferred_and_fetched_by_the_application(
    database: Database, tenant: Tenant
) -> None:
    with database.connection(tenant.id) as connection:
        connection.execute(
            "SELECT procrastinate_defer_jobs_v1(ARRAY[ROW('default', 'probe', 0, NULL, NULL,"
            " '{}'::jsonb, NULL)::procrastinate_job_to_defer_v1])"
        )
        worker = connection.execute("SELECT procrastinate_register_worker_v1()").fetchone()
        assert worker is not None
        job = connection.execute(
            "SELECT (procrastinate_fetch_job_v2(NULL, %s)).task_name", worker
        ).fetchone()

    assert job == ("probe",)
