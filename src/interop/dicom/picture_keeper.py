"""Kept images go when their object has gone, on every machine that keeps some.

A deletion or the end of a tenant removes rows, and the worker erases bytes; neither knows which
HTTP processes have rendered what. So these look by themselves: every minute one of those that share
a folder asks which of the objects are still there. What is rendered from bytes that were read just
before the deletion is found at the next turn.
"""

from __future__ import annotations

import fcntl
import logging
import os
import threading
from pathlib import Path
from typing import LiteralString, Protocol
from uuid import UUID

from interop.dicom.picture_cache import PictureCache
from interop.settings import Settings
from storage.database import Database
from storage.tenancy import TenantDirectory

logger = logging.getLogger(__name__)

SECONDS = 60.0
_STORED: LiteralString = (
    "SELECT o.storage_uri FROM imaging_objects AS o"
    " WHERE o.tenant_id = %s AND o.storage_uri = ANY (%s)"
)


class PictureServices(Protocol):
    """The part of interop.services.Services that is needed here."""

    @property
    def settings(self) -> Settings: ...
    @property
    def database(self) -> Database: ...
    @property
    def tenants(self) -> TenantDirectory: ...


class PictureKeeper:
    """A thread beside the requests of one process, until `close`."""

    def __init__(self, services: PictureServices) -> None:
        self._services = services
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="pictures", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._stop.set()
        self._thread.join(timeout=5)

    def _run(self) -> None:
        folder = self._services.settings.picture_dir
        lock = -1
        try:
            while not self._stop.wait(SECONDS):
                lock = lock if lock >= 0 else _locked(folder)
                if lock >= 0:
                    keep(self._services)
        finally:
            if lock >= 0:
                os.close(lock)


def _locked(folder: Path) -> int:
    """The lock of whoever keeps the folder; -1 where another process has it, or nothing is kept."""
    try:
        lock = os.open(folder / ".keeper", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError:
        return -1
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        return -1
    return lock


def keep(services: PictureServices) -> None:
    """Remove the images of all that is no longer stored; one tenant holds up no other."""
    settings = services.settings
    cache = PictureCache(settings.picture_dir, settings.picture_cache_bytes)
    for tenant_id in cache.tenants():
        try:
            _keep(services, cache, tenant_id)
        except Exception:
            logger.exception("pictures_not_kept", extra={"tenant_id": str(tenant_id)})


def _keep(services: PictureServices, cache: PictureCache, tenant_id: UUID) -> None:
    kept = cache.storage_keys(tenant_id)
    tenant = services.tenants.by_id(tenant_id)
    stored: set[str] = set()
    if kept and tenant is not None:
        with services.database.connection(tenant_id) as connection:
            stored = {row[0] for row in connection.execute(_STORED, (tenant_id, list(kept)))}
    if gone := kept - stored:
        cache.forget(tenant_id, gone)
        extra = {"tenant_id": str(tenant_id), "objects": len(gone)}
        logger.info("pictures_forgotten", extra=extra)
