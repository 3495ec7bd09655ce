"""The schema of a SCHEMA tenant: an exact copy, made whole or not at all."""

from __future__ import annotations

import time
from collections.abc import Iterator
from uuid import UUID, uuid4

import psycopg
import pytest

from storage.database import Database
from storage.partitions import creation, databases
from storage.partitions.provisioning import ProvisioningFailed, prepare
from storage.partitions.schemas import (
    create_schema,
    differences,
    drop_schema,
    schema_name,
    tenant_tables,
)
from storage.tenancy import Tenant, TenantDirectory, TenantExists
from tests.conftest import MigratedDatabase

Owner = psycopg.Connection[tuple[object, ...]]


@pytest.fixture(scope="module")
def in_schema(owner: Database) -> Tenant:
    """A tenant with a schema of its own."""
    return TenantDirectory(owner).create("schema", partition_strategy="SCHEMA")


@pytest.fixture
def copy(database: MigratedDatabase, in_schema: Tenant) -> Iterator[tuple[Owner, str]]:
    """The owner's connection and the tenant's schema; what a test changes is undone."""
    name = schema_name(in_schema.id)
    with psycopg.connect(database.owner_url) as connection:
        yield connection, name
        connection.rollback()


def rows(url: str, query: str, *values: object) -> list[tuple[object, ...]]:
    with psycopg.connect(url) as connection:
        return connection.execute(query.encode(), values).fetchall()


# Databases that this process was about to make: others make theirs in the same cluster.
ASKED_FOR: list[str] = []


@pytest.fixture(autouse=True)
def _note_databases(monkeypatch: pytest.MonkeyPatch) -> None:
    real = databases.create_database

    def noted(owner_url: str, name: str) -> str:
        ASKED_FOR.append(name)
        return real(owner_url, name)

    monkeypatch.setattr(databases, "create_database", noted)


def leftovers(database: MigratedDatabase) -> set[object]:
    """Every tenant, schema and database of a tenant that there is."""
    found = rows(
        database.owner_url,
        "SELECT slug FROM tenants UNION ALL SELECT nspname::text FROM pg_namespace"
        " WHERE nspname LIKE 't\\_%%' UNION ALL SELECT datname::text FROM pg_database"
        " WHERE datname = ANY (%s)",
        ASKED_FOR,
    )
    return {row[0] for row in found}


# -- a copy ---------------------------------------------------------------------------------------


def test_a_schema_is_what_public_is(copy: tuple[Owner, str]) -> None:
    assert differences(*copy) == []


def test_it_has_every_table_of_tenants_and_its_own_revision(copy: tuple[Owner, str]) -> None:
    connection, name = copy

    found = connection.execute(
        "SELECT relname FROM pg_class WHERE relnamespace = %s::regnamespace AND relkind = 'r'",
        (name,),
    ).fetchall()

    assert {row[0] for row in found} == {t.name for t in tenant_tables()} | {"alembic_version"}
    assert len(found) > 100


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("ALTER TABLE {}.patients ADD COLUMN nickname text", "column patients.nickname"),
        ("ALTER TABLE {}.patients ALTER COLUMN status DROP DEFAULT", "column patients.status"),
        ("ALTER TABLE {}.patients ALTER COLUMN status DROP NOT NULL", "column patients.status"),
        ("ALTER TABLE {}.patients ALTER COLUMN status SET STORAGE EXTERNAL", "patients.status"),
        ("ALTER TABLE {}.outbox ALTER COLUMN id DROP IDENTITY", "column outbox.id"),
        (
            "ALTER TABLE {}.perio_measurements ALTER COLUMN observation_id DROP EXPRESSION",
            "column perio_measurements.observation_id",
        ),
        ("DROP TABLE {}.outbox", "table outbox: missing"),
        ("CREATE TABLE {}.more (tenant_id uuid NOT NULL)", "table more: not in public"),
        ("ALTER TABLE {}.rate_limit_buckets SET LOGGED", "table rate_limit_buckets"),
        ("ALTER TABLE {}.patients NO FORCE ROW LEVEL SECURITY", "table patients"),
        ("ALTER TABLE {}.patients SET (fillfactor = 90)", "table patients"),
        ("GRANT DELETE ON {}.audit_events TO interop_app", "table audit_events"),
        ("GRANT INSERT (timestamp) ON {}.audit_events TO interop_app", "audit_events.timestamp"),
        ("DROP POLICY tenant_isolation ON {}.patients", "policy tenant_isolation of patients"),
        ("CREATE POLICY everybody ON {}.patients USING (true)", "policy everybody of patients"),
        ("DROP TRIGGER stale_on_update ON {}.patients", "trigger stale_on_update of patients"),
        ("ALTER TABLE {}.patients DISABLE TRIGGER touch_row", "trigger touch_row of patients"),
        ("DROP INDEX {}.ix_fhir_resources_stale", "index ix_fhir_resources_stale"),
        ("DROP STATISTICS {}.fhir_search_token_values", "statistics fhir_search_token_values"),
        (
            "ALTER TABLE {0}.encounters DROP CONSTRAINT fk_encounters_tenant_id_patient_id,"
            " ADD CONSTRAINT fk_encounters_tenant_id_patient_id"
            " FOREIGN KEY (tenant_id, patient_id) REFERENCES public.patients (tenant_id, id)",
            "constraint fk_encounters_tenant_id_patient_id of encounters",
        ),
        ("REVOKE USAGE ON SCHEMA {} FROM interop_app", "schema"),
    ],
)
def test_every_difference_is_said(copy: tuple[Owner, str], change: str, said: str) -> None:
    connection, name = copy
    connection.execute(change.format(name).encode())

    found = differences(connection, name)

    assert [line for line in found if said in line] != [], found
    connection.rollback()
    assert differences(connection, name) == []


