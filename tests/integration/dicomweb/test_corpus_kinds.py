"""SR, SEG, GSPS, KO, documents, waveforms, enhanced images, character sets, private elements and
broken values: stored byte for byte, found, described, and never a 5xx."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import requests

from tests.integration.dicomweb.conftest import part10
from tests.integration.dicomweb.object_kinds import KINDS, breaking_its_vrs

Store = Callable[..., requests.Response]
AS_STORED = {"Accept": "application/dicom; transfer-syntax=*"}
JSON = {"Accept": "application/json"}
XML = {"Accept": 'multipart/related; type="application/dicom+xml"'}


def stored_at(store: Store, content: bytes) -> str:
    answer = store(content)
    assert answer.status_code in (200, 202), answer.text
    url: str = answer.json()["00081199"]["Value"][0]["00081190"]["Value"][0]
    return url


def described(http: requests.Session, root: str, url: str) -> dict[str, Any]:
    """Its metadata; every other question about it has an answer too."""
    for resource in ("/frames/1", "/rendered", "/thumbnail"):
        answer = http.get(url + resource)
        assert answer.status_code in (200, 404, 406, 422), (resource, answer.text[:300])
    assert http.get(f"{url}/metadata", headers=XML).status_code == 200
    uid = url.rpartition("/")[2]
    found = http.get(f"{root}/instances?SOPInstanceUID={uid}&includefield=all")
    assert (found.status_code, len(found.json())) == (200, 1)
    study = url.split("/studies/")[1].partition("/")[0]
    assert len(http.get(f"{root}/studies?StudyInstanceUID={study}&includefield=all").json()) == 1
    assert http.get(f"{root}/studies/{study}/metadata", headers=JSON).status_code == 200
    answer = http.get(f"{url}/metadata", headers=JSON)
    assert answer.status_code == 200
    [one] = answer.json()
    shown: dict[str, Any] = one
    return shown


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_stored_as_sent_found_and_described(
    http: requests.Session, root: str, store: Store, kind: str
) -> None:
    dataset = KINDS[kind]()
    content = part10(dataset)

    url = stored_at(store, content)

    answer = http.get(url, headers=AS_STORED)
    assert (answer.status_code, answer.content) == (200, content)
    shown = described(http, root, url)
    assert shown["00080016"]["Value"] == [dataset.SOPClassUID]
    if dataset.PatientName:
        name = str(dataset.PatientName).partition("=")[0]
        assert shown["00100010"]["Value"][0]["Alphabetic"] == name
        # The other groups of the name follow the alphabetic one.
        query = {"PatientName": f"{name}*", "StudyInstanceUID": dataset.StudyInstanceUID}
        assert len(http.get(f"{root}/studies", params=query).json()) == 1


def test_values_that_break_their_vr_are_stored_as_sent_and_shown_as_best_they_can_be(
    http: requests.Session, root: str, store: Store
) -> None:
    content = part10(breaking_its_vrs())

    url = stored_at(store, content)

    answer = http.get(url, headers=AS_STORED)
    assert (answer.status_code, answer.content) == (200, content)
    shown = described(http, root, url)
    assert shown["00080020"]["Value"] == ["14.03.26"]
    assert shown["00200011"]["Value"] == ["one"]
    assert shown["00080060"]["Value"] == ["intra oral"]
