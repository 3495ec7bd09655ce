"""A QIDO answer leaves one row in the access log for each patient whose data it showed (G1)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import uuid4

import psycopg
import pydicom
import pytest
import requests
from pydicom.uid import generate_uid

from interop.dicomweb import qido
from tests.integration.dicomweb.conftest import Server, Store

# Newest first: the order of a page.
DAYS = {"ANNA": "20260303", "BRUNO": "20260302", "CLARA": "20260301"}


@pytest.fixture(scope="module")
def studies(
    store: Store,
    image: Callable[..., pydicom.Dataset],
    encode: Callable[[pydicom.Dataset], bytes],
) -> dict[str, str]:
    """A study of two instances of each of three patients: the Study Instance UIDs."""
    found: dict[str, str] = {}
    files: list[bytes] = []
    for patient, day in DAYS.items():
        study, series = generate_uid(), generate_uid()
        found[patient] = study
        files += [
            encode(
                image(
                    PatientID=patient,
                    PatientName=f"{patient}^Test",
                    StudyDate=day,
                    StudyInstanceUID=study,
                    SeriesInstanceUID=series,
                    InstanceNumber=number,
                )
            )
            for number in (1, 2)
        ]
    assert store(*files).status_code == 200
    return found


@pytest.fixture
def shown(
    http: requests.Session, root: str, server: Server, tenant: Any, studies: dict[str, str]
) -> Callable[[str], tuple[list[str], list[str], str | None]]:
    """Ask; returns whose data the answer has, whom the log names, and whom the event itself."""

    def ask(path: str) -> tuple[list[str], list[str], str | None]:
        request_id = uuid4().hex
        answer = http.get(root + path, headers={"X-Request-Id": request_id})
        assert answer.status_code == 200, answer.text
        of = {study: patient for patient, study in studies.items()}
        answered = sorted({of[one["0020000D"]["Value"][0]] for one in answer.json()})
        with server.services.database.connection(tenant.id) as connection:
            ((event, patient),) = connection.execute(
                "SELECT id, patient_id FROM audit_events WHERE tenant_id = %s AND request_id = %s",
                (tenant.id, request_id),
            ).fetchall()
            names = dict(
                connection.execute(
                    "SELECT patient_id, dicom_patient_id FROM imaging_studies WHERE tenant_id = %s",
                    (tenant.id,),
                ).fetchall()
            )
            rows = connection.execute(
                "SELECT patient_id, action, is_break_glass FROM phi_access_logs"
                " WHERE tenant_id = %s AND audit_event_id = %s",
                (tenant.id, event),
            ).fetchall()
        assert {row[1:] for row in rows} <= {("SEARCH", False)}
        return answered, sorted(names[row[0]] for row in rows), names.get(patient)

    return ask


ALL = sorted(DAYS)


@pytest.mark.parametrize("level", ["studies", "series", "instances"])
def test_everybody_on_the_page_is_logged_once(shown: Callable[..., Any], level: str) -> None:
    assert shown(f"/{level}") == (ALL, ALL, None)


def test_who_is_only_read_to_see_whether_there_is_more_is_not_logged(
    shown: Callable[..., Any],
) -> None:
    assert shown("/studies?limit=2") == (["ANNA", "BRUNO"], ["ANNA", "BRUNO"], None)
    assert shown("/studies?limit=2&offset=2") == (["CLARA"], ["CLARA"], "CLARA")
    assert shown("/instances?limit=2") == (["ANNA"], ["ANNA"], "ANNA")


def test_a_search_that_shows_one_patient_is_about_that_patient(
    shown: Callable[..., Any], studies: dict[str, str]
) -> None:
    for path in (
        "/studies?PatientID=BRUNO",
        f"/studies?StudyInstanceUID={studies['BRUNO']}",
        f"/studies/{studies['BRUNO']}/series",
        f"/studies/{studies['BRUNO']}/instances",
    ):
        # More than once, so that plans which are kept are tried too.
        for _ in range(7):
            assert shown(path) == (["BRUNO"], ["BRUNO"], "BRUNO"), path


@pytest.mark.parametrize(
    "path", ["/studies?PatientID=NOBODY", "/studies?limit=0", "/studies/1.2/series"]
)
def test_what_shows_nobody_is_logged_as_a_search_of_nobody(
    shown: Callable[..., Any], path: str
) -> None:
    assert shown(path) == ([], [], None)


def test_a_page_that_its_bytes_cut_short_shows_fewer(
    shown: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(qido, "PAGE_BYTES", 1)

    assert shown("/instances") == (["ANNA"], ["ANNA"], "ANNA")


def test_an_answer_that_cannot_be_logged_is_not_given(
    http: requests.Session, root: str, place_url: str, studies: dict[str, str]
) -> None:
    with psycopg.connect(place_url, autocommit=True) as owner:
        owner.execute("ALTER TABLE phi_access_logs ADD CONSTRAINT closed CHECK (false) NOT VALID")
        try:
            answer = http.get(f"{root}/studies")
        finally:
            owner.execute("ALTER TABLE phi_access_logs DROP CONSTRAINT closed")

    assert answer.status_code == 503
    assert "ANNA" not in answer.text