def test_no_foreign_key_leads_to_the_rows_of_the_other_tenants(copy: tuple[Owner, str]) -> None:
    connection, name = copy

    found = connection.execute(
        "SELECT t.nspname, f.relname FROM pg_constraint AS k"
        " JOIN pg_class AS f ON f.oid = k.confrelid JOIN pg_namespace AS t"
        " ON t.oid = f.relnamespace WHERE k.contype = 'f' AND k.connamespace = %s::regnamespace",
        (name,),
    ).fetchall()

    owned = {table.name for table in tenant_tables()}
    assert len(found) > 200
    assert [row for row in found if (row[1] in owned) != (row[0] == name)] == []


def test_what_stands_in_public_by_hand_is_copied_too(database: MigratedDatabase) -> None:
    """A later revision may use what none has used before."""
    name = schema_name(uuid4())
    with psycopg.connect(database.owner_url) as connection:
        connection.execute(
            "ALTER TABLE patients SET (fillfactor = 80), ADD COLUMN note text;"
            "ALTER TABLE patients ALTER COLUMN note SET STATISTICS 500;"
            "COMMENT ON TABLE patients IS 'people'; COMMENT ON COLUMN patients.note IS 'a note';"
            "ALTER TABLE patients ADD CONSTRAINT no_overlap"
            " EXCLUDE USING btree (id WITH =) DEFERRABLE INITIALLY DEFERRED;"
            "ALTER TABLE patients DROP COLUMN middle_name;"
            "ALTER TABLE outbox DISABLE TRIGGER USER;"
            "CREATE POLICY restricted ON patients AS RESTRICTIVE FOR SELECT TO interop_app"
            " USING (EXISTS (SELECT FROM encounters AS e WHERE e.patient_id = patients.id));"
            "CREATE UNIQUE INDEX \"Odd name\" ON patients (lower(note)) WHERE note <> ' USING ';"
        )

        create_schema(connection, name)

        assert differences(connection, name) == []
        connection.rollback()


def test_the_search_path_of_the_owner_stays_as_it_was(database: MigratedDatabase) -> None:
    name = schema_name(uuid4())
    with psycopg.connect(database.owner_url) as connection:
        before = connection.execute("SHOW search_path").fetchone()

        create_schema(connection, name)
        differences(connection, name)

        assert connection.execute("SHOW search_path").fetchone() == before
        connection.rollback()


@pytest.mark.parametrize("name", ["public", "t_1", 't_x"; DROP SCHEMA public', "pg_catalog"])
def test_only_schemas_of_tenants_are_made_or_dropped(database: MigratedDatabase, name: str) -> None:
    with psycopg.connect(database.owner_url) as connection:
        for act in (create_schema, drop_schema, differences):
            with pytest.raises(ValueError, match="no schema of a tenant"):
                act(connection, name)


# -- at work --------------------------------------------------------------------------------------


def add_patient(database: Database, tenant_id: UUID, name: str) -> None:
    with database.connection(tenant_id) as connection:
        connection.execute(
            "INSERT INTO patients (tenant_id, last_name, first_name, dob, sex_at_birth)"
            " VALUES (%s, %s, 'X', '1980-01-01', 'FEMALE')",
            (tenant_id, name),
        )


def test_the_application_works_in_it_and_its_triggers_too(
    database: MigratedDatabase, in_schema: Tenant, tenant: Tenant
) -> None:
    add_patient(database, in_schema.id, "Apart")
    add_patient(database, tenant.id, "Shared")

    with database.connection(in_schema.id) as connection:
        seen = connection.execute("SELECT last_name, current_schema() FROM patients").fetchall()
        stale = connection.execute(
            "SELECT resource_type FROM fhir_resources WHERE stale AND resource_type = 'Patient'"
        ).fetchall()
    assert seen == [("Apart", schema_name(in_schema.id))]
    assert stale == [("Patient",)]
    assert rows(database.owner_url, "SELECT last_name FROM public.patients") == [("Shared",)]


def test_row_level_security_holds_in_it(database: MigratedDatabase, in_schema: Tenant) -> None:
    place = database.router.place_of(in_schema.id)
    with place.platform_connection() as connection:
        assert connection.execute("SELECT count(*) FROM tenant_settings").fetchone() == (0,)
        connection.execute("SELECT set_config('app.tenant', %s, true)", (str(uuid4()),))
        assert connection.execute("SELECT count(*) FROM tenant_settings").fetchone() == (0,)
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("CREATE TABLE more (id int)")
        connection.rollback()


