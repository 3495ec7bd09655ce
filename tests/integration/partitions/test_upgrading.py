"""Migrations over the platform, schemas and databases of tenants, with revisions of the test's own.

One story on one installation: a database is left at its newest revision, so the order of the tests
is that of the story.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any
from uuid import UUID

import psycopg
import pytest
from alembic import command
from psycopg import sql
from psycopg.conninfo import make_conninfo
from starlette.testclient import TestClient
from typer.testing import CliRunner

from interop.access import Scopes
from interop.app import application
from interop.cli import app as command_line
from interop.services import open_services
from interop.settings import Settings
from storage import migrations, places
from storage.database import Database
from storage.embedded import SUPERUSER, EmbeddedPostgres
from storage.partitions import upgrading
from storage.partitions.databases import database_name
from storage.partitions.provisioning import current
from storage.partitions.schemas import create_schema, differences, drop_schema, schema_name
from storage.partitions.upgrading import Upgraded, upgrade_all
from storage.places import PlaceOutdated
from storage.tenancy import Tenant, TenantDirectory
from tests.conftest import MigratedDatabase

HEAD = """
import sqlalchemy as sa
from alembic.operations import Operations
from sqlalchemy import text
import interop_test_meeting as meeting
from storage.migrations import parts

revision = "{revision}"
down_revision = "{before}"

"""
WIDENED = """
def once(op):
    op.execute("ALTER TABLE usage_meters ADD COLUMN shade text")
    op.execute("CREATE FUNCTION pet_sound() RETURNS text LANGUAGE sql AS $$ SELECT 'woof' $$")
    op.execute("GRANT EXECUTE ON FUNCTION pet_sound() TO interop_app")


def for_tenants(op):
    meeting.arrive(op.get_bind().scalar(text("SELECT current_schema()")))
    op.add_column("patients", sa.Column("nickname", sa.Text(), server_default="none"))
    op.create_index("ix_patients_nickname", "patients", ["tenant_id", "nickname"])
    op.create_table(
        "pets",
        sa.Column("tenant_id", sa.Uuid(), sa.ForeignKey("tenants.id"), primary_key=True),
        sa.Column("id", sa.Uuid(), primary_key=True, server_default=sa.text("gen_random_uuid()")),
        sa.Column("patient_id", sa.Uuid(), nullable=False),
        sa.Column("sound", sa.Text(), server_default=sa.text("pet_sound()")),
        sa.ForeignKeyConstraint(["tenant_id", "patient_id"], ["patients.tenant_id", "patients.id"]),
    )
    for statement in (
        "ALTER TABLE pets ENABLE ROW LEVEL SECURITY",
        "ALTER TABLE pets FORCE ROW LEVEL SECURITY",
        "CREATE POLICY tenant_isolation ON pets USING (tenant_id ="
        " nullif(current_setting('app.tenant', true), '')::uuid) WITH CHECK (tenant_id ="
        " nullif(current_setting('app.tenant', true), '')::uuid)",
        "GRANT SELECT, INSERT, UPDATE, DELETE ON pets TO interop_app",
        "ALTER TABLE patients NO FORCE ROW LEVEL SECURITY",
        "UPDATE patients SET nickname = lower(last_name)",
        "ALTER TABLE patients FORCE ROW LEVEL SECURITY",
    ):
        op.execute(statement)


upgrade = parts(once, for_tenants)
"""
FORGETFUL = """
def once(op):
    op.execute("ALTER TABLE patients ADD COLUMN forgotten text")


upgrade = parts(once, None)
"""
CORRECTED = """
def for_tenants(op):
    op.execute("ALTER TABLE patients ADD COLUMN IF NOT EXISTS forgotten text")


upgrade = parts(None, for_tenants)
"""
CROSSING = """
def for_tenants(op):
    # Two places that lock the same global tables the other way round.
    schema = op.get_bind().scalar(text("SELECT current_schema()"))
    for number, table in enumerate(meeting.order(schema)):
        op.execute(f"LOCK TABLE public.{table} IN SHARE ROW EXCLUSIVE MODE")
        if number == 0:
            meeting.arrive("one of two")


upgrade = parts(None, for_tenants)
"""


@dataclass
class Meeting(ModuleType):
    """What the test's revisions see of the test."""

    barrier: threading.Barrier | None = None
    crossing: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__init__("interop_test_meeting")

    def arrive(self, schema: str) -> None:
        """In a tenant's schema: wait until all others are here, so they must be side by side."""
        if schema != "public" and self.barrier is not None:
            self.barrier.wait(20)

    def order(self, schema: str) -> tuple[str, ...]:
        if schema not in self.crossing:
            return ()
        self.crossing[schema] += 1
        tables = ("users", "drug_reference")
        if self.crossing[schema] > 1:
            self.barrier = None
            return tables
        return tables if schema == min(self.crossing) else tables[::-1]


