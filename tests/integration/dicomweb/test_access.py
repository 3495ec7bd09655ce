"""Who may do what; tenants never learn of each other (security.md B10, C10, D1, D8, D10)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pydicom
import pytest
import requests
from pydicom.uid import generate_uid

from interop.dicomweb.router import GET, POST

Image = Callable[..., pydicom.Dataset]
Encode = Callable[[pydicom.Dataset], bytes]
TYPE = 'multipart/related; type="application/dicom"; boundary=b'


def body(*files: bytes) -> bytes:
    parts = [b"--b\r\nContent-Type: application/dicom\r\n\r\n" + f + b"\r\n" for f in files]
    return b"".join(parts) + b"--b--"


def paths(dataset: pydicom.Dataset) -> list[str]:
    """Every GET route, filled in for one instance."""
    values = {
        "{study}": dataset.StudyInstanceUID,
        "{series}": dataset.SeriesInstanceUID,
        "{instance}": dataset.SOPInstanceUID,
        "{frames}": "1",
        "{path:path}": "7FE00010",
        "{which}": "latest",
    }
    filled = []
    for path in GET:
        for name, value in values.items():
            path = path.replace(name, value)
        filled.append(path)
    return filled


@pytest.fixture(scope="module")
def twins(
    server: Any, tenant: Any, other_tenant: Any, image: Image, encode: Encode
) -> tuple[pydicom.Dataset, pydicom.Dataset]:
    """The same UIDs and PatientID in two tenants, with different content."""
    uids = {
        "StudyInstanceUID": generate_uid(),
        "SeriesInstanceUID": generate_uid(),
        "SOPInstanceUID": generate_uid(),
        "PatientID": "SAME",
    }
    made = []
    for owner, name in ((tenant, "Canary^A"), (other_tenant, "Canary^B")):
        dataset = image(**uids, PatientName=name, AccessionNumber=name[-1])
        answer = server.session(owner).post(
            f"{server.root(owner)}/studies",
            body(encode(dataset)),
            headers={"Content-Type": TYPE},
        )
        assert answer.status_code == 200, answer.text
        made.append(dataset)
    return made[0], made[1]


def test_without_a_valid_token_every_route_is_401(server: Any, tenant: Any, image: Image) -> None:
    root = server.root(tenant)
    headers = [{}, {"Authorization": "Bearer x.y.z"}, {"Authorization": "Basic eDp5"}]

    for path in [*paths(image()), "/nothing/here"]:
        for given in headers:
            answer = requests.get(root + path, headers=given, timeout=10)
            assert answer.status_code == 401, path
            assert "WWW-Authenticate" in answer.headers
    for path in POST:
        url = root + path.replace("{study}", "1.2")
        assert requests.post(url, b"", timeout=10).status_code == 401


@pytest.mark.parametrize(
    ("scope", "allowed"),
    [
        ("system/ImagingStudy.r", {"wado"}),
        ("system/ImagingStudy.s", {"qido"}),
        ("system/ImagingStudy.c", {"stow"}),
        ("system/ImagingStudy.ud", {"delete"}),
        ("system/Observation.cruds", set()),
        ("system/*.rs", {"wado", "qido"}),
    ],
)
def test_d8_a_scope_letter_permits_its_own_transactions_only(
    server: Any,
    tenant: Any,
    image: Image,
    encode: Encode,
    scope: str,
    allowed: set[str],
    twins: Any,
) -> None:
    root, session = server.root(tenant), server.session(tenant, scope)
    searches = ("/studies", "/series", "/instances", "/changefeed", "/changefeed/latest")

    for path in paths(twins[0]):
        kind = "qido" if path.endswith(searches) else "wado"
        answer = session.get(root + path)
        assert (answer.status_code != 403) == (kind in allowed), (path, answer.status_code)
        if answer.status_code == 403:
            assert "ImagingStudy" in answer.json()["error"]
    answer = session.post(f"{root}/studies", body(encode(image())), headers={"Content-Type": TYPE})
    assert (answer.status_code == 200) == ("stow" in allowed)
    # What is not there, to those who may delete.
    answer = session.delete(f"{root}/studies/1.2.3")
    assert answer.status_code == (404 if "delete" in allowed else 403)


@pytest.mark.strategies
def test_the_same_uids_in_two_tenants_are_two_objects(
    server: Any, tenant: Any, other_tenant: Any, twins: Any, encode: Encode, parts_of: Any
) -> None:
    for owner, mine, theirs in ((tenant, *twins), (other_tenant, *reversed(twins))):
        session, root = server.session(owner), server.root(owner)
        for path in paths(mine):
            if path.endswith(("/rendered", "/thumbnail")):
                continue
            answer = session.get(root + path)
            assert answer.status_code == 200, path
            assert str(theirs.PatientName).encode() not in answer.content, path
        path = f"/studies/{mine.StudyInstanceUID}"
        ((_, content),) = parts_of(session.get(root + path))
        assert content == encode(mine)
        (found,) = session.get(f"{root}/studies?PatientID=SAME").json()
        assert found["00100010"]["Value"][0]["Alphabetic"] == str(mine.PatientName)


@pytest.mark.strategies
def test_d1_data_of_another_tenant_and_no_data_are_the_same_answer(
    server: Any, tenant: Any, other_tenant: Any, image: Image, encode: Encode
) -> None:
    theirs, nobodys = image(PatientName="Canary^Theirs"), image()
    answer = server.session(other_tenant).post(
        f"{server.root(other_tenant)}/studies",
        body(encode(theirs)),
        headers={"Content-Type": TYPE},
    )
    assert answer.status_code == 200
    session, root = server.session(tenant), server.root(tenant)

    for of_theirs, of_nobody in zip(paths(theirs), paths(nobodys), strict=True):
        if "{" in of_theirs or of_theirs.count("/") == 1:
            continue
        first, second = session.get(root + of_theirs), session.get(root + of_nobody)
        assert first.status_code == second.status_code, of_theirs
        assert first.content == second.content
        assert dict(first.headers, date="") | {"Date": ""} == dict(second.headers, date="") | {
            "Date": ""
        }
    for key in ("PatientName=Canary*", f"StudyInstanceUID={theirs.StudyInstanceUID}"):
        for level in ("studies", "series", "instances"):
            found = session.get(f"{root}/{level}?{key}").json()
            assert theirs.StudyInstanceUID not in str(found)


@pytest.mark.strategies
def test_a_token_of_one_tenant_opens_no_other(
    server: Any, tenant: Any, other_tenant: Any, twins: Any
) -> None:
    session = server.session(tenant)
    answers = []
    for slug in (other_tenant.slug, "nobody-has-this-slug"):
        root = f"{server.url}/t/{slug}/dicom-web"
        for path in paths(twins[0]):
            answer = session.get(root + path)
            assert answer.status_code == 404
            answers.append(answer.content)
    assert len(set(answers)) == 1


def test_a_wrong_method_names_the_right_ones(server: Any, tenant: Any, twins: Any) -> None:
    session, root = server.session(tenant), server.root(tenant)

    study = f"{root}/studies/{twins[0].StudyInstanceUID}"
    answers = [session.delete(f"{root}/studies"), session.put(f"{root}/series"),
               session.put(study)]  # fmt: skip

    assert [answer.status_code for answer in answers] == [405, 405, 405]
    assert answers[0].headers["Allow"] == "GET, HEAD, POST"
    assert answers[1].headers["Allow"] == "GET, HEAD"
    assert answers[2].headers["Allow"] == "GET, HEAD, POST, DELETE"


def test_c10_nothing_is_served_that_a_browser_would_run(
    server: Any, tenant: Any, twins: Any
) -> None:
    session, root = server.session(tenant), server.root(tenant)

    for path in [*paths(twins[0]), "/studies?PatientID=<script>", "/<svg onload=x>"]:
        for accept in ("*/*", "text/html", "image/svg+xml"):
            answer = session.get(root + path, headers={"Accept": accept})
            assert answer.headers["X-Content-Type-Options"] == "nosniff", path
            assert "sandbox" in answer.headers["Content-Security-Policy"]
            assert "html" not in answer.headers.get("Content-Type", "")
            assert "svg" not in answer.headers.get("Content-Type", "")
            assert answer.headers["Cache-Control"].startswith("private")
