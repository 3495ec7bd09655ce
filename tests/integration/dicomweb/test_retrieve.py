"""WADO-RS instances, metadata, frames and bulk data against the real server (PS3.18 10.4)."""

from __future__ import annotations

import gzip
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pydicom
import pytest
import requests
from dicomweb_client.api import DICOMwebClient
from pydicom.uid import generate_uid

Image = Callable[..., pydicom.Dataset]
Encode = Callable[[pydicom.Dataset], bytes]
Store = Callable[..., requests.Response]
Parts = Callable[[requests.Response], list[tuple[dict[str, str], bytes]]]

EXPLICIT = "1.2.840.10008.1.2.1"


def url_of(root: str, dataset: pydicom.Dataset, level: int = 3) -> str:
    pairs = [
        ("studies", dataset.StudyInstanceUID),
        ("series", dataset.SeriesInstanceUID),
        ("instances", dataset.SOPInstanceUID),
    ]
    return root + "".join(f"/{name}/{uid}" for name, uid in pairs[:level])


@pytest.fixture(scope="module")
def study(store: Store, image: Image, encode: Encode) -> list[tuple[pydicom.Dataset, bytes]]:
    """Two series of three instances in one study, one of them with frames of its own."""
    uid = generate_uid()
    made = []
    for number in (1, 2):
        series = generate_uid()
        for instance in (1, 2, 3):
            dataset = image(
                StudyInstanceUID=uid,
                SeriesInstanceUID=series,
                SeriesNumber=number,
                InstanceNumber=instance,
            )
            if (number, instance) == (2, 3):
                dataset.NumberOfFrames = 5
                dataset.Rows = dataset.Columns = 40
                dataset.PixelData = np.arange(5 * 1600, dtype=np.uint16).tobytes()
            made.append((dataset, encode(dataset)))
    answer = store(*[file for _, file in made])
    assert answer.status_code == 200, answer.text
    return made


def test_a_study_a_series_and_an_instance_come_back_byte_for_byte(
    http: requests.Session, root: str, study: list[Any], parts_of: Parts
) -> None:
    dataset = study[3][0]
    files = [file for _, file in study]

    for level, expected in ((1, files), (2, files[3:]), (3, files[3:4])):
        answer = http.get(url_of(root, dataset, level))
        assert answer.status_code == 200
        assert answer.headers["Content-Type"].startswith(
            'multipart/related; type="application/dicom"'
        )
        assert int(answer.headers["Content-Length"]) == len(answer.content)
        parts = parts_of(answer)
        assert [content for _, content in parts] == expected
        assert parts[0][0]["content-type"] == f"application/dicom; transfer-syntax={EXPLICIT}"
        assert parts[0][0]["content-location"].startswith(root)


def test_dicomweb_client_retrieves_at_every_level(
    client: DICOMwebClient, study: list[tuple[pydicom.Dataset, bytes]]
) -> None:
    dataset = study[0][0]
    uids = (dataset.StudyInstanceUID, dataset.SeriesInstanceUID, dataset.SOPInstanceUID)

    one = client.retrieve_instance(*uids)
    series = client.retrieve_series(*uids[:2])
    whole = list(client.iter_study(uids[0]))

    assert one == dataset
    assert [d.InstanceNumber for d in series] == [1, 2, 3]
    assert len(whole) == 6


def test_a_large_instance_is_streamed_whole(
    http: requests.Session, root: str, store: Store, image: Image, encode: Encode, parts_of: Parts
) -> None:
    pixels = np.random.default_rng(1).integers(0, 4096, (1500, 2000), dtype=np.uint16)
    dataset = image(Rows=1500, Columns=2000, PixelData=pixels.tobytes())
    file = encode(dataset)
    assert store(file).status_code == 200

    ((_, content),) = parts_of(http.get(url_of(root, dataset)))
    single = http.get(url_of(root, dataset), headers={"Accept": "application/dicom"})

    assert content == file
    assert single.content == file
    assert int(single.headers["Content-Length"]) == len(file)


