"""What a seal says: digests of rows, of seals over rows, and the signature over a seal.

A row's digest is SHA-256 over its columns and those of its phi_access_logs, as the text of a JSON
array. A seal's digest covers its own columns and the digest of the seal before it, so the newest
signature vouches for everything that came before.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, LiteralString
from uuid import UUID

from storage.database import Connection
from storage.encryption import MasterKey

PURPOSE = "audit seals"
NO_DIGEST = bytes(32)
ENTRY_BYTES = 16 + 32
ROWS, PRUNED = "ROWS", "PRUNED"

# Times as whole microseconds and everything else as text: no setting of a session changes it.
_EVENTS: LiteralString = """
SELECT e.id, e.transaction_id::text::bigint, e.timestamp, jsonb_build_array(
    e.id, e.transaction_id::text, e.user_id, e.api_client_id, e.actor_type, e.event_type,
    e.resource_type, e.resource_id, e.patient_id, e.outcome,
    (extract(epoch FROM e.timestamp) * 1000000)::bigint, e.request_id, e.ip_address, e.user_agent,
    e.metadata, (
        SELECT jsonb_agg(jsonb_build_array(p.patient_id, p.action, p.purpose_of_use,
            p.is_break_glass, p.break_glass_reason,
            (extract(epoch FROM p.accessed_at) * 1000000)::bigint) ORDER BY p.patient_id)
        FROM phi_access_logs AS p WHERE p.tenant_id = e.tenant_id AND p.audit_event_id = e.id)
    )::text
FROM audit_events AS e
WHERE e.tenant_id = %(tenant_id)s AND e.transaction_id >= %(first)s::text::xid8
    AND e.transaction_id < %(next)s::text::xid8
