"""Rendered images that are kept on disk go with what they show, and with the tenant."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import psycopg
import pytest
import requests
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid

from interop.dicom import picture_keeper
from interop.dicom.picture_cache import PictureCache
from interop.dicom.picture_keeper import PictureKeeper, keep
from storage.tenancy import Tenant
from tests.waiting import eventually

from .conftest import Server, make_image, part10

EVERYTHING = "system/ImagingStudy.cruds"


@pytest.fixture(scope="module")
def http(server: Server, tenant: Tenant) -> requests.Session:
    made: requests.Session = server.session(tenant, EVERYTHING)
    return made


@pytest.fixture
def rendered(http: requests.Session, root: str, store: Any) -> list[Dataset]:
    """Two studies of an image each, which somebody has looked at."""
    images = [make_image(PatientID=generate_uid()[-12:]) for _ in range(2)]
    assert store(*map(part10, images)).status_code == 200
    for image in images:
        for what in ("rendered", "thumbnail"):
            assert http.get(f"{url_of(root, image)}/{what}").status_code == 200
    return images


def url_of(root: str, image: Dataset) -> str:
    return (
        f"{root}/studies/{image.StudyInstanceUID}/series/{image.SeriesInstanceUID}"
        f"/instances/{image.SOPInstanceUID}"
    )


def pictures(server: Server, tenant: Tenant) -> set[Path]:
    return set((server.services.settings.picture_dir / str(tenant.id)).glob("*"))


def test_a_deleted_studys_pictures_go_and_the_others_stay(
    server: Server, tenant: Tenant, http: requests.Session, root: str, rendered: list[Dataset]
) -> None:
    before = pictures(server, tenant)
    gone, stays = rendered
    with server.services.database.connection(tenant.id) as connection:
        connection.execute(
            "UPDATE tenant_settings SET default_retention_min_years = 0 WHERE tenant_id = %s",
            (tenant.id,),
        )
    assert http.delete(f"{root}/studies/{gone.StudyInstanceUID}").status_code == 204

    keep(server.services)

    assert len(before - pictures(server, tenant)) == 2
    assert http.get(f"{url_of(root, stays)}/rendered").status_code == 200
    assert http.get(f"{url_of(root, gone)}/rendered").status_code == 404
    assert pictures(server, tenant) < before


def test_a_closed_tenants_pictures_go(
    server: Server, tenant: Tenant, owner_url: str, rendered: list[Dataset]
) -> None:
    assert pictures(server, tenant)
    status = "UPDATE tenants SET status = %s WHERE id = %s"
    with psycopg.connect(owner_url, autocommit=True) as owner:
        owner.execute(status, ("CLOSED", tenant.id))
        server.services.tenants.forget()
        try:
            keep(server.services)
        finally:
            owner.execute(status, ("ACTIVE", tenant.id))

    assert pictures(server, tenant) == set()


def test_a_tenant_whose_rows_cannot_be_read_holds_up_no_other_and_loses_nothing(
    server: Server, tenant: Tenant, other_tenant: Tenant, rendered: list[Dataset],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    settings = server.services.settings
    cache = PictureCache(settings.picture_dir, settings.picture_cache_bytes)
    theirs = cache.key(other_tenant.id, f"{other_tenant.id}/2026010100/{other_tenant.id}", 1)
    cache.put(theirs, b"of an object that is not there")
    before, by_id = pictures(server, tenant), server.services.tenants.by_id

    def fails(tenant_id: Any) -> Tenant | None:
        if tenant_id == tenant.id:
            raise OSError("away")
        found: Tenant | None = by_id(tenant_id)
        return found

    monkeypatch.setattr(server.services.tenants, "by_id", fails)
    keep(server.services)

    assert pictures(server, tenant) == before
    assert cache.get(theirs) is None


def test_one_of_the_processes_that_share_a_folder_keeps_it(
    server: Server, rendered: list[Dataset], monkeypatch: pytest.MonkeyPatch
) -> None:
    turns: list[float] = []
    monkeypatch.setattr(picture_keeper, "SECONDS", 0.01)
    monkeypatch.setattr(picture_keeper, "keep", lambda _: turns.append(time.monotonic()))
    first = PictureKeeper(server.services)
    assert eventually(lambda: len(turns) > 1)
    locked = [picture_keeper._locked(server.services.settings.picture_dir)]

    first.close()
    second = PictureKeeper(server.services)
    taken_over = len(turns)
    assert eventually(lambda: len(turns) > taken_over)
    second.close()

    assert locked == [-1]
