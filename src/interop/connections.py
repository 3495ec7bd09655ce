"""Database and token service from the settings: what even the shortest command needs.

Apart from interop.services, which loads everything that moves DICOM: a command that prints a
token should not wait for that.
"""

from __future__ import annotations

from interop.settings import Settings
from interop.smart.tokens import TokenService
from storage.audit_chain import AuditKey
from storage.database import APP_ROLE, Database
from storage.encryption import MasterKey
from storage.encryption.aws_kms import AwsKeyProvider
from storage.encryption.providers import KeyProviders, LocalKeyProvider
from storage.encryption.vault import Vault


def open_database(settings: Settings) -> Database:
    """The database as the application role. `database_url` must be set by now."""
    if settings.database_url is None:
        raise RuntimeError("no database: start the embedded one first, or set INTEROP_DATABASE_URL")
    database = Database(
        settings.database_url, role=APP_ROLE, is_durable=settings.durability == "full"
    )
    database.vault = Vault(database, open_key_providers(settings))
    return database


def open_master_key(settings: Settings) -> MasterKey:
    if settings.master_key is not None:
        return MasterKey.from_base64(settings.master_key.get_secret_value())
    return MasterKey.from_file(settings.data_dir / "master.key")


def open_key_providers(settings: Settings) -> KeyProviders:
    """Who wraps data keys now, and who may have wrapped those that there are."""
    local = [LocalKeyProvider(open_master_key(settings))]
    if settings.former_master_key is not None:
        former = MasterKey.from_base64(settings.former_master_key.get_secret_value())
        local.append(LocalKeyProvider(former))
    kms = AwsKeyProvider(settings.kms_key_id, endpoint_url=settings.kms_endpoint_url)
    if settings.kms_key_id is not None:
        return KeyProviders(kms, local)
    return KeyProviders(local[0], [*local[1:], kms])


def open_audit_key(settings: Settings) -> AuditKey:
    """What signs the seals of the audit log."""
    former = settings.former_master_key
    known = [MasterKey.from_base64(former.get_secret_value())] if former is not None else []
    return AuditKey(open_master_key(settings), known)


def open_tokens(settings: Settings, database: Database) -> TokenService:
    return TokenService(database, open_master_key(settings), settings.token_seconds)
