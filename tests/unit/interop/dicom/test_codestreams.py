from __future__ import annotations

import imagecodecs
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from interop.dicom import codestreams
from interop.dicom.codestreams import Codestream, examine
from interop.dicom.failures import CANNOT_UNDERSTAND, TRANSFER_SYNTAX_NOT_SUPPORTED, Failure

GREY = (np.arange(40 * 50, dtype=np.uint16).reshape(40, 50) * 7) & 0xFFF
GREY8 = (GREY >> 4).astype(np.uint8)
COLOUR = np.dstack([GREY8, GREY8[::-1], 255 - GREY8])


def jpeg(array: np.ndarray, **options: object) -> bytes:
    return bytes(imagecodecs.jpeg8_encode(array, **options))


def j2k(array: np.ndarray, **options: object) -> bytes:
    return bytes(imagecodecs.jpeg2k_encode(array, codecformat="j2k", **options))


CASES = [
    (jpeg(GREY8), "image/jpeg", codestreams.JPEG_BASELINE, 1, 8, "MONOCHROME2"),
    (jpeg(COLOUR), "image/jpeg", codestreams.JPEG_BASELINE, 3, 8, "YBR_FULL_422"),
    (jpeg(COLOUR, subsampling="444"), "image/jpeg", codestreams.JPEG_BASELINE, 3, 8, "YBR_FULL"),
    (bytes(imagecodecs.ljpeg_encode(GREY, bitspersample=12)), "image/jpeg",
     codestreams.JPEG_LOSSLESS, 1, 12, "MONOCHROME2"),
    (bytes(imagecodecs.jpegls_encode(GREY)), "image/jls", codestreams.JPEG_LS_LOSSLESS, 1, 16,
     "MONOCHROME2"),
    (bytes(imagecodecs.jpegls_encode(GREY8, level=3)), "image/jls", codestreams.JPEG_LS, 1, 8,
     "MONOCHROME2"),
    (j2k(GREY, level=0, reversible=True), "image/jp2", codestreams.JPEG_2000_LOSSLESS, 1, 16,
     "MONOCHROME2"),
    (j2k(COLOUR, level=0, reversible=True, mct=True), "image/jp2",
     codestreams.JPEG_2000_LOSSLESS, 3, 8, "YBR_RCT"),
    (j2k(COLOUR, level=80, reversible=False, mct=True), "image/jp2", codestreams.JPEG_2000, 3, 8,
     "YBR_ICT"),
    (j2k(COLOUR, level=0, reversible=True, mct=False), "image/jpx",
     codestreams.JPEG_2000_LOSSLESS, 3, 8, "RGB"),
    (bytes(imagecodecs.htj2k_encode(GREY, reversible=True)), "image/jphc",
     codestreams.HTJ2K_LOSSLESS, 1, 16, "MONOCHROME2"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("data", "media_type", "syntax", "samples", "bits", "colour"), CASES,
    ids=[f"{case[1]}-{case[2]}-{case[5]}" for case in CASES],
)  # fmt: skip
def test_the_head_says_what_it_is(
    data: bytes, media_type: str, syntax: str, samples: int, bits: int, colour: str
) -> None:
    found = examine(data, media_type)

    assert found is not None
    assert (found.rows, found.columns) == (40, 50)
    assert (found.transfer_syntax_uid, found.samples_per_pixel) == (syntax, samples)
    assert (found.bits_stored, found.photometric_interpretation) == (bits, colour)
    assert not found.is_signed
    assert data[found.offset : found.offset + found.length][:1] == b"\xff"


def test_the_codestream_is_found_inside_a_jp2_file() -> None:
    file = bytes(imagecodecs.jpeg2k_encode(GREY8, codecformat="jp2", level=0, reversible=True))
    assert file[4:8] == b"jP  "

    found = examine(file, "image/jp2")

    assert found is not None
    codestream = file[found.offset : found.offset + found.length]
    assert codestream.startswith(b"\xff\x4f\xff\x51")
    assert np.array_equal(imagecodecs.jpeg2k_decode(codestream), GREY8)


def test_a_progressive_jpeg_has_no_transfer_syntax() -> None:
    data = jpeg(GREY8).replace(b"\xff\xc0", b"\xff\xc2", 1)

    with pytest.raises(Failure, match="progressive") as caught:
        examine(data, "image/jpeg")

    assert caught.value.reason == TRANSFER_SYNTAX_NOT_SUPPORTED.reason


@pytest.mark.parametrize("media_type", ["image/jpeg", "image/jls", "image/jp2", "image/jphc"])
@pytest.mark.parametrize("data", [b"", b"\xff", b"\xff\xd8", b"GIF89a", b"\xff\xd8\xff\xc0\0\x04",
                                  b"\0\0\0\x0cjP  ", b"\xff\x4f\xff\x51\0\x29"])  # fmt: skip
def test_what_is_cut_or_something_else_is_refused(data: bytes, media_type: str) -> None:
    with pytest.raises(Failure) as caught:
        examine(data, media_type)

    assert caught.value.reason == CANNOT_UNDERSTAND.reason


@pytest.mark.parametrize("case", range(len(CASES)))
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_b5_a_damaged_head_is_read_or_refused(case: int, data: st.DataObject) -> None:
    damaged = bytearray(CASES[case][0])
    for _ in range(data.draw(st.integers(1, 5))):
        at = data.draw(st.integers(0, min(len(damaged), 200) - 1))
        damaged[at] = data.draw(st.integers(0, 255))
    del damaged[data.draw(st.integers(1, len(damaged))) :]

    try:
        found = examine(bytes(damaged), CASES[case][1])
    except Failure as failure:
        assert failure.message
    else:
        assert isinstance(found, Codestream)
        assert 0 <= found.offset <= found.offset + found.length <= len(damaged)


@pytest.mark.parametrize(
    ("data", "media_type"),
    [
        (b"\xff\xd8" + b"\xff" * 50_000_000, "image/jpeg"),
        (b"\xff\xd8" + b"\xff\xe1\0\2" * 10_000_000, "image/jpeg"),
        (b"\xff\x4f\xff\x51" + bytes(8_000_000), "image/jp2"),
        (b"\0\0\0\x08jP  " + b"\0\0\0\x08free" * 5_000_000, "image/jp2"),
    ],
    ids=["fill", "segments", "markers", "boxes"],
)
def test_c3_an_endless_head_is_given_up(data: bytes, media_type: str) -> None:
    with pytest.raises(Failure) as caught:
        examine(data, media_type)

    assert caught.value.reason == CANNOT_UNDERSTAND.reason


def test_what_says_nothing_of_itself_is_left_to_the_sender() -> None:
    assert examine(b"\0" * 64, "image/dicom-rle") is None
    assert examine(b"\0\0\0\x18ftypmp42", "video/mp4") is None


def test_a_general_syntax_admits_its_lossless_form() -> None:
    found = examine(CASES[6][0], "image/jp2")
    assert found is not None

    assert found.fits(codestreams.JPEG_2000) and found.fits(codestreams.JPEG_2000_LOSSLESS)
    assert not found.fits(codestreams.HTJ2K)