def test_a_refused_row_is_told_by_the_same_constraint(
    database: MigratedDatabase, in_schema: Tenant
) -> None:
    with (
        pytest.raises(psycopg.errors.UniqueViolation) as refused,
        database.connection(in_schema.id) as connection,
    ):
        connection.execute("INSERT INTO tenant_settings (tenant_id) VALUES (%s)", (in_schema.id,))

    assert refused.value.diag.constraint_name == "uq_tenant_settings_tenant_id"
    assert refused.value.diag.schema_name == schema_name(in_schema.id)


# -- whole or not at all --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("strategy", "step"),
    [
        ("SCHEMA", "prepare"),
        ("SCHEMA", "_write_settings"),
        ("SCHEMA", "settle"),
        ("DATABASE", "_write_settings"),
        ("DATABASE", "_tell"),
    ],
)
def test_nothing_is_left_when_a_step_fails(
    database: MigratedDatabase,
    owner: Database,
    monkeypatch: pytest.MonkeyPatch,
    strategy: str,
    step: str,
) -> None:
    before = leftovers(database)

    def fail(*_: object, **__: object) -> None:
        raise OSError("the disk is full")

    monkeypatch.setattr(creation, step, fail)
    with pytest.raises(OSError, match="disk"):
        TenantDirectory(owner).create("failed", partition_strategy=strategy)

    assert leftovers(database) == before


@pytest.mark.parametrize(
    ("strategy", "step"),
    [("SCHEMA", "prepare"), ("SCHEMA", "settle"), ("DATABASE", "prepare"), ("DATABASE", "settle")],
)
def test_what_a_crash_left_is_removed_by_the_next_create(
    database: MigratedDatabase,
    owner: Database,
    monkeypatch: pytest.MonkeyPatch,
    strategy: str,
    step: str,
) -> None:
    slug = f"crashed-{strategy.lower()}-{step.strip('_').replace('_', '-')}"
    directory = TenantDirectory(owner)
    with monkeypatch.context() as crash:
        real = getattr(creation, step)

        def die(*arguments: object) -> None:
            real(*arguments)
            raise SystemExit

        # What cleans up after a failure never runs in a process that is killed.
        crash.setattr(creation, step, die)
        crash.setattr(creation, "drop", lambda *_: None)
        crash.setattr(creation, "_unregister", lambda *_: None)
        with pytest.raises(SystemExit):
            directory.create(slug, partition_strategy=strategy)
    left = leftovers(database)
    assert slug in left
    assert directory.by_slug(slug) is None
    with pytest.raises(TenantExists):
        directory.create(slug)

    made = directory.create(slug, partition_strategy=strategy)

    assert directory.by_slug(slug) == made
    place = schema_name(made.id) if strategy == "SCHEMA" else f"interop_t_{made.id.hex}"
    assert len(leftovers(database)) == len(left)
    assert leftovers(database) - left == {place}
    add_patient(database, made.id, "After all")


def test_two_that_create_the_same_tenant_are_told_apart(
    database: MigratedDatabase, owner: Database
) -> None:
    with (
        creation._claimed(owner, "twice"),
        pytest.raises(ProvisioningFailed, match="being created by another process"),
    ):
        TenantDirectory(owner).create("twice", partition_strategy="SCHEMA")


def test_names_that_are_taken_are_refused(database: MigratedDatabase, owner: Database) -> None:
    directory = TenantDirectory(owner)
    directory.create("taken", ae_title="TAKEN", partition_strategy="SCHEMA")
    before = leftovers(database)

    with pytest.raises(TenantExists):
        directory.create("taken", partition_strategy="SCHEMA")
    with pytest.raises(TenantExists):
        directory.create("free", ae_title="TAKEN", partition_strategy="DATABASE")

    assert leftovers(database) == before


def test_the_application_role_cannot_make_places(database: MigratedDatabase) -> None:
    with pytest.raises(ProvisioningFailed, match="INTEROP_DATABASE_OWNER_URL"):
        TenantDirectory(database).create("nobody", partition_strategy="SCHEMA")


def test_a_place_that_is_there_is_not_taken_over(owner: Database, in_schema: Tenant) -> None:
    with pytest.raises(ProvisioningFailed, match="exists already"):
        prepare(owner, in_schema.id, "SCHEMA")


def test_twenty_schemas_can_be_made(owner: Database, capsys: pytest.CaptureFixture[str]) -> None:
    directory = TenantDirectory(owner)
    began, times = time.perf_counter(), []
    for number in range(20):
        started = time.perf_counter()
        directory.create(f"one-of-{number}", partition_strategy="SCHEMA")
        times.append(time.perf_counter() - started)
    with capsys.disabled():
        total = time.perf_counter() - began
        print(f"\n20 tenants with schemas: {total:.1f} s, median {sorted(times)[10]:.2f} s")

    with psycopg.connect(owner.url) as connection:
        made = [
            schema_name(row[0])
            for row in connection.execute("SELECT id FROM tenants WHERE slug LIKE 'one-of-%'")
        ]
        assert len(made) == 20
        assert [name for name in made if differences(connection, name)] == []
