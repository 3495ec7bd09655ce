"""Rendered images and thumbnails on disk, so that the second look costs a file read.

Each tenant has a folder, and a key says of which bytes an image is (the storage key, which is never
used again) and everything that was asked for, so nobody is ever given what was rendered for another
tenant. Who may see an image is decided before the cache is asked, so a deleted object's is never
shown, and is gone soon after (picture_keeper.py). It is bounded in size and age. Images with
burned-in names are not kept at all; that is the caller's to see to.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Collection
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from uuid import UUID, uuid4

MOST_AGE_SECONDS = 86_400.0
_LISTING_SECONDS = 3_600.0
# Larger images are rare, and cheap beside what sending them costs.
LARGEST_BYTES = 8 << 20
# Room is made in one go, so that the folder is not listed for each image.
_KEPT_PART = 0.8
# Stands for the slashes of a storage key, which has none of these itself (storage/objects/keys.py).
_SLASH = "_"
_NOWAIT = getattr(os, "RWF_NOWAIT", 0)


class PictureCache:
    """A folder that several processes share; each bounds it by what it sees there."""

    def __init__(self, folder: Path, limit_bytes: int) -> None:
        self._folder = folder
        self._limit = limit_bytes
        self._lock = threading.Lock()
        # What was written since the folder was last listed.
        self._written = 0
        self._listed_bytes = 0
        self._listed_at = 0.0

    @staticmethod
    def key(tenant_id: UUID, storage_key: str, *how: object) -> str:
        """The name under which an image of a tenant's stored object is kept."""
        of = storage_key.replace("/", _SLASH)
        return f"{tenant_id}/{of}.{sha256(repr((storage_key, how)).encode()).hexdigest()}"

    def get(self, key: str) -> bytes | None:
        """The image, unless it was never kept or is too old; blocking."""
        try:
            return self._read(key, 0)
        except OSError:
            return None

    def at_once(self, key: str) -> bytes | None:
        """The same without waiting for the disk. Raises BlockingIOError where that cannot be."""
        try:
            return self._read(key, _NOWAIT)
        except FileNotFoundError:
            return None
        except OSError as error:
            # EOPNOTSUPP: a file system that cannot say.
            raise BlockingIOError from error

    def _read(self, key: str, flags: int) -> bytes | None:
        if not self._limit:
            return None
        file = os.open(self._path(key), os.O_RDONLY | os.O_CLOEXEC)
        try:
            found = os.fstat(file)
            if time.time() - found.st_mtime > MOST_AGE_SECONDS:
                return None
            image = bytearray(found.st_size)
            size = os.preadv(file, [image], 0, flags)
            if size < len(image):
                raise BlockingIOError
            return bytes(image)
        finally:
            os.close(file)

    def put(self, key: str, image: bytes) -> None:
        """Keep an image. A disk that is full or gone costs the next caller time, nothing else."""
        if not 0 < len(image) <= min(LARGEST_BYTES, self._limit):
            return
        path = self._path(key)
        temporary = path.with_name(f"{path.name}.{uuid4().hex}")
        try:
            if not path.parent.is_dir():
                path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            temporary.write_bytes(image)
            temporary.replace(path)
        except OSError:
            with suppress(OSError):
                temporary.unlink()
            return
        with self._lock:
            self._written += len(image)
            is_stale = time.time() - self._listed_at > _LISTING_SECONDS
            if is_stale or self._listed_bytes + self._written > self._limit:
                self._make_room()

    def tenants(self) -> list[UUID]:
        """Whose images there are."""
        return [UUID(path.name) for path in self._folder.glob("*-*-*-*-*")]

    def storage_keys(self, tenant_id: UUID) -> set[str]:
        """Of which stored objects of a tenant there are images."""
        return {_storage_key(path) for path in self._images(tenant_id)}

    def forget(self, tenant_id: UUID, storage_keys: Collection[str]) -> None:
        """Remove every image of these objects."""
        for path in self._images(tenant_id):
            if _storage_key(path) in storage_keys:
                with suppress(OSError):
                    path.unlink()

    def _images(self, tenant_id: UUID) -> list[Path]:
        return list((self._folder / str(tenant_id)).glob("*"))

    def _path(self, key: str) -> Path:
        return self._folder / key

    def _make_room(self) -> None:
        """List the folder; remove what is too old, and the oldest where it is too full."""
        files: list[tuple[float, int, Path]] = []
        for path in self._folder.glob("*/*"):
            with suppress(OSError):
                found = path.stat()
                files.append((found.st_mtime, found.st_size, path))
        total = sum(size for _, size, _ in files)
        wanted = self._limit * _KEPT_PART if total > self._limit else total
        oldest = time.time() - MOST_AGE_SECONDS
        for modified, size, path in sorted(files):
            if total <= wanted and modified > oldest:
                break
            with suppress(OSError):
                path.unlink()
                total -= size
        self._listed_bytes, self._written, self._listed_at = total, 0, time.time()


def _storage_key(path: Path) -> str:
    return path.name.partition(".")[0].replace(_SLASH, "/")
