"""Everything that a request or an association needs, built once per process from the settings."""

from __future__ import annotations

from dataclasses import dataclass

from storage.objects import ObjectStore, open_object_store

from interop.access.http import Authenticator
from interop.dicom.ingest import Ingest
from interop.dicom.limits import Limits
from interop.dicom.spool import Spool
from interop.settings import Settings
from interop.smart.tokens import TokenService
from storage.database import Database
from storage.encryption import MasterKey
from storage.tenancy import TenantDirectory

APPLICATION_ROLE = "interop_app"


@dataclass(frozen=True)
class Services:
    """The parts of one process. `close` ends its threads and connections."""

    settings: Settings
    database: Database
    objects: ObjectStore
    tenants: TenantDirectory
    spool: Spool
    ingest: Ingest
    tokens: TokenService
    authenticator: Authenticator

    def close(self) -> None:
        self.ingest.close()
        self.spool.close()
        self.database.close()


def open_database(settings: Settings) -> Database:
    """The database as the application role. `database_url` must be set by now."""
    if settings.database_url is None:
        raise RuntimeError("no database: start the embedded one first, or set INTEROP_DATABASE_URL")
    return Database(settings.database_url, role=APPLICATION_ROLE)


def open_master_key(settings: Settings) -> MasterKey:
    if settings.master_key is not None:
        return MasterKey.from_base64(settings.master_key.get_secret_value())
    return MasterKey.from_file(settings.data_dir / "master.key")


def open_tokens(settings: Settings, database: Database) -> TokenService:
    return TokenService(database, open_master_key(settings), settings.token_seconds)


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
        spool=spool,
        ingest=Ingest(database, objects, spool, Limits(object_bytes=settings.max_object_bytes)),
        tokens=tokens,
        authenticator=Authenticator(database, tokens),
    )
