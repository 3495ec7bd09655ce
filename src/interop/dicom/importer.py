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
from interop.dicom.ingest_types import Outcome, Source
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

    def note(self, text: str) -> None:
        if len(self.problems) < _REPORTED:
            self.problems.append(text)


def import_paths(
    services: ImportServices,
    tenant: Tenant,
    paths: Iterable[Path],
    progress: Progress | None = None,
    *,
    actor: str = "operator",
) -> ImportReport:
    """Import all files below the paths; ``progress`` hears their number and of each one done."""
    report = ImportReport()
    files = list(regular_files(paths, report))
    if progress is not None:
        progress(0, len(files))
    source = Source("IMPORT", actor)

    def take(path: Path) -> tuple[Path, Outcome, int]:
        outcome, size = _store(services, tenant, path, source)
        return path, outcome, size

    with ThreadPoolExecutor(_THREADS, thread_name_prefix="import") as pool:
        running: set[Future[tuple[Path, Outcome, int]]] = set()
        for path in files:
            running.add(pool.submit(take, path))
            if len(running) >= _AHEAD:
                done, running = wait(running, return_when=FIRST_COMPLETED)
                _count(done, report, progress)
        _count(wait(running).done, report, progress)
    return report


def regular_files(paths: Iterable[Path], report: ImportReport) -> Iterator[Path]:
    """The files below the paths; what is none is noted in the report."""
    for path in paths:
        try:
            mode = path.lstat().st_mode
        except OSError as error:
            report.failed += 1
            report.note(f"{path}: {error.strerror}")
            continue
        if stat.S_ISREG(mode):
            yield path
        elif stat.S_ISDIR(mode):
            with os.scandir(path) as entries:
                children = sorted(Path(entry.path) for entry in entries)
            yield from regular_files(children, report)
        else:
            report.skipped += 1
            report.note(f"{path}: not a regular file; links, devices and pipes are not followed")


def _store(
    services: ImportServices, tenant: Tenant, path: Path, source: Source
) -> tuple[Outcome, int]:
    writer = services.spool.writer()
    try:
        # O_NOFOLLOW and O_NONBLOCK: what was a file a moment ago may be a link or a FIFO now.
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with os.fdopen(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise OSError(f"{path} is not a regular file")
            while chunk := file.read(_CHUNK):
                writer.write(chunk)
        size = writer.byte_size
        spooled = writer.finish()
    except Failure as failure:
        writer.abort()
        return Outcome("refused", "", "", "", "", failure), 0
    except OSError as error:
        writer.abort()
        reason = error.strerror or str(error)
        return Outcome("failed", "", "", "", "", Failure(0xA700, 0xA700, reason)), 0
    return services.ingest.store(tenant, spooled, source), size


def _count(
    done: Iterable[Future[tuple[Path, Outcome, int]]],
    report: ImportReport,
    progress: Progress | None,
) -> None:
    for future in done:
        path, outcome, size = future.result()
        report.bytes_read += size
        match outcome.kind:
            case "stored":
                report.stored += 1
            case "duplicate":
                report.duplicates += 1
            case "refused":
                report.refused += 1
            case "failed":
                report.failed += 1
        if outcome.failure is not None:
            report.note(f"{path}: {outcome.failure.message}")
        if progress is not None:
            progress(1)
