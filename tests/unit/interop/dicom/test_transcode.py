"""Objects in another transfer syntax, exact to the bit and judged by others (PS3.5 8.2)."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import subprocess
import tracemalloc
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, generate_frames

from interop.dicom import decodable
from interop.dicom.decodable import JPEG_BASELINE, TARGETS
from interop.dicom.decode_pool import close_shared_pool
from interop.dicom.encapsulated import EncapsulatedPixelData
from interop.dicom.failures import Failure
from interop.dicom.part10 import parse
from interop.dicom.transcode import can_transcode, targets_of, transcode
from interop.errors import NotFound, Unprocessable

from .factories import CORPUS, encoded, instance
from .test_render import LIES, liar

EXPLICIT, IMPLICIT = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2"
DEFLATED, BIG_ENDIAN = "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.2"
RLE, JPEG_LOSSLESS, JPEG_LS = (
    "1.2.840.10008.1.2.5",
    "1.2.840.10008.1.2.4.70",
    "1.2.840.10008.1.2.4.80",
)
JPEG_2000, HTJ2K = "1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.201"
# The judges of DCMTK, which share no code with ours but the original of CharLS.
DCMTK = {RLE: "dcmdrle", JPEG_LOSSLESS: "dcmdjpeg", JPEG_LS: "dcmdjpls"}


@pytest.fixture(scope="module", autouse=True)
def children() -> Iterator[None]:
    yield
    close_shared_pool()


def image(kind: str) -> Dataset:
    """Three frames of noise on a slope; an odd size, so that codestreams get padded."""
    shape: tuple[int, ...] = (3, 45, 61)
    samples = 3 if kind in ("rgb", "ybr", "rgb16", "planar") else 1
    bits, stored = {"grey8": (8, 8), "palette": (8, 8), "grey12": (16, 12), "signed12": (16, 12),
                    "rgb16": (16, 16), "grey16": (16, 16), "signed16": (16, 16),
                    "overlay": (16, 12)}.get(kind, (8, 8))  # fmt: skip
    if samples == 3:
        shape = (*shape, 3)
    noise = np.random.default_rng(7).integers(0, 1 << stored, shape)
    slope = np.linspace(0, (1 << stored) - 1, 61).astype(int)[None, None, :]
    values = (noise // 8 + (slope[..., None] if samples == 3 else slope)) % (1 << stored)
    if kind.startswith("signed"):
        values -= 1 << stored - 1
    if kind == "overlay":
        values[:, 4, 4] |= 0x4000
    dtype = np.dtype(f"<{'i' if kind.startswith('signed') else 'u'}{bits // 8}")
    made = instance(
        rows=45, columns=61, frames=3, SamplesPerPixel=samples, BitsAllocated=bits,
        BitsStored=stored, HighBit=stored - 1, PixelRepresentation=int(dtype.kind == "i"),
        PhotometricInterpretation={"ybr": "YBR_FULL", "palette": "PALETTE COLOR"}.get(
            kind, "RGB" if samples == 3 else "MONOCHROME2"
        ),
    )  # fmt: skip
    if kind == "palette":
        for channel in ("Red", "Green", "Blue"):
            setattr(made, f"{channel}PaletteColorLookupTableDescriptor", [256, 0, 8])
            setattr(made, f"{channel}PaletteColorLookupTableData", bytes(range(256)))
    if samples == 3:
        made.PlanarConfiguration = int(kind == "planar")
    stored_values = np.moveaxis(values, -1, 1) if kind == "planar" else values
    pixels = stored_values.astype(dtype).tobytes()
    made.PixelData = pixels + b"\0" * (len(pixels) % 2)
    made["PixelData"].VR = "OW" if bits > 8 else "OB"
    return made


def written(folder: Path, made: Dataset, name: str = "source") -> Path:
    path = folder / name
    path.write_bytes(encoded(made))
    return path


def native_pixels(path: Path, folder: Path) -> bytes:
    """The pixels of any object, as our decoder gives them, without padding."""
    target = folder / f"{path.name}.native"
    transcode(path, target, EXPLICIT)
    made, frames = pydicom.dcmread(target), parse(target).frames.number_of_frames
    size = made.Rows * made.Columns * made.SamplesPerPixel * made.BitsAllocated // 8
    return bytes(made.PixelData[: size * frames])


KINDS = [
    "grey8",
    "grey12",
    "grey16",
    "signed12",
    "signed16",
    "rgb",
    "planar",
    "ybr",
    "rgb16",
    "palette",
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("wanted", TARGETS)
def test_every_pixel_survives_there_and_back(tmp_path: Path, kind: str, wanted: str) -> None:
    made = image(kind)
    source, target = written(tmp_path, made), tmp_path / "target"

    transcode(source, target, wanted)

    found = parse(target)
    assert found.transfer_syntax_uid == wanted
    assert found.sop_instance_uid == made.SOPInstanceUID
    assert found.frames.number_of_frames == 3
    assert not found.warnings
    interleaved = made.PixelData
    if kind == "planar" and wanted not in decodable.NATIVE_TARGETS:
        planes = np.frombuffer(made.PixelData[: 3 * 3 * 45 * 61], "u1").reshape(3, 3, 45, 61)
        interleaved = np.moveaxis(planes, 1, -1).tobytes()
        assert pydicom.dcmread(target).PlanarConfiguration == 0
    back = native_pixels(target, tmp_path)
    assert back == interleaved[: len(back)]
    if kind == "rgb" and wanted in (JPEG_2000, HTJ2K):
        assert pydicom.dcmread(target).PhotometricInterpretation == "YBR_RCT"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("wanted", DCMTK)
def test_dcmtk_sees_the_same_pixels(tmp_path: Path, kind: str, wanted: str) -> None:
    tool = shutil.which(DCMTK[wanted])
    if tool is None:
        pytest.skip(f"{DCMTK[wanted]} is not installed")
    made = image(kind)
    target, judged = tmp_path / "target", tmp_path / "judged"
    transcode(written(tmp_path, made), target, wanted)
    # dcmdjpeg converts colour unless it is told not to.
    options = ["+cn"] if wanted == JPEG_LOSSLESS else []

    done = subprocess.run([tool, *options, target, judged], capture_output=True, check=False)

    assert done.returncode == 0, done.stderr
    found = pydicom.dcmread(judged)
    expected, seen = made.pixel_array, found.pixel_array
    if made.PixelRepresentation and made.BitsStored < made.BitsAllocated:
        # DCMTK leaves the bits above the stored ones empty.
        mask = (1 << made.BitsStored) - 1
        expected, seen = expected & mask, seen & mask
    assert np.array_equal(seen, expected)


@pytest.mark.parametrize("kind", ["grey8", "grey16", "rgb"])
def test_pillow_sees_the_same_pixels_in_jpeg_2000(tmp_path: Path, kind: str) -> None:
    made, target = image(kind), tmp_path / "target"
    transcode(written(tmp_path, made), target, JPEG_2000)
    found = pydicom.dcmread(target)

    seen = [
        np.asarray(Image.open(io.BytesIO(frame)))
        for frame in generate_frames(found.PixelData, number_of_frames=3)
    ]

    assert np.array_equal(np.stack(seen), made.pixel_array)


def test_openjpeg_reads_what_openjph_wrote(tmp_path: Path) -> None:
    made, target = image("signed12"), tmp_path / "target"
    transcode(written(tmp_path, made), target, HTJ2K)
    found = pydicom.dcmread(target)

    frames = [
        imagecodecs.jpeg2k_decode(frame)
        for frame in generate_frames(found.PixelData, number_of_frames=3)
    ]

    assert np.array_equal(np.stack(frames), made.pixel_array)


def test_bits_above_the_stored_ones_are_kept_where_the_codec_can(tmp_path: Path) -> None:
    made = image("overlay")
    source = written(tmp_path, made)

    for wanted in decodable.ENCAPSULATED_TARGETS:
        target = tmp_path / wanted
        transcode(source, target, wanted)
        assert native_pixels(target, tmp_path) == made.PixelData[: 3 * 45 * 61 * 2], wanted


def test_signed_values_beyond_the_stored_bits_are_refused_not_changed(tmp_path: Path) -> None:
    made = image("signed16")
    made.BitsStored, made.HighBit = 12, 11
    source, target = written(tmp_path, made), tmp_path / "target"

    for wanted in (JPEG_LOSSLESS, JPEG_LS):
        with pytest.raises(Unprocessable, match="bits stored"):
            transcode(source, target, wanted)
    for wanted in (RLE, JPEG_2000, HTJ2K):
        transcode(source, target, wanted)
        pixels = native_pixels(target, tmp_path)
        assert pixels == made.PixelData[: len(pixels)], wanted


def is_image(path: Path) -> bool:
    """Whether the file is an object that is stored, with frames that can be read here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            found = parse(path)
        except Failure:
            return False
    has_frames = found.frames.number_of_frames and found.sop_class_uid
    return bool(has_frames and targets_of(found.transfer_syntax_uid))


