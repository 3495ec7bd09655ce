"""Rendered resources, thumbnails, compressed frames and transcoding (PS3.18 8.7.3, 10.4)."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pydicom
import pytest
import requests
from dicomweb_client.api import DICOMwebClient
from PIL import Image as Pillow
from pydicom.data import get_testdata_file
from pydicom.uid import generate_uid

Image = Callable[..., pydicom.Dataset]
Encode = Callable[[pydicom.Dataset], bytes]
Store = Callable[..., requests.Response]
Parts = Callable[[requests.Response], list[tuple[dict[str, str], bytes]]]

EXPLICIT = "1.2.840.10008.1.2.1"
DICOM = 'multipart/related; type="application/dicom"'
OCTETS = 'multipart/related; type="application/octet-stream"'


def picture(answer: requests.Response) -> Pillow.Image:
    assert answer.status_code == 200, answer.text
    opened = Pillow.open(io.BytesIO(answer.content))
    opened.load()
    return opened


@pytest.fixture(scope="module")
def series(store: Store, image: Image, encode: Encode, root: str) -> dict[str, Any]:
    """Three instances of 60 by 40; the middle one has four frames, each brighter than the last."""
    uids = {"StudyInstanceUID": generate_uid(), "SeriesInstanceUID": generate_uid()}
    files, urls = [], []
    for number in (1, 2, 3):
        frames = 4 if number == 2 else 1
        pixels = np.zeros((frames, 40, 60), np.uint16)
        for frame in range(frames):
            pixels[frame, :, 30:] = 1000 * (frame + 1)
        dataset = image(
            **uids, InstanceNumber=number, Rows=40, Columns=60, PixelData=pixels.tobytes(),
            WindowCenter="2000", WindowWidth="4000",
        )  # fmt: skip
        if frames > 1:
            dataset.NumberOfFrames = frames
        files.append(encode(dataset))
        urls.append(f"{root}/studies/{uids['StudyInstanceUID']}/series/"
                    f"{uids['SeriesInstanceUID']}/instances/{dataset.SOPInstanceUID}")  # fmt: skip
    assert store(*files).status_code == 200
    return {"urls": urls, **uids}


def test_an_instance_is_rendered_with_its_window(
    http: requests.Session, series: dict[str, Any]
) -> None:
    shown = picture(http.get(f"{series['urls'][0]}/rendered"))

    assert (shown.format, shown.size, shown.mode) == ("JPEG", (60, 40), "L")
    dark, bright = shown.getpixel((10, 20)), shown.getpixel((50, 20))
    # PS3.3 C.11.2.1.2 LINEAR, 1000 in a window of 4000 around 2000.
    assert abs(dark - 0) <= 3
    assert abs(bright - 64) <= 3


def test_window_viewport_quality_and_type_are_the_callers(
    http: requests.Session, client: DICOMwebClient, series: dict[str, Any]
) -> None:
    url = f"{series['urls'][0]}/rendered"
    sop = series["urls"][0].rpartition("/")[2]

    windowed = picture(http.get(f"{url}?window=500,1000,linear"))
    small = picture(http.get(f"{url}?viewport=30,30"))
    cropped = picture(http.get(f"{url}?viewport=20,20,30,0,20,20", headers={"Accept": "image/png"}))
    low, high = (http.get(f"{url}?quality={q}").content for q in (1, 100))
    by_client = client.retrieve_instance_rendered(
        series["StudyInstanceUID"], series["SeriesInstanceUID"], sop,
        media_types=("image/png",), params={"viewport": "30,20"},
    )  # fmt: skip

    assert windowed.getpixel((50, 20)) >= 250
    assert small.size == (30, 20)
    assert (cropped.format, cropped.size) == ("PNG", (20, 20))
    assert np.ptp(np.asarray(cropped)) == 0
    assert len(low) < len(high)
    assert Pillow.open(io.BytesIO(by_client)).size == (30, 20)


def test_frames_are_rendered_one_by_one_or_all_in_parts(
    http: requests.Session, series: dict[str, Any], parts_of: Parts
) -> None:
    url = series["urls"][1]

    values = [
        picture(http.get(f"{url}/frames/{n}/rendered")).getpixel((50, 20)) for n in (1, 2, 3, 4)
    ]
    many = http.get(
        f"{url}/frames/4,1/rendered", headers={"Accept": 'multipart/related; type="image/jpeg"'}
    )
    alone = http.get(f"{url}/frames/4,1/rendered", headers={"Accept": "image/jpeg"})

    assert values == sorted(values) and values[3] > values[0] + 150
    assert [h["content-location"].split("/frames/")[1] for h, _ in parts_of(many)] == [
        "4/rendered", "1/rendered",
    ]  # fmt: skip
    assert alone.status_code == 406
    assert http.get(f"{url}/frames/5/rendered").status_code == 404


def test_a_series_is_its_middle_image_or_all_of_them(
    http: requests.Session, root: str, series: dict[str, Any], parts_of: Parts
) -> None:
    study = f"{root}/studies/{series['StudyInstanceUID']}"
    parts = {"Accept": 'multipart/related; type="image/png"'}

    one = picture(http.get(f"{study}/rendered", headers={"Accept": "image/png"}))
    every = parts_of(
        http.get(f"{study}/series/{series['SeriesInstanceUID']}/rendered", headers=parts)
    )

    middle = picture(http.get(f"{series['urls'][1]}/rendered", headers={"Accept": "image/png"}))
    assert np.array_equal(np.asarray(one), np.asarray(middle))
    assert len(every) == 6
    assert every[0][0]["content-type"] == "image/png"


def test_thumbnails_at_every_level_are_small_and_revalidated(
    http: requests.Session, root: str, series: dict[str, Any], store: Store, image: Image,
    encode: Encode,
) -> None:  # fmt: skip
    large = image(Rows=600, Columns=900, PixelData=bytes(600 * 900 * 2))
    url = store(encode(large)).json()["00081199"]["Value"][0]["00081190"]["Value"][0]
    study = f"{root}/studies/{series['StudyInstanceUID']}"

    assert picture(http.get(f"{url}/thumbnail")).size == (256, 171)
    assert picture(http.get(f"{url}/thumbnail?viewport=90,90")).size == (90, 60)
    for path in (study, f"{study}/series/{series['SeriesInstanceUID']}", series["urls"][1],
                 f"{series['urls'][1]}/frames/2"):  # fmt: skip
        first = http.get(f"{path}/thumbnail")
        again = http.get(f"{path}/thumbnail", headers={"If-None-Match": first.headers["ETag"]})
        assert first.headers["Content-Type"] == "image/jpeg"
        assert first.headers["Cache-Control"] == "private, no-cache"
        assert (again.status_code, again.content) == (304, b"")


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ("quality=0", 400), ("quality=101", 400), ("quality=x", 400), ("viewport=0,10", 400),
        ("viewport=10", 400), ("viewport=99999,1", 400), ("viewport=10,10,1,1,0,1", 400),
        ("viewport=10,10,-1,1,9,9", 400),
        ("viewport=10,10,nan,1,1,1", 400), ("window=1", 400), ("window=1,0,linear", 400),
        ("window=1,10,cubic", 400), ("window=1,inf,linear", 400), ("annotation=everything", 400),
        ("viewport=10,10,5000,5000,10,10", 422), ("accept=image/jp2", 406),
        ("iccprofile=adobergb", 400),
    ],
)  # fmt: skip
def test_rendering_parameters_that_cannot_be_are_refused(
    http: requests.Session, series: dict[str, Any], query: str, status: int
) -> None:
    answer = http.get(f"{series['urls'][0]}/rendered?{query}")

    assert answer.status_code == status, answer.text
    assert answer.json()["error"]


def test_what_has_no_picture_says_so(store: Store, http: requests.Session, image: Image) -> None:
    with open(get_testdata_file("reportsi.dcm", download=False), "rb") as file:  # type: ignore[arg-type]
        url = store(file.read()).json()["00081199"]["Value"][0]["00081190"]["Value"][0]

    assert http.get(f"{url}/thumbnail").status_code == 406
    assert "no image" in http.get(f"{url}/thumbnail").json()["error"]
    assert http.get(f"{url}/frames/1").status_code == 404


@pytest.fixture(scope="module")
def from_pydicom(store: Store) -> Callable[[str], tuple[str, bytes]]:
    def put(name: str) -> tuple[str, bytes]:
        path = get_testdata_file(name, download=False)
        assert path is not None
        with open(path, "rb") as file:  # type: ignore[arg-type]
            content = file.read()
        # pydicom's files of one image in several encodings share their UID; give each its own.
        uid = pydicom.dcmread(path, specific_tags=["SOPInstanceUID"]).SOPInstanceUID.encode()
        content = content.replace(uid, uid[:-4] + f"{sum(name.encode()):04}".encode())
        answer = store(content)
        assert answer.status_code in (200, 202), answer.text
        return answer.json()["00081199"]["Value"][0]["00081190"]["Value"][0], content

    return put


def test_a_compressed_frame_as_stored_and_decoded(
    http: requests.Session, from_pydicom: Any, parts_of: Parts
) -> None:
    url, content = from_pydicom("MR_small_jp2klossless.dcm")
    dataset = pydicom.dcmread(io.BytesIO(content))

    ((head, stored),) = parts_of(http.get(f"{url}/frames/1"))
    ((plain_head, plain),) = parts_of(http.get(f"{url}/frames/1", headers={"Accept": OCTETS}))
    star = http.get(f"{url}/frames/1", headers={"Accept": f"{OCTETS}; transfer-syntax=*"})

    assert head["content-type"] == "image/jp2; transfer-syntax=1.2.840.10008.1.2.4.90"
    assert stored in content and stored.startswith(b"\xff\x4f\xff\x51")
    assert parts_of(star)[0][1] == stored
    assert plain_head["content-type"].endswith(f"transfer-syntax={EXPLICIT}")
    assert plain == dataset.pixel_array.tobytes()


def test_instances_are_transcoded_for_who_names_no_transfer_syntax(
    http: requests.Session, from_pydicom: Any, parts_of: Parts
) -> None:
    for name, syntax in (
        ("MR_small_jp2klossless.dcm", EXPLICIT),
        ("MR_small_implicit.dcm", EXPLICIT),
        ("MR_small_bigendian.dcm", EXPLICIT),
        ("image_dfl.dcm", EXPLICIT),
        # Lossy: decompressing would gain nothing, so it stays as it is (PS3.18 8.7.3).
        ("SC_rgb_jpeg_dcmtk.dcm", "1.2.840.10008.1.2.4.50"),
    ):
        url, content = from_pydicom(name)
        original = pydicom.dcmread(io.BytesIO(content))

        ((head, got),) = parts_of(http.get(url, headers={"Accept": DICOM}))

        assert head["content-type"] == f"application/dicom; transfer-syntax={syntax}", name
        made = pydicom.dcmread(io.BytesIO(got))
        assert made.file_meta.TransferSyntaxUID == syntax
        assert made.SOPInstanceUID == original.SOPInstanceUID
        assert np.array_equal(made.pixel_array, original.pixel_array), name


def test_a_study_of_mixed_encodings_is_206_without_what_nobody_can_send(
    http: requests.Session, root: str, store: Store, image: Image, encode: Encode,
    parts_of: Parts,
) -> None:  # fmt: skip
    study = generate_uid()
    plain = image(StudyInstanceUID=study)
    video = image(StudyInstanceUID=study, SOPClassUID="1.2.840.10008.5.1.4.1.1.77.1.4.1")
    video.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.102"
    video.PixelData = pydicom.encaps.encapsulate([b"\x00\x00\x00\x18ftypmp42"])
    video["PixelData"].is_undefined_length = True
    assert store(encode(plain), encode(video)).status_code == 200

    answer = http.get(
        f"{root}/studies/{study}", headers={"Accept": f"{DICOM}; transfer-syntax={EXPLICIT}"}
    )
    none = http.get(
        f"{root}/studies/{study}",
        headers={"Accept": f"{DICOM}; transfer-syntax=1.2.840.10008.1.2.4.81"},
    )

    assert answer.status_code == 206
    assert "left out" in answer.headers["Warning"]
    assert [content for _, content in parts_of(answer)] == [encode(plain)]
    assert none.status_code == 406
    assert "1.2.840.10008.1.2.4.102" in none.json()["error"]