@pytest.mark.parametrize(
    ("accept", "status"),
    [
        ("application/dicom", 200),
        ("application/dicom; transfer-syntax=1.2.840.10008.1.2.4.91", 406),
        ('multipart/related; type="application/dicom"; transfer-syntax=*', 200),
        ('multipart/related; type="image/jpeg"', 406),
        ("text/html", 406),
        ("image/png, */*;q=0.1", 200),
        ("not a media type", 400),
    ],
)
def test_accept_is_honoured_or_refused_with_the_list(
    http: requests.Session, root: str, study: list[Any], accept: str, status: int
) -> None:
    answer = http.get(url_of(root, study[0][0]), headers={"Accept": accept})

    assert answer.status_code == status
    if status == 406:
        assert EXPLICIT in answer.text or "application/dicom" in answer.text


def test_metadata_at_three_levels_names_bulk_data_that_can_be_had(
    http: requests.Session, client: DICOMwebClient, root: str, study: list[Any], parts_of: Parts
) -> None:
    dataset = study[0][0]
    uids = (dataset.StudyInstanceUID, dataset.SeriesInstanceUID, dataset.SOPInstanceUID)

    of_study = client.retrieve_study_metadata(uids[0])
    of_series = client.retrieve_series_metadata(*uids[:2])
    of_instance = client.retrieve_instance_metadata(*uids)

    assert [len(of_study), len(of_series)] == [6, 3]
    assert of_series == of_study[:3]
    assert of_instance == of_series[0]
    read = pydicom.Dataset.from_json(of_instance, lambda *_: dataset.PixelData)
    read.file_meta = dataset.file_meta
    assert read == dataset
    uri = of_instance["7FE00010"]["BulkDataURI"]
    assert uri == f"{url_of(root, dataset)}/bulkdata/7FE00010"
    ((_, content),) = parts_of(http.get(uri))
    assert content == dataset.PixelData


def test_metadata_is_compressed_and_revalidated(
    http: requests.Session, root: str, study: list[Any]
) -> None:
    for level in (2, 3):
        url = url_of(root, study[0][0], level) + "/metadata"
        first = http.get(url, headers={"Accept-Encoding": "identity"})
        second = http.get(url, headers={"Accept-Encoding": "gzip"})
        condition = {"If-None-Match": f'"x", {first.headers["ETag"]}'}
        again = http.get(url, headers={"Accept-Encoding": "identity", **condition})

        assert "Content-Encoding" not in first.headers
        assert second.json() == first.json()
        assert (again.status_code, again.content) == (304, b"")
        assert first.headers["Cache-Control"] == "private, no-cache"
    assert second.headers.get("Content-Encoding") == "gzip"
    study_url = url_of(root, study[0][0], 1) + "/metadata"
    zipped = http.get(study_url, headers={"Accept-Encoding": "gzip"}, stream=True)
    assert zipped.headers["Content-Encoding"] == "gzip"
    assert (
        gzip.decompress(zipped.raw.read())
        == http.get(study_url, headers={"Accept-Encoding": "identity"}).content
    )


def test_metadata_of_a_quiet_series_is_kept_and_dropped_by_the_next_instance(
    http: requests.Session,
    root: str,
    server: Any,
    tenant: Any,
    store: Store,
    image: Image,
    encode: Encode,
) -> None:
    first = image()
    assert store(encode(first)).status_code == 200
    url = url_of(root, first, 2) + "/metadata"

    def kept() -> bytes | None:
        with server.services.database.connection(tenant.id) as connection:
            row = connection.execute(
                "SELECT metadata_gzip FROM imaging_series WHERE tenant_id = %s AND series_uid = %s",
                (tenant.id, first.SeriesInstanceUID),
            ).fetchone()
        return row[0] if row else None

    def received(age: str) -> None:
        with server.services.database.connection(tenant.id) as connection:
            connection.execute(
                "UPDATE imaging_studies SET last_received_at = now() - %s::interval"
                " WHERE tenant_id = %s AND study_uid = %s",
                (age, tenant.id, first.StudyInstanceUID),
            )

    received("-1 hour")
    built = http.get(url)
    assert kept() is None, "a series that may still grow is not kept"
    received("1 hour")
    again = http.get(url)
    for _ in range(200):  # the answer does not wait for the cache
        if kept():
            break
    cached = http.get(url)
    identity = http.get(url, headers={"Accept-Encoding": "identity"})

    assert kept() is not None
    assert built.json() == again.json() == cached.json() == identity.json()
    assert built.headers["ETag"] == cached.headers["ETag"]
    second = image(
        StudyInstanceUID=first.StudyInstanceUID, SeriesInstanceUID=first.SeriesInstanceUID,
        InstanceNumber=2,
    )  # fmt: skip
    assert store(encode(second)).status_code == 200
    assert kept() is None
    grown = http.get(url)
    assert len(grown.json()) == 2
    assert grown.headers["ETag"] != cached.headers["ETag"]


