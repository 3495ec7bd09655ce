"""Instances that are sent as metadata and bulk data (PS3.18 10.5.1.4), put together at the end.

The parts of a request may come in any order and one may belong to several instances, so each waits
in a file of the request's own folder until the body is complete. A BulkDataURI means the part whose
Content-Location it is; nothing is ever fetched from anywhere (security.md F1).
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from urllib.parse import urljoin
from uuid import uuid4

from interop.dicom import native_model
from interop.dicom.failures import (
    CANNOT_UNDERSTAND,
    LIMIT_EXCEEDED,
    OBJECT_TOO_LARGE,
    Failure,
)
from interop.dicom.json_array import Json, JsonDataSet, data_sets
from interop.dicom.json_dataset import BulkPart, Encoded, encode
from interop.dicom.spool import Spool, SpoolLimitExceeded
from interop.dicomweb.media_types import DICOM_JSON, DICOM_XML, MediaType

METADATA = (DICOM_JSON, DICOM_XML)
# One document holds one instance; an array any number, read one by one.
MAX_XML_BYTES = 16 << 20
MAX_METADATA_BYTES = 128 << 20
# Data sets above are put together one at a time in a process: each costs ten times its size.
LARGE_BYTES = 256 << 10
_CHUNK = 1 << 18
_FRAME = re.compile(r"(.+)/frames/([1-9][0-9]{0,6})")


class PartFile:
    """Takes the octets of one metadata or bulk data part; not thread-safe."""

    def __init__(self, spool: Spool, folder: Path, limit: int) -> None:
        spool.require_space()
        self.path = folder / uuid4().hex
        self.size = 0
        self._limit = limit
        self._file = os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600)

    def write(self, data: bytes | bytearray) -> None:
        """Append octets. Raises SpoolLimitExceeded and OSError."""
        self.size += len(data)
        if self.size > self._limit:
            raise SpoolLimitExceeded.of(
                OBJECT_TOO_LARGE, f"The part is larger than {self._limit} bytes, the most accepted."
            )
        view = memoryview(data)
        while view:
            view = view[os.write(self._file, view) :]

    def finish(self) -> Path:
        """Close the file and return where it is."""
        descriptor, self._file = self._file, -1
        os.close(descriptor)
        return self.path

    def abort(self) -> None:
        """Close the file if it is open. It goes with its folder."""
        if self._file >= 0:
            with suppress(OSError):
                os.close(self._file)
            self._file = -1


class XmlDataSet:
    """One instance's metadata as a document of the Native DICOM Model."""

    def __init__(self, path: Path, size: int) -> None:
        self.path = path
        self.size = size

    def read(self) -> Json:
        """Parse the document. Raises Failure."""
        with self.path.open("rb", buffering=0) as file:
            return native_model.from_xml(iter(lambda: file.read(_CHUNK), b""))


DataSet = JsonDataSet | XmlDataSet


class Composition:
    """The metadata and bulk data of one request, as they arrive."""

    def __init__(self, base: str) -> None:
        self._base = base
        self._metadata: list[tuple[MediaType, Path, int]] = []
        self._bulk: dict[str, list[tuple[int, BulkPart]]] = {}
        # Of each bulk data part: its first name as it was sent, and all as they are compared.
        self._named: list[tuple[str, list[str]]] = []
        self._used: set[str] = set()
        self._found: dict[str, list[BulkPart]] = {}

    def add_metadata(self, media_type: MediaType, path: Path, size: int) -> None:
        """Keep a metadata part."""
        self._metadata.append((media_type, path, size))

    def add_bulk(
        self, headers: dict[str, str], media_type: MediaType, path: Path, size: int
    ) -> None:
        """Keep a bulk data part under the names that its headers give it."""
        part = BulkPart(path, size, media_type.name, media_type.transfer_syntax)
        names = list(_names(headers, self._base))
        keys = []
        for _, name in names:
            frame = _FRAME.fullmatch(name)
            key, number = (frame[1], int(frame[2])) if frame else (name, 0)
            self._bulk.setdefault(key, []).append((number, part))
            keys.append(key)
        self._named.append((names[0][0], keys))

    def data_sets(self) -> Iterator[DataSet | Failure]:
        """Yield the metadata of each instance. Raises Failure for a part that is none."""
        for media_type, path, size in self._metadata:
            if media_type.name == DICOM_XML:
                yield XmlDataSet(path, size)
            else:
                yield from data_sets(path)

    def encode(self, data_set: DataSet) -> tuple[Json, Encoded | Failure]:
        """Put one instance together; blocking. Raises Failure where there is no data set at all."""
        if isinstance(data_set, XmlDataSet) and data_set.size > MAX_XML_BYTES:
            raise Failure.of(
                LIMIT_EXCEEDED,
                f"The XML of an instance has {data_set.size} bytes; {MAX_XML_BYTES} are taken. Send"
                " long values as bulk data.",
            )
        found = data_set.read()
        try:
            return found, encode(found, self.find)
        except Failure as failure:
            return found, failure

    def find(self, uri: str) -> list[BulkPart]:
        """The parts that a BulkDataURI names: one, or one for each frame."""
        key = _resolved(uri, self._base)
        self._used.add(key)
        found = self._found.get(key)
        if found is None:
            found = self._found[key] = self._in_order(uri, self._bulk.get(key, []))
        return found

    def _in_order(self, uri: str, parts: list[tuple[int, BulkPart]]) -> list[BulkPart]:
        numbers = [number for number, _ in parts]
        if any(numbers) and sorted(numbers) != list(range(1, len(numbers) + 1)):
            raise Failure.of(
                CANNOT_UNDERSTAND,
                f"The frames of {uri[:80]!r} are not 1 to {len(numbers)}, each once.",
            )
        # Parts of one location are frames in their order.
        return [part for _, part in sorted(parts, key=lambda entry: entry[0])]

    def unused(self) -> list[str]:
        """The locations of bulk data that no metadata named."""
        return [shown for shown, keys in self._named if not self._used.intersection(keys)]


def _names(headers: dict[str, str], base: str) -> Iterator[tuple[str, str]]:
    location = headers.get("content-location", "").strip()
    if location:
        yield location, _resolved(location, base)
    content_id = headers.get("content-id", "").strip().strip("<>")
    if content_id:
        # RFC 2392: how the parts of multipart/related name each other.
        yield f"cid:{content_id}", f"cid:{content_id}"


def _resolved(location: str, base: str) -> str:
    """A URI as it is compared: absolute, against the URL of the request (RFC 2557 5)."""
    try:
        return urljoin(base, location.strip().strip("<>"))
    except ValueError:
        return location


def bulk_part_failure(headers: dict[str, str], media_type: MediaType) -> Failure | None:
    """Why a part cannot be bulk data."""
    if media_type.name.startswith("multipart/"):
        return Failure.of(CANNOT_UNDERSTAND, f"Part of type {media_type.name[:40]}: none is taken.")
    if not headers.get("content-location") and not headers.get("content-id"):
        return Failure.of(
            CANNOT_UNDERSTAND,
            f"Part of type {media_type.name[:40]} without a Content-Location belongs to nothing.",
        )
    return None
