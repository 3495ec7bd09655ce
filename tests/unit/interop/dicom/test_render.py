"""Decoding and rendering in the limited child process, and what it refuses (security.md B5, B6)."""

from __future__ import annotations

import io
import os
import signal
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.pixels import pixel_array

from interop.dicom import decode_pool, frames, render
from interop.dicom.decode_child import FRAME
from interop.dicom.decode_pool import DecodePool, close_shared_pool, shared_pool
from interop.dicom.failures import Failure
from interop.dicom.part10 import parse
from interop.errors import NotAcceptable, NotFound, ServerError, Unprocessable
from storage.objects import ObjectStore, open_object_store

from .factories import CORPUS, SECONDARY_CAPTURE, Remote, encoded, instance

JPEG_BASELINE = "1.2.840.10008.1.2.4.50"
HTJ2K = "1.2.840.10008.1.2.4.201"


@dataclass(frozen=True)
class Window:
    center: float
    width: float
    function: str = "LINEAR"


@dataclass(frozen=True)
class Viewport:
    width: int
    height: int
    source: tuple[float, float, float, float] | None = None
    is_relative: bool = False
    enlarges: bool = True


@dataclass(frozen=True)
class Parameters:
    media_type: str = "image/png"
    quality: int = 90
    viewport: Viewport | None = None
    window: Window | None = None
    annotation: tuple[str, ...] = ()
    icc_profile: str = "no"


@pytest.fixture(scope="module")
def objects(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectStore]:
    yield open_object_store(f"file://{tmp_path_factory.mktemp('render')}")
    close_shared_pool()


def row(objects: ObjectStore, content: bytes | Dataset) -> frames.FrameRow:
    raw = encoded(content) if isinstance(content, Dataset) else content
    key = f"t/{os.urandom(8).hex()}"
    objects.put_bytes(key, raw)
    found = parse(raw)
    return frames.FrameRow(
        key,
        found.transfer_syntax_uid,
        found.frames.number_of_frames,
        found.frames.pixel_data_offset,
        found.frames.frame_length,
        found.frames.table,
        found.dicom_json.decode(),
    )


def picture(objects: ObjectStore, content: bytes | Dataset, **options: Any) -> np.ndarray:
    made = render.render_frame(objects, row(objects, content), 0, Parameters(**options))
    return np.asarray(Image.open(io.BytesIO(made)))


def grey(values: list[int], **attributes: object) -> Dataset:
    made = instance(rows=1, columns=len(values), **attributes)
    made.PixelData = np.array(values, "<u2").tobytes()
    return made


def test_window_of_the_object_is_applied(objects: ObjectStore) -> None:
    made = grey([0, 1000, 2000, 4000], WindowCenter=1000, WindowWidth=2001)

    assert picture(objects, made).tolist() == [[0, 128, 255, 255]]


def test_window_of_the_caller_comes_first(objects: ObjectStore) -> None:
    made = grey([0, 1000, 2000, 4000], WindowCenter=1000, WindowWidth=2001)

    shown = picture(objects, made, window=Window(2000, 4000, "LINEAR_EXACT"))

    assert shown.tolist() == [[0, 64, 128, 255]]


def test_rescale_comes_before_the_window(objects: ObjectStore) -> None:
    made = grey(
        [0, 512, 1024], RescaleSlope=2, RescaleIntercept=-1024, WindowCenter=0, WindowWidth=2049
    )

    assert picture(objects, made).tolist() == [[0, 128, 255]]


def test_monochrome1_is_inverted(objects: ObjectStore) -> None:
    made = grey([0, 4095], PhotometricInterpretation="MONOCHROME1")

    assert picture(objects, made).tolist() == [[255, 0]]
    assert render.display_pixels(objects, row(objects, made)).tolist() == [[4095, 0]]


def test_bits_beyond_bits_stored_are_left_out(objects: ObjectStore) -> None:
    made = grey([0x0000, 0x0FFF, 0xF000], WindowCenter=2048, WindowWidth=4096)

    assert picture(objects, made).tolist() == [[0, 255, 0]]


