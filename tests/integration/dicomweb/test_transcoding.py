"""Instances and frames in the transfer syntax that a caller asks for (PS3.18 8.7.3, 10.4)."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pydicom
import pytest
import requests
from dicomweb_client.api import DICOMwebClient
from PIL import Image as Pillow
from pydicom.uid import generate_uid

from interop.dicom.decodable import TARGETS

Image = Callable[..., pydicom.Dataset]
Encode = Callable[[pydicom.Dataset], bytes]
Store = Callable[..., requests.Response]
Parts = Callable[[requests.Response], list[tuple[dict[str, str], bytes]]]

EXPLICIT, IMPLICIT = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2"
RLE, JPEG, JPEG_LOSSLESS = "1.2.840.10008.1.2.5", "1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.70"
JPEG_LS, J2K, HTJ2K = (f"1.2.840.10008.1.2.4.{n}" for n in ("80", "90", "201"))
DICOM = 'multipart/related; type="application/dicom"'
FRAMES = 'multipart/related; type="{}"'


def url_of(root: str, dataset: pydicom.Dataset, level: int = 3) -> str:
    pairs = [
        ("studies", dataset.StudyInstanceUID),
        ("series", dataset.SeriesInstanceUID),
        ("instances", dataset.SOPInstanceUID),
    ]
    return root + "".join(f"/{name}/{uid}" for name, uid in pairs[:level])


@pytest.fixture(scope="module")
def slices(store: Store, image: Image, encode: Encode) -> pydicom.Dataset:
    """Three frames of 12 bits."""
    pixels = np.random.default_rng(3).integers(0, 4096, (3, 50, 40), dtype=np.uint16)
    dataset = image(
        NumberOfFrames=3, Rows=50, Columns=40, BitsStored=12, HighBit=11,
        PixelData=pixels.tobytes(),
    )  # fmt: skip
    assert store(encode(dataset)).status_code == 200
    return dataset


@pytest.fixture(scope="module")
def colour(store: Store, image: Image, encode: Encode) -> pydicom.Dataset:
    pixels = np.random.default_rng(4).integers(0, 256, (40, 30, 3), dtype=np.uint8)
    pixels[:20] = (200, 40, 90)
    dataset = image(
        Rows=40, Columns=30, SamplesPerPixel=3, PhotometricInterpretation="RGB",
        PlanarConfiguration=0, BitsAllocated=8, BitsStored=8, HighBit=7,
        PixelData=pixels.tobytes(),
    )  # fmt: skip
    assert store(encode(dataset)).status_code == 200
    return dataset


@pytest.mark.parametrize("syntax", TARGETS)
def test_an_instance_comes_in_every_transfer_syntax_with_the_same_pixels(
    http: requests.Session, root: str, slices: pydicom.Dataset, parts_of: Parts, syntax: str
) -> None:
    url = url_of(root, slices)

    ((head, content),) = parts_of(
        http.get(url, headers={"Accept": f"{DICOM}; transfer-syntax={syntax}"})
    )
    bare = http.get(url, headers={"Accept": f"application/dicom; transfer-syntax={syntax}"})

    assert head["content-type"] == f"application/dicom; transfer-syntax={syntax}"
    assert bare.content == content
    made = pydicom.dcmread(io.BytesIO(content))
    assert made.file_meta.TransferSyntaxUID == syntax
    assert made.SOPInstanceUID == slices.SOPInstanceUID
    assert made.PatientName == slices.PatientName
    if syntax in (J2K, HTJ2K, "1.2.840.10008.1.2.4.202"):
        frames = pydicom.encaps.generate_frames(made.PixelData, number_of_frames=3)
        pixels = np.stack([imagecodecs.jpeg2k_decode(frame) for frame in frames])
    elif syntax == JPEG_LOSSLESS:
        frames = pydicom.encaps.generate_frames(made.PixelData, number_of_frames=3)
        pixels = np.stack([imagecodecs.jpegsof3_decode(frame) for frame in frames])
    else:
        pixels = made.pixel_array
    assert np.array_equal(pixels, slices.pixel_array)


def test_dicomweb_client_asks_for_a_transfer_syntax(
    client: DICOMwebClient, slices: pydicom.Dataset
) -> None:
    uids = (slices.StudyInstanceUID, slices.SeriesInstanceUID, slices.SOPInstanceUID)

    made = client.retrieve_instance(*uids, media_types=(("application/dicom", JPEG_LS),))
    frames = client.retrieve_instance_frames(*uids, [2], media_types=(("image/jls", JPEG_LS),))

    assert made.file_meta.TransferSyntaxUID == JPEG_LS
    assert np.array_equal(made.pixel_array, slices.pixel_array)
    assert np.array_equal(imagecodecs.jpegls_decode(frames[0]), slices.pixel_array[1])


def test_the_stored_one_is_taken_before_one_that_is_wanted_as_much(
    http: requests.Session, root: str, slices: pydicom.Dataset, encode: Encode
) -> None:
    def syntax_for(accept: str) -> str:
        answer = http.get(url_of(root, slices), headers={"Accept": accept})
        found = re.search("transfer-syntax=([0-9.]+)", answer.headers["Content-Type"])
        assert answer.status_code == 200 and found is not None
        return found[1]

    one, stored = (f"application/dicom; transfer-syntax={uid}" for uid in (JPEG_LS, EXPLICIT))
    assert syntax_for(f"{one}, {stored}") == EXPLICIT
    assert syntax_for(f"{one}, {stored};q=0.9") == JPEG_LS
    assert syntax_for(f"{one};q=0.2, {stored};q=0.1, application/dicom;q=0.3") == EXPLICIT
    unknown = "application/dicom; transfer-syntax=1.2.3"
    assert syntax_for(f"{unknown}, {one};q=0.1") == JPEG_LS
    star = http.get(
        url_of(root, slices), headers={"Accept": "application/dicom; transfer-syntax=*"}
    )
    assert star.content == encode(slices)


@pytest.mark.parametrize(
    ("media_type", "syntax", "decode"),
    [
        ("image/jphc", HTJ2K, imagecodecs.jpeg2k_decode),
        ("image/jp2", J2K, imagecodecs.jpeg2k_decode),
        ("image/jls", JPEG_LS, imagecodecs.jpegls_decode),
        ("image/jpeg", JPEG_LOSSLESS, imagecodecs.jpegsof3_decode),
    ],
)
def test_frames_come_in_the_codec_of_their_media_type(
    http: requests.Session, root: str, slices: pydicom.Dataset, parts_of: Parts,
    media_type: str, syntax: str, decode: Callable[[bytes], Any],
) -> None:  # fmt: skip
    url = f"{url_of(root, slices)}/frames/3,1"

    parts = parts_of(http.get(url, headers={"Accept": FRAMES.format(media_type)}))
    bare = http.get(f"{url_of(root, slices)}/frames/2", headers={"Accept": media_type})

    assert [head["content-type"] for head, _ in parts] == [
        f"{media_type}; transfer-syntax={syntax}"
    ] * 2
    assert np.array_equal(decode(parts[0][1]), slices.pixel_array[2])
    assert np.array_equal(decode(parts[1][1]), slices.pixel_array[0])
    assert np.array_equal(decode(bare.content), slices.pixel_array[1])


def test_a_lossy_frame_only_for_who_names_it_and_for_8_bits_only(
    http: requests.Session, root: str, slices: pydicom.Dataset, colour: pydicom.Dataset
) -> None:
    baseline = {"Accept": f"image/jpeg; transfer-syntax={JPEG}"}

    lossy = http.get(f"{url_of(root, colour)}/frames/1", headers=baseline)
    lossless = http.get(f"{url_of(root, colour)}/frames/1", headers={"Accept": "image/jpeg"})
    deep = http.get(f"{url_of(root, slices)}/frames/1", headers=baseline)
    object_ = http.get(
        url_of(root, colour), headers={"Accept": f"application/dicom; transfer-syntax={JPEG}"}
    )

    shown = np.asarray(Pillow.open(io.BytesIO(lossy.content)).convert("RGB"))
    assert abs(shown[5, 5].astype(int) - (200, 40, 90)).max() <= 6
    exact = imagecodecs.jpeg8_decode(lossless.content)
    assert np.array_equal(exact, colour.pixel_array)
    assert (deep.status_code, object_.status_code) == (406, 406)
    assert "application/octet-stream" in deep.json()["error"]
    # An object under its own UID never comes with other pixels, and the list says what there is.
    assert HTJ2K in object_.json()["error"]


def test_a_study_in_a_codec_leaves_out_what_does_not_fit_it(
    http: requests.Session, root: str, store: Store, image: Image, encode: Encode,
    parts_of: Parts,
) -> None:  # fmt: skip
    uids = {"StudyInstanceUID": generate_uid()}
    plain, report = image(**uids), image(**uids)
    for keyword in ("PixelData", "Rows", "Columns"):
        delattr(report, keyword)
    bits = image(
        **uids, BitsAllocated=1, BitsStored=1, HighBit=0, Rows=8, Columns=8, PixelData=bytes(8)
    )
    assert store(encode(plain), encode(report), encode(bits)).status_code == 200
    url = f"{root}/studies/{uids['StudyInstanceUID']}"

    answer = http.get(url, headers={"Accept": f"{DICOM}; transfer-syntax={HTJ2K}"})
    either = http.get(url, headers={"Accept": f"{DICOM}; transfer-syntax={HTJ2K}, {DICOM};q=0.5"})
    alone = http.get(url_of(root, bits), headers={"Accept": f"{DICOM}; transfer-syntax={HTJ2K}"})

    assert answer.status_code == 206 and "left out" in answer.headers["Warning"]
    made = {pydicom.dcmread(io.BytesIO(content)).SOPInstanceUID for _, content in parts_of(answer)}
    assert made == {plain.SOPInstanceUID, report.SOPInstanceUID}
    assert either.status_code == 200
    syntaxes = [head["content-type"].rpartition("=")[2] for head, _ in parts_of(either)]
    assert sorted(syntaxes) == sorted([HTJ2K, HTJ2K, EXPLICIT])
    assert alone.status_code == 406


def test_single_bodies_are_revalidated_and_cut(
    http: requests.Session, root: str, slices: pydicom.Dataset, encode: Encode, parts_of: Parts
) -> None:
    file, pixels = encode(slices), slices.PixelData
    cases = [
        (url_of(root, slices), "application/dicom; transfer-syntax=*", file),
        (f"{url_of(root, slices)}/frames/1", "application/octet-stream", pixels[: 50 * 40 * 2]),
        (f"{url_of(root, slices)}/bulkdata/7FE00010", "application/octet-stream", pixels),
    ]
    for url, accept, content in cases:
        asked = {"Accept": accept}
        whole = http.get(url, headers=asked)
        etag = whole.headers["ETag"]
        again = http.get(url, headers=asked | {"If-None-Match": etag})
        part = http.get(url, headers=asked | {"Range": "bytes=10-19"})
        same = http.get(url, headers=asked | {"Range": "bytes=10-19", "If-Range": etag})
        other = http.get(url, headers=asked | {"Range": "bytes=10-19", "If-Range": '"x"'})
        several = http.get(url, headers=asked | {"Range": "bytes=0-1,-2"})
        head = http.head(url, headers=asked)

        assert whole.content == content
        assert whole.headers["Accept-Ranges"] == "bytes"
        assert (again.status_code, again.content) == (304, b"")
        for answer in (part, same):
            assert (answer.status_code, answer.content) == (206, content[10:20])
            assert answer.headers["Content-Range"] == f"bytes 10-19/{len(content)}"
        assert (other.status_code, other.content) == (200, content)
        assert [piece for _, piece in parts_of(several)] == [content[:2], content[-2:]]
        assert (head.status_code, head.content) == (200, b"")
        assert (head.headers["ETag"], int(head.headers["Content-Length"])) == (etag, len(content))


def test_several_parts_are_revalidated_too_and_the_encoding_counts(
    http: requests.Session, root: str, slices: pydicom.Dataset
) -> None:
    url = url_of(root, slices, 2)
    asked = {"Accept": f"{DICOM}; transfer-syntax=*"}
    etag = http.get(url, headers=asked).headers["ETag"]

    again = http.get(url, headers=asked | {"If-None-Match": etag})
    other = http.get(
        url, headers={"Accept": f"{DICOM}; transfer-syntax={RLE}", "If-None-Match": etag}
    )

    assert etag.startswith("W/")
    assert (again.status_code, other.status_code) == (304, 200)


@pytest.mark.parametrize("path", ["", "/frames/1", "/bulkdata/7FE00010"])
def test_c8_ranges_without_end_are_refused_at_once(
    http: requests.Session, root: str, slices: pydicom.Dataset, path: str
) -> None:
    accept = "application/dicom; transfer-syntax=*" if not path else "application/octet-stream"
    url = url_of(root, slices) + path

    for ranges in (",".join(["0-0"] * 17), ",".join(f"{n}-" for n in range(200))):
        answer = http.get(url, headers={"Accept": accept, "Range": f"bytes={ranges}"})
        assert answer.status_code == 416
        assert answer.headers["Content-Range"].startswith("bytes */")
    # Overlapping ranges of more than there is are answered once, whole.
    greedy = http.get(url, headers={"Accept": accept, "Range": "bytes=" + ",".join(["0-"] * 16)})
    assert greedy.status_code == 200


def test_a_remote_store_is_transcoded_too(
    http: requests.Session, root: str, server: Any, slices: pydicom.Dataset,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    def nothing_local(key: str) -> Path | None:
        return None

    monkeypatch.setattr(server.services.objects, "local_path", nothing_local)

    answer = http.get(
        url_of(root, slices), headers={"Accept": f"application/dicom; transfer-syntax={JPEG_LS}"}
    )
    frame = http.get(f"{url_of(root, slices)}/frames/1", headers={"Accept": "image/jls"})

    assert np.array_equal(
        pydicom.dcmread(io.BytesIO(answer.content)).pixel_array, slices.pixel_array
    )
    assert np.array_equal(imagecodecs.jpegls_decode(frame.content), slices.pixel_array[0])
