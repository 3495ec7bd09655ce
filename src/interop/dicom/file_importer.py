"""Taking a patient's pictures, models and videos in from files (`interop import --patient`).

By the rules of the other importer: only regular files are read, links are not followed, and what is
stored already is a duplicate.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

from interop.dicom import file_ingest
from interop.dicom.file_ingest import Description, FileUpload
from interop.dicom.importer import ImportReport, Progress, Taken, import_each, read_chunks
from interop.dicom.spool import Spool
from interop.errors import ServerError, Unavailable
from storage.audit import system_audit
from storage.database import Database
from storage.objects import ObjectStore
from storage.tenancy import Tenant


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
    """Import all files below the paths for one patient, numbered in the order of their names."""

    def take(path: Path) -> Taken:
        return _take(services, tenant, path, said, actor)

    return import_each(paths, take, progress, threads=1)


def _take(
    services: FileServices, tenant: Tenant, path: Path, said: Description, actor: str
) -> Taken:
    audit = system_audit(
        tenant.id, file_ingest.EVENT, "ImagingStudy", metadata={"door": "CLI", "operator": actor}
    )
    size = 0
    try:
        with services.spool.temporary_folder() as folder:
            upload = FileUpload(folder / "file", services.spool.object_limit)
            try:
                for chunk in read_chunks(path):
                    upload.write(chunk)
                size = upload.size
                found = file_ingest.recognised(upload.path, size, None)
                stored = file_ingest.store(
                    services.database, services.objects, tenant, upload, found, said, audit, actor
                )
            finally:
                upload.close()
    except Unavailable as error:
        return Taken("failed", size, error.diagnostics)
    except ServerError as error:
        return Taken("refused", size, error.diagnostics)
    except OSError as error:
        return Taken("failed", size, error.strerror or str(error))
    return Taken("stored" if stored.is_new else "duplicate", size)
