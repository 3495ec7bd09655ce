"""The sweep: what no row names goes, and nothing else."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID, uuid4

import pytest

from storage.database import Database
from storage.objects import ObjectStore, open_object_store
from storage.objects.keys import new_key
from storage.sweep import REFERENCES, sweep
from storage.tenancy import Tenant

# Columns with such a name that hold addresses of others, never an object of ours.
FOREIGN_ADDRESSES = {
    "client_uri", "code_system_uri", "continue_path", "jwks_uri", "launch_uri", "redirect_uri",
    "redirect_uris",
}  # fmt: skip
HOUR = timedelta(hours=1)


@pytest.fixture
def objects(tmp_path: Path) -> ObjectStore:
    return open_object_store(f"file://{tmp_path / 'objects'}")


def store(objects: ObjectStore, tenant: Tenant, age: timedelta) -> str:
    written = datetime.now(UTC) - age
    key = new_key(tenant.id, written)
    objects.put_bytes(key, b"DICM" * 100)
    path = objects.local_path(key)
    assert path is not None
    os.utime(path, (written.timestamp(),) * 2)
    return key


def quarantine(database: Database, tenant_id: UUID, key: str) -> None:
    with database.connection(tenant_id) as connection:
        connection.execute(
            "INSERT INTO quarantined_objects"
            " (tenant_id, storage_uri, hash, reason_code, reason, source, created_by, updated_by)"
            " VALUES (%s, %s, %s, 'A900', 'test', 'test', 'test', 'test')",
            (tenant_id, key, uuid4().hex),
        )


def keys_of(objects: ObjectStore) -> set[str]:
    return {found.key for found in objects.list("")}


def test_old_object_without_a_row_is_deleted_and_reported(
    database: Database, tenant: Tenant, objects: ObjectStore
) -> None:
    kept, orphan = store(objects, tenant, 3 * HOUR), store(objects, tenant, 3 * HOUR)
    quarantine(database, tenant.id, kept)

    report = sweep(database, objects)

    assert keys_of(objects) == {kept}
    assert (report.objects, report.deleted, report.unreferenced_bytes) == (2, 1, 400)
    with pytest.raises(Exception, match=orphan):
        objects.stat(orphan)


def test_dry_run_deletes_nothing(database: Database, tenant: Tenant, objects: ObjectStore) -> None:
    orphan = store(objects, tenant, 3 * HOUR)

    report = sweep(database, objects, dry_run=True)

    assert keys_of(objects) == {orphan}
    assert (report.unreferenced, report.deleted, report.is_dry_run) == (1, 0, True)


def test_young_object_is_a_write_under_way(
    database: Database, tenant: Tenant, objects: ObjectStore
) -> None:
    young = store(objects, tenant, timedelta(minutes=5))
    old_name_written_now = new_key(tenant.id, datetime.now(UTC) - 5 * HOUR)
    objects.put_bytes(old_name_written_now, b"a clock was wrong")

    sweep(database, objects)

    assert keys_of(objects) == {young, old_name_written_now}


def test_another_tenants_row_keeps_no_object(
    database: Database, tenant: Tenant, other_tenant: Tenant, objects: ObjectStore
) -> None:
    orphan = store(objects, tenant, 3 * HOUR)
    quarantine(database, other_tenant.id, orphan)
    others = store(objects, other_tenant, 3 * HOUR)
    quarantine(database, other_tenant.id, others)

    sweep(database, objects)

    assert keys_of(objects) == {others}


def test_key_of_another_make_is_left_alone(
    database: Database, tenant: Tenant, objects: ObjectStore
) -> None:
    objects.put_bytes(f"{tenant.id}/backup", b"an operator put this here")
    path = objects.local_path(f"{tenant.id}/backup")
    assert path is not None
    os.utime(path, (0, 0))

    sweep(database, objects)

    assert keys_of(objects) == {f"{tenant.id}/backup"}


def test_span_limits_what_is_listed(
    database: Database, tenant: Tenant, objects: ObjectStore
) -> None:
    recent, ancient = store(objects, tenant, 3 * HOUR), store(objects, tenant, 100 * HOUR)

    sweep(database, objects, within=24 * HOUR)

    assert keys_of(objects) == {ancient}
    assert recent != ancient


def test_more_objects_than_one_batch(
    database: Database, tenant: Tenant, objects: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("storage.sweep.BATCH", 7)
    kept = {store(objects, tenant, 3 * HOUR) for _ in range(10)}
    for key in kept:
        quarantine(database, tenant.id, key)
    for _ in range(20):
        store(objects, tenant, 3 * HOUR)

    report = sweep(database, objects)

    assert keys_of(objects) == kept
    assert report.deleted == 20


def test_span_shorter_than_a_write_may_take_is_refused(
    database: Database, objects: ObjectStore
) -> None:
    with pytest.raises(ValueError, match="younger"):
        sweep(database, objects, timedelta(minutes=1))


def test_half_written_files_are_removed(database: Database, tmp_path: Path) -> None:
    objects = open_object_store(f"file://{tmp_path}")
    half = tmp_path / ".tmp" / "half"
    half.write_bytes(b"half a write")
    os.utime(half, (0, 0))

    assert sweep(database, objects).abandoned_writes == 1
    assert not half.exists()


def test_every_column_that_names_an_object_is_known_to_the_sweep(database: Database) -> None:
    with database.platform_connection() as connection:
        found = connection.execute(
            "SELECT a.table_name, a.column_name FROM information_schema.columns AS a"
            " JOIN information_schema.columns AS t"
            " ON t.table_name = a.table_name AND t.column_name = 'tenant_id'"
            " WHERE a.table_schema = 'public' AND a.table_name NOT LIKE 'fhir\\_%'"
            " AND a.column_name ~ '(_uris?|_path|object_key)$'"
        ).fetchall()

    assert {row for row in found if row[1] not in FOREIGN_ADDRESSES} == set(REFERENCES)
