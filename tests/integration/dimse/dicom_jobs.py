"""The worker's DICOM jobs in this process, for tests of what they do."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from interop.dicom.ingest import Ingest
from interop.dicom.spool import Spool
from interop.routing import tasks
from interop.settings import Settings
from storage.database import Database
from storage.jobs import JobRunner
from storage.objects import ObjectStore
from storage.tenancy import TenantDirectory


@dataclass
class WorkerServices:
    """What the jobs need of `interop.services.Services`."""

    settings: Settings
    database: Database
    objects: ObjectStore
    tenants: TenantDirectory
    spool: Spool
    ingest: Ingest


@contextmanager
def running_jobs(services: Any) -> Iterator[None]:
    """Run the tasks of the queue `dicom` as the worker does, and end with the block."""
    runner = JobRunner(services.database, concurrency=2)
    tasks.register(runner, services)
    thread = threading.Thread(target=runner.run)
    thread.start()
    try:
        yield
    finally:
        runner.stop()
        thread.join(30)
        assert not thread.is_alive()
