"""What the worker does for the log: seal it every few seconds, anchor it daily, prune it daily.

Sealing needs no more than the application's rights. Pruning needs the owner's: the worker has them
where the supervisor gives them (INTEROP_DATABASE_OWNER_URL); else `interop audit prune` does it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from interop.connections import open_audit_key
from interop.services import Services
from storage.audit_chain import AuditKey
from storage.audit_pruning import prune
from storage.audit_seals import anchor, seal
from storage.database import Database
from storage.tenancy import Tenant

logger = logging.getLogger(__name__)

SEAL_SECONDS = 10.0
# An anchor is written once a day, whenever the day's first turn finds it missing.
DAILY_SECONDS = 3600.0


class AuditDuty:
    """Keeps the logs of some tenants; `turn` is to be called every SEAL_SECONDS.

    A suspended tenant's log grows, and that of a closed one is kept: all of them are looked after.
    """

    def __init__(self, services: Services) -> None:
        self._services = services
        self._key = open_audit_key(services.settings)
        self._next_daily = 0.0

    def turn(self, tenants: Iterable[Tenant]) -> None:
        """One tenant's trouble does not hold up the others."""
        is_daily = time.monotonic() >= self._next_daily
        if is_daily:
            self._next_daily = time.monotonic() + DAILY_SECONDS
        with owner_database(self._services) as owner:
            for tenant in tenants:
                try:
                    turn(
                        self._services,
                        owner if is_daily else None,
                        tenant,
                        self._key,
                        is_daily=is_daily,
                    )
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
def owner_database(services: Services) -> Iterator[Database | None]:
    """The database with its owner's rights, where the settings name that login."""
    if services.settings.database_owner_url is None:
        yield None
        return
    owner = Database(services.settings.database_owner_url, pool_size=1)
    # Some places of tenants are known by a sealed URL only.
    owner.vault = services.database.vault
    owner.lends_to_schemas = True
    try:
        yield owner
    finally:
        owner.close()
