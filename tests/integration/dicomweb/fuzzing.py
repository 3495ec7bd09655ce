"""Seeded damage to real DICOM files: each mutant has UIDs of its own and one kind of wrong."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pydicom
from pydicom.data import get_testdata_file

# Small files of many kinds: images native and compressed, SR, RT, waveform, big-endian, implicit
# VR, character sets, segmentation.
BASES = (
    "CT_small.dcm",
    "MR_small_RLE.dcm",
    "MR_small_bigendian.dcm",
    "JPEG2000.dcm",
    "SC_rgb_jpeg_gdcm.dcm",
    "reportsi.dcm",
    "test-SR.dcm",
    "rtplan.dcm",
    "waveform_ecg.dcm",
    "rtdose.dcm",
    "SC_ybr_full_422_uncompressed.dcm",
    "chrH32.dcm",
    "liver_1frame.dcm",
)
_VRS = (
    b"AE AS AT CS DA DS DT FD FL IS LO LT OB OD OF OL OW PN SH SL SQ SS ST TM UC UI UL UN UR US UT"
)


def bases() -> list[tuple[str, bytes]]:
    """The files that are in the installed package."""
    root = Path(pydicom.__file__).parent
    found = []
    for name in BASES:
        path = get_testdata_file(name, download=False)
        if isinstance(path, str) and Path(path).is_relative_to(root):
            found.append((name, Path(path).read_bytes()))
    return found


def renamed(content: bytes, rng: random.Random) -> bytes:
    """The same with its own study, series and instance UIDs, each as long as it was."""
    dataset = pydicom.dcmread(pydicom.filebase.DicomBytesIO(content), force=True)
    for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"):
        uid = str(dataset.get(keyword, ""))
        if len(uid) > 12:
            digits = "".join(rng.choice("123456789") for _ in range(len(uid) - 5))
            content = content.replace(uid.encode(), f"2.25.{digits}".encode())
    return content


def _flip(content: bytearray, rng: random.Random) -> None:
    for _ in range(rng.randint(1, 8)):
        at = rng.randrange(128, len(content))
        content[at] ^= 1 << rng.randrange(8)


def _flip_header(content: bytearray, rng: random.Random) -> None:
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(132, min(len(content), 1500))
        content[at] = rng.randrange(256)


def _truncate(content: bytearray, rng: random.Random) -> None:
    del content[rng.randrange(100, len(content)) :]


def _lie_about_vr(content: bytearray, rng: random.Random) -> None:
    places = [
        at
        for at in range(140, min(len(content) - 2, 4000))
        if bytes(content[at : at + 2]) in _VRS.split()
    ]
    for at in rng.sample(places, min(len(places), 3)):
        content[at : at + 2] = rng.choice(_VRS.split())


def _odd_length(content: bytearray, rng: random.Random) -> None:
    at = rng.randrange(200, min(len(content), 3000))
    del content[at : at + rng.choice((1, 3))]


def _grow(content: bytearray, rng: random.Random) -> None:
    at = rng.randrange(200, len(content))
    content[at:at] = rng.randbytes(rng.randint(1, 64))


def _no_meta(content: bytearray, rng: random.Random) -> None:
    del content[:128]
    if rng.random() < 0.5:
        del content[:4]


def _nothing(content: bytearray, rng: random.Random) -> None:
    """Unchanged but for its UIDs: what must be stored."""


DAMAGE: tuple[Callable[[bytearray, random.Random], None], ...] = (
    _nothing,
    _flip,
    _flip_header,
    _truncate,
    _lie_about_vr,
    _odd_length,
    _grow,
    _no_meta,
)


def mutants(seed: int, each: int) -> Iterator[tuple[str, bytes]]:
    """Of every base, `each` of every kind of damage; the name says which."""
    rng = random.Random(seed)
    for name, content in bases():
        for damage in DAMAGE:
            for n in range(each):
                changed = bytearray(renamed(content, rng))
                damage(changed, rng)
                yield f"{name}{damage.__name__}{n}", bytes(changed)