ORDER BY e.transaction_id, e.id
"""


@dataclass(frozen=True, slots=True)
class Entry:
    """One row as a seal covers it."""

    row_id: UUID
    transaction: int
    timestamp: datetime
    digest: bytes


@dataclass(frozen=True, slots=True)
class Seal:
    """A row of audit_seals; `entries` is read apart, it is large."""

    sequence: int
    kind: str
    first_transaction: int
    next_transaction: int
    first_sequence: int | None
    last_sequence: int | None
    row_count: int
    oldest_at: datetime
    newest_at: datetime
    rows_digest: bytes
    previous_digest: bytes
    seal_digest: bytes
    signature: bytes
    signed_by: str
    sealed_at: datetime

    def expected_digest(self, tenant_id: UUID) -> bytes:
        """The digest that its columns have."""
        parts = (
            tenant_id,
            self.sequence,
            self.kind,
            self.first_transaction,
            self.next_transaction,
            self.first_sequence,
            self.last_sequence,
            self.row_count,
            _microseconds(self.oldest_at),
            _microseconds(self.newest_at),
            self.rows_digest.hex(),
            self.previous_digest.hex(),
            self.signed_by,
            _microseconds(self.sealed_at),
        )
        return hashlib.sha256("\n".join(map(str, parts)).encode()).digest()


COLUMNS: LiteralString = (
    "sequence, kind, first_transaction, next_transaction, first_sequence, last_sequence,"
    " row_count, oldest_at, newest_at, rows_digest, previous_digest, seal_digest, signature,"
    " signed_by, sealed_at"
)


class AuditKey:
    """Signs seals, and knows the signatures of the keys that an installation had."""

    def __init__(self, current: MasterKey, former: Sequence[MasterKey] = ()) -> None:
        self.name = current.fingerprint
        self._keys = {key.fingerprint: key.derived(PURPOSE) for key in (*former, current)}

    def sign(self, digest: bytes) -> bytes:
        return hmac.digest(self._keys[self.name], digest, "sha256")

    def knows(self, name: str) -> bool:
        return name in self._keys

    def is_signature(self, name: str, digest: bytes, signature: bytes) -> bool:
        wanted = hmac.digest(self._keys[name], digest, "sha256")
        return hmac.compare_digest(wanted, signature)


def entries(connection: Connection, tenant_id: UUID, first: int, next_: int) -> Iterator[Entry]:
    """The rows of first <= transaction_id < next_ as they stand, in their order."""
    with connection.cursor(name="audit_entries") as cursor:
        cursor.itersize = 2000
        cursor.execute(_EVENTS, {"tenant_id": tenant_id, "first": first, "next": next_})
        for row_id, transaction, timestamp, text in cursor:
            digest = hashlib.sha256(text.encode()).digest()
            yield Entry(row_id, transaction, timestamp, digest)


def packed(found: Sequence[Entry]) -> bytes:
    """The `entries` of a seal."""
    return b"".join(entry.row_id.bytes + entry.digest for entry in found)


def unpacked(raw: bytes) -> list[tuple[UUID, bytes]]:
    """Ids and digests of `entries`."""
    return [
        (UUID(bytes=raw[at : at + 16]), raw[at + 16 : at + ENTRY_BYTES])
        for at in range(0, len(raw), ENTRY_BYTES)
    ]


def newest_seal(connection: Connection, tenant_id: UUID, kind: str | None = None) -> Seal | None:
    row = connection.execute(
        "SELECT " + COLUMNS + " FROM audit_seals WHERE tenant_id = %s"
        " AND (%s::text IS NULL OR kind = %s) ORDER BY sequence DESC LIMIT 1",
        (tenant_id, kind, kind),
    ).fetchone()
    return Seal(*row) if row else None


def seals(connection: Connection, tenant_id: UUID) -> Iterator[Seal]:
    """All seals of a tenant in their order."""
    with connection.cursor(name="audit_seals") as cursor:
        cursor.itersize = 2000
        cursor.execute(
            "SELECT " + COLUMNS + " FROM audit_seals WHERE tenant_id = %s ORDER BY sequence",
            (tenant_id,),
        )
        for row in cursor:
            yield Seal(*row)


def lock_chain(connection: Connection, tenant_id: UUID) -> None:
    """One process at a time adds to a tenant's chain, until the transaction ends."""
    connection.execute(
        "SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))", (f"audit seals {tenant_id}",)
    )


def append(
    connection: Connection, tenant_id: UUID, key: AuditKey, body: dict[str, Any], raw: bytes | None
) -> Seal:
    """Add a seal with the columns of `body` after the newest one. The chain is locked."""
    before = newest_seal(connection, tenant_id)
    row = connection.execute("SELECT now()").fetchone()
    assert row is not None
    unsigned = Seal(
        sequence=before.sequence + 1 if before else 1,
        previous_digest=before.seal_digest if before else NO_DIGEST,
        seal_digest=b"",
        signature=b"",
        signed_by=key.name,
        sealed_at=row[0],
        **{"first_sequence": None, "last_sequence": None, **body},
    )
    digest = unsigned.expected_digest(tenant_id)
    values = {name: getattr(unsigned, name) for name in Seal.__dataclass_fields__}
    values |= {"seal_digest": digest, "signature": key.sign(digest)}
    connection.execute(
        "INSERT INTO audit_seals (tenant_id, entries, " + COLUMNS + ") VALUES (%(tenant_id)s,"
        " %(entries)s, %(sequence)s, %(kind)s, %(first_transaction)s, %(next_transaction)s,"
        " %(first_sequence)s, %(last_sequence)s, %(row_count)s, %(oldest_at)s, %(newest_at)s,"
        " %(rows_digest)s, %(previous_digest)s, %(seal_digest)s, %(signature)s, %(signed_by)s,"
        " %(sealed_at)s)",
        {**values, "tenant_id": tenant_id, "entries": raw},
    )
    return Seal(**values)


def _microseconds(moment: datetime) -> int:
    return round(moment.timestamp() * 1_000_000)
