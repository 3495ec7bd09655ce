"""Quarantine over /api/v1: looked at, released in the place of what contradicts, or discarded."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import httpx
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid

from storage.erasing import erase
from storage.tenancy import Tenant
from tests.integration.dicomweb.conftest import make_image, multipart, part10

from .conftest import Office, assert_problem

STOW = {"Content-Type": 'multipart/related; type="application/dicom"; boundary=frontier'}
IMAGES = ("view_imaging", "upload_imaging")
Stow = Callable[..., httpx.Response]


@pytest.fixture(scope="module")
def dicomweb(office: Office, tenant: Tenant) -> httpx.Client:
    return office.door.caller(tenant, "system/*.cruds", door="dicom-web")


@pytest.fixture(scope="module")
def stow(dicomweb: httpx.Client) -> Stow:
    def post(*images: Dataset) -> httpx.Response:
        return dicomweb.post("/studies", content=multipart(*map(part10, images)), headers=STOW)

    return post


def patient_id() -> str:
    return generate_uid()[-12:]


def kept(office: Office, image: Dataset, state: str = "PENDING") -> dict[str, Any]:
    items = office.operator.get("/quarantine", params={"state": state, "limit": 200}).json()
    [found] = [one for one in items["items"] if one["sop_instance_uid"] == image.SOPInstanceUID]
    one: dict[str, Any] = found
    return one


def stored(dicomweb: httpx.Client, image: Dataset) -> dict[str, Any]:
    answer = dicomweb.get(
        f"/studies/{image.StudyInstanceUID}/series/{image.SeriesInstanceUID}"
        f"/instances/{image.SOPInstanceUID}/metadata",
        headers={"Accept": "application/json"},
    )
    assert answer.status_code == 200, answer.text
    [found] = answer.json()
    described: dict[str, Any] = found
    return described


def contradicting(stow: Stow) -> tuple[Dataset, Dataset]:
    """Two objects of one SOP Instance UID; the first is stored and the second kept."""
    first = make_image(PatientID=patient_id(), SeriesDescription="first")
    second = make_image(
        PatientID=first.PatientID,
        SOPInstanceUID=first.SOPInstanceUID,
        StudyInstanceUID=first.StudyInstanceUID,
        SeriesInstanceUID=first.SeriesInstanceUID,
        SeriesDescription="second",
    )
    assert stow(first).status_code == 200
    assert stow(second).status_code == 409
    return first, second


def test_what_is_kept_is_listed_and_laid_beside_what_it_contradicts(
    office: Office, stow: Stow
) -> None:
    first, _ = contradicting(stow)

    one = kept(office, first)
    compared = office.operator.get(f"/quarantine/{one['id']}").json()

    assert (one["state"], one["reason_code"]) == ("PENDING", "0111")
    assert one["source"].startswith("STOW-RS") and one["byte_size"] > 0
    assert compared["differing"] == ["0008103E"]
    assert compared["received"]["0008103E"]["Value"] == ["second"]
    assert compared["stored"]["0008103E"]["Value"] == ["first"]
    assert "7FE00010" not in compared["received"]
    assert office.newest()[0] == "QUARANTINE_VIEWED"


def test_a_released_object_takes_the_place_of_the_other_and_back(
    office: Office, stow: Stow, dicomweb: httpx.Client
) -> None:
    first, second = contradicting(stow)
    before = dicomweb.get("/changefeed/latest").json()["Sequence"]
    one = kept(office, first)

    released = office.operator.post(f"/quarantine/{one['id']}/release")

    assert released.json()["result"] == "stored", released.text
    assert stored(dicomweb, first)["0008103E"]["Value"] == ["second"]
    assert office.operator.get(f"/quarantine/{one['id']}").json()["state"] == "RELEASED"
    [change] = dicomweb.get(f"/changefeed?after={before}").json()
    assert (change["Action"], change["State"]) == ("Update", "Current")
    assert change["SopInstanceUid"] == second.SOPInstanceUID
    found = dicomweb.get(f"/studies/{first.StudyInstanceUID}/instances").json()
    assert len(found) == 1
    # What was stored before waits in its stead, whole.
    former = kept(office, first)
    assert former["source"] == "QUARANTINE"
    back = office.operator.post(f"/quarantine/{former['id']}/release")
    assert back.status_code == 200, back.text
    assert stored(dicomweb, first)["0008103E"]["Value"] == ["first"]
    again = office.operator.post(f"/quarantine/{former['id']}/release")
    assert "released already" in assert_problem(again, 409)


def test_a_released_object_moves_from_the_study_that_had_its_uid(
    office: Office, stow: Stow, dicomweb: httpx.Client
) -> None:
    first = make_image(PatientID=patient_id())
    second = make_image(PatientID=patient_id(), SOPInstanceUID=first.SOPInstanceUID)
    stow(first)
    stow(second)
    one = kept(office, first)

    office.operator.post(f"/quarantine/{one['id']}/release").raise_for_status()

    assert stored(dicomweb, second)["0020000D"]["Value"] == [second.StudyInstanceUID]
    assert dicomweb.get(f"/studies?StudyInstanceUID={first.StudyInstanceUID}").json() == []


def test_the_operator_says_that_it_is_the_same_patient(
    office: Office, stow: Stow, dicomweb: httpx.Client, tenant: Tenant
) -> None:
    first = make_image(PatientID=patient_id())
    typo = make_image(PatientID=first.PatientID + "1", StudyInstanceUID=first.StudyInstanceUID)
    stow(first)
    assert stow(typo).status_code == 409
    doubt = (
        "SELECT demographics_conflict FROM imaging_studies WHERE tenant_id = %s AND study_uid = %s"
    )
    assert office.door.execute(doubt, tenant.id, first.StudyInstanceUID) != [(None,)]
    one = kept(office, typo)
    assert one["reason_code"] == "A910"

    office.operator.post(f"/quarantine/{one['id']}/release").raise_for_status()

    found = dicomweb.get(f"/studies?StudyInstanceUID={first.StudyInstanceUID}").json()
    assert [study["00100020"]["Value"] for study in found] == [[first.PatientID]]
    assert found[0]["00201208"]["Value"] == [2]
    assert office.door.execute(doubt, tenant.id, first.StudyInstanceUID) == [(None,)]
    third = make_image(PatientID=first.PatientID, StudyInstanceUID=first.StudyInstanceUID)
    assert stow(third).status_code == 200
    assert office.door.execute(doubt, tenant.id, first.StudyInstanceUID) == [(None,)]


def test_a_discarded_object_is_erased_and_what_is_stored_stays(
    office: Office, stow: Stow, dicomweb: httpx.Client, tenant: Tenant
) -> None:
    first, _ = contradicting(stow)
    one = kept(office, first)
    key = office.door.execute(
        "SELECT storage_uri FROM quarantined_objects WHERE tenant_id = %s AND id = %s",
        tenant.id,
        one["id"],
    )[0][0]
    objects = office.door.services.objects

    answer = office.operator.post(f"/quarantine/{one['id']}/discard", json={})

    assert answer.json()["state"] == "DISCARDED", answer.text
    assert office.newest()[0] == "QUARANTINE_DISCARDED"
    assert objects.local_path(key) is not None
    erase(office.door.services.database, objects, tenant.id, timedelta(0))
    assert objects.local_path(key) is None
    assert stored(dicomweb, first)["0008103E"]["Value"] == ["first"]
    assert_problem(office.operator.post(f"/quarantine/{one['id']}/discard", json={}), 409)
    assert_problem(office.operator.post(f"/quarantine/{one['id']}/release"), 409)
    assert office.operator.get(f"/quarantine/{one['id']}").json()["received"] == {}


def test_what_was_a_record_before_is_kept_as_long_as_one(
    office: Office, stow: Stow, tenant: Tenant
) -> None:
    first, _ = contradicting(stow)
    office.operator.post(f"/quarantine/{kept(office, first)['id']}/release").raise_for_status()
    former = kept(office, first)
    url = f"/quarantine/{former['id']}/discard"
    why = {"despite_retention": "a test pattern"}

    assert "kept until" in assert_problem(office.operator.post(url, json={}), 409)
    assert_problem(office.user(IMAGES).post(url, json=why), 403)
    hold(office, tenant, first.StudyInstanceUID)
    assert "legal hold" in assert_problem(office.operator.post(url, json=why), 409)
    office.door.execute(
        "UPDATE legal_holds SET released_at = now() WHERE tenant_id = %s", tenant.id
    )
    assert office.operator.post(url, json=why).status_code == 200


def hold(office: Office, tenant: Tenant, study: str) -> None:
    office.door.execute(
        "INSERT INTO legal_holds (tenant_id, entity_type, entity_id, reason)"
        " SELECT tenant_id, 'PATIENT', patient_id, 'a lawsuit' FROM imaging_studies"
        " WHERE tenant_id = %s AND study_uid = %s",
        tenant.id,
        study,
    )


@pytest.fixture
def released_holds(office: Office, tenant: Tenant) -> Iterator[None]:
    yield
    office.door.execute(
        "UPDATE legal_holds SET released_at = now() WHERE tenant_id = %s", tenant.id
    )


def test_d15_what_is_held_is_not_replaced(
    office: Office, stow: Stow, dicomweb: httpx.Client, tenant: Tenant, released_holds: None
) -> None:
    """What the AI made of the stored image would be erased with it."""
    first, _ = contradicting(stow)
    one = kept(office, first)
    hold(office, tenant, first.StudyInstanceUID)

    answer = office.operator.post(f"/quarantine/{one['id']}/release")

    assert "legal hold" in assert_problem(answer, 409)
    assert kept(office, first)["state"] == "PENDING"
    assert stored(dicomweb, first)["0008103E"]["Value"] == ["first"]


def test_d15_a_record_whose_study_is_gone_is_kept_as_long_as_any(
    office: Office, stow: Stow, tenant: Tenant, released_holds: None
) -> None:
    first = make_image(PatientID=patient_id())
    second = make_image(PatientID=patient_id(), SOPInstanceUID=first.SOPInstanceUID)
    stow(first)
    stow(second)
    office.operator.post(f"/quarantine/{kept(office, first)['id']}/release").raise_for_status()
    former = kept(office, first)
    assert former["study_instance_uid"] == first.StudyInstanceUID
    url = f"/quarantine/{former['id']}/discard"
    why = {"despite_retention": "a test pattern"}

    assert "kept until" in assert_problem(office.operator.post(url, json={}), 409)
    # Of whom it is nobody can say any more, so every hold may mean it.
    hold(office, tenant, second.StudyInstanceUID)
    assert "legal hold" in assert_problem(office.operator.post(url, json=why), 409)


def test_who_may_and_who_may_not(office: Office, stow: Stow) -> None:
    first, _ = contradicting(stow)
    one = kept(office, first)
    url = f"/quarantine/{one['id']}"

    viewer = office.user(("view_imaging",))
    assert viewer.get(url).status_code == 200
    assert_problem(viewer.post(f"{url}/release"), 403)
    assert_problem(viewer.post(f"{url}/discard", json={}), 403)
    assert_problem(office.user(("view_patient",)).get("/quarantine"), 403)
    assert_problem(office.user(IMAGES, "user/Patient.cruds").get("/quarantine"), 403)
    assert_problem(office.service("system/ImagingStudy.cruds").get("/quarantine"), 403)
    assert office.user(IMAGES).post(f"{url}/release").status_code == 200
    assert office.newest()[0] == "QUARANTINE_RELEASED"


def test_d4_an_app_that_works_for_others_sees_no_quarantine(
    office: Office, stow: Stow, tenant: Tenant
) -> None:
    """Nobody asks here whether the patients have consented, as QIDO-RS and WADO-RS do."""
    first, _ = contradicting(stow)
    one = kept(office, first)
    of_others = office.door.api_client(tenant, "DATA_SHARING")
    of_ours = office.door.api_client(tenant)
    scope = "user/ImagingStudy.cruds"

    app = office.user(IMAGES, scope, of_others)
    assert "consented" in assert_problem(app.get("/quarantine"), 403)
    assert "consented" in assert_problem(app.get(f"/quarantine/{one['id']}"), 403)
    assert_problem(app.post(f"/quarantine/{one['id']}/release"), 403)
    assert office.user(IMAGES, scope, of_ours).get(f"/quarantine/{one['id']}").status_code == 200


def test_another_tenants_object_is_not_there(
    office: Office, stow: Stow, other_tenant: Tenant
) -> None:
    first, _ = contradicting(stow)
    one = kept(office, first)
    theirs = Office(office.door, other_tenant).operator

    assert_problem(theirs.get(f"/quarantine/{one['id']}"), 404)
    assert_problem(theirs.post(f"/quarantine/{one['id']}/release"), 404)
    assert_problem(theirs.post(f"/quarantine/{one['id']}/discard", json={}), 404)
    assert theirs.get("/quarantine").json()["items"] == []