@dataclass
class Story:
    """The installation of this module."""

    database: MigratedDatabase
    owner: Database
    versions: Path
    meeting: Meeting
    schemas: list[Tenant]
    databases: list[Tenant]

    def write(self, revision: str, before: str, body: str) -> None:
        head = HEAD.format(revision=revision, before=before)
        (self.versions / f"{revision}_of_the_test.py").write_text(head + body)

    def upgraded(self) -> dict[UUID | None, Upgraded]:
        return {place.tenant_id: place for place in upgrade_all(self.owner)}

    def asked(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.database.owner_url) as connection:
            return connection.execute(query.encode(), values).fetchall()

    def fresh(self) -> closing[Database]:
        """The application's database as a process that begins now has it."""
        served = Database(self.database.url)
        served.vault = self.database.vault
        return closing(served)


@pytest.fixture(scope="module")
def story(database: MigratedDatabase, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    folder = tmp_path_factory.mktemp("versions")
    meeting = Meeting()
    with pytest.MonkeyPatch.context() as patch, closing(Database(database.owner_url)) as owner:
        patch.setattr(migrations, "VERSIONS", [*migrations.VERSIONS, folder])
        patch.setitem(sys.modules, "interop_test_meeting", meeting)
        # `interop migrate` has just run in another process: nobody waits to look again.
        patch.setattr(places, "OUTDATED_SECONDS", 0.0)
        patch.setattr(sys, "dont_write_bytecode", True)
        owner.vault = database.vault
        directory = TenantDirectory(owner)
        directory.create("shared")
        made = [directory.create(f"s{n}", partition_strategy="SCHEMA") for n in range(3)]
        apart = [directory.create(f"d{n}", partition_strategy="DATABASE") for n in range(2)]
        for tenant in (*made, *apart):
            add_patient(database, tenant)
        yield Story(database, owner, folder, meeting, made, apart)


def add_patient(database: Database, tenant: Tenant) -> None:
    with database.connection(tenant.id) as connection:
        connection.execute(
            "INSERT INTO patients (tenant_id, last_name, first_name, dob, sex_at_birth)"
            " VALUES (%s, 'Miller', 'X', '1980-01-01', 'FEMALE')",
            (tenant.id,),
        )


def allow_connections(cluster: EmbeddedPostgres, name: str, allowed: bool) -> None:
    with psycopg.connect(cluster.url(SUPERUSER, "postgres"), autocommit=True) as connection:
        statement = sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS {}")
        connection.execute(statement.format(sql.Identifier(name), sql.Literal(allowed)))
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", (name,)
        )


def test_at_the_newest_revision_nothing_happens(story: Story) -> None:
    found = story.upgraded()

    assert len(found) == 6
    assert {(p.from_revision, p.to_revision, p.error) for p in found.values()} == {
        ("0001", "0001", None)
    }


def test_all_places_go_along_side_by_side_and_one_that_fails_stops_nobody(
    story: Story, cluster: EmbeddedPostgres, capsys: pytest.CaptureFixture[str]
) -> None:
    # One schema has a table in the way, one database is closed.
    with psycopg.connect(story.database.owner_url) as connection:
        blocked = schema_name(story.schemas[0].id)
        connection.execute(f"CREATE TABLE {blocked}.pets (id int)".encode())
    closed = database_name(story.databases[0].id)
    allow_connections(cluster, closed, False)
    story.write("0002", "0001", WIDENED)
    story.meeting.barrier = threading.Barrier(3)

    began = time.perf_counter()
    found = story.upgraded()
    seconds = time.perf_counter() - began

    story.meeting.barrier = None
    with capsys.disabled():
        print(f"\nmigrating the platform, 3 schemas and 2 databases: {seconds:.2f} s")
    assert found[None] == Upgraded("public", None, "0001", "0002")
    failed = {found.pop(story.schemas[0].id), found.pop(story.databases[0].id)}
    assert {(place.place, place.to_revision) for place in failed} == {
        (blocked, None),
        (closed, None),
    }
    assert any('"pets" already exists' in str(place.error) for place in failed)
    assert {(p.from_revision, p.to_revision, p.error) for p in found.values()} == {
        ("0001", "0002", None)
    }


def test_a_place_that_went_along_is_what_public_is(story: Story) -> None:
    with psycopg.connect(story.database.owner_url) as connection:
        for tenant in story.schemas[1:]:
            assert differences(connection, schema_name(tenant.id)) == []
        assert differences(connection, schema_name(story.schemas[0].id)) != []

    for tenant in (*story.schemas[1:], *story.databases[1:]):
        with story.fresh() as served, served.connection(tenant.id) as connection:
            connection.execute(
                "INSERT INTO pets (tenant_id, patient_id) SELECT tenant_id, id FROM patients"
            )
            rows = connection.execute(
                "SELECT p.nickname, a.sound, a.tableoid::regclass::text FROM patients AS p"
                " JOIN pets AS a ON a.patient_id = p.id"
            ).fetchall()
        assert rows == [("miller", "woof", "pets")]


