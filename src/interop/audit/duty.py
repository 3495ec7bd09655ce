"""What the worker does for the log: seal it every few seconds, anchor it daily, prune it daily.

Sealing needs no more than the application's rights. Pruning needs the owner's: the worker has them
where the supervisor gives them (INTEROP_DATABASE_OWNER_URL); else `interop audit prune` does it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from interop.connections import open_audit_key
from interop.services import Services
from interop.settings import Settings
from storage.audit_chain import AuditKey
from storage.audit_pruning import prune
from storage.audit_seals import anchor, seal
from storage.database import Database
from storage.tenancy import Tenant

logger = logging.getLogger(__name__)

SEAL_SECONDS = 10.0
# An anchor is written once a day, whenever the day's first turn finds it missing.
DAILY_SECONDS = 3600.0


def keep_sealed(services: Services, stop: threading.Event) -> None:
    """Work until `stop`; one tenant's trouble does not hold up the others."""
    key = open_audit_key(services.settings)
    next_daily = 0.0
    while not stop.wait(SEAL_SECONDS):
        is_daily = time.monotonic() >= next_daily
        if is_daily:
            next_daily = time.monotonic() + DAILY_SECONDS
        with owner_database(services.settings) as owner:
            for tenant in services.tenants.all_active():
                try:
                    turn(services, owner if is_daily else None, tenant, key, is_daily=is_daily)
                except Exception:
                    logger.exception("audit_not_sealed", extra={"tenant_id": str(tenant.id)})


def turn(
    services: Services, owner: Database | None, tenant: Tenant, key: AuditKey, *, is_daily: bool
) -> None:
    """One turn for one tenant."""
    if owner is not None:
        report = prune(owner, tenant.id, key)
        if report.rows or report.held_seals:
            logger.info("audit_pruned", extra={"tenant_id": str(tenant.id), "rows": report.rows})
    seal(services.database, tenant.id, key)
    if is_daily:
        anchor(services.database, services.objects, tenant.id, key)


@contextmanager
def owner_database(settings: Settings) -> Iterator[Database | None]:
    """The database with its owner's rights, where the settings name that login."""
    if settings.database_owner_url is None:
        yield None
        return
    owner = Database(settings.database_owner_url, pool_size=1)
    try:
        yield owner
    finally:
        owner.close()
