"""WADO-RS metadata: XML parts, entity tags by level and representation (PS3.18 10.4, 8.7.3)."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from typing import Any

import pydicom
import pytest
import requests
from dicomweb_client.api import DICOMwebClient
from pydicom.uid import generate_uid

from interop.dicom.native_model import from_xml, to_xml

Image = Callable[..., pydicom.Dataset]
Encode = Callable[[pydicom.Dataset], bytes]
Store = Callable[..., requests.Response]
Parts = Callable[[requests.Response], list[tuple[dict[str, str], bytes]]]

XML = {"Accept": 'multipart/related; type="application/dicom+xml"'}
JSON = {"Accept": "application/dicom+json"}
PLAIN = {"Accept-Encoding": "identity"}
LEVELS = ["study", "series", "instance"]


@pytest.fixture(scope="module")
def paths(root: str, store: Store, image: Image, encode: Encode) -> dict[str, str]:
    """The metadata resources of a study of two series of two instances each."""
    study = generate_uid()
    images = []
    for number in (1, 2):
        series = generate_uid()
        for instance in (1, 2):
            images.append(image(StudyInstanceUID=study, SeriesInstanceUID=series,
                                SeriesNumber=number, InstanceNumber=instance))  # fmt: skip
    assert store(*map(encode, images)).status_code == 200
    first = images[0]
    url = f"{root}/studies/{study}"
    series_url = f"{url}/series/{first.SeriesInstanceUID}"
    return {
        "study": f"{url}/metadata",
        "series": f"{series_url}/metadata",
        "instance": f"{series_url}/instances/{first.SOPInstanceUID}/metadata",
    }


@pytest.mark.parametrize(("level", "count"), [("study", 4), ("series", 2), ("instance", 1)])
@pytest.mark.parametrize("encoding", ["identity", "gzip"])
def test_xml_has_a_part_for_each_instance_and_says_what_json_says(
    http: requests.Session, paths: dict[str, str], parts_of: Parts, level: str, count: int,
    encoding: str,
) -> None:  # fmt: skip
    answer = http.get(paths[level], headers=XML | {"Accept-Encoding": encoding})

    assert answer.status_code == 200, answer.text
    assert answer.headers.get("Content-Encoding", "identity") == encoding
    assert answer.headers["Content-Type"].startswith(XML["Accept"])
    parts = parts_of(answer)
    assert [headers["content-type"] for headers, _ in parts] == ["application/dicom+xml"] * count
    in_json = http.get(paths[level], headers=JSON).json()
    assert [content for _, content in parts] == [
        to_xml(json.dumps(one).encode()) for one in in_json
    ]
    pixels = from_xml(parts[0][1])["7FE00010"]
    assert pixels["BulkDataURI"] == in_json[0]["7FE00010"]["BulkDataURI"]


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("accept", [JSON, XML], ids=["json", "xml"])
def test_each_representation_has_its_strong_tag_and_304(
    http: requests.Session, paths: dict[str, str], level: str, accept: dict[str, str]
) -> None:
    zipped = http.get(paths[level], headers=accept | {"Accept-Encoding": "gzip"})
    plain = http.get(paths[level], headers=accept | PLAIN)
    again = http.get(paths[level], headers=accept | PLAIN)

    tags = [answer.headers["ETag"] for answer in (zipped, plain)]
    assert len(set(tags)) == 2 and not any(tag.startswith("W/") for tag in tags)
    assert again.content == plain.content == zipped.content
    for answer, encoding in ((zipped, "gzip"), (plain, "identity")):
        headers = accept | {"Accept-Encoding": encoding}
        tag = answer.headers["ETag"]
        for condition in (tag, f"W/{tag}", f'"other", {tag}', "*"):
            same = http.get(paths[level], headers=headers | {"If-None-Match": condition})
            assert (same.status_code, same.content) == (304, b""), condition
            assert same.headers["ETag"] == tag
            assert "Accept-Encoding" in same.headers["Vary"]
        other = http.get(paths[level], headers=headers | {"If-None-Match": '"other"'})
        assert other.status_code == 200
    crossed = http.get(paths[level], headers=accept | PLAIN | {"If-None-Match": tags[0]})
    assert crossed.status_code == 200


def test_json_and_xml_have_different_tags(http: requests.Session, paths: dict[str, str]) -> None:
    for level in LEVELS:
        in_json, in_xml = (http.get(paths[level], headers=h | PLAIN) for h in (JSON, XML))
        assert in_json.headers["ETag"] != in_xml.headers["ETag"]


def test_what_arrives_changes_the_tags_above_it_and_no_others(
    http: requests.Session, root: str, store: Store, image: Image, encode: Encode
) -> None:
    study, series = generate_uid(), generate_uid()
    first = image(StudyInstanceUID=study, SeriesInstanceUID=series)
    store(encode(first))
    url = f"{root}/studies/{study}"
    urls = [
        url,
        f"{url}/series/{series}",
        f"{url}/series/{series}/instances/{first.SOPInstanceUID}",
    ]

    def tags() -> list[str]:
        return [http.get(f"{one}/metadata", headers=JSON).headers["ETag"] for one in urls]

    before = tags()
    store(encode(image(StudyInstanceUID=study)))
    with_series = tags()
    store(encode(image(StudyInstanceUID=study, SeriesInstanceUID=series)))
    with_instance = tags()

    assert [a == b for a, b in zip(before, with_series, strict=True)] == [False, True, True]
    assert [a == b for a, b in zip(with_series, with_instance, strict=True)] == [False, False, True]


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize(
    ("accept", "status", "kind"),
    [
        ("*/*", 200, "application/dicom+json"),
        ("application/json", 200, "application/json"),
        ("multipart/related", 200, "multipart/related"),
        ('multipart/related; type="application/dicom+xml";q=0.5, application/dicom+json', 200,
         "application/dicom+json"),
        ("application/dicom+xml", 406, "application/json"),
        ('multipart/related; type="application/dicom"', 406, "application/json"),
        ("image/png", 406, "application/json"),
    ],
)  # fmt: skip
def test_accept_decides(
    http: requests.Session, paths: dict[str, str], level: str, accept: str, status: int, kind: str
) -> None:
    answer = http.get(paths[level], headers={"Accept": accept})

    assert answer.status_code == status
    assert answer.headers["Content-Type"].partition(";")[0] == kind


def test_another_tenant_and_nobody_learn_nothing(
    server: Any, other_tenant: Any, tenant: Any, paths: dict[str, str]
) -> None:
    stranger = server.session(other_tenant)
    for level in LEVELS:
        url = paths[level].replace(f"/t/{tenant.slug}/", f"/t/{other_tenant.slug}/")
        unknown = "/".join([*url.split("/")[:7], "1.2.3", *url.split("/")[8:]])
        for accept in (JSON, XML):
            answers = [stranger.get(one, headers=accept) for one in (url, unknown)]
            assert [answer.status_code for answer in answers] == [404, 404]
            assert answers[0].content == answers[1].content


def test_dicomweb_client_reads_the_metadata(client: DICOMwebClient, paths: dict[str, str]) -> None:
    study = paths["study"].split("/")[-2]

    assert len(client.retrieve_study_metadata(study)) == 4


def test_a_kept_series_is_the_same_in_xml(
    http: requests.Session, server: Any, tenant: Any, paths: dict[str, str]
) -> None:
    before = http.get(paths["series"], headers=XML | PLAIN)
    as_json = http.get(paths["series"], headers=JSON | PLAIN)
    root = paths["series"].partition("/studies/")[0]
    tag = as_json.headers["ETag"].strip('"')
    kept = f"{tag}\n{root}\n".encode() + gzip.compress(as_json.content)
    with server.services.database.connection(tenant.id) as connection:
        connection.execute(
            "UPDATE imaging_series SET metadata_gzip = %s WHERE tenant_id = %s AND series_uid = %s",
            (kept, tenant.id, paths["series"].split("/")[-2]),
        )

    after = http.get(paths["series"], headers=XML | PLAIN)

    assert (after.headers["ETag"], after.content) == (before.headers["ETag"], before.content)