def test_what_failed_is_as_it_was(story: Story) -> None:
    name = schema_name(story.schemas[0].id)
    columns = story.asked(
        "SELECT 1 FROM pg_attribute WHERE attrelid = %s::regclass AND attname = 'nickname'",
        f"{name}.patients",
    )

    assert columns == []
    assert story.asked(f"SELECT version_num FROM {name}.alembic_version") == [("0001",)]


def test_an_outdated_place_is_not_served_and_all_others_are(story: Story) -> None:
    with story.fresh() as served:
        with (
            pytest.raises(PlaceOutdated, match=r"at revision 0001, the platform at 0002.*migrate"),
            served.connection(story.schemas[0].id),
        ):
            pass
        with served.connection(story.schemas[1].id) as connection:
            assert connection.execute("SELECT count(*) FROM patients").fetchone() == (1,)


def test_its_doors_answer_503(story: Story, tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path, database_url=story.database.url)
    app = application(settings, open_services)
    with TestClient(app, raise_server_exceptions=False) as client:
        tokens = app.state.services.tokens
        statuses = {}
        for tenant in story.schemas[:2]:
            token = tokens.issue(tenant, None, "test", Scopes.parse("system/*.cruds"))
            headers = {"Authorization": f"Bearer {token}"}
            statuses[tenant.slug] = [
                client.get(f"/t/{tenant.slug}/{path}", headers=headers).status_code
                for path in ("fhir/R4/Patient", "dicom-web/studies")
            ]

    assert statuses == {"s0": [503, 503], "s1": [200, 200]}


def test_a_tenant_that_is_made_meanwhile_begins_at_the_newest_revision(story: Story) -> None:
    made = TenantDirectory(story.owner).create("newcomer", partition_strategy="SCHEMA")

    name = schema_name(made.id)
    assert story.asked(f"SELECT version_num FROM {name}.alembic_version") == [("0002",)]
    with psycopg.connect(story.database.owner_url) as connection:
        assert differences(connection, name) == []


def test_what_is_repaired_comes_along(story: Story, cluster: EmbeddedPostgres) -> None:
    with psycopg.connect(story.database.owner_url) as connection:
        connection.execute(f"DROP TABLE {schema_name(story.schemas[0].id)}.pets".encode())
    allow_connections(cluster, database_name(story.databases[0].id), True)

    found = story.upgraded()

    assert {p.error for p in found.values()} == {None}
    assert {p.to_revision for p in found.values()} == {"0002"}
    assert {p.tenant_id for p in found.values() if p.from_revision == "0001"} == {
        story.schemas[0].id,
        story.databases[0].id,
    }
    with story.fresh() as served:
        for tenant in (story.schemas[0], story.databases[0]):
            with served.connection(tenant.id) as connection:
                found_rows = connection.execute("SELECT nickname FROM patients").fetchall()
            assert found_rows == [("miller",)]


def test_two_that_get_into_each_others_way_both_arrive(story: Story) -> None:
    story.write("0003", "0002", CROSSING)
    crossing = {schema_name(tenant.id): 0 for tenant in story.schemas[:2]}
    story.meeting.crossing, story.meeting.barrier = crossing, threading.Barrier(2)

    found = story.upgraded()

    story.meeting.barrier = None
    assert {(p.to_revision, p.error) for p in found.values()} == {("0003", None)}
    # One was chosen as the victim of a deadlock, and came again.
    assert sorted(crossing.values()) == [1, 2]


def test_a_revision_that_forgets_the_tenants_is_found_out(story: Story) -> None:
    story.write("0004", "0003", FORGETFUL)

    found = story.upgraded()

    assert found[None].to_revision == "0004"
    for tenant in story.schemas:
        assert "column patients.forgotten: missing" in str(found[tenant.id].error)
        name = schema_name(tenant.id)
        assert story.asked(f"SELECT version_num FROM {name}.alembic_version") == [("0003",)]
    for tenant in story.databases:
        assert found[tenant.id].to_revision == "0004"

    story.write("0005", "0004", CORRECTED)
    found = story.upgraded()

    assert {(p.to_revision, p.error) for p in found.values()} == {("0005", None)}


def test_an_index_of_an_operators_hand_stops_nothing(story: Story) -> None:
    with psycopg.connect(story.database.owner_url) as connection:
        connection.execute("CREATE INDEX by_hand ON patients (tenant_id, first_name)")
    story.write("0006", "0005", "upgrade = parts(None, None)\n")

    found = story.upgraded()

    assert {(p.to_revision, p.error) for p in found.values()} == {("0006", None)}


