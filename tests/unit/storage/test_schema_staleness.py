"""A row changed outside the lenses marks its FHIR resource stale, in the same transaction."""

from __future__ import annotations

from uuid import UUID, uuid4

import psycopg
import pytest

from storage.database import Connection, Database
from storage.schema import metadata
from storage.schema.presentation import PRESENTED, SOURCES
from storage.tenancy import Tenant


def stale(connection: Connection, tenant: Tenant, resource_type: str) -> set[UUID]:
    rows = connection.execute(
        "SELECT row_id FROM fhir_resources WHERE tenant_id = %s AND resource_type = %s AND stale",
        (tenant.id, resource_type),
    ).fetchall()
    return {row[0] for row in rows}


def render_all(connection: Connection, tenant: Tenant) -> None:
    """Stand in for the renderer: all is fresh."""
    connection.execute("UPDATE fhir_resources SET stale = false WHERE tenant_id = %s", (tenant.id,))


def insert(connection: Connection, table: str, tenant: Tenant, **values: object) -> UUID:
    names = ["tenant_id", *values]
    statement = (
        f"INSERT INTO {table} ({', '.join(names)})"
        f" VALUES ({', '.join(['%s'] * len(names))}) RETURNING id"
    )
    row = connection.execute(statement, (tenant.id, *values.values())).fetchone()
    assert row is not None
    return UUID(str(row[0]))


@pytest.fixture
def connection(database: Database, tenant: Tenant):  # type: ignore[no-untyped-def]
    with database.connection(tenant.id) as bound:
        yield bound
        bound.rollback()


def test_a_new_row_makes_a_stub_under_its_own_id(connection: Connection, tenant: Tenant) -> None:
    patient = insert(connection, "patients", tenant)

    row = connection.execute(
        "SELECT resource_id, version, body, stale, deleted FROM fhir_resources"
        " WHERE tenant_id = %s AND resource_type = 'Patient' AND row_id = %s",
        (tenant.id, patient),
    ).fetchone()
    assert row == (str(patient), 0, "", True, False)


def test_a_changed_row_marks_the_resource_whatever_its_id(
    connection: Connection, tenant: Tenant
) -> None:
    patient = insert(connection, "patients", tenant)
    connection.execute(
        "UPDATE fhir_resources SET resource_id = 'p-1', version = 3, body = '{}', stale = false"
        " WHERE row_id = %s",
        (patient,),
    )

    connection.execute("UPDATE patients SET last_name = 'Ko' WHERE id = %s", (patient,))

    row = connection.execute(
        "SELECT resource_id, version, body, stale FROM fhir_resources WHERE row_id = %s",
        (patient,),
    ).fetchall()
    assert row == [("p-1", 3, "{}", True)]


def test_a_deleted_row_marks_the_resource(connection: Connection, tenant: Tenant) -> None:
    patient = insert(connection, "patients", tenant)
    render_all(connection, tenant)

    connection.execute("DELETE FROM patients WHERE id = %s", (patient,))

    assert stale(connection, tenant, "Patient") == {patient}


def test_a_lens_marks_nothing(connection: Connection, tenant: Tenant) -> None:
    connection.execute("SELECT set_config('app.lens', 'on', true)")

    insert(connection, "patients", tenant)

    assert stale(connection, tenant, "Patient") == set()


def test_a_part_marks_the_whole(connection: Connection, tenant: Tenant) -> None:
    patient = insert(connection, "patients", tenant)
    render_all(connection, tenant)

    insert(connection, "patient_identifiers", tenant, patient_id=patient, value="1")

    assert stale(connection, tenant, "Patient") == {patient}


def test_a_part_that_moves_marks_both(connection: Connection, tenant: Tenant) -> None:
    one = insert(connection, "patients", tenant)
    other = insert(connection, "patients", tenant)
    identifier = insert(connection, "patient_identifiers", tenant, patient_id=one, value="1")
    render_all(connection, tenant)

    connection.execute(
        "UPDATE patient_identifiers SET patient_id = %s WHERE id = %s", (other, identifier)
    )

    assert stale(connection, tenant, "Patient") == {one, other}


def test_an_image_marks_its_study(connection: Connection, tenant: Tenant) -> None:
    patient = insert(connection, "patients", tenant)
    study = insert(
        connection, "imaging_studies", tenant, patient_id=patient, study_uid=f"2.25.{uuid4().int}"
    )
    render_all(connection, tenant)

    insert(connection, "imaging_series", tenant, study_id=study, series_uid="1.2")

    assert stale(connection, tenant, "ImagingStudy") == {study}


def test_one_statement_marks_every_row_it_touched(connection: Connection, tenant: Tenant) -> None:
    patients = {insert(connection, "patients", tenant) for _ in range(5)}
    render_all(connection, tenant)

    connection.execute(
        "UPDATE patients SET status = 'INACTIVE' WHERE id = ANY(%s)", (list(patients),)
    )

    assert stale(connection, tenant, "Patient") == patients


def test_only_a_patients_consent_is_presented(connection: Connection, tenant: Tenant) -> None:
    patient = insert(connection, "patients", tenant)
    insert(
        connection,
        "consents",
        tenant,
        subject_type="TENANT",
        subject_id=tenant.id,
        consent_type="RESEARCH",
    )
    mine = insert(connection, "consents", tenant, subject_id=patient, consent_type="AI_ANALYSIS")

    assert stale(connection, tenant, "Consent") == {mine}


def test_a_renamed_user_marks_the_practitioner(connection: Connection, tenant: Tenant) -> None:
    row = connection.execute("INSERT INTO users (full_name) VALUES ('A') RETURNING id").fetchone()
    assert row is not None
    insert(connection, "user_tenants", tenant, user_id=row[0])
    render_all(connection, tenant)

    connection.execute("UPDATE users SET full_name = 'B' WHERE id = %s", row)

    assert stale(connection, tenant, "Practitioner") == {row[0]}


def test_a_renamed_tenant_marks_its_organization(connection: Connection, tenant: Tenant) -> None:
    render_all(connection, tenant)

    connection.execute("UPDATE tenants SET name = 'Renamed' WHERE id = %s", (tenant.id,))

    assert stale(connection, tenant, "Organization") == {tenant.id}


def test_the_worker_is_told_once_a_transaction(
    database: Database, owner_url: str, tenant: Tenant
) -> None:
    with psycopg.connect(owner_url, autocommit=True) as listener:
        listener.execute("LISTEN fhir_stale")
        with database.connection(tenant.id) as bound:
            for _ in range(3):
                insert(bound, "patients", tenant)

        told = [(note.channel, note.payload) for note in listener.notifies(timeout=1, stop_after=2)]

    assert told == [("fhir_stale", str(tenant.id))]


def test_a_rolled_back_change_marks_nothing(database: Database, tenant: Tenant) -> None:
    with database.connection(tenant.id) as bound:
        patient = insert(bound, "patients", tenant)
        bound.rollback()
    with database.connection(tenant.id) as bound:
        assert patient not in stale(bound, tenant, "Patient")


@pytest.mark.parametrize("table", sorted(set(PRESENTED) - set(SOURCES) | {"consents"}))
def test_every_presented_column_exists(table: str) -> None:
    for presented in PRESENTED[table]:
        assert presented.source or presented.column in metadata.tables[table].c
        assert {*presented.when} <= {*metadata.tables[table].c.keys()}
