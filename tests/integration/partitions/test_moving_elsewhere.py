"""A tenant goes to another server, where transactions have other numbers."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest

from storage.embedded import OWNER_ROLE, EmbeddedPostgres
from storage.partitions import moving
from storage.partitions.moving import MoveFailed, move
from storage.tenancy import Tenant
from tests.conftest import start_cluster
from tests.integration.partitions.every_table import SECRET, fill, fill_catalogs
from tests.integration.partitions.moving_world import World, without_moves

pytestmark = pytest.mark.usefixtures("short_memory")

# More than a new server has used.
MANY = 30_000


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An empty database of another server, by its owner's URL."""
    server: EmbeddedPostgres = start_cluster(tmp_path_factory.mktemp("elsewhere"))
    with psycopg.connect(server.url(OWNER_ROLE, "postgres"), autocommit=True) as connection:
        connection.execute("CREATE DATABASE clinic")
    yield server.url(OWNER_ROLE, "clinic")
    server.stop()


@pytest.fixture
def filled(world: World, tenant: Tenant) -> Tenant:
    world.execute(
        f"DO $$ BEGIN FOR i IN 1..{MANY} LOOP PERFORM pg_current_xact_id(); COMMIT;"
        " END LOOP; END $$"
    )
    with psycopg.connect(world.owner.url) as connection:
        fill_catalogs(connection)
    with world.database.connection(tenant.id) as connection:
        fill(connection, tenant)
    world.seal(tenant)
    return tenant


def test_a_tenant_goes_to_another_server_and_back_and_its_log_can_be_sealed_on(
    world: World, filled: Tenant, elsewhere: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = without_moves(world.rows(filled))
    with monkeypatch.context() as strict:
        strict.setattr(moving, "TRANSACTIONS_BEHIND", 100)
        with pytest.raises(MoveFailed, match="could not be sealed there"):
            move(world.owner, filled.id, "DATABASE", elsewhere)
    assert world.is_tidy()

    move(world.owner, filled.id, "DATABASE", elsewhere, grace_seconds=0)

    assert without_moves(world.rows(filled)) == before
    world.seal(filled)
    assert world.audit_problem(filled) is None
    sealed = world.database.vault
    with world.database.connection(filled.id) as connection:
        row = connection.execute(
            "SELECT id, secret_encrypted FROM integration_credentials WHERE tenant_id = %s LIMIT 1",
            (filled.id,),
        ).fetchone()
        assert row is not None
        where = f"integration_credentials.secret_encrypted:{row[0]}"
        assert sealed.open(filled.id, where, row[1], connection) == SECRET + where

    move(world.owner, filled.id, "ROW_LEVEL", grace_seconds=0.6)
    world.seal(filled)
    assert world.audit_problem(filled) is None
    with psycopg.connect(elsewhere) as connection:
        assert connection.execute(
            "SELECT count(*) FROM pg_class WHERE relnamespace = 'public'::regnamespace"
        ).fetchone() == (0,)
