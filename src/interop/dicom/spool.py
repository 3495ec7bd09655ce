"""Where an object waits on disk between the wire and the object store.

A writer counts, hashes and bounds while bytes arrive, so that memory stays flat whatever the
sender declares (reliability.md M4, M5). What it writes is what will be stored: a Part 10 file
whose preamble is zeroed (security.md B1, CVE-2019-11687), except where the caller keeps TIFF.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import logging
import os
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from xxhash import xxh3_128

from interop.dicom.failures import NOT_DICOM, OBJECT_TOO_LARGE, OUT_OF_RESOURCES, Failure
from interop.dicom.filemeta import (
    PREAMBLE_LENGTH,
    FileMeta,
    MoreBytesNeeded,
    read_file_meta,
    write_file_meta,
)

logger = logging.getLogger(__name__)

_LOCK = ".lock"
# A folder has a name of the first kind until it is locked, and of the second from then on.
_UNLOCKED, _LOCKED = ".process-", "process-"
# Folders that older versions made beside those of the processes; nothing locks them.
_FORMER = ("transcoded-", "fetched-")
_FULL = "The spool's disk is full; send again later."
# How long what nobody locks may still be in use.
_UNLOCKED_SECONDS = 3600
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
# Left free for the database and the journal when objects, spool and database share a disk.
_RESERVE_BYTES = 64 << 20

Buffer = bytes | bytearray | memoryview


class SpoolLimitExceeded(Failure):
    """The object is larger than the server accepts."""


@dataclass(frozen=True, slots=True)
class Spooled:
    """One whole object on disk. Digests are lower-case hexadecimal.

    `sha256` is of the file. `dataset_hash` is the XXH3-128 of the data set alone: it recognises an
    object that is sent again under another header, and a second SHA-256 would cost as much as all
    of the parsing.
    """

    path: Path
    sha256: str
    byte_size: int
    dataset_offset: int
    dataset_hash: str

    def discard(self) -> None:
        """Remove the file if it is still there."""
        with suppress(FileNotFoundError):
            self.path.unlink()


class Spool:
    """A folder of its own per process, locked while the process lives."""

    def __init__(self, root: Path, *, object_limit: int = 4 << 30) -> None:
        self.root = root
        self.object_limit = object_limit
        root.mkdir(parents=True, exist_ok=True)
        name = uuid.uuid4().hex
        unlocked = root / f"{_UNLOCKED}{name}"
        unlocked.mkdir(mode=0o700)
        self._lock = os.open(unlocked / _LOCK, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._lock, fcntl.LOCK_SH)
        # Only now may a process that cleans look at it: between the folder and its lock it would
        # seem to have no owner.
        self._folder = root / f"{_LOCKED}{name}"
        unlocked.rename(self._folder)

    def writer(self, *, keep_tiff_preamble: bool = False) -> SpoolWriter:
        """Return a writer for one object. Raises Failure A700 when the disk is nearly full."""
        self.require_space()
        with _failures():
            path = self._folder / uuid.uuid4().hex
            return SpoolWriter(path, self.object_limit, keep_tiff_preamble)

    def require_space(self) -> None:
        """Raise Failure A700 when the disk is nearly full."""
        with _failures():
            space = os.statvfs(self._folder)
        if space.f_bavail * space.f_frsize < _RESERVE_BYTES:
            raise Failure.of(OUT_OF_RESOURCES, _FULL)

    @contextmanager
    def temporary_folder(self) -> Iterator[Path]:
        """A folder for copies that are made to be read once; gone afterwards, also after a crash.

        It lies in this process's own folder, so that the next process to start removes it.
        """
        folder = self._folder / f"temporary-{uuid.uuid4().hex}"
        folder.mkdir(mode=0o700)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def clean(self) -> int:
        """Remove what dead processes left behind; return how many files. Safe beside live ones."""
        removed = 0
        for folder in self.root.iterdir():
            if folder == self._folder:
                continue
            if folder.name.startswith(_LOCKED):
                removed += _remove_ownerless(folder)
            elif folder.name.startswith((_UNLOCKED, *_FORMER)):
                removed += _remove_old(folder)
        return removed

    def close(self) -> None:
        """Remove this process's folder."""
        shutil.rmtree(self._folder, ignore_errors=True)
        with suppress(OSError):
            os.close(self._lock)


