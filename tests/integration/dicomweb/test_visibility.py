"""Whose images a caller sees by DICOMweb: the same policy as FHIR's (security.md D1, D4, D8)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

import pydicom
import pytest
import requests
from pydicom.uid import generate_uid

from interop.access import Scopes
from interop.smart.tokens import Subject
from storage.schema.reference_rows import reference_id
from storage.tenancy import Tenant
from tests.conftest import execute_as_owner
from tests.integration.dicomweb.test_access import TYPE, body, paths

Image = Callable[..., pydicom.Dataset]
Encode = Callable[[pydicom.Dataset], bytes]
ANNA, BRUNO = "ANNA-1", "BRUNO-1"


@dataclass
class Place:
    """Two patients with images, and the means to become anybody."""

    server: Any
    tenant: Tenant
    owner_url: str
    anna: list[pydicom.Dataset]
    bruno: list[pydicom.Dataset]

    def execute(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        return execute_as_owner(self.owner_url, query, values, self.tenant.id)

    def row(self, dicom_patient_id: str) -> UUID:
        query = "SELECT patient_id FROM imaging_studies WHERE dicom_patient_id = %s LIMIT 1"
        row: UUID = self.execute(query, dicom_patient_id)[0][0]
        return row

    def session(
        self,
        scope: str,
        *,
        user: UUID | None = None,
        patient: UUID | None = None,
        client: UUID | None = None,
        **headers: str,
    ) -> requests.Session:
        subject = Subject(user_id=user, patient_id=patient)
        token = self.server.services.tokens.issue(
            self.tenant, client, "test", Scopes.parse(scope), subject
        )
        session = requests.Session()
        session.headers.update({"Authorization": f"Bearer {token}", **headers})
        return session

    def user(self, role: str, resource_scope: str, location: UUID | None = None) -> UUID:
        user = uuid4()
        self.execute("INSERT INTO users (id, full_name) VALUES (%s, 'A user')", user)
        self.execute(
            "INSERT INTO user_tenants (tenant_id, user_id) VALUES (%s, %s)", self.tenant.id, user
        )
        self.execute(
            "INSERT INTO user_roles (tenant_id, user_id, role_id, resource_scope, location_id)"
            " VALUES (%s, %s, %s, %s, %s)",
            self.tenant.id,
            user,
            reference_id("roles", role),
            resource_scope,
            location,
        )
        return user

    def location(self, dicom_patient_id: str | None) -> UUID:
        """A place, the primary one of a patient where one is named."""
        place = uuid4()
        self.execute(
            "INSERT INTO locations (tenant_id, id, name) VALUES (%s, %s, 'Place')",
            self.tenant.id,
            place,
        )
        if dicom_patient_id is not None:
            self.execute(
                "UPDATE patients SET primary_location_id = %s WHERE id = %s",
                place,
                self.row(dicom_patient_id),
            )
        return place

    def sees(self, session: requests.Session) -> set[str]:
        """Whose images every kind of search finds and every retrieval gives."""
        root = self.server.root(self.tenant)
        found: set[str] = set()
        for name, images in ((ANNA, self.anna), (BRUNO, self.bruno)):
            answers = set()
            for image in images:
                for path in paths(image):
                    answer = session.get(root + path)
                    if path.startswith("/changefeed/"):
                        continue  # the last change, whosever it is
                    if path in ("/studies", "/series", "/instances", "/changefeed"):
                        answers.add(str(image.StudyInstanceUID) in answer.text)
                    elif path.endswith(("/series", "/instances")):
                        answers.add(answer.json() != [])
                    else:
                        assert answer.status_code in (200, 206, 404), (path, answer.text)
                        answers.add(answer.status_code != 404)
            assert len(answers) == 1, f"two doors, two answers about {name} (security.md D4)"
            if answers.pop():
                found.add(name)
        return found


@pytest.fixture(scope="module")
def place(server: Any, tenant: Tenant, database: Any, image: Image, encode: Encode) -> Place:
    session = server.session(tenant)
    made: dict[str, list[pydicom.Dataset]] = {ANNA: [], BRUNO: []}
    for name, images in made.items():
        for _ in range(2):
            dataset = image(
                PatientID=name,
                PatientName=f"Canary^{name}",
                StudyInstanceUID=generate_uid(),
                SeriesInstanceUID=generate_uid(),
                SOPInstanceUID=generate_uid(),
            )
            url = f"{server.root(tenant)}/studies"
            answer = session.post(url, body(encode(dataset)), headers={"Content-Type": TYPE})
            assert answer.status_code == 200, answer.text
            images.append(dataset)
    return Place(server, tenant, database.owner_url, made[ANNA], made[BRUNO])


def test_a_system_sees_everybodys(place: Place) -> None:
    assert place.sees(place.session("system/ImagingStudy.rs")) == {ANNA, BRUNO}


def test_a_patients_app_sees_that_patients_images(place: Place) -> None:
    """SMART Imaging Access: patient/ImagingStudy.rs opens the pixels too."""
    app = place.session("patient/ImagingStudy.rs", patient=place.row(ANNA))

    assert place.sees(app) == {ANNA}
    root = place.server.root(place.tenant)
    studies = app.get(f"{root}/studies?limit=1")
    assert len(studies.json()) == 1  # the filter is before the limit
    assert "offset=1" in studies.headers["Warning"]
    assert app.get(f"{root}/studies?offset=2").json() == []
    assert app.get(f"{root}/studies?PatientID={BRUNO}").json() == []
    assert app.get(f"{root}/instances?PatientName=Canary*").text.count(BRUNO) == 0


def test_what_is_hidden_is_answered_like_what_never_was(place: Place, image: Image) -> None:
    app = place.session("patient/ImagingStudy.rs", patient=place.row(ANNA))
    root = place.server.root(place.tenant)
    nobodys = image(StudyInstanceUID=generate_uid(), SeriesInstanceUID=generate_uid())

    for theirs, none in zip(paths(place.bruno[0]), paths(nobodys), strict=True):
        if theirs in ("/studies", "/series", "/instances"):
            continue
        for headers in ({}, {"Accept": "application/dicom"}, {"Range": "bytes=0-1"}):
            hidden, nothing = (app.get(root + path, headers=headers) for path in (theirs, none))
            assert hidden.status_code == nothing.status_code, theirs
            assert hidden.content == nothing.content, theirs
            own = ("date", "x-request-id")
            left, right = (
                {k: v for k, v in answer.headers.items() if k.lower() not in own}
                for answer in (hidden, nothing)
            )
            assert left == right
    assert app.get(f"{root}/studies/%00/metadata").status_code == 404


def test_users_see_the_images_of_their_units(place: Place) -> None:
    here, empty = place.location(ANNA), place.location(None)

    def sees(user: UUID) -> set[str]:
        return place.sees(place.session("user/*.rs", user=user))

    assert sees(place.user("CLINICIAN", "ALL_LOCATIONS")) == {ANNA, BRUNO}
    assert sees(place.user("CLINICIAN", "LOCATION", here)) == {ANNA}
    assert sees(place.user("CLINICIAN", "LOCATION", empty)) == set()
    assert sees(place.user("CLINICIAN", "SELF")) == set()


@pytest.mark.parametrize(
    ("role", "scope"),
    [
        ("DATA_SCIENTIST", "user/*.rs"),
        ("CLINICIAN", "system/*.rs"),
        ("CLINICIAN", "user/Observation.rs"),
        ("CLINICIAN", "patient/ImagingStudy.rs"),
        ("CLINICIAN", "user/ImagingStudy.rs?status=available"),
    ],
)
def test_without_role_or_scope_nothing_opens(place: Place, role: str, scope: str) -> None:
    session = place.session(scope, user=place.user(role, "ALL_LOCATIONS"))
    root = place.server.root(place.tenant)

    for path in paths(place.anna[0]):
        assert session.get(root + path).status_code == 403, path


def test_storing_is_for_who_may_store_for_all(place: Place, image: Image, encode: Encode) -> None:
    def store(session: requests.Session) -> int:
        url = f"{place.server.root(place.tenant)}/studies"
        content = body(encode(image(PatientID=ANNA)))
        return session.post(url, content, headers={"Content-Type": TYPE}).status_code

    scope = "user/ImagingStudy.c"
    here = place.user("CLINICIAN", "LOCATION", place.location(None))
    assert store(place.session("patient/ImagingStudy.c", patient=place.row(ANNA))) == 403
    assert store(place.session(scope, user=here)) == 403
    assert store(place.session(scope, user=place.user("CLINICIAN", "ALL_LOCATIONS"))) == 200


def test_clients_of_others_see_images_of_who_consented(place: Place) -> None:
    client = place.execute(
        "INSERT INTO api_clients (tenant_id, client_id, name, purpose)"
        " VALUES (%s, 'elsewhere', 'Elsewhere', 'DATA_SHARING') RETURNING id",
        place.tenant.id,
    )[0][0]
    outside = place.session("system/ImagingStudy.rs", client=client)
    assert place.sees(outside) == set()
    said = "INSERT INTO consents (tenant_id, subject_id, consent_type, granted_at) VALUES"

    place.execute(f"{said} (%s, %s, 'DATA_SHARING', now())", place.tenant.id, place.row(BRUNO))
    assert place.sees(outside) == {BRUNO}

    place.execute("UPDATE consents SET revoked_at = now() WHERE revoked_at IS NULL")
    assert place.sees(outside) == set()
    why = place.execute(
        "SELECT metadata ->> 'refused', outcome FROM audit_events WHERE api_client_id = %s"
        " AND event_type = 'IMAGING_RETRIEVED' ORDER BY timestamp DESC LIMIT 1",
        client,
    )
    assert why == [("consent", "FAILURE")]


def test_breaking_the_glass_opens_the_images_too(place: Place) -> None:
    user = place.user("CLINICIAN", "LOCATION", place.location(None))
    assert place.sees(place.session("user/*.rs", user=user)) == set()
    access = place.execute(
        "INSERT INTO emergency_accesses (tenant_id, user_id, patient_id, reason, expires_at)"
        " VALUES (%s, %s, %s, 'Trauma of the jaw', now() + interval '1 h') RETURNING id",
        place.tenant.id,
        user,
        place.row(BRUNO),
    )[0][0]

    opened = place.session("user/*.rs", user=user, **{"Emergency-Access": str(access)})

    assert place.sees(opened) == {BRUNO}
    logged = place.execute(
        "SELECT DISTINCT action, is_break_glass FROM phi_access_logs WHERE break_glass_reason = %s",
        str(access),
    )
    assert ("READ", True) in logged
