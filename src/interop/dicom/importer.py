"""Taking files and folders in through the normal ingest (``interop import``).

An import can be repeated: what is stored already answers as a duplicate and changes nothing.
Only regular files are read. Symbolic links, devices and FIFOs are refused one by one, so that a
medium cannot make the server read anything outside it (security.md B7).
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from interop.dicom.failures import Failure
from interop.dicom.ingest import Ingest
from interop.dicom.ingest_types import Kind, Source
from interop.dicom.spool import Spool
from storage.tenancy import Tenant

# Called with how many files are done now, and once, with 0, how many there are.
Progress = Callable[..., object]

_CHUNK = 1 << 20
_THREADS = 4
_AHEAD = 32
_REPORTED = 100


class ImportServices(Protocol):
    """The part of interop.services.Services that an import needs."""

    @property
    def ingest(self) -> Ingest: ...
    @property
    def spool(self) -> Spool: ...


@dataclass(frozen=True, slots=True)
class Taken:
    """What became of one file."""

    kind: Kind
    byte_size: int = 0
    problem: str | None = None


@dataclass(slots=True)
class ImportReport:
    """What became of the files. ``problems`` holds the first hundred."""

    stored: int = 0
    duplicates: int = 0
    refused: int = 0
    failed: int = 0
    skipped: int = 0
    bytes_read: int = 0
    problems: list[str] = field(default_factory=list)

    def count(self, path: Path, taken: Taken) -> None:
        match taken.kind:
            case "stored":
                self.stored += 1
            case "duplicate":
                self.duplicates += 1
            case "refused":
                self.refused += 1
            case "failed":
                self.failed += 1
        self.bytes_read += taken.byte_size
        if taken.problem is not None:
            self.note(path, taken.problem)

    def note(self, path: Path, problem: str) -> None:
        if len(self.problems) < _REPORTED:
            self.problems.append(f"{path}: {problem}")


def import_paths(
    services: ImportServices,
    tenant: Tenant,
    paths: Iterable[Path],
    progress: Progress | None = None,
    *,
    actor: str = "operator",
) -> ImportReport:
    """Import all DICOM files below the paths; ``progress`` as in ``import_each``."""
    source = Source("IMPORT", actor)
    return import_each(paths, lambda path: _take(services, tenant, path, source), progress)


def import_each(
    paths: Iterable[Path],
    take: Callable[[Path], Taken],
    progress: Progress | None = None,
    *,
    threads: int = _THREADS,
) -> ImportReport:
    """Take all files below the paths, several at once; with one thread in the order of names.

    ``progress`` hears their number and of each one done.
    """
    report = ImportReport()
    files = list(_regular_files(paths, report))
    if progress is not None:
        progress(0, len(files))

    def count(done: Iterable[Future[tuple[Path, Taken]]]) -> None:
        for future in done:
            report.count(*future.result())
            if progress is not None:
                progress(1)

    with ThreadPoolExecutor(threads, thread_name_prefix="import") as pool:
        running: set[Future[tuple[Path, Taken]]] = set()
        for path in files:
            running.add(pool.submit(lambda path: (path, take(path)), path))
            if len(running) >= _AHEAD:
                done, running = wait(running, return_when=FIRST_COMPLETED)
                count(done)
        count(wait(running).done)
    return report


def _regular_files(paths: Iterable[Path], report: ImportReport) -> Iterator[Path]:
    """The files below the paths; what is none is noted in the report."""
    for path in paths:
        try:
            mode = path.lstat().st_mode
        except OSError as error:
            report.failed += 1
            report.note(path, str(error.strerror))
            continue
        if stat.S_ISREG(mode):
            yield path
        elif stat.S_ISDIR(mode):
            with os.scandir(path) as entries:
                children = sorted(Path(entry.path) for entry in entries)
            yield from _regular_files(children, report)
        else:
            report.skipped += 1
            report.note(path, "not a regular file; links, devices and pipes are not followed")


def read_chunks(path: Path) -> Iterator[bytes]:
    """The bytes of a regular file. Raises OSError, also for what is none by now."""
    # O_NOFOLLOW and O_NONBLOCK: what was a file a moment ago may be a link or a FIFO now.
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(0, "not a regular file")
        while chunk := file.read(_CHUNK):
            yield chunk


def _take(services: ImportServices, tenant: Tenant, path: Path, source: Source) -> Taken:
    writer = services.spool.writer()
    try:
        for chunk in read_chunks(path):
            writer.write(chunk)
        size = writer.byte_size
        spooled = writer.finish()
    except Failure as failure:
        writer.abort()
        return Taken("refused", problem=failure.message)
    except OSError as error:
        writer.abort()
        return Taken("failed", problem=error.strerror or str(error))
    outcome = services.ingest.store(tenant, spooled, source)
    return Taken(outcome.kind, size, outcome.failure.message if outcome.failure else None)