def test_palette_indices_beyond_the_table_show_its_ends(objects: ObjectStore) -> None:
    made = instance(
        rows=1, columns=4, PhotometricInterpretation="PALETTE COLOR", BitsAllocated=8, BitsStored=8
    )
    made.HighBit = 7
    made.PixelData = bytes([0, 10, 11, 255])
    for channel, offset in (("Red", 0), ("Green", 1), ("Blue", 2)):
        setattr(made, f"{channel}PaletteColorLookupTableDescriptor", [2, 10, 8])
        setattr(made, f"{channel}PaletteColorLookupTableData", bytes([10 + offset, 20 + offset]))

    first, second = picture(objects, made), picture(objects, made)

    assert first.tolist() == [[[10, 11, 12], [10, 11, 12], [20, 21, 22], [20, 21, 22]]]
    assert np.array_equal(first, second)


def test_viewport_crops_and_keeps_the_aspect_ratio(objects: ObjectStore) -> None:
    made = instance(rows=100, columns=200)

    whole = picture(objects, made, viewport=Viewport(50, 50))
    part = picture(objects, made, viewport=Viewport(80, 80, (0, 0, 100, 100)))

    assert whole.shape == (25, 50)
    assert part.shape == (80, 80)


@pytest.mark.parametrize("size", [20, 600])
def test_objects_of_a_network_store_are_read_by_range(objects: ObjectStore, size: int) -> None:
    made = instance(rows=size, columns=size, frames=2)
    made.add_new(0xFFFCFFFC, "OB", bytes(16))
    stored = row(objects, made)
    remote = Remote(objects)

    assert frames.native_frame(remote, stored, 1) == made.PixelData[size * size * 2 :]
    assert frames.bulk_value(remote, stored.storage_uri, "7FE00010") == ("OW", made.PixelData)
    assert render.render_frame(remote, stored, 1, Parameters())


@pytest.mark.parametrize("media_type", ["image/jpeg", "image/png", "image/gif"])
def test_image_types(objects: ObjectStore, media_type: str) -> None:
    made = render.render_frame(
        objects, row(objects, instance(rows=20, columns=30)), 0, Parameters(media_type)
    )

    image = Image.open(io.BytesIO(made))
    assert image.size == (30, 20)
    assert image.format == media_type.rpartition("/")[2].upper()


def test_a_frame_fits_into_a_thumbnail(objects: ObjectStore) -> None:
    made = instance(rows=600, columns=900)
    made.PixelData = np.full((600, 900), 1000, "<u2").tobytes()
    made.WindowCenter, made.WindowWidth = 1000, 2001

    shown = picture(objects, made, viewport=Viewport(256, 256))

    assert shown.shape == (171, 256)
    assert shown[50, 50] == 128


# Neither we nor pydicom's own plugins read it: its codestream is damaged on purpose.
DAMAGED = {"JPEG2000-embedded-sequence-delimiter.dcm"}


@pytest.mark.parametrize("path", CORPUS, ids=lambda path: path.name)
def test_frames_of_the_corpus_are_those_of_pydicom(objects: ObjectStore, path: Path) -> None:
    try:
        stored = row(objects, path.read_bytes())
    except Failure:
        return
    if not stored.number_of_frames or path.name in DAMAGED:
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            dataset = pydicom.dcmread(path)
            is_ybr = dataset.PhotometricInterpretation.startswith("YBR_FULL")
            theirs = pixel_array(path, index=0, raw=not is_ybr)
        except Exception:
            return

    found = frames.native_frame(objects, stored, 0)

    if dataset.BitsAllocated == 1:
        ours = np.unpackbits(np.frombuffer(found, "u1"), bitorder="little", count=theirs.size)
    elif is_ybr and stored.transfer_syntax_uid != JPEG_BASELINE:
        # Left in YBR; converted only when displayed.
        ours = render.display_pixels(objects, stored, 0)
    else:
        ours = np.frombuffer(found, theirs.dtype.newbyteorder("<"), theirs.size)
        if dataset.get("PlanarConfiguration") == 1 and stored.frame_table is None:
            ours = np.moveaxis(ours.reshape(3, *theirs.shape[:2]), 0, -1)
    distance = np.abs(ours.reshape(theirs.shape).astype(int) - theirs.astype(int)).max()
    # libjpeg and the YBR matrix round differently by a few steps.
    assert distance <= (4 if is_ybr else 0)


