"""A tenant with rows in every table goes through all strategies, and nothing is lost or changed."""

from __future__ import annotations

from collections.abc import Iterator
from uuid import uuid4

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo

from interop.dicom.ingest import Ingest, Source
from interop.dicom.spool import Spool
from storage import jobs
from storage.objects import ObjectStore
from storage.partitions.moving import move
from storage.partitions.provisioning import Destination
from storage.schema import metadata
from storage.tenancy import Tenant, TenantDirectory
from tests.conftest import MigratedDatabase
from tests.integration.partitions.every_table import fill, fill_catalogs
from tests.integration.partitions.moving_world import World, without_moves
from tests.unit.interop.dicom.factories import instance, spooled

pytestmark = pytest.mark.usefixtures("short_memory")

# Every direction between two strategies, and from one database to another.
ROUTE = ("SCHEMA", "DATABASE", "SCHEMA", "ROW_LEVEL", "DATABASE", "ELSEWHERE", "ROW_LEVEL")

JOBS = ("procrastinate_jobs",)


# Long enough for what processes remember, in these tests.
GRACE_SECONDS = 0.6


@pytest.fixture(scope="module")
def moving_tenant(
    world: World,
    tenant: Tenant,
    other_tenant: Tenant,
    object_store: ObjectStore,
    tmp_path_factory: pytest.TempPathFactory,
) -> Tenant:
    """A tenant with rows in every table, images, sealed log, jobs; the other one has them too."""
    with psycopg.connect(world.owner.url) as connection:
        fill_catalogs(connection)
    below = create_below(world, tenant)
    spool = Spool(tmp_path_factory.mktemp("spool"))
    ingest = Ingest(world.database, object_store, spool)
    for one in (tenant, other_tenant):
        with world.database.connection(one.id) as connection:
            fill(connection, one, below=below.id if one is tenant else None)
            jobs.defer(connection, "check_study", {"tenant_id": str(one.id), "study_id": "1"})
            jobs.defer(
                connection,
                "reseal",
                {"tenant_id": str(one.id)},
                queueing_lock=f"reseal {one.id}",
                lock="l",
                priority=3,
            )
        for number in range(3):
            source = Source("C-STORE", "MODALITY", calling_ae_title="MODALITY")
            dataset = instance(PatientID=f"P{number}", PatientName="Zoë^Ko")
            outcome = ingest.store(one, spooled(spool, dataset), source)
            assert outcome.is_success, outcome
        world.seal(one)
        with world.database.connection(one.id) as connection:
            jobs.defer(connection, "check_study", {"tenant_id": str(one.id), "study_id": "2"})
    ingest.close()
    return tenant


def create_below(world: World, parent: Tenant) -> Tenant:
    return TenantDirectory(world.owner).create(f"below-{parent.slug}", parent_id=parent.id)


@pytest.fixture(scope="module")
def elsewhere(database: MigratedDatabase) -> Iterator[str]:
    """An empty database that an operator has made, by its owner's URL."""
    name = f"moved_{uuid4().hex}"
    with psycopg.connect(database.owner_url, autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        yield make_conninfo(database.owner_url, dbname=name)
        connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


def stayed(world: World, tenant: Tenant, left: Destination) -> dict[str, int]:
    """What of a tenant is left in the platform's database, where it should not be."""
    place = world.place(tenant)
    if left.strategy == "SCHEMA":
        assert not world.execute("SELECT FROM pg_namespace WHERE nspname = %s", left.place)
    if left.strategy == "DATABASE" and left.database_url is None:
        assert not world.execute("SELECT FROM pg_database WHERE datname = %s", left.database_name)
    found = world.leftovers(tenant, Destination("ROW_LEVEL", "public"))
    if place.strategy == "DATABASE":
        return found
    shared = [t.name for t in metadata.sorted_tables if t.info["scope"] != "tenant"]
    if place.strategy == "SCHEMA":
        return {name: n for name, n in found.items() if name not in [*shared, *JOBS]}
    return {}


def test_a_tenant_goes_through_all_strategies_and_nothing_is_lost_or_changed(
    world: World, moving_tenant: Tenant, other_tenant: Tenant, elsewhere: str
) -> None:
    before = world.rows(moving_tenant)
    theirs = world.rows(other_tenant)
    assert all(before[name] for name in before), "a table is empty"

    for number, step in enumerate(ROUTE, 1):
        left = world.place(moving_tenant)
        strategy, url = ("DATABASE", elsewhere) if step == "ELSEWHERE" else (step, None)
        moved = move(world.owner, moving_tenant.id, strategy, url, grace_seconds=GRACE_SECONDS)

        assert without_moves(world.rows(moving_tenant)) == before, step
        assert world.rows(other_tenant) == theirs, step
        assert world.audit_problem(moving_tenant) is None, step
        assert len(world.moves(moving_tenant)) == number
        assert world.moves(moving_tenant)[-1]["to"] == strategy
        assert world.is_tidy()
        arrived = world.place(moving_tenant)
        assert (arrived.strategy, arrived.database_url) == (strategy, url)
        assert sum(moved.rows.values()) == world.moves(moving_tenant)[-1]["rows"]
        assert not stayed(world, moving_tenant, left), step
        world.seal(moving_tenant)
        before = without_moves(world.rows(moving_tenant))
