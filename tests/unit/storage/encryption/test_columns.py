"""What is declared as sealed is sealed: in the models, in the database, and for who writes rows."""

from __future__ import annotations

from uuid import uuid4

import psycopg
import pytest
from psycopg import errors

from storage.database import Database, vault_of
from storage.encryption import SEALED, KeyDestroyed, SealBroken, open_row, place, seal_row, shred
from storage.encryption.rotation import reseal, rotate
from storage.encryption.vault import Sealer
from storage.schema import Sensitivity, metadata
from storage.tenancy import Tenant, TenantDirectory

POLICY = "patient_insurance_policies"


def test_the_declared_columns_are_those_that_the_models_mark() -> None:
    declared = {(table, column.name) for table, columns in SEALED.items() for column in columns}

    assert declared == {
        (table.name, column.name)
        for table in metadata.sorted_tables
        for column in table.c
        if column.info.get("sealed")
    }
    for table, columns in SEALED.items():
        is_global = metadata.tables[table].info["scope"] == "global"
        assert all(column.is_global == is_global for column in columns), table


def test_every_encrypted_secret_is_sealed_or_lives_for_minutes() -> None:
    """signing_keys.private_jwk lies under the master key, and so does what a sign-in waits with."""
    named = {
        (table.name, column.name)
        for table in metadata.sorted_tables
        for column in table.c
        if column.name.endswith("_encrypted")
    }
    sealed = {(table, column.name) for table, columns in SEALED.items() for column in columns}

    assert named - sealed == {("sign_in_challenges", "secret_encrypted")}
    for table, column in named:
        assert metadata.tables[table].c[column].info["phi"] is Sensitivity.RESTRICTED


@pytest.mark.parametrize(
    ("table", "column"),
    [(table, column.name) for table, columns in SEALED.items() for column in columns],
)
def test_the_database_refuses_clear_text_from_whatever_hand(
    owner_url: str, table: str, column: str
) -> None:
    with psycopg.connect(owner_url, autocommit=True) as owner:
        found = owner.execute(
            "SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conrelid = %s::regclass"
            " AND contype = 'c'",
            (table,),
        ).fetchall()

    assert [row for row in found if f"({column} ~~ 'sealed:%'" in row[0]], found


@pytest.fixture
def policy_holder(database: Database, tenant: Tenant) -> tuple[Tenant, str]:
    with database.connection(tenant.id) as connection:
        row = connection.execute(
            "INSERT INTO patients (tenant_id, last_name) VALUES (%s, 'Ko') RETURNING id",
            (tenant.id,),
        ).fetchone()
    assert row is not None
    return tenant, str(row[0])


def test_a_row_is_sealed_opened_and_found_by_its_blind_index(
    database: Database, policy_holder: tuple[Tenant, str]
) -> None:
    tenant, patient_id = policy_holder
    row = {"id": uuid4(), "patient_id": patient_id, "policy_number": "AB 123-4", "plan_name": "X"}

    with database.connection(tenant.id) as connection:
        written = seal_row(database.vault, tenant.id, POLICY, row, connection)
        names = ", ".join(["tenant_id", *written])
        places = ", ".join(["%s"] * (len(written) + 1))
        connection.execute(
            f"INSERT INTO {POLICY} ({names}) VALUES ({places})", (tenant.id, *written.values())
        )
    with database.connection(tenant.id) as connection:
        index = database.vault.blind_index(tenant.id, f"{POLICY}.policy_number", "ab1234")
        found = connection.execute(
            f"SELECT id, policy_number FROM {POLICY} WHERE tenant_id = %s"
            " AND policy_number_index = %s",
            (tenant.id, index),
        ).fetchall()
        read = open_row(
            vault_of(connection), tenant.id, POLICY,
            {"id": found[0][0], "policy_number": found[0][1]}, connection,
        )  # fmt: skip

    assert len(found) == 1 and "1234" not in found[0][1]
    assert read["policy_number"] == "AB 123-4"


def test_a_row_of_another_kind_stays_as_it_is(database: Database, tenant: Tenant) -> None:
    row = {"id": uuid4(), "system": "MRN", "assigner": "https://clinic.example", "value": "1"}

    written = seal_row(database.vault, tenant.id, "patient_identifiers", row)

    assert written == {**row, "value_index": None}
    assert open_row(database.vault, tenant.id, "patient_identifiers", row) == row


def test_clear_text_is_refused_also_by_an_update(
    database: Database, policy_holder: tuple[Tenant, str]
) -> None:
    tenant, patient_id = policy_holder
    with (
        pytest.raises(errors.CheckViolation, match="policy_number_sealed"),
        database.connection(tenant.id) as connection,
    ):
        connection.execute(
            f"INSERT INTO {POLICY} (tenant_id, patient_id, policy_number) VALUES (%s, %s, 'AB 1')",
            (tenant.id, patient_id),
        )


def test_the_platforms_secrets_rotate_and_are_sealed_anew(database: Database) -> None:
    """A second factor belongs to a user, who may be a member of several tenants."""
    table, column = "user_auth_identities", "mfa_secret_encrypted"
    identity = uuid4()
    sealed = Sealer(database.vault, None).seal("JBSWY3DP", place(table, column, identity))
    with database.platform_connection() as connection:
        user = connection.execute(
            "INSERT INTO users (full_name) VALUES ('Kim') RETURNING id"
        ).fetchone()
        assert user is not None
        connection.execute(
            f"INSERT INTO {table} (id, user_id, provider, subject, {column})"
            " VALUES (%s, %s, 'PASSWORD', 'kim', %s)",
            (identity, user[0], sealed),
        )

    version = rotate(database, None)

    assert reseal(database, None) == 1
    assert reseal(database, None) == 0
    with database.platform_connection() as connection:
        row = connection.execute(
            f"SELECT {column} FROM {table} WHERE id = %s", (identity,)
        ).fetchone()
    assert row is not None and row[0].startswith(f"sealed:{version}:")
    assert Sealer(database.vault, None).open(row[0], place(table, column, identity)) == "JBSWY3DP"


def test_a_value_that_somebody_moved_does_not_stop_the_others_from_being_sealed_anew(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    tenant = TenantDirectory(database).create(f"moved-{uuid4().hex[:12]}")
    vault, table = database.vault, "identity_providers"
    ids = sorted(uuid4() for _ in range(3))
    with database.connection(tenant.id) as connection:
        for index, row in enumerate(ids):
            where = place(table, "client_secret_encrypted", ids[0] if index == 1 else row)
            connection.execute(
                f"INSERT INTO {table} (tenant_id, id, name, display_name, issuer, client_id,"
                " client_secret_encrypted) VALUES (%s, %s, %s, 'P', 'https://p', 'c', %s)",
                (tenant.id, row, f"p{index}", vault.seal(tenant.id, where, "s3cret", connection)),
            )
    rotate(database, tenant.id)

    assert reseal(database, tenant.id) == 2

    assert [record.message for record in caplog.records] == ["seal_broken"]
    assert "s3cret" not in caplog.text
    with pytest.raises(SealBroken), database.connection(tenant.id) as connection:
        moved = connection.execute(
            f"SELECT client_secret_encrypted FROM {table} WHERE id = %s", (ids[1],)
        ).fetchone()
        assert moved is not None
        vault.open(tenant.id, place(table, "client_secret_encrypted", ids[1]), moved[0], connection)
    with database.connection(tenant.id) as connection:
        shred(connection, tenant.id)
    with pytest.raises(KeyDestroyed):
        reseal(database, tenant.id)