def test_object_without_pixels_has_no_picture(objects: ObjectStore) -> None:
    made = instance(PixelData=None)

    with pytest.raises(NotAcceptable):
        picture(objects, made)


def test_frame_that_is_not_there(objects: ObjectStore) -> None:
    stored = row(objects, instance(frames=2))

    with pytest.raises(NotFound):
        frames.read_frame(objects, stored, 2)


def compressed(codestream: bytes, transfer_syntax_uid: str, **attributes: object) -> Dataset:
    made = instance(rows=32, columns=32, **attributes)
    made.PixelData = encapsulate([codestream])
    made["PixelData"].VR = "OB"
    made.file_meta.TransferSyntaxUID = transfer_syntax_uid
    return made


def liar(kind: str) -> Dataset:  # noqa: PLR0912
    square = np.arange(1024, dtype=np.uint16).reshape(32, 32)
    match kind:
        case "rows x columns beyond the data":
            return instance(Rows=60_000, Columns=60_000)
        case "2^31 frames":
            return instance(NumberOfFrames=2**31 - 1)
        case "no rows":
            return instance(Rows=0)
        case "bits stored beyond allocated":
            return instance(BitsStored=40)
        case "bits allocated 12":
            return instance(BitsAllocated=12)
        case "palette without tables":
            return instance(PhotometricInterpretation="PALETTE COLOR")
        case "codestream of another size":
            return compressed(
                bytes(imagecodecs.jpegls_encode(square[:16])), "1.2.840.10008.1.2.4.80"
            )
        case "truncated JPEG-LS":
            return compressed(
                bytes(imagecodecs.jpegls_encode(square))[:60], "1.2.840.10008.1.2.4.80"
            )
        case "truncated J2K":
            return compressed(
                bytes(imagecodecs.jpeg2k_encode(square, codecformat="j2k"))[:80],
                "1.2.840.10008.1.2.4.90",
            )
        case "truncated HTJ2K":
            return compressed(bytes(imagecodecs.htj2k_encode(square))[:70], HTJ2K)
        case "truncated RLE":
            return compressed(b"\x02\0\0\0" + b"\x40\0\0\0" * 2 + bytes(60), "1.2.840.10008.1.2.5")
        case "RLE offsets outside":
            return compressed(
                b"\x02\0\0\0" + b"\x40\0\0\0" + b"\xff\xff\xff\x7f" + bytes(60),
                "1.2.840.10008.1.2.5",
            )
        case "garbage as JPEG":
            return compressed(b"\xff\xd8" + os.urandom(500), JPEG_BASELINE)
    raise AssertionError(kind)


LIES = [
    "rows x columns beyond the data",
    "2^31 frames",
    "no rows",
    "bits stored beyond allocated",
    "bits allocated 12",
    "palette without tables",
    "codestream of another size",
    "truncated JPEG-LS",
    "truncated J2K",
    "truncated HTJ2K",
    "truncated RLE",
    "RLE offsets outside",
    "garbage as JPEG",
]


@pytest.mark.parametrize("kind", LIES)
@pytest.mark.filterwarnings("ignore")
def test_b5_lies_about_pixels_are_refused_and_the_decoder_lives(
    objects: ObjectStore, kind: str
) -> None:
    stored = row(objects, liar(kind))
    # The first frame of the many is there and may be shown; those after it are not.
    index = 5 if kind == "2^31 frames" else 0

    answers = []
    for _ in range(2):
        try:
            answers.append(render.render_frame(objects, stored, index, Parameters()))
        except ServerError as error:
            assert isinstance(error, Unprocessable | NotFound)
            answers.append(str(error).encode())

    if "truncated" not in kind:
        assert b"PNG" not in answers[0][:4]
    # Twice the same, whichever it is: nothing of foreign memory is shown (B6).
    assert answers[0] == answers[1]
    assert picture(objects, grey([0, 4095])).tolist() == [[0, 255]]
    assert objects.get(stored.storage_uri)