@pytest.mark.parametrize("path", list(filter(is_image, CORPUS)), ids=lambda path: path.name)
@pytest.mark.filterwarnings("ignore")
def test_objects_of_the_corpus_are_transcoded_exactly_or_refused(
    tmp_path: Path, path: Path
) -> None:
    found = parse(path)
    try:
        original = native_pixels(path, tmp_path)
    except Unprocessable:
        original = None

    for wanted in (DEFLATED, JPEG_LOSSLESS, JPEG_LS, HTJ2K):
        target = tmp_path / wanted
        try:
            transcode(path, target, wanted)
        except Unprocessable as refused:
            assert len(str(refused)) > 20
            continue
        assert original is not None, "transcoded what cannot be read"
        made = parse(target)
        assert made.transfer_syntax_uid == wanted
        assert made.frames.number_of_frames == found.frames.number_of_frames
        again = native_pixels(target, tmp_path)
        if found.text(0x00280004) == "YBR_FULL_422" and len(again) != len(original):
            continue
        if found.integer(0x00280006) == 1 and again != original:
            # Planes of samples became pixels of samples.
            samples = np.frombuffer(original, "u1")
            size = (found.integer(0x00280010) or 0) * (found.integer(0x00280011) or 0)
            samples = samples.reshape(-1, 3, size).transpose(0, 2, 1)
            assert again == samples.tobytes(), wanted
            continue
        assert again == original, wanted


