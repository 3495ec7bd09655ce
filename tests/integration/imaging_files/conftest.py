"""The whole application, a patient in it, and files as dental software sends them."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable
from dataclasses import dataclass
from uuid import UUID, uuid4

import httpx
import numpy as np
import pytest
from PIL import Image

from storage.tenancy import Tenant
from tests.integration.access.conftest import Door, door

__all__ = ["door"]


@dataclass(frozen=True)
class Person:
    """A patient with a record number."""

    id: UUID
    mrn: str


@pytest.fixture
def person(door: Door, tenant: Tenant) -> Person:
    made = Person(uuid4(), f"MRN-{uuid4().hex[:8]}")
    door.execute(
        "INSERT INTO patients (tenant_id, id, last_name, first_name, dob, sex_at_birth)"
        " VALUES (%s, %s, 'Müller', 'Jürgen', '1980-01-02', 'MALE')",
        tenant.id,
        made.id,
    )
    door.execute(
        "INSERT INTO patient_identifiers (tenant_id, patient_id, system, value, is_primary)"
        " VALUES (%s, %s, 'MRN', %s, true)",
        tenant.id,
        made.id,
        made.mrn,
    )
    return made


@pytest.fixture(scope="module")
def files(door: Door, tenant: Tenant) -> httpx.Client:
    """The operator at the door of files."""
    return door.caller(tenant, "system/*.cruds", door="")


@pytest.fixture(scope="module")
def dicomweb(door: Door, tenant: Tenant) -> httpx.Client:
    return door.caller(tenant, "system/*.cruds", door="dicom-web")


@pytest.fixture(scope="module")
def fhir(door: Door, tenant: Tenant) -> httpx.Client:
    return door.caller(tenant, "system/*.cruds")


def pixels(seed: int, *shape: int) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    return np.random.default_rng(seed).integers(0, 255, shape, np.uint8)


def jpeg(seed: int = 0, *, orientation: int | None = None, **options: object) -> bytes:
    """A photograph, with an Exif orientation if one is wanted."""
    image = Image.fromarray(pixels(seed, 60, 80, 3))
    exif = Image.Exif()
    if orientation is not None:
        exif[0x0112] = orientation
        exif.get_ifd(0x8769)[0x9003] = "2026:03:14 10:15:30"
    with io.BytesIO() as buffer:
        image.save(buffer, "JPEG", exif=exif, **options)
        return buffer.getvalue()


def png(seed: int = 0, mode: str = "RGB") -> bytes:
    bands = {"L": (), "RGB": (3,), "RGBA": (4,)}[mode]
    with io.BytesIO() as buffer:
        Image.fromarray(pixels(seed, 30, 41, *bands), mode).save(buffer, "PNG")
        return buffer.getvalue()


def stl(seed: int = 0, triangles: int = 3) -> bytes:
    """A binary STL; an odd number of triangles has an odd... 84 + 50 n is always even."""
    rng = np.random.default_rng(seed)
    body = b"".join(rng.random(12, np.float32).tobytes() + b"\0\0" for _ in range(triangles))
    return b"scan of an upper jaw".ljust(80) + struct.pack("<I", triangles) + body


def mp4(seed: int = 0, *, codec: bytes = b"avc1", profile: int = 100, level: int = 31) -> bytes:
    """The boxes of a film of ten frames at 25 a second; its frames are noise."""

    def box(name: bytes, *content: bytes) -> bytes:
        body = b"".join(content)
        return struct.pack(">I4s", 8 + len(body), name) + body

    avc = box(b"avcC", bytes([1, profile, 0, level, 0xFF, 0xE1]))
    entry = box(
        codec, bytes(24), struct.pack(">HH", 640, 480), bytes(50), avc if codec == b"avc1" else b""
    )
    table = box(
        b"stbl",
        box(b"stsd", struct.pack(">II", 0, 1), entry),
        box(b"stsz", struct.pack(">III", 0, 100, 10)),
    )
    media = box(
        b"mdia",
        box(b"mdhd", struct.pack(">IIIII", 0, 0, 0, 25, 10), bytes(4)),
        box(b"hdlr", bytes(8), b"vide", bytes(13)),
        box(b"minf", table),
    )
    noise = np.random.default_rng(seed).bytes(1001)
    head = box(b"ftyp", b"isom", bytes(4), b"isomavc1")
    return head + box(b"moov", box(b"trak", media)) + box(b"mdat", noise)


MADE: dict[str, tuple[str, Callable[..., bytes]]] = {
    "JPEG": ("image/jpeg", jpeg),
    "PNG": ("image/png", png),
    "STL": ("model/stl", stl),
    "MP4": ("video/mp4", mp4),
}
