"""Secrets of people in a tenant's database are sealed with the platform's keys, which lie apart."""

from __future__ import annotations

from uuid import UUID, uuid4

import psycopg
import pytest

from storage.database import Connection, vault_of
from storage.encryption import rotation
from storage.encryption.columns import place
from storage.encryption.vault import Vault
from storage.tenancy import Tenant
from tests.conftest import MakePlacedTenant, MigratedDatabase

SECRET = "JBSWY3DPEHPK3PXP"
TABLE, COLUMN = "user_auth_identities", "mfa_secret_encrypted"


def enrol(connection: Connection) -> UUID:
    """A user with a second factor."""
    user = connection.execute("INSERT INTO users (full_name) VALUES ('A') RETURNING id").fetchone()
    assert user is not None
    identity = uuid4()
    sealed = vault_of(connection).seal(None, place(TABLE, COLUMN, identity), SECRET, connection)
    connection.execute(
        "INSERT INTO user_auth_identities (id, user_id, provider, subject, mfa_secret_encrypted)"
        " VALUES (%s, %s, 'PASSWORD', %s, %s)",
        (identity, user[0], str(identity), sealed),
    )
    return identity


def stored(connection: Connection, identity: UUID) -> str:
    row = connection.execute(
        "SELECT mfa_secret_encrypted FROM user_auth_identities WHERE id = %s", (identity,)
    ).fetchone()
    assert row is not None
    return str(row[0])


@pytest.fixture
def apart(placed_tenant: MakePlacedTenant) -> Tenant:
    slug = f"t{uuid4().hex[:12]}"
    return placed_tenant(slug, slug.upper()[:16], "DATABASE")


def test_a_secret_of_a_tenants_database_opens_in_another_process(
    database: MigratedDatabase, apart: Tenant
) -> None:
    with database.connection(apart.id) as connection:
        identity = enrol(connection)
    # It remembers no key, and finds none where the connection leads.
    fresh = Vault(database, database.vault.providers)

    with database.connection(apart.id) as connection:
        keys = connection.execute("SELECT count(*) FROM platform_data_keys").fetchone()
        sealed = stored(connection, identity)
        opened = fresh.open(None, place(TABLE, COLUMN, identity), sealed, connection)

    assert keys == (0,)
    assert opened == SECRET


def test_rotation_of_the_platforms_key_reaches_every_database(
    database: MigratedDatabase, apart: Tenant, tenant: Tenant
) -> None:
    identities = {}
    for one in (apart, tenant):
        with database.connection(one.id) as connection:
            identities[one.id] = enrol(connection)

    version = rotation.rotate(database, None)
    changed = rotation.reseal(database, None)

    assert changed >= 2
    for one in (apart, tenant):
        with database.connection(one.id) as connection:
            assert stored(connection, identities[one.id]).startswith(f"sealed:{version}:")


def test_one_that_does_not_answer_leaves_the_others_resealed_and_the_job_to_be_repeated(
    database: MigratedDatabase, apart: Tenant, tenant: Tenant
) -> None:
    with database.connection(tenant.id) as connection:
        identity = enrol(connection)
    version = rotation.rotate(database, None)
    name = f"interop_t_{apart.id.hex}"
    with psycopg.connect(database.owner_url, autocommit=True) as owner:
        owner.execute(f"ALTER DATABASE {name} WITH ALLOW_CONNECTIONS false")
        owner.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", (name,)
        )
        with pytest.raises(psycopg.OperationalError):
            rotation.reseal(database, None)
        owner.execute(f"ALTER DATABASE {name} WITH ALLOW_CONNECTIONS true")

    with database.connection(tenant.id) as connection:
        assert stored(connection, identity).startswith(f"sealed:{version}:")
    database.router.place_of(apart.id).pool.check()
    assert rotation.reseal(database, None) == 0