@pytest.mark.parametrize("kind", LIES)
@pytest.mark.filterwarnings("ignore")
def test_b5_lies_about_pixels_are_not_transcoded_and_the_decoder_lives(
    tmp_path: Path, kind: str
) -> None:
    source, target = written(tmp_path, liar(kind)), tmp_path / "target"

    for wanted in (EXPLICIT, JPEG_LS):
        if parse(source).transfer_syntax_uid == wanted:
            continue
        # What a damaged codestream still shows may come out; a lie never does.
        with contextlib.suppress(Unprocessable, NotFound):
            transcode(source, target, wanted)
            assert parse(target).sop_instance_uid == parse(source).sop_instance_uid
            assert "truncated" in kind

    other = written(tmp_path, image("grey12"), "other")
    transcode(other, target, JPEG_LS)
    assert parse(target).transfer_syntax_uid == JPEG_LS


def test_what_can_be_made_of_what() -> None:
    assert can_transcode(BIG_ENDIAN, EXPLICIT)
    assert not can_transcode(EXPLICIT, BIG_ENDIAN)
    assert can_transcode(JPEG_BASELINE, HTJ2K)
    # An object under its own UID never gets other pixels.
    assert not can_transcode(EXPLICIT, JPEG_BASELINE)
    assert can_transcode("1.2.840.10008.1.2.4.102", "1.2.840.10008.1.2.4.102")
    assert targets_of("1.2.840.10008.1.2.4.102") == ()
    assert set(targets_of(RLE)) == set(TARGETS) - {RLE}


