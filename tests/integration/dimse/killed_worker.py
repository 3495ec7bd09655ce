"""A worker's DICOM jobs as a process that a test can kill."""

from __future__ import annotations

import os
import threading
from pathlib import Path

from interop.dicom.ingest import Ingest
from interop.dicom.spool import Spool
from interop.settings import Settings
from storage.database import Database
from storage.objects import open_object_store
from storage.tenancy import TenantDirectory
from tests.integration.dimse.dicom_jobs import WorkerServices, running_jobs


def main() -> None:
    data = Path(os.environ["TEST_DATA"])
    database = Database(os.environ["TEST_DATABASE"])
    objects = open_object_store(f"file://{os.environ['TEST_OBJECTS']}")
    spool = Spool(data / "spool")
    services = WorkerServices(
        Settings(data_dir=data),
        database,
        objects,
        TenantDirectory(database),
        spool,
        Ingest(database, objects, spool),
    )
    with running_jobs(services):
        threading.Event().wait()


if __name__ == "__main__":
    main()
