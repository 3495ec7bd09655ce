"""FHIR resources that are up to date stay so: a move is nothing that a resource tells of."""

from __future__ import annotations

import pytest

from interop.fhir.rendering import render_stale
from storage.partitions.moving import move
from storage.tenancy import Tenant
from tests.integration.partitions.moving_world import World

pytestmark = pytest.mark.usefixtures("short_memory")

GRACE_SECONDS = 0.6


@pytest.mark.parametrize("strategy", ["SCHEMA", "DATABASE"])
def test_rendered_resources_come_to_the_shared_tables_as_they_are(
    world: World, tenant: Tenant, strategy: str
) -> None:
    move(world.owner, tenant.id, strategy, grace_seconds=GRACE_SECONDS)
    render_stale(world.database, tenant.id, own_base="http://x/t/demo/fhir/R4")
    with world.database.connection(tenant.id) as connection:
        types = connection.execute(
            "SELECT array_agg(DISTINCT resource_type) FROM fhir_resources WHERE NOT stale"
        ).fetchone()
    before = world.rows(tenant)["fhir_resources"]

    move(world.owner, tenant.id, "ROW_LEVEL", grace_seconds=GRACE_SECONDS)

    # That which the row of the registry is presented as.
    assert types is not None and "Organization" in types[0]
    assert world.rows(tenant)["fhir_resources"] == before