def test_its_own_transfer_syntax_is_the_same_bytes(tmp_path: Path) -> None:
    source, target = written(tmp_path, image("grey12")), tmp_path / "target"

    transcode(source, target, EXPLICIT)

    assert target.read_bytes() == source.read_bytes()


def test_an_object_without_pixels_takes_any_transfer_syntax(tmp_path: Path) -> None:
    made = instance(PixelData=None)
    source, target = written(tmp_path, made), tmp_path / "target"

    for wanted in (IMPLICIT, DEFLATED, JPEG_LS):
        transcode(source, target, wanted)
        found = pydicom.dcmread(target)
        assert found.file_meta.TransferSyntaxUID == wanted
        assert found.PatientName == made.PatientName


def test_single_bits_are_sent_uncompressed_only(tmp_path: Path) -> None:
    made = instance(rows=9, columns=9, BitsAllocated=1, BitsStored=1, PixelData=bytes(12))
    made.HighBit = 0
    source, target = written(tmp_path, made), tmp_path / "target"

    transcode(source, target, IMPLICIT)
    with pytest.raises(Unprocessable, match="of 1 bits"):
        transcode(source, target, RLE)

    assert pydicom.dcmread(target).PixelData == made.PixelData


def test_what_stands_behind_the_pixels_is_kept(tmp_path: Path) -> None:
    source, _ = native(tmp_path, IMPLICIT, (0x7FE00010, "OW", bytes(128)))

    for wanted in (JPEG_LS, EXPLICIT):
        target = tmp_path / wanted
        transcode(source, target, wanted)
        source = target
        assert pydicom.dcmread(target)[0x7FE11001].value.rstrip(b"\0") == b"behind the pixels"


def test_where_32_bits_may_not_reach_the_offset_table_is_extended(tmp_path: Path) -> None:
    made = instance(rows=2, columns=2, frames=3)
    del made.PixelData
    made.file_meta.TransferSyntaxUID = pydicom.uid.UID(RLE)
    frames = [b"first", b"second frame", b"third"]
    target = tmp_path / "target"
    with target.open("wb") as out:
        pydicom.dcmwrite(out, made, enforce_file_format=True)
        element = EncapsulatedPixelData(out, 3, 1 << 33)
        for frame in frames:
            element.append(frame)
        element.finish()

    found = pydicom.dcmread(target)

    table = (found.ExtendedOffsetTable, found.ExtendedOffsetTableLengths)
    read = generate_frames(found.PixelData, number_of_frames=3, extended_offsets=table)
    assert list(read) == frames
    assert parse(target).frames.number_of_frames == 3


@pytest.mark.parametrize("codec", ["jpegls", "jpeg2k", "htj2k", "rle", "jpeg"])
def test_transcoded_object_is_native_and_whole(tmp_path: Path, codec: str) -> None:
    made = instance(rows=64, columns=48, frames=3)
    pixels = np.frombuffer(made.PixelData, "<u2").reshape(3, 64, 48)
    if codec == "jpeg":
        pixels = (pixels % 256).astype(np.uint8)
        made.BitsAllocated = made.BitsStored = 8
        made.HighBit = 7
    encode = {
        "jpegls": ("1.2.840.10008.1.2.4.80", imagecodecs.jpegls_encode),
        "jpeg2k": (
            "1.2.840.10008.1.2.4.90",
            lambda a: imagecodecs.jpeg2k_encode(a, codecformat="j2k", reversible=True),
        ),
        "htj2k": (HTJ2K, lambda a: imagecodecs.htj2k_encode(a, reversible=True)),
        "rle": ("1.2.840.10008.1.2.5", None),
        "jpeg": (JPEG_BASELINE, lambda a: imagecodecs.jpeg8_encode(a, level=95)),
    }[codec]
    if codec == "rle":
        made.compress(encode[0], generate_instance_uid=False)
    else:
        made.PixelData = encapsulate([bytes(encode[1](frame)) for frame in pixels])
        made["PixelData"].VR = "OB"
        made.file_meta.TransferSyntaxUID = encode[0]
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(encoded(made))

    transcode(source, target, EXPLICIT)

    found = pydicom.dcmread(target)
    assert found.file_meta.TransferSyntaxUID == EXPLICIT
    assert found.SOPInstanceUID == made.SOPInstanceUID
    distance = np.abs(found.pixel_array.astype(int) - pixels.astype(int)).max()
    assert distance <= (40 if codec == "jpeg" else 0)


