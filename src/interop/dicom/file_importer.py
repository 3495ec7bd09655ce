"""Taking a patient's pictures, models and videos in from files (`interop import --patient`).

By the rules of the other importer: only regular files are read, links are not followed, and what is
stored already is a duplicate.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol

from interop.dicom import file_ingest
from interop.dicom.file_ingest import Description, FileUpload
from interop.dicom.importer import ImportReport, Progress, regular_files
from interop.dicom.spool import Spool
from interop.errors import ServerError, Unavailable
from storage.audit import system_audit
from storage.database import Database
from storage.objects import ObjectStore
from storage.tenancy import Tenant

_CHUNK = 1 << 20


class FileServices(Protocol):
    """The part of interop.services.Services that is needed here."""

    @property
    def database(self) -> Database: ...
    @property
    def objects(self) -> ObjectStore: ...
    @property
    def spool(self) -> Spool: ...


def import_files(
    services: FileServices,
    tenant: Tenant,
    paths: Iterable[Path],
    said: Description,
    progress: Progress | None = None,
    *,
    actor: str = "operator",
) -> ImportReport:
    """Import all files below the paths for one patient."""
    report = ImportReport()
    files = list(regular_files(paths, report))
    if progress is not None:
        progress(0, len(files))
    for path in files:
        _take(services, tenant, path, said, report, actor)
        if progress is not None:
            progress(1)
    return report


def _take(
    services: FileServices,
    tenant: Tenant,
    path: Path,
    said: Description,
    report: ImportReport,
    actor: str,
) -> None:
    audit = system_audit(
        tenant.id, file_ingest.EVENT, "ImagingStudy", metadata={"door": "CLI", "operator": actor}
    )
    try:
        with services.spool.temporary_folder() as folder:
            upload = FileUpload(folder / "file", services.spool.object_limit)
            try:
                _copy(path, upload)
                report.bytes_read += upload.size
                stored = _store(services, tenant, upload, said, audit, actor)
            finally:
                upload.close()
    except Unavailable as error:
        report.failed += 1
        report.note(f"{path}: {error.diagnostics}")
    except ServerError as error:
        report.refused += 1
        report.note(f"{path}: {error.diagnostics}")
    except OSError as error:
        report.failed += 1
        report.note(f"{path}: {error.strerror}")
    else:
        report.stored += stored.is_new
        report.duplicates += not stored.is_new


def _copy(path: Path, upload: FileUpload) -> None:
    # O_NOFOLLOW and O_NONBLOCK: what was a file a moment ago may be a link or a FIFO now.
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(0, "not a regular file")
        while chunk := file.read(_CHUNK):
            upload.write(chunk)


def _store(
    services: FileServices,
    tenant: Tenant,
    upload: FileUpload,
    said: Description,
    audit: dict[str, Any],
    actor: str,
) -> file_ingest.StoredFile:
    found = file_ingest.recognised(upload.path, upload.size, None)
    return file_ingest.store(
        services.database, services.objects, tenant, upload, found, said, audit, actor
    )