def test_the_command_says_what_failed_and_ends_with_1(
    story: Story, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INTEROP_DATABASE_URL", story.database.url)
    monkeypatch.setenv("INTEROP_DATABASE_OWNER_URL", story.database.owner_url)
    monkeypatch.setenv("INTEROP_DATA_DIR", str(tmp_path))
    name = schema_name(story.schemas[2].id)
    with psycopg.connect(story.database.owner_url) as connection:
        connection.execute(f"UPDATE {name}.alembic_version SET version_num = 'lost'".encode())

    failed = CliRunner().invoke(command_line, ["migrate", "--json"])

    assert failed.exit_code == 1
    told = {place["place"]: place["error"] for place in json.loads(failed.stdout)}
    assert "lost" in told.pop(name)
    assert len(told) == 6 and set(told.values()) == {None}

    with psycopg.connect(story.database.owner_url) as connection:
        connection.execute(f"UPDATE {name}.alembic_version SET version_num = '0006'".encode())
    repaired = CliRunner().invoke(command_line, ["migrate"])

    assert repaired.exit_code == 0
    assert "7 of 7 places are at the newest version" in repaired.stdout


def test_the_command_makes_tenants_with_places_of_their_own(
    story: Story, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INTEROP_DATABASE_URL", story.database.url)
    monkeypatch.setenv("INTEROP_DATABASE_OWNER_URL", story.database.owner_url)
    monkeypatch.setenv("INTEROP_DATA_DIR", str(tmp_path))

    def create(slug: str, *arguments: str) -> Any:
        return CliRunner().invoke(command_line, ["tenant", "create", slug, *arguments, "--json"])

    for strategy in ("SCHEMA", "DATABASE"):
        slug = f"typed-{strategy.lower()}"
        made = create(slug, "--partition-strategy", strategy)
        assert made.exit_code == 0, made.output
        home = current(story.owner, UUID(json.loads(made.stdout)["id"]))
        assert home.strategy == strategy
    refused = create("odd", "--database-url", "postgresql:///x")
    assert "DATABASE only" in str(refused.exception)
    refused = create("odd", "--partition-strategy", "TABLE")
    assert "one of ROW_LEVEL, SCHEMA, DATABASE" in str(refused.exception)


def test_a_tenant_on_its_way_is_waited_for(story: Story, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upgrading, "WAIT_SECONDS", 0.3)
    tenant = story.schemas[0]
    with psycopg.connect(story.database.owner_url, autocommit=True) as connection:
        where = "UPDATE tenants SET place = %s WHERE id = %s"
        connection.execute(where, ("", tenant.id))
        still = story.upgraded()[tenant.id]
        connection.execute(where, (schema_name(tenant.id), tenant.id))

    assert "on its way" in str(still.error)
    assert story.upgraded()[tenant.id].error is None


def test_a_database_on_another_server_needs_the_keys(story: Story) -> None:
    """Without them the place is reported, and all others go on."""
    tenant = story.databases[1]
    url = make_conninfo(story.database.owner_url, dbname=database_name(tenant.id))
    sealed = story.database.vault.seal(None, places.url_place(tenant.id), url)
    with psycopg.connect(story.database.owner_url, autocommit=True) as connection:
        where = "UPDATE tenants SET database_url_encrypted = %s WHERE id = %s"
        connection.execute(where, (sealed, tenant.id))
        without = {p.tenant_id: p for p in upgrade_all(story.database.owner_url)}
        with_keys = story.upgraded()
        connection.execute(where, (None, tenant.id))

    assert "without encryption keys" in str(without.pop(tenant.id).error)
    assert {p.error for p in without.values()} == {None}
    assert {p.error for p in with_keys.values()} == {None}


def test_a_schema_is_not_copied_from_a_public_that_is_being_migrated(story: Story) -> None:
    name = schema_name(UUID(int=1))
    with psycopg.connect(story.database.owner_url) as migrating:
        migrating.execute("SELECT pg_advisory_xact_lock(%s)", (migrations.MIGRATION_LOCK,))
        with psycopg.connect(
            story.database.owner_url, options="-c lock_timeout=300ms"
        ) as connection:
            with pytest.raises(psycopg.errors.LockNotAvailable):
                create_schema(connection, name)
            connection.rollback()
            drop_schema(connection, name)


def test_a_new_revision_begins_with_both_parts_and_their_rules(story: Story) -> None:
    command.revision(
        migrations.alembic_config(),
        "add what comes next",
        rev_id="0007",
        version_path=str(story.versions),
    )

    (written,) = story.versions.glob("0007_*.py")
    source = written.read_text()
    assert "upgrade = parts(once, for_tenants)" in source
    assert "in the schema of every SCHEMA tenant" in source
    assert {(p.to_revision, p.error) for p in story.upgraded().values()} == {("0007", None)}