def test_frames_are_the_slices_of_the_pixel_data(
    http: requests.Session, client: DICOMwebClient, root: str, study: list[Any], parts_of: Parts
) -> None:
    dataset = study[-1][0]
    frames = [dataset.PixelData[n * 3200 : (n + 1) * 3200] for n in range(5)]
    uids = (dataset.StudyInstanceUID, dataset.SeriesInstanceUID, dataset.SOPInstanceUID)

    by_client = client.retrieve_instance_frames(
        *uids, [5, 1, 1], media_types=("application/octet-stream",)
    )
    answer = http.get(f"{url_of(root, dataset)}/frames/2,3")
    bare = http.get(
        f"{url_of(root, dataset)}/frames/4", headers={"Accept": "application/octet-stream"}
    )

    assert by_client == [frames[4], frames[0], frames[0]]
    assert [content for _, content in parts_of(answer)] == frames[1:3]
    assert (bare.content, bare.status_code) == (frames[3], 200)
    assert bare.headers["Content-Type"].startswith("application/octet-stream")


@pytest.mark.parametrize(
    ("frames", "status"),
    [("0", 400), ("6", 404), ("1,6", 404), ("x", 400), ("1,,2", 400), ("-1", 400),
     ("999999999", 404), ("9999999999", 400), (",".join(["1"] * 2001), 400)],
)  # fmt: skip
def test_frames_that_cannot_be_are_refused(
    http: requests.Session, root: str, study: list[Any], frames: str, status: int
) -> None:
    assert http.get(f"{url_of(root, study[-1][0])}/frames/{frames}").status_code == status


def test_bulk_data_by_ranges(
    http: requests.Session, root: str, study: list[Any], parts_of: Parts
) -> None:
    dataset = study[-1][0]
    url = f"{url_of(root, dataset)}/bulkdata/7FE00010"
    pixels = dataset.PixelData
    bare = {"Accept": "application/octet-stream"}

    whole = http.get(url, headers=bare)
    middle = http.get(url, headers=bare | {"Range": "bytes=100-199"})
    tail = http.get(url, headers=bare | {"Range": "bytes=-10"})
    several = http.get(url, headers=bare | {"Range": "bytes=0-1,10-19"})
    beyond = http.get(url, headers=bare | {"Range": "bytes=99999999-"})
    many = http.get(url, headers=bare | {"Range": "bytes=" + ",".join(["0-0"] * 17)})

    assert (whole.status_code, whole.content) == (200, pixels)
    assert whole.headers["Accept-Ranges"] == "bytes"
    assert (middle.status_code, middle.content) == (206, pixels[100:200])
    assert middle.headers["Content-Range"] == f"bytes 100-199/{len(pixels)}"
    assert tail.content == pixels[-10:]
    assert several.headers["Content-Type"].startswith("multipart/byteranges")
    parts = parts_of(several)
    assert [content for _, content in parts] == [pixels[:2], pixels[10:20]]
    assert parts[1][0]["content-range"] == f"bytes 10-19/{len(pixels)}"
    assert (beyond.status_code, many.status_code) == (416, 416)


@pytest.mark.parametrize(
    "path", ["00100010", "7FE00010/1/00100010", "../../x", "7fe00010", "%2e%2e/x", "0" * 4000]
)
def test_bulk_data_that_is_not_there_is_404(
    http: requests.Session, root: str, study: list[Any], path: str
) -> None:
    assert http.get(f"{url_of(root, study[0][0])}/bulkdata/{path}").status_code == 404