def _remove_ownerless(folder: Path) -> int:
    try:
        lock = os.open(folder / _LOCK, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        # Another cleaner has it; what it leaves when it dies there is a folder without a lock.
        return _remove_old(folder)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return _remove(folder)
    except BlockingIOError:
        return 0
    finally:
        os.close(lock)


def _remove_old(folder: Path) -> int:
    with suppress(FileNotFoundError):
        if folder.stat().st_mtime < time.time() - _UNLOCKED_SECONDS:
            return _remove(folder)
    return 0


def _remove(folder: Path) -> int:
    files = sum(1 for path in folder.rglob("*") if path.name != _LOCK and not path.is_dir())
    shutil.rmtree(folder, ignore_errors=True)
    return files


@contextmanager
def _failures() -> Iterator[None]:
    """Say what the file system answered as every door says it: the sender is to repeat."""
    try:
        yield
    except OSError as error:
        raise _failure(error) from error


def _failure(error: OSError) -> Failure:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return Failure.of(OUT_OF_RESOURCES, _FULL)
    logger.error("spool.failed", extra={"errno": error.errno})
    return Failure.of(OUT_OF_RESOURCES, "The spool failed; send again later.")


class SpoolWriter:
    """Takes one Part 10 stream. Not thread-safe; finish or abort it."""

    def __init__(self, path: Path, limit: int, keep_tiff_preamble: bool) -> None:
        self.path = path
        self.byte_size = 0
        self._limit = limit
        self._keep_tiff = keep_tiff_preamble
        self._file = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600)
        self._whole = hashlib.sha256(usedforsecurity=False)
        self._dataset = xxh3_128()
        # Bytes held back until the end of the File Meta Information is known.
        self._head: bytearray | None = bytearray()
        self._next_look = 0
        self._meta: FileMeta | None = None

    def write_meta(
        self,
        sop_class_uid: str,
        sop_instance_uid: str,
        transfer_syntax_uid: str,
        source_ae_title: str = "",
    ) -> None:
        """Write preamble and File Meta Information for a data set that came without (C-STORE)."""
        if self._head is None or self._head:
            raise RuntimeError("write_meta comes before any write")
        head = write_file_meta(
            sop_class_uid, sop_instance_uid, transfer_syntax_uid, source_ae_title
        )
        self._meta = FileMeta(len(head), has_preamble=True, has_prefix=True)
        self._head = None
        self._append(head)

    def write(self, data: Buffer) -> None:
        """Append bytes. Raises SpoolLimitExceeded, or Failure A700 when the disk is full."""
        if self.byte_size + len(self._head or b"") + len(data) > self._limit:
            raise SpoolLimitExceeded.of(
                OBJECT_TOO_LARGE,
                f"The object is larger than {self._limit} bytes, which is the most accepted.",
            )
        if self._head is None:
            self._dataset.update(data)
            self._append(data)
            return
        self._head += data
        if len(self._head) >= self._next_look:
            self._settle_head(complete=False)

    def finish(self) -> Spooled:
        """Close the file and return what is in it. The caller removes it (Spooled.discard)."""
        try:
            if self._head is not None:
                self._settle_head(complete=True)
            if self._meta is None or self.byte_size <= self._meta.dataset_offset:
                raise Failure.of(NOT_DICOM, "The stream ends before a data set begins.")
        except BaseException:
            self.abort()
            raise
        descriptor, self._file = self._file, -1
        try:
            # Some file systems say only here that what was written did not arrive.
            with _failures():
                os.close(descriptor)
        except Failure:
            self.abort()
            raise
        return Spooled(
            path=self.path,
            sha256=self._whole.hexdigest(),
            byte_size=self.byte_size,
            dataset_offset=self._meta.dataset_offset,
            dataset_hash=self._dataset.hexdigest(),
        )

    def abort(self) -> None:
        """Forget the object and remove its file. Safe to call twice and after finish."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
        with suppress(FileNotFoundError):
            self.path.unlink()

    def _settle_head(self, *, complete: bool) -> None:
        head = self._head
        assert head is not None
        try:
            meta = read_file_meta(head, complete=complete)
        except MoreBytesNeeded:
            # Twice as much before the next look: the head is read from its beginning each time,
            # and a sender of small pieces must not make that quadratic.
            self._next_look = 2 * len(head)
            return
        if meta.has_preamble and not (self._keep_tiff and head[:4] in _TIFF):
            head[:PREAMBLE_LENGTH] = bytes(PREAMBLE_LENGTH)
        self._meta = meta
        self._head = None
        self._dataset.update(memoryview(head)[meta.dataset_offset :])
        self._append(head)

    def _append(self, data: Buffer) -> None:
        self._whole.update(data)
        view = memoryview(data)
        try:
            while view:
                view = view[os.write(self._file, view) :]
        except OSError as error:
            raise _failure(error) from error
        self.byte_size += len(data)
