"""G4 of security.md: without its row nothing is shown and nothing is done."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import pytest

from storage.tenancy import Tenant
from tests.integration.access.conftest import FHIR_JSON, Door, put
from tests.integration.audit.conftest import Watch
from tests.integration.dicomweb.conftest import make_image, multipart, part10

CANARY = "Grünspecht"
PATIENT = {"resourceType": "Patient", "id": "p1", "name": [{"family": CANARY}]}


@pytest.fixture(scope="module")
def study(door: Door, tenant: Tenant) -> str:
    put(door.system(tenant), PATIENT)
    image = make_image(PatientName=CANARY)
    dicomweb = door.caller(tenant, "system/*.cruds", door="dicom-web")
    content_type = 'multipart/related; type="application/dicom"; boundary=frontier'
    stored = dicomweb.post(
        "/studies", content=multipart(part10(image)), headers={"Content-Type": content_type}
    )
    assert stored.status_code == 200, stored.text
    return str(image.StudyInstanceUID)


@pytest.fixture(params=["audit_events", "phi_access_logs"])
def blocked(request: pytest.FixtureRequest, door: Door) -> Iterator[str]:
    """A table of the log that nothing can be added to."""
    with refusing(door, request.param):
        yield request.param


@contextmanager
def refusing(door: Door, table: str) -> Iterator[None]:
    door.execute(f"ALTER TABLE {table} ADD CONSTRAINT broken CHECK (tenant_id IS NULL) NOT VALID")
    try:
        yield
    finally:
        door.execute(f"ALTER TABLE {table} DROP CONSTRAINT broken")


def assert_withheld(response: httpx.Response) -> None:
    assert response.status_code == 503, response.text
    assert "Retry-After" in response.headers
    assert CANARY.encode() not in response.content


@pytest.mark.parametrize(
    "path",
    ["/Patient/p1", "/Patient/p1/_history", "/Patient/p1/_history/1", "/Patient?name=gr"],
)
def test_g4_fhir_reads_answer_503(
    study: str, blocked: str, door: Door, tenant: Tenant, path: str
) -> None:
    assert_withheld(door.system(tenant).get(path))


@pytest.mark.parametrize("rest", ["", "/metadata"])
def test_g4_dicomweb_reads_answer_503(
    study: str, blocked: str, door: Door, tenant: Tenant, rest: str
) -> None:
    dicomweb = door.caller(tenant, "system/*.cruds", door="dicom-web")

    assert_withheld(dicomweb.get(f"/studies/{study}{rest}"))


def test_g4_a_write_without_its_row_is_not_done(
    study: str, blocked: str, door: Door, tenant: Tenant
) -> None:
    fhir = door.system(tenant)

    response = fhir.put(
        "/Patient/new", content=json.dumps({**PATIENT, "id": "new"}), headers=FHIR_JSON
    )

    assert response.status_code == 503, response.text
    stored = door.execute(
        "SELECT 1 FROM fhir_resources WHERE tenant_id = %s AND resource_id = 'new'", tenant.id
    )
    assert stored == []


def test_g4_a_refusal_that_cannot_be_written_is_no_answer_either(
    study: str, door: Door, tenant: Tenant
) -> None:
    with refusing(door, "audit_events"):
        response = door.caller(tenant, "system/Location.rs").get("/Patient/p1")

    assert response.status_code == 503


def test_g4_all_is_well_again_when_the_table_is(
    study: str, door: Door, tenant: Tenant, watch: Watch
) -> None:
    fhir = door.system(tenant)
    with refusing(door, "audit_events"):
        assert fhir.get("/Patient/p1").status_code == 503

    (event,) = watch.during(lambda: fhir.get("/Patient/p1"))

    assert (event.outcome, event.accesses) == ("SUCCESS", 1)
