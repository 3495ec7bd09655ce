"""What a worker does for a tenant's images every few seconds: erases what was removed, numbers the
change feed so that no reader has to, and forgets what is old in it."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Protocol

from storage import imaging_changes
from storage.database import Database
from storage.erasing import erase
from storage.objects import ObjectStore
from storage.tenancy import Tenant

logger = logging.getLogger(__name__)

SECONDS = 20.0


class UpkeepServices(Protocol):
    """The part of interop.services.Services that is needed here."""

    @property
    def database(self) -> Database: ...
    @property
    def objects(self) -> ObjectStore: ...


def keep(services: UpkeepServices, tenants: Iterable[Tenant]) -> None:
    """Do it for each tenant by itself, so that none holds up the others."""
    for tenant in tenants:
        try:
            imaging_changes.number(services.database, tenant.id)
            imaging_changes.prune(services.database, tenant.id)
            erase(services.database, services.objects, tenant.id)
        except Exception:
            logger.exception("images_not_kept", extra={"tenant_id": str(tenant.id)})
