"""The object store in a local folder.

A write is a finished file that gets its name by link(2), which refuses a name that is taken; then
file and folder are made durable (fsync). A crash leaves at most a file that nobody was told of.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
import weakref
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

from storage.objects.keys import check_key, check_prefix
from storage.objects.store import (
    CHUNK,
    ChecksumMismatch,
    ObjectExists,
    ObjectNotFound,
    ObjectStat,
    ObjectStoreFull,
    ObjectStoreUnavailable,
    check_range,
)

TEMPORARY = ".tmp"
COPY_CHUNK = 1 << 20
# A tenant makes a folder an hour; those of the past are not written to again.
_MOST_FOLDERS_KNOWN = 10_000


class LocalObjectStore:
    """Objects as files under `root`, at the path that their key says."""

    def __init__(self, root: Path, *, is_durable: bool = True) -> None:
        # Through symbolic links, which no later step follows.
        self.root = Path(root).resolve()
        self._is_durable = is_durable
        self._temporary = self.root / TEMPORARY
        # Folders whose entry this process knows to be durable, and which folder it was.
        self._durable_folders: dict[Path, int] = {}
        with _translated("create"):
            self._make_folder(self._temporary)

    def put_file(self, key: str, path: Path, sha256: str | None = None) -> None:
        target = self._path(key)
        if not path.is_file() or path.is_symlink():
            raise FileNotFoundError(f"{path} is not a file, so it cannot become object {key}")
        if sha256 is not None:
            _check_sha256(path, sha256)
        with _translated(key):
            try:
                self._publish(path, target)
            except OSError as error:
                if error.errno != errno.EXDEV:
                    raise
                self._copy_and_publish(path, target)
        # Stored already: a source that cannot be removed is not a failure of the store.
        with contextlib.suppress(OSError):
            path.unlink()

    def put_bytes(self, key: str, data: bytes, sha256: str | None = None) -> None:
        target = self._path(key)
        if sha256 is not None and hashlib.sha256(data).hexdigest() != sha256.lower():
            raise ChecksumMismatch(f"the {len(data)} bytes for {key} do not have SHA-256 {sha256}")
        temporary = self._temporary / str(uuid4())
        with _translated(key):
            try:
                temporary.write_bytes(data)
                self._publish(temporary, target)
            finally:
                temporary.unlink(missing_ok=True)

    def get(self, key: str) -> bytes:
        with _translated(key):
            return self._path(key).read_bytes()

    def get_range(self, key: str, offset: int, length: int) -> bytes:
        check_range(offset, length)
        with _translated(key):
            descriptor = os.open(self._path(key), os.O_RDONLY)
            try:
                return _read_exactly(descriptor, offset, length)
            finally:
                os.close(descriptor)

    def open_range(
        self, key: str, offset: int = 0, length: int | None = None, chunk: int = CHUNK
    ) -> Iterator[bytes]:
        check_range(offset, length)
        with _translated(key):
            descriptor = os.open(self._path(key), os.O_RDONLY)
        return _FileRange(descriptor, offset, length, chunk)

    def stat(self, key: str) -> ObjectStat:
        with _translated(key):
            return _object_stat(key, self._path(key).stat())

    def delete(self, key: str) -> None:
        path = self._path(key)
        with _translated(key), contextlib.suppress(FileNotFoundError):
            path.unlink()
            self._fsync_folder(path.parent)

    def list(self, prefix: str) -> Iterator[ObjectStat]:
        folder = self.root / check_prefix(prefix).rpartition("/")[0]
        with _translated(prefix):
            yield from self._walk(folder, prefix)

    def local_path(self, key: str) -> Path | None:
        path = self._path(key)
        return path if path.is_file() else None

    def remove_abandoned(self, before: datetime) -> int:
        removed = 0
        with _translated(TEMPORARY), os.scandir(self._temporary) as entries:
            for entry in entries:
                with contextlib.suppress(FileNotFoundError):
                    if entry.stat().st_mtime < before.timestamp():
                        os.unlink(entry.path)
                        removed += 1
        return removed

    def _path(self, key: str) -> Path:
        return self.root / check_key(key)

    def _publish(self, source: Path, target: Path) -> None:
        """Give the file its name and make both durable; raises FileExistsError when taken.

        The name comes first: then one commit of the file system's journal takes file and name,
        where the other order waits for two. Nobody asks for a key before `put_file` has returned.
        """
        for attempt in (1, 2):
            self._make_folder(target.parent)
            try:
                os.link(source, target, follow_symlinks=False)
                break
            except FileNotFoundError:
                # The sweep removed the empty folder in between; or the source is not there.
                if attempt == 2 or not source.exists():
                    raise
        if self._is_durable:
            _fsync(target)
        self._fsync_folder(target.parent)

    def _make_folder(self, folder: Path) -> None:
        """Make the folder and its missing parents durable, outermost first.

        A folder that is there may be one that another process made and has not synced yet, so
        this process syncs it once itself before it acknowledges anything below it.
        """
        inode = _inode(folder)
        if inode is not None and (
            self._durable_folders.get(folder) == inode or not folder.is_relative_to(self.root)
        ):
            return
        if inode is None or folder != self.root:
            self._make_folder(folder.parent)
        with contextlib.suppress(FileExistsError):
            folder.mkdir(mode=0o700)
        self._fsync_entry(folder)
        inode = _inode(folder)
        if inode is not None:
            if len(self._durable_folders) >= _MOST_FOLDERS_KNOWN:
                self._durable_folders.clear()
            self._durable_folders[folder] = inode

    def _fsync_entry(self, folder: Path) -> None:
        try:
            self._fsync_folder(folder.parent)
        except PermissionError:
            # The folder above the store may be closed to us; then we did not make what is in it.
            if folder != self.root:
                raise

    def _fsync_folder(self, folder: Path) -> None:
        if self._is_durable:
            _fsync(folder)

    def _copy_and_publish(self, source: Path, target: Path) -> None:
        temporary = self._temporary / str(uuid4())
        try:
            with source.open("rb") as reader, temporary.open("xb") as writer:
                shutil.copyfileobj(reader, writer, COPY_CHUNK)
            self._publish(temporary, target)
        finally:
            temporary.unlink(missing_ok=True)

    def _walk(self, folder: Path, prefix: str) -> Iterator[ObjectStat]:
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except (FileNotFoundError, NotADirectoryError):
            return
        for entry in entries:
            key = os.path.relpath(entry.path, self.root)
            if entry.is_dir(follow_symlinks=False):
                below = f"{key}/"
                if entry.name != TEMPORARY and (
                    below.startswith(prefix) or prefix.startswith(below)
                ):
                    yield from self._walk(Path(entry.path), prefix)
            elif key.startswith(prefix):
                with contextlib.suppress(FileNotFoundError):
                    yield _object_stat(key, entry.stat(follow_symlinks=False))


class _FileRange:
    """Reads a range chunk by chunk; the file is closed at the end or when it is let go."""

    def __init__(self, descriptor: int, offset: int, length: int | None, chunk: int) -> None:
        self._descriptor = descriptor
        self._offset = offset
        self._left = length
        self._chunk = chunk
        self.close = weakref.finalize(self, os.close, descriptor)

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        wanted = self._chunk if self._left is None else min(self._chunk, self._left)
        data = os.pread(self._descriptor, wanted, self._offset) if self.close.alive else b""
        if not data:
            self.close()
            raise StopIteration
        self._offset += len(data)
        if self._left is not None:
            self._left -= len(data)
        return data


def _object_stat(key: str, status: os.stat_result) -> ObjectStat:
    return ObjectStat(key, status.st_size, datetime.fromtimestamp(status.st_mtime, UTC))


def _read_exactly(descriptor: int, offset: int, length: int) -> bytes:
    data = os.pread(descriptor, length, offset)
    if len(data) == length:
        return data
    # pread(2) returns at most 2 GiB at a time.
    parts = [data]
    while parts[-1]:
        read = sum(map(len, parts))
        parts.append(os.pread(descriptor, length - read, offset + read))
    return b"".join(parts)


def _check_sha256(path: Path, sha256: str) -> None:
    with path.open("rb") as reader:
        found = hashlib.file_digest(reader, "sha256").hexdigest()
    if found != sha256.lower():
        raise ChecksumMismatch(f"{path.name} has SHA-256 {found} instead of {sha256}")


def _inode(folder: Path) -> int | None:
    try:
        return os.stat(folder).st_ino
    except (FileNotFoundError, NotADirectoryError):
        return None


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _translated(subject: str) -> Iterator[None]:
    """Say in the port's own terms what the file system answered."""
    try:
        yield
    except FileExistsError as error:
        raise ObjectExists(f"an object with key {subject} exists") from error
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
        raise ObjectNotFound(f"no object has key {subject}") from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise ObjectStoreFull("no space left on the disk of the object store") from error
        raise ObjectStoreUnavailable(
            f"the object store's folder does not work: {error.strerror}"
        ) from error