@pytest.mark.parametrize(
    "name", ["MR_small_bigendian.dcm", "image_dfl.dcm", "MR_small_implicit.dcm"]
)
def test_native_objects_are_rewritten(tmp_path: Path, name: str) -> None:
    source = Path(str(get_testdata_file(name)))
    target = tmp_path / "target"

    transcode(source, target, EXPLICIT)

    found = pydicom.dcmread(target)
    assert found.file_meta.TransferSyntaxUID == EXPLICIT
    assert np.array_equal(found.pixel_array, pydicom.dcmread(source).pixel_array)


def native(
    tmp_path: Path, transfer_syntax_uid: str, pixel_data: tuple[int, str, bytes], **attributes: Any
) -> tuple[Path, Dataset]:
    """Write an object as pydicom does, with something on both sides of its pixels."""
    made = instance(transfer_syntax_uid=transfer_syntax_uid, **attributes)
    del made.PixelData
    tag, vr, value = pixel_data
    made.add_new(0x00091010, "OB", os.urandom(3 << 20))
    made.add_new(tag, vr, value)
    made.add_new(0x7FE10010, "LO", "MAKER")
    made.add_new(0x7FE11001, "OB", b"behind the pixels")
    source = tmp_path / "source"
    source.write_bytes(encoded(made))
    return source, made


@pytest.mark.parametrize("transfer_syntax_uid", ["1.2.840.10008.1.2", "1.2.840.10008.1.2.2"])
def test_native_object_is_rewritten_without_being_held(
    tmp_path: Path, transfer_syntax_uid: str
) -> None:
    pixels = np.arange(16 << 20, dtype=">u2" if transfer_syntax_uid.endswith("2.2") else "<u2")
    source, made = native(
        tmp_path,
        transfer_syntax_uid,
        (0x7FE00010, "OW", pixels.tobytes()),
        rows=4096,
        columns=4096,
    )
    target = tmp_path / "target"
    tracemalloc.start()

    transcode(source, target, EXPLICIT)

    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    found = pydicom.dcmread(target)
    assert peak < 16 << 20
    assert found.file_meta.TransferSyntaxUID == EXPLICIT
    assert found.PixelData == pixels.astype("<u2").tobytes()
    assert found["PixelData"].VR == "OW"
    assert found[0x00091010].value == made[0x00091010].value
    assert found[0x7FE11001].value.rstrip(b"\0") == b"behind the pixels"
    assert found.PatientName == "Doe^Jane"


@pytest.mark.parametrize(
    ("tag", "vr", "word", "bits"),
    [
        # PS3.5 8.1.1: sent as OW, two 8-bit pixels are one word; as OB, bytes are bytes.
        (0x7FE00010, "OW", 2, 8),
        (0x7FE00010, "OB", 1, 8),
        (0x7FE00008, "OF", 4, 32),
        (0x7FE00009, "OD", 8, 64),
    ],
)
def test_big_endian_pixels_change_their_order_by_the_word(
    tmp_path: Path, tag: int, vr: str, word: int, bits: int
) -> None:
    value = bytes(range(64)) * (bits // 8)
    source, _ = native(
        tmp_path, "1.2.840.10008.1.2.2", (tag, vr, value), BitsAllocated=bits, BitsStored=bits
    )

    transcode(source, tmp_path / "target", EXPLICIT)

    found = pydicom.dcmread(tmp_path / "target")
    swapped = b"".join(value[n : n + word][::-1] for n in range(0, len(value), word))
    assert (found[tag].VR, found[tag].value) == (vr, swapped)
