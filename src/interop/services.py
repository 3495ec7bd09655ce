"""Everything that a request or an association needs, built once per process from the settings."""

from __future__ import annotations

from dataclasses import dataclass

from interop.access.http import Authenticator
from interop.connections import open_database, open_master_key, open_tokens
from interop.dicom.ingest import Ingest
from interop.dicom.limits import Limits
from interop.dicom.spool import Spool
from interop.settings import Settings
from interop.smart.tokens import TokenService
from storage.database import Database
from storage.encryption import MasterKey
from storage.objects import ObjectStore, open_object_store
from storage.quotas import TenantLimits
from storage.tenancy import TenantDirectory


@dataclass(frozen=True)
class Services:
    """The parts of one process. `close` ends its threads and connections."""

    settings: Settings
    database: Database
    objects: ObjectStore
    tenants: TenantDirectory
    limits: TenantLimits
    spool: Spool
    ingest: Ingest
    master_key: MasterKey
    tokens: TokenService
    authenticator: Authenticator

    def close(self) -> None:
        self.ingest.close()
        self.spool.close()
        self.database.close()


def open_services(settings: Settings) -> Services:
    """Build the parts of one process; nothing here waits for a client."""
    database = open_database(settings)
    objects = open_object_store(settings.effective_objects_url, durability=settings.durability)
    spool = Spool(settings.spool_dir, object_limit=settings.max_object_bytes)
    tokens = open_tokens(settings, database)
    return Services(
        settings=settings,
        database=database,
        objects=objects,
        tenants=TenantDirectory(database),
        limits=TenantLimits(database),
        spool=spool,
        ingest=Ingest(database, objects, spool, Limits(object_bytes=settings.max_object_bytes)),
        master_key=open_master_key(settings),
        tokens=tokens,
        authenticator=Authenticator(database, tokens),
    )
