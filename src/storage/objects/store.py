"""The object store port: what every store of large objects can do, and how it fails.

ObjectStoreError
 ├── ObjectNotFound
 ├── ObjectExists
 ├── ChecksumMismatch
 └── ObjectStoreUnavailable
      └── ObjectStoreFull
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Protocol

CHUNK = 1 << 18


class ObjectStoreError(Exception):
    """The object store did not do what was asked."""


class ObjectNotFound(ObjectStoreError):
    """No object has this key."""


class ObjectExists(ObjectStoreError):
    """An object with this key exists; objects are never replaced."""


class ChecksumMismatch(ObjectStoreError):
    """The bytes are not those that the checksum was made of; nothing was stored."""


class ObjectStoreUnavailable(ObjectStoreError):
    """The object store cannot be reached or refuses to work; the same call may succeed later."""


class ObjectStoreFull(ObjectStoreUnavailable):
    """The object store has no space left."""


@dataclass(frozen=True, slots=True)
class ObjectStat:
    """What a listing says about one object."""

    key: str
    size: int
    modified: datetime


class ObjectStore(Protocol):
    """Write-once storage of bytes under server-made keys; all methods block and are thread-safe.

    Every method may raise ObjectStoreUnavailable, and ValueError for a key that is none.
    """

    def put_file(self, key: str, path: Path, sha256: str | None = None) -> None:
        """Store the file; durable on return, and visible whole or not at all.

        May consume `path` by moving it. With `sha256` (hex) the bytes are checked before they
        become visible. Raises ObjectExists and ChecksumMismatch, and leaves `path` in place then.
        """

    def put_bytes(self, key: str, data: bytes, sha256: str | None = None) -> None:
        """Store the bytes as `put_file` does."""

    def get(self, key: str) -> bytes:
        """Return the whole object. Raises ObjectNotFound."""

    def get_range(self, key: str, offset: int, length: int) -> bytes:
        """Return `length` bytes from `offset`, fewer where the object ends before.

        Raises ObjectNotFound.
        """

    def open_range(
        self, key: str, offset: int = 0, length: int | None = None, chunk: int = CHUNK
    ) -> Iterator[bytes]:
        """Return the range in chunks of at most `chunk` bytes.

        ObjectNotFound is raised here and not at the first chunk.
        """

    def stat(self, key: str) -> ObjectStat:
        """Return size and time. Raises ObjectNotFound."""

    def delete(self, key: str) -> None:
        """Remove the object; one that is not there is no error."""

    def list(self, prefix: str) -> Iterator[ObjectStat]:
        """Return the objects whose key starts with `prefix`, in no promised order."""

    def local_path(self, key: str) -> Path | None:
        """Return the file that holds the object, for sendfile, or None when there is none."""

    def remove_abandoned(self, before: datetime) -> int:
        """Remove what interrupted writes left behind before a time; return how many."""


def check_range(offset: int, length: int | None) -> None:
    """Refuse a range that starts or ends before the object does."""
    if offset < 0 or (length is not None and length < 0):
        raise ValueError(f"offset {offset} and length {length} must not be negative")
