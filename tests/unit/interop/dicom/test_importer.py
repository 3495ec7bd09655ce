"""Import of files and folders: repeatable, and nothing but regular files is read."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from interop.dicom.importer import import_paths
from interop.dicom.ingest import Ingest
from interop.dicom.spool import Spool
from storage.database import Database
from storage.objects import ObjectStore
from storage.tenancy import Tenant

from .factories import CORPUS, encoded, instance


@dataclass(frozen=True)
class Services:
    ingest: Ingest
    spool: Spool


@pytest.fixture
def services(database: Database, object_store: ObjectStore, tmp_path: Path) -> Iterator[Services]:
    spool = Spool(tmp_path / "spool")
    made = Services(Ingest(database, object_store, spool), spool)
    yield made
    made.ingest.close()
    spool.close()


def test_import_can_be_repeated(services: Services, tenant: Tenant, tmp_path: Path) -> None:
    folder = tmp_path / "disc" / "A"
    folder.mkdir(parents=True)
    for n in range(5):
        (folder / str(n)).write_bytes(encoded(instance(PatientID="IMPORT")))
    (folder / "notes.txt").write_text("not an image " * 40)
    seen: list[tuple[int, ...]] = []

    first = import_paths(services, tenant, [tmp_path / "disc"], lambda *told: seen.append(told))
    second = import_paths(services, tenant, [tmp_path / "disc"])

    assert (first.stored, first.refused, first.duplicates) == (5, 1, 0)
    assert (second.stored, second.refused, second.duplicates) == (0, 1, 5)
    assert seen == [(0, 6), *[(1,)] * 6]
    assert "notes.txt" in first.problems[0]


def test_b7_links_pipes_and_sockets_are_not_read(
    services: Services, tenant: Tenant, tmp_path: Path
) -> None:
    outside = tmp_path / "outside.dcm"
    outside.write_bytes(encoded(instance()))
    folder = tmp_path / "disc"
    folder.mkdir()
    (folder / "link").symlink_to(outside)
    (folder / "folder").symlink_to(tmp_path)
    os.mkfifo(folder / "fifo")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.path.relpath(folder / "socket"))

        report = import_paths(services, tenant, [folder, folder / "link", Path("/dev/zero")])

    assert report.stored == 0
    assert report.skipped == 6


def test_missing_path_is_reported(services: Services, tenant: Tenant, tmp_path: Path) -> None:
    report = import_paths(services, tenant, [tmp_path / "nothing"])

    assert report.failed == 1
    assert "nothing" in report.problems[0]


def test_every_file_of_pydicom_is_stored_byte_for_byte_or_refused_with_a_reason(
    services: Services,
    tenant: Tenant,
    database: Database,
    object_store: ObjectStore,
    tmp_path: Path,
) -> None:
    stored = 0
    for n, path in enumerate(CORPUS):
        # Many of these share UIDs; a tenant's own repeat must not hide the next file.
        content = path.read_bytes()
        report = import_paths(services, tenant, [path])
        assert report.failed == 0, report.problems
        if report.stored == 0:
            assert report.duplicates or (report.refused and report.problems), path
            continue
        stored += 1
        with database.connection(tenant.id) as connection:
            row = connection.execute(
                "SELECT storage_uri, hash, byte_size FROM imaging_objects"
                " WHERE tenant_id = %s ORDER BY received_at DESC LIMIT 1",
                (tenant.id,),
            ).fetchone()
        assert row is not None, n
        kept = object_store.get(row[0])
        assert len(kept) == row[2]
        if content[128:132] == b"DICM":
            assert kept == bytes(128) + content[128:], path
        else:
            assert kept[128:132] == b"DICM"
            assert kept.endswith(content[-200:])
    assert stored > 60