def test_every_level_checks_the_whole_path(
    http: requests.Session, root: str, study: list[Any]
) -> None:
    first, other = study[0][0], study[-1][0]
    mixed = (
        f"{root}/studies/{first.StudyInstanceUID}/series/{other.SeriesInstanceUID}"
        f"/instances/{first.SOPInstanceUID}"
    )

    for suffix in ("", "/metadata", "/frames/1", "/bulkdata/7FE00010"):
        assert http.get(mixed + suffix).status_code == 404, suffix


def test_retrieve_takes_part_in_the_audit_trail_before_the_bytes(
    http: requests.Session, root: str, server: Any, tenant: Any, study: list[Any]
) -> None:
    url = url_of(root, study[0][0])

    def events() -> dict[str, int]:
        with server.services.database.connection(tenant.id) as connection:
            return dict(
                connection.execute(
                    "SELECT event_type || ' ' || outcome, count(*) FROM audit_events"
                    " WHERE tenant_id = %s GROUP BY 1",
                    (tenant.id,),
                ).fetchall()
            )

    before = events()
    for path in ("", "/metadata", "/frames/1", "/bulkdata/7FE00010", "/frames/9"):
        http.get(url + path)
    http.get(f"{root}/studies")
    after = events()

    new = {name: after[name] - before.get(name, 0) for name in after}
    assert {name: count for name, count in new.items() if count} == {
        "IMAGING_RETRIEVED SUCCESS": 1,
        "IMAGING_METADATA_VIEWED SUCCESS": 1,
        "IMAGING_FRAMES_RETRIEVED SUCCESS": 1,
        "IMAGING_FRAMES_RETRIEVED FAILURE": 1,
        "IMAGING_BULK_DATA_RETRIEVED SUCCESS": 1,
        "IMAGING_SEARCHED SUCCESS": 1,
    }


def audited(database: Any, tenant: Any, request_id: str, study_uid: str) -> list[Any]:
    """Audit rows of a request; one that was refused early gets its row just after its answer."""
    deadline = time.monotonic() + 20
    while True:
        with database.connection(tenant.id) as connection:
            rows: list[Any] = connection.execute(
                "SELECT outcome, metadata, resource_id IN (SELECT id::text FROM imaging_studies"
                " WHERE tenant_id = e.tenant_id AND study_uid = %s) FROM audit_events AS e"
                " WHERE tenant_id = %s AND request_id = %s",
                (study_uid, tenant.id, request_id),
            ).fetchall()
        if rows or time.monotonic() > deadline:
            return rows
        time.sleep(0.05)


def test_an_audit_row_names_study_series_and_instance_however_it_was_read(
    http: requests.Session, root: str, server: Any, tenant: Any, study: list[Any]
) -> None:
    first = study[0][0]
    url = url_of(root, first)
    series = url.rpartition("/instances/")[0]
    named = {
        "series_instance_uid": first.SeriesInstanceUID,
        "sop_instance_uid": first.SOPInstanceUID,
    }
    of_series = {"series_instance_uid": first.SeriesInstanceUID}
    in_series = len([d for d, _ in study if d.SeriesInstanceUID == first.SeriesInstanceUID])
    reads = [
        (url, "*/*", 200, {**named, "instances": 1}),
        (url, "image/png", 406, {}),
        (f"{url}/frames/1", "*/*", 200, {**named, "instances": 1, "frames": 1}),
        (f"{url}/frames/1", "image/png", 406, {**named, "instances": 1, "frames": 1}),
        (f"{url}/metadata", "*/*", 200, {**named, "instances": 1}),
        (f"{series}/metadata", "*/*", 200, {**of_series, "instances": in_series}),
        (f"{series}/metadata", "*/*", 200, {**of_series, "instances": in_series}),
    ]

    for path, accept, status, details in reads:
        marker = generate_uid()
        answer = http.get(path, headers={"Accept": accept, "X-Request-Id": marker})
        assert answer.status_code == status, path
        rows = audited(server.services.database, tenant, marker, first.StudyInstanceUID)
        if status == 200:
            assert rows == [("SUCCESS", details, True)], path
        else:
            # What was refused before anything was looked up names nothing.
            refused = {**details, "status": status} if details else {"method": "GET", "status": 406}
            assert rows == [("FAILURE", refused, True if details else None)], path
