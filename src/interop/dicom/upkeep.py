"""What a worker does for a tenant's images every minute: erases what was removed, and numbers the
change feed so that no reader has to; and every hour: forgets what is old in it."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import LiteralString, Protocol

from storage import imaging_changes
from storage.database import Database
from storage.erasing import GRACE, erase
from storage.objects import ObjectStore
from storage.tenancy import Tenant

logger = logging.getLogger(__name__)

SECONDS = 60.0

# Of most tenants there is nothing to do, which one look tells.
_HAS_WORK: LiteralString = (
    "SELECT EXISTS (SELECT FROM imaging_changes AS c"
    " WHERE c.tenant_id = %(tenant_id)s AND c.sequence IS NULL),"
    " EXISTS (SELECT FROM removed_objects AS r WHERE r.tenant_id = %(tenant_id)s"
    " AND r.storage_uri IS NOT NULL AND r.removed_at < now() - %(grace)s)"
)


class UpkeepServices(Protocol):
    """The part of interop.services.Services that is needed here."""

    @property
    def database(self) -> Database: ...
    @property
    def objects(self) -> ObjectStore: ...


def keep(services: UpkeepServices, tenants: Iterable[Tenant]) -> None:
    """Do what is due every minute, for each tenant by itself: none holds up the others."""
    for tenant in tenants:
        try:
            _keep(services, tenant)
        except Exception:
            logger.exception("images_not_kept", extra={"tenant_id": str(tenant.id)})


def _keep(services: UpkeepServices, tenant: Tenant) -> None:
    with services.database.connection(tenant.id) as connection:
        row = connection.execute(_HAS_WORK, {"tenant_id": tenant.id, "grace": GRACE}).fetchone()
    assert row is not None
    is_unnumbered, is_to_be_erased = row
    if is_unnumbered:
        imaging_changes.number(services.database, tenant.id)
    if is_to_be_erased:
        erase(services.database, services.objects, tenant.id)