@pytest.mark.parametrize("colour", [False, True])
def test_a_thumbnail_of_a_large_image_shows_what_the_image_shows(
    objects: ObjectStore, colour: bool
) -> None:
    slope = np.linspace(0, 255, 1501).astype(np.uint8)
    made = instance(rows=1203, columns=1501, BitsAllocated=8, BitsStored=8)
    made.HighBit = 7
    pixels = np.tile(slope, (1203, 1))
    if colour:
        made.SamplesPerPixel, made.PhotometricInterpretation = 3, "RGB"
        made.PlanarConfiguration = 0
        pixels = np.stack([pixels, pixels[:, ::-1], pixels], axis=-1)
    else:
        made.WindowCenter, made.WindowWidth = 128, 256
    made.PixelData = pixels.tobytes() + b"\0" * (pixels.size % 2)

    small = picture(objects, made, viewport=Viewport(250, 250)).astype(int)
    large = picture(objects, made, viewport=Viewport(257, 257))
    exact = np.asarray(Image.fromarray(large).resize(small.shape[1::-1])).astype(int)

    assert small.shape[:2] == (200, 250)
    assert np.abs(small - exact).max() <= 3


@pytest.mark.parametrize("kind", ["palette", "short"])
def test_b6_two_fresh_processes_show_the_same_and_nothing_of_their_memory(
    objects: ObjectStore, kind: str
) -> None:
    made = instance(rows=40, columns=40, BitsAllocated=8, BitsStored=8)
    made.HighBit = 7
    made.PixelData = bytes(n % 256 for n in range(1600 if kind == "palette" else 900))
    if kind == "palette":
        made.PhotometricInterpretation = "PALETTE COLOR"
        for channel in ("Red", "Green", "Blue"):
            setattr(made, f"{channel}PaletteColorLookupTableDescriptor", [4, 250, 8])
            setattr(made, f"{channel}PaletteColorLookupTableData", bytes([1, 2, 3, 4]))
    stored = row(objects, made)

    answers = set()
    for _ in range(2):
        pool = DecodePool(size=1)
        try:
            answers.add(render.render_frame(objects, stored, 0, Parameters(), pool))
        except Unprocessable as error:
            answers.add(str(error).encode())
        finally:
            pool.close()

    (answer,) = answers
    if kind == "palette":
        assert set(np.asarray(Image.open(io.BytesIO(answer))).flat) == {1, 2, 3, 4}
    else:
        assert b"bytes" in answer


def test_b5_child_that_is_killed_is_replaced(objects: ObjectStore) -> None:
    pool = DecodePool(size=1)
    stored = row(objects, grey([0, 4095]))
    try:
        render.render_frame(objects, stored, 0, Parameters(), pool)
        child = pool._idle.queue[0]
        assert child is not None
        os.kill(child.pid, signal.SIGKILL)

        with pytest.raises(Unprocessable):
            render.render_frame(objects, stored, 0, Parameters(), pool)

        assert render.render_frame(objects, stored, 0, Parameters(), pool)
    finally:
        pool.close()


def test_b5_child_that_takes_too_long_is_stopped(objects: ObjectStore) -> None:
    pool = DecodePool(size=1, timeout=0.05)
    made = instance(rows=2000, columns=3000)
    stored = row(objects, made)
    try:
        with pytest.raises(Unprocessable, match="too long"):
            render.render_frame(objects, stored, 0, Parameters(), pool)
    finally:
        pool.close()


