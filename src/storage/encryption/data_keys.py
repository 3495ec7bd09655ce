"""SQL over data_keys (of a tenant) and platform_data_keys (tenant None). SQL only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, LiteralString
from uuid import UUID

from storage.database import Connection

SEAL: LiteralString = "SEAL"
INDEX: LiteralString = "INDEX"

_COLUMNS: LiteralString = "id, version, wrapped_key, provider, provider_key_id"

_FROM: dict[bool, LiteralString] = {
    True: " data_keys WHERE tenant_id = %(tenant_id)s AND ",
    False: " platform_data_keys WHERE ",
}
_INSERT: dict[bool, LiteralString] = {
    True: (
        "INSERT INTO data_keys (tenant_id, purpose, version, wrapped_key, provider,"
        " provider_key_id) VALUES (%(tenant_id)s, %(purpose)s, %(version)s, %(wrapped)s,"
        " %(provider)s, %(key_id)s)"
    ),
    False: (
        "INSERT INTO platform_data_keys (purpose, version, wrapped_key, provider, provider_key_id)"
        " VALUES (%(purpose)s, %(version)s, %(wrapped)s, %(provider)s, %(key_id)s)"
    ),
}
_LOCK: LiteralString = "SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))"


@dataclass(frozen=True, slots=True)
class WrappedKey:
    """A data key as it is stored; `wrapped` is None once it was destroyed."""

    id: UUID
    version: int
    wrapped: bytes | None
    provider: str
    key_id: str


def find(
    connection: Connection, tenant_id: UUID | None, purpose: str, version: int
) -> WrappedKey | None:
    """One version."""
    rows = _select(
        connection,
        tenant_id,
        "purpose = %(purpose)s AND version = %(version)s",
        purpose=purpose,
        version=version,
    )
    return rows[0] if rows else None


def newest(connection: Connection, tenant_id: UUID | None, purpose: str) -> WrappedKey | None:
    """The version that seals now."""
    rows = _select(
        connection,
        tenant_id,
        "purpose = %(purpose)s ORDER BY version DESC LIMIT 1",
        purpose=purpose,
    )
    return rows[0] if rows else None


def living(connection: Connection, tenant_id: UUID | None) -> list[WrappedKey]:
    """All that were not destroyed, locked."""
    return _select(connection, tenant_id, "destroyed_at IS NULL ORDER BY id FOR UPDATE")


def lock(connection: Connection, tenant_id: UUID | None, purpose: str) -> None:
    """Hold the right to make a version until the transaction ends."""
    connection.execute(_LOCK, (f"data key {tenant_id}/{purpose}",))


def insert(
    connection: Connection,
    tenant_id: UUID | None,
    purpose: str,
    version: int,
    wrapped: bytes,
    provider: str,
    key_id: str,
) -> None:
    connection.execute(
        _INSERT[tenant_id is not None],
        {
            "tenant_id": tenant_id,
            "purpose": purpose,
            "version": version,
            "wrapped": wrapped,
            "provider": provider,
            "key_id": key_id,
        },
    )


def retire_before(
    connection: Connection, tenant_id: UUID | None, purpose: str, version: int
) -> None:
    """Note that the versions before this one seal nothing any more."""
    _update(
        connection,
        tenant_id,
        "retired_at = now()",
        "purpose = %(purpose)s AND version < %(version)s AND retired_at IS NULL",
        purpose=purpose,
        version=version,
    )


def replace_wrapping(
    connection: Connection,
    tenant_id: UUID | None,
    key: WrappedKey,
    wrapped: bytes,
    provider: str,
    key_id: str,
) -> None:
    """Store the same key wrapped anew."""
    _update(
        connection,
        tenant_id,
        "wrapped_key = %(wrapped)s, provider = %(provider)s, provider_key_id = %(key_id)s",
        "id = %(id)s AND destroyed_at IS NULL",
        id=key.id,
        wrapped=wrapped,
        provider=provider,
        key_id=key_id,
    )


def destroy_all(connection: Connection, tenant_id: UUID) -> int:
    """Overwrite the wrapped keys of a tenant. Returns how many there were."""
    return _update(
        connection, tenant_id, "wrapped_key = NULL, destroyed_at = now()", "destroyed_at IS NULL"
    )


def _select(
    connection: Connection, tenant_id: UUID | None, condition: LiteralString, **values: Any
) -> list[WrappedKey]:
    statement = "SELECT " + _COLUMNS + " FROM" + _FROM[tenant_id is not None] + condition
    rows = connection.execute(statement, {"tenant_id": tenant_id, **values}).fetchall()
    return [WrappedKey(*row) for row in rows]


def _update(
    connection: Connection,
    tenant_id: UUID | None,
    change: LiteralString,
    condition: LiteralString,
    **values: Any,
) -> int:
    table: LiteralString = "data_keys" if tenant_id is not None else "platform_data_keys"
    ours: LiteralString = "tenant_id = %(tenant_id)s AND " if tenant_id is not None else ""
    statement = "UPDATE " + table + " SET " + change + " WHERE " + ours + condition
    return connection.execute(statement, {"tenant_id": tenant_id, **values}).rowcount
