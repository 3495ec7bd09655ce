"""Annotation, ICC profiles, animations, flips, and what is kept of them (PS3.18 8.3.5, 10.4)."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import requests
from PIL import Image as Pillow
from PIL import ImageCms, ImageSequence

Image = Callable[..., pydicom.Dataset]
Encode = Callable[[pydicom.Dataset], bytes]
Store = Callable[..., requests.Response]
Put = Callable[..., str]

PNG = {"Accept": "image/png"}


@pytest.fixture(scope="module")
def put(store: Store, image: Image, encode: Encode) -> Put:
    """Stores an image and returns its URL; all of its pixels are 0 unless it says otherwise."""

    def stored(**attributes: object) -> str:
        made = {"Rows": 120, "Columns": 160, "WindowCenter": "2000", "WindowWidth": "4000"}
        made |= attributes  # type: ignore[arg-type]
        made = {keyword: value for keyword, value in made.items() if value is not None}
        if "PixelData" not in made:
            made["PixelData"] = bytes(120 * 160 * 2)
        answer = store(encode(image(**made)))
        assert answer.status_code == 200, answer.text
        url = answer.json()["00081199"]["Value"][0]["00081190"]["Value"][0]
        assert isinstance(url, str)
        return url

    return stored


def opened(answer: requests.Response) -> Any:
    assert answer.status_code == 200, answer.text
    return Pillow.open(io.BytesIO(answer.content))


def pixels(answer: requests.Response) -> Any:
    return np.asarray(opened(answer))


def kept(server: Any) -> set[Path]:
    folder: Path = server.services.settings.data_dir / "cache" / "pictures"
    return {path for path in folder.rglob("*") if path.is_file()}


def test_annotations_are_burned_in_where_they_are_asked_for_and_kept_nowhere(
    http: requests.Session, put: Put, server: Any
) -> None:
    url = put(PatientName="Adam^Eve", SeriesDescription="lower right")
    plain = pixels(http.get(f"{url}/rendered", headers=PNG))
    before = kept(server)

    patient = pixels(http.get(f"{url}/rendered?annotation=patient", headers=PNG))
    technique = pixels(http.get(f"{url}/rendered?annotation=technique", headers=PNG))
    both = pixels(http.get(f"{url}/rendered?annotation=technique,patient", headers=PNG))
    after = kept(server)

    assert plain.max() == 0
    assert patient[:60].max() > 250 and patient[80:].max() == 0
    assert technique[80:].max() > 250 and technique[:40].max() == 0
    assert min(both[:40].max(), both[80:].max()) > 250
    # Nobody is ever shown the names that were burned in for somebody else.
    assert after == before


def test_an_annotation_says_who_is_shown_and_nothing_of_others(
    http: requests.Session, put: Put
) -> None:
    one, same, other = (put(PatientName=name) for name in ("Adam^Eve", "Adam^Eve", "Bell^Amy"))

    shown = [
        pixels(http.get(f"{url}/rendered?annotation=patient", headers=PNG))
        for url in (one, same, other)
    ]

    assert np.array_equal(shown[0], shown[1])
    assert not np.array_equal(shown[0], shown[2])


def test_a_negative_width_or_height_flips(http: requests.Session, put: Put) -> None:
    values = np.zeros((120, 160), np.uint16)
    values[:60, :80] = 4000
    url = put(PixelData=values.tobytes())

    def corner(source: str) -> Any:
        shown = pixels(http.get(f"{url}/rendered?viewport=160,120,{source}", headers=PNG))
        return np.argwhere(shown[[0, 0, -1, -1], [0, -1, 0, -1]] > 200).tolist()

    assert corner("0,0,160,120") == [[0]]
    assert corner("0,0,-160,120") == [[1]]
    assert corner("0,0,160,-120") == [[2]]
    assert corner("0,0,-160,-120") == [[3]]


def test_icc_profiles(http: requests.Session, put: Put) -> None:
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    colour = np.full((10, 10, 3), (200, 40, 90), np.uint8)
    url = put(
        Rows=10, Columns=10, SamplesPerPixel=3, PhotometricInterpretation="RGB",
        PlanarConfiguration=0, BitsAllocated=8, BitsStored=8, HighBit=7,
        PixelData=colour.tobytes(), ICCProfile=srgb + b"\0" * (len(srgb) % 2),
    )  # fmt: skip
    grey = put()

    plain, stored, converted = (
        opened(http.get(f"{url}/rendered?iccprofile={value}", headers=PNG))
        for value in ("no", "yes", "srgb")
    )
    jpeg = opened(http.get(f"{url}/rendered?iccprofile=srgb"))
    of_grey = opened(http.get(f"{grey}/rendered?iccprofile=yes"))

    assert "icc_profile" not in plain.info
    assert stored.info["icc_profile"][: len(srgb)] == srgb
    assert np.abs(np.asarray(converted).astype(int) - (200, 40, 90)).max() <= 1
    assert jpeg.info["icc_profile"] and of_grey.info["icc_profile"]
    assert of_grey.mode == "RGB"


def test_a_damaged_icc_profile_is_refused(http: requests.Session, put: Put) -> None:
    url = put(
        Rows=2, Columns=2, SamplesPerPixel=3, PhotometricInterpretation="RGB",
        PlanarConfiguration=0, BitsAllocated=8, BitsStored=8, HighBit=7, PixelData=bytes(12),
        ICCProfile=b"garbage " * 20,
    )  # fmt: skip

    answer = http.get(f"{url}/rendered?iccprofile=srgb")

    assert (answer.status_code, "ICC" in answer.json()["error"]) == (422, True)
    assert http.get(f"{url}/rendered").status_code == 200


def test_frames_are_one_animation_at_the_pace_of_the_object(
    http: requests.Session, put: Put
) -> None:
    values = np.repeat(np.array([0, 1000, 2000, 4000], np.uint16), 30 * 40)
    url = put(Rows=30, Columns=40, NumberOfFrames=4, PixelData=values.tobytes(), FrameTime="250")
    gif = {"Accept": "image/gif"}

    every = opened(http.get(f"{url}/rendered", headers=gif))
    listed = opened(http.get(f"{url}/frames/4,2/rendered", headers=gif))
    one = opened(http.get(f"{url}/frames/2/rendered", headers=gif))
    small = opened(http.get(f"{url}/thumbnail", headers=gif))

    assert (every.n_frames, every.info["duration"], every.info["loop"]) == (4, 250, 0)
    brightness = [np.asarray(frame.convert("L")).max() for frame in ImageSequence.Iterator(every)]
    assert brightness == sorted(brightness) and brightness[-1] == 255
    assert (listed.n_frames, one.n_frames, small.n_frames) == (2, 1, 1)


def test_an_animation_that_would_be_too_large_is_refused(http: requests.Session, put: Put) -> None:
    url = put(
        Rows=100, Columns=100, NumberOfFrames=10, BitsAllocated=8, BitsStored=8, HighBit=7,
        PixelData=bytes(100_000),
    )  # fmt: skip
    gif = {"Accept": "image/gif"}

    large = http.get(f"{url}/rendered?viewport=2000,2000", headers=gif)
    small = http.get(f"{url}/rendered", headers=gif)

    assert (large.status_code, "viewport" in large.json()["error"]) == (413, True)
    assert small.status_code == 200


def test_a_second_look_is_answered_from_what_was_kept(
    http: requests.Session, put: Put, server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from interop.dicom import render

    url = put()
    first = http.get(f"{url}/thumbnail")

    def never(*_: object) -> bytes:
        raise AssertionError("rendered again")

    monkeypatch.setattr(render, "render_frame", never)
    again = http.get(f"{url}/thumbnail")
    other = http.get(f"{url}/thumbnail?quality=11")

    assert again.content == first.content
    assert other.status_code == 500
    (tenant_folder,) = {path.parent for path in kept(server)}
    assert tenant_folder.stat().st_mode & 0o077 == 0


def test_what_was_kept_for_one_tenant_is_not_there_for_another(
    put: Put, server: Any, tenant: Any, other_tenant: Any, http: requests.Session
) -> None:
    url = put()
    assert http.get(f"{url}/rendered").status_code == 200
    theirs = url.replace(f"/t/{tenant.slug}/", f"/t/{other_tenant.slug}/")

    assert server.session(other_tenant).get(f"{theirs}/rendered").status_code == 404


def test_monochrome1_voi_lut_and_modality_lut(http: requests.Session, put: Put) -> None:
    values = np.tile(np.array([0, 1, 2, 3], np.uint16), (4, 1))
    size = {"Rows": 4, "Columns": 4, "PixelData": values.tobytes()}
    window = {"WindowCenter": "2", "WindowWidth": "4"}
    table = pydicom.Dataset()
    table.LUTDescriptor = [4, 0, 8]
    table.add_new(0x00283006, "US", [255, 0, 255, 128])
    modality = pydicom.Dataset()
    modality.LUTDescriptor = [4, 0, 16]
    modality.ModalityLUTType = "US"
    modality.add_new(0x00283006, "US", [3, 2, 1, 0])

    inverted = put(PhotometricInterpretation="MONOCHROME1", **size, **window)
    looked_up = put(VOILUTSequence=[table], **{**size, "WindowCenter": None, "WindowWidth": None})
    reversed_ = put(ModalityLUTSequence=[modality], **size, **window)
    plain = put(**size, **window)

    def row(url: str) -> list[int]:
        values: list[int] = pixels(http.get(f"{url}/rendered", headers=PNG))[0].tolist()
        return values

    assert row(inverted) == [255 - value for value in row(plain)]
    assert row(looked_up) == [255, 0, 255, 128]
    assert row(reversed_) == row(plain)[::-1]