def test_a_large_frame_leaves_no_memory_behind(
    objects: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    large, small = row(objects, instance(rows=64, columns=64)), row(objects, grey([0, 4095]))
    monkeypatch.setattr(decode_pool, "_KEPT_BYTES", 64 * 64)
    pool = DecodePool(size=1)
    try:
        before = render.render_frame(objects, small, 0, Parameters(), pool)
        child = pool._idle.queue[0]
        assert child is not None

        render.render_frame(objects, large, 0, Parameters(), pool)

        assert os.fstat(child._body).st_size == 0
        assert render.render_frame(objects, small, 0, Parameters(), pool) == before
        assert pool._idle.queue[0] is child
    finally:
        pool.close()


@pytest.mark.parametrize(
    "said",
    [
        FRAME.pack(2, 3) + b"{}abcd",
        FRAME.pack(2, 4) + b"{}abc",
        FRAME.pack(1 << 30, 0),
        FRAME.pack(2, 1 << 40) + b"{}",
        FRAME.pack(2, 0) + b"[]",
        FRAME.pack(2, 0) + b"}{",
        b"\0",
    ],
    ids=["more", "less", "long header", "long body", "no object", "no JSON", "half"],
)
def test_b5_a_child_that_was_taken_over_is_believed_nothing(
    objects: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: bytes
) -> None:
    answer, taken_over = tmp_path / "answer", tmp_path / "taken-over"
    answer.write_bytes(said)
    taken_over.write_text(f"#!/bin/sh\ncat {answer}\n")
    taken_over.chmod(0o700)
    stored = row(objects, grey([0, 4095]))
    pool = DecodePool(size=1, timeout=5)
    try:
        with monkeypatch.context() as patched:
            patched.setattr(sys, "executable", str(taken_over))
            with pytest.raises(Unprocessable, match="too much memory"):
                render.render_frame(objects, stored, 0, Parameters(), pool)
            pool.close()
        pool = DecodePool(size=1)

        assert render.render_frame(objects, stored, 0, Parameters(), pool)
    finally:
        pool.close()


def test_decoders_are_shared_by_threads(objects: ObjectStore) -> None:
    from concurrent.futures import ThreadPoolExecutor

    stored = row(objects, instance(rows=50, columns=50))
    with ThreadPoolExecutor(6) as pool:
        made = set(
            pool.map(lambda _: render.render_frame(objects, stored, 0, Parameters()), range(30))
        )

    assert len(made) == 1
    assert shared_pool() is shared_pool()


def test_bits_that_begin_inside_a_byte_make_frames(objects: ObjectStore) -> None:
    made = instance(
        rows=3, columns=5, frames=4, SOPClassUID=SECONDARY_CAPTURE, BitsAllocated=1, BitsStored=1
    )
    made.HighBit = 0
    bits = np.arange(4 * 15) % 3 == 0
    made.PixelData = np.packbits(bits, bitorder="little").tobytes()
    stored = row(objects, made)

    for n in range(4):
        raw = np.frombuffer(frames.read_frame(objects, stored, n), np.uint8)
        found = np.unpackbits(raw, bitorder="little", count=15)
        assert found.tolist() == bits[n * 15 : n * 15 + 15].astype(int).tolist()


def test_bulk_value_is_found_by_its_path(objects: ObjectStore) -> None:
    made = instance()
    made.add_new(0x00091010, "OW", bytes(range(256)) * 8)
    stored = row(objects, made)

    assert frames.bulk_value(objects, stored.storage_uri, "00091010") == (
        "OW",
        bytes(range(256)) * 8,
    )
    with pytest.raises(NotFound):
        frames.bulk_value(objects, stored.storage_uri, "00091011")


@pytest.mark.parametrize("stored", [16, 12])
@pytest.mark.parametrize(
    ("transfer_syntax_uid", "encode"),
    [
        ("1.2.840.10008.1.2.4.70", imagecodecs.ljpeg_encode),
        ("1.2.840.10008.1.2.4.80", imagecodecs.jpegls_encode),
    ],
)
def test_compressed_signed_values_keep_their_sign(
    objects: ObjectStore, transfer_syntax_uid: str, encode: Any, stored: int
) -> None:
    values = np.array([[-1000, -500, 0, 500], [1000, 2000, -1, 3]] * 4, "<i2")
    bits = np.ascontiguousarray(values.view("<u2") & ((1 << stored) - 1)).astype("<u2")
    made = instance(
        rows=8,
        columns=4,
        BitsStored=stored,
        HighBit=stored - 1,
        PixelRepresentation=1,
        WindowCenter=0,
        WindowWidth=4000,
        transfer_syntax_uid=transfer_syntax_uid,
    )
    made.PixelData = encapsulate([bytes(encode(bits))])
    made["PixelData"].is_undefined_length = True

    shown = picture(objects, made, window=Window(0, 2000, "LINEAR_EXACT"))
    kept = render.display_pixels(objects, row(objects, made))

    assert shown[:2].tolist() == [[0, 64, 128, 191], [255, 255, 127, 128]]
    assert (kept[0].astype(int) - (1 << stored - 1)).tolist() == [-1000, -500, 0, 500]
