"""`interop doctor` names each place that cannot be used, and what to do about it."""

from __future__ import annotations

from pathlib import Path
from uuid import uuid4

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from interop.doctor import Check, examine
from interop.settings import Settings
from storage.tenancy import Tenant
from tests.conftest import MakePlacedTenant, MigratedDatabase


@pytest.fixture(scope="module")
def placed(placed_tenant: MakePlacedTenant) -> tuple[Tenant, Tenant]:
    """A tenant with a schema, and one with a database."""
    slugs = [f"t{uuid4().hex[:12]}" for _ in range(2)]
    return (
        placed_tenant(slugs[0], slugs[0].upper()[:16], "SCHEMA"),
        placed_tenant(slugs[1], slugs[1].upper()[:16], "DATABASE"),
    )


def places(database: MigratedDatabase, tmp_path: Path) -> Check:
    settings = Settings(
        data_dir=tmp_path, database_url=database.url, database_owner_url=database.owner_url
    )
    return next(check for check in examine(settings) if check.name == "places")


def test_all_is_well(
    database: MigratedDatabase, placed: tuple[Tenant, Tenant], tmp_path: Path
) -> None:
    check = places(database, tmp_path)

    assert check.ok, check.detail
    assert check.detail.startswith("1 schemas and 1 databases of tenants, all reachable")


def test_a_database_that_does_not_answer_is_named(
    database: MigratedDatabase, placed: tuple[Tenant, Tenant], tmp_path: Path
) -> None:
    apart = placed[1]
    name = f"interop_t_{apart.id.hex}"
    with psycopg.connect(database.owner_url, autocommit=True) as owner:
        owner.execute(f"ALTER DATABASE {name} WITH ALLOW_CONNECTIONS false")
        try:
            check = places(database, tmp_path)
        finally:
            owner.execute(f"ALTER DATABASE {name} WITH ALLOW_CONNECTIONS true")

    assert not check.ok
    assert f"{apart.slug}: {name} cannot be reached" in check.detail


def test_a_place_at_another_revision_is_named(
    database: MigratedDatabase, placed: tuple[Tenant, Tenant], tmp_path: Path
) -> None:
    schema = placed[0]
    url = make_conninfo(database.owner_url, options=f"-c search_path=t_{schema.id.hex}")
    with psycopg.connect(url, autocommit=True) as owner:
        (revision,) = owner.execute("SELECT version_num FROM alembic_version").fetchone() or ("",)
        owner.execute("UPDATE alembic_version SET version_num = 'older'")
        try:
            check = places(database, tmp_path)
        finally:
            owner.execute("UPDATE alembic_version SET version_num = %s", (revision,))

    assert not check.ok
    assert f"{schema.slug}: t_{schema.id.hex} is at revision older" in check.detail
    assert "interop migrate" in check.detail
