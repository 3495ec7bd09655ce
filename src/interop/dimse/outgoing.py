"""Objects that go out: where their data sets lie, and how they come out in pieces.

As stored wherever the peer accepts that: the File Meta Information is skipped and every other byte
goes out unread. In another transfer syntax it is a copy in the spool that is gone after it was
sent. No object is ever held in memory whole.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from interop.dicom import transcode
from interop.dicom.failures import Failure
from interop.dicom.filemeta import META_LIMIT, FileMeta, read_file_meta
from interop.errors import ServerError
from storage.objects import ObjectStore, ObjectStoreError

# Each may use a child process and the memory of a frame.
_TRANSCODED_AT_A_TIME: Final = 2
# An object behind others that are transcoded is not sent rather than waited for without end.
_TRANSCODE_WAIT_SECONDS: Final = 60.0
_transcoding = threading.BoundedSemaphore(_TRANSCODED_AT_A_TIME)

TemporaryFolder = Callable[[], AbstractContextManager[Path]]


class NotReadable(Exception):
    """The data set of an object cannot be read, or not in the transfer syntax that is needed."""


@dataclass(frozen=True, slots=True)
class OutgoingObject:
    """A Part 10 file to be sent. `location` is a key of the object store, or a path."""

    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    location: str | Path
    dataset_offset: int
    byte_size: int

    @property
    def kind(self) -> tuple[str, str]:
        """What a presentation context is for."""
        return self.sop_class_uid, self.transfer_syntax_uid


def outgoing_file(path: Path) -> OutgoingObject:
    """The file as something to be sent. Raises NotReadable for what is no DICOM file."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            meta = _meta_of(file.read(META_LIMIT))
    except OSError as error:
        raise NotReadable(f"the file cannot be read: {error.strerror}") from error
    uids = (
        meta.media_storage_sop_class_uid,
        meta.media_storage_sop_instance_uid,
        meta.transfer_syntax_uid,
    )
    if not all(uids):
        raise NotReadable("not a DICOM file with file meta information (PS3.10 7.1)")
    return OutgoingObject(*uids, path, meta.dataset_offset, size)


def _meta_of(head: bytes) -> FileMeta:
    try:
        return read_file_meta(head, complete=True)
    except Failure as failure:
        raise NotReadable(failure.message) from failure


class DataSet(Protocol):
    """The bytes of one data set, read once from their beginning."""

    length: int

    def fill(self, views: list[memoryview]) -> None:
        """Fill all views with what comes next. Raises NotReadable where there is less."""


class ObjectReader:
    """Opens the data sets of outgoing objects. Thread-safe."""

    def __init__(self, objects: ObjectStore | None, temporary_folder: TemporaryFolder) -> None:
        self._objects = objects
        self._temporary_folder = temporary_folder

    @contextmanager
    def opened(self, outgoing: OutgoingObject, transfer_syntax_uid: str) -> Iterator[DataSet]:
        """The data set in a transfer syntax. Raises NotReadable."""
        with ExitStack() as stack:
            try:
                found = self._open(outgoing, transfer_syntax_uid, stack)
            except (OSError, ObjectStoreError) as error:
                raise NotReadable(f"the stored object cannot be read: {error}") from error
            yield found

    def _open(
        self, outgoing: OutgoingObject, transfer_syntax_uid: str, stack: ExitStack
    ) -> DataSet:
        offset, path = outgoing.dataset_offset, self._path(outgoing)
        is_as_stored = transfer_syntax_uid == outgoing.transfer_syntax_uid
        if not is_as_stored:
            path = self._transcoded(outgoing, path, transfer_syntax_uid, stack)
            with path.open("rb") as file:
                offset = _meta_of(file.read(META_LIMIT)).dataset_offset
        elif path is None:
            assert self._objects is not None
            length = outgoing.byte_size - offset
            # Asked for at once: a store that has lost the object says so before anything is sent.
            chunks = self._objects.open_range(str(outgoing.location), offset, length)
            return _StreamedDataSet(chunks, length)
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        stack.callback(os.close, descriptor)
        size = os.fstat(descriptor).st_size
        if is_as_stored and size != outgoing.byte_size:
            raise NotReadable(f"the stored object has {size} bytes, not {outgoing.byte_size}")
        return _FileDataSet(descriptor, offset, size - offset)

    def _path(self, outgoing: OutgoingObject) -> Path | None:
        """The file that holds the object; None where it is in a remote store."""
        if isinstance(outgoing.location, Path):
            return outgoing.location
        if self._objects is None:
            raise NotReadable("no object store was given to read from")
        return self._objects.local_path(outgoing.location)

    def _transcoded(
        self,
        outgoing: OutgoingObject,
        path: Path | None,
        transfer_syntax_uid: str,
        stack: ExitStack,
    ) -> Path:
        folder = stack.enter_context(self._temporary_folder())
        if path is None:
            path = folder / "fetched"
            self._fetch(str(outgoing.location), path)
        made = folder / "transcoded"
        if not _transcoding.acquire(timeout=_TRANSCODE_WAIT_SECONDS):
            raise NotReadable("too many other objects are being transcoded")
        try:
            transcode.transcode(path, made, transfer_syntax_uid)
        except ServerError as error:
            raise NotReadable(error.diagnostics) from error
        finally:
            _transcoding.release()
        with suppress(FileNotFoundError):
            (folder / "fetched").unlink()
        return made

    def _fetch(self, key: str, path: Path) -> None:
        assert self._objects is not None
        with path.open("xb") as file:
            for chunk in self._objects.open_range(key):
                file.write(chunk)


class _FileDataSet:
    """A data set in a file: scattered by the kernel to where it is sent from."""

    def __init__(self, descriptor: int, offset: int, length: int) -> None:
        self._descriptor = descriptor
        self._at = offset
        self.length = length

    def fill(self, views: list[memoryview]) -> None:
        wanted = sum(map(len, views))
        try:
            read = os.preadv(self._descriptor, views, self._at)
        except OSError as error:
            raise NotReadable(f"the stored object cannot be read: {error.strerror}") from error
        if read != wanted:
            raise NotReadable("the stored object is shorter than it was")
        self._at += wanted


class _StreamedDataSet:
    """A data set in a remote store."""

    def __init__(self, chunks: Iterator[bytes], length: int) -> None:
        self._chunks = chunks
        self._chunk = memoryview(b"")
        self.length = length

    def fill(self, views: list[memoryview]) -> None:
        for view in views:
            filled = 0
            while filled < len(view):
                if not self._chunk:
                    self._chunk = memoryview(self._next())
                piece = self._chunk[: len(view) - filled]
                view[filled : filled + len(piece)] = piece
                filled += len(piece)
                self._chunk = self._chunk[len(piece) :]

    def _next(self) -> bytes:
        try:
            return next(self._chunks)
        except StopIteration:
            raise NotReadable("the stored object is shorter than its row says") from None
        except ObjectStoreError as error:
            raise NotReadable(f"the stored object cannot be read: {error}") from error
