"""Keys of objects: made by the server, of nothing that a sender wrote.

`tenant/hour/uuid`: a tenant's objects lie together, and the sweep can list them hour by hour.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import UUID, uuid4

LONGEST_KEY = 512
# No segment starts with a dot, so neither "..", nor the folder of temporary files, can be named.
_KEY = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*(/[A-Za-z0-9_-][A-Za-z0-9._-]*)*")
_PREFIX = re.compile(r"([A-Za-z0-9_-][A-Za-z0-9._-]*/?)*")
_HOUR = "%Y%m%d%H"


class InvalidKey(ValueError):
    """The text is not an object key."""


@dataclass(frozen=True, slots=True)
class KeyParts:
    """What a server-made key says: whose object it is, and the hour it was written in."""

    tenant_id: UUID
    hour: datetime


def new_key(tenant_id: UUID, now: datetime | None = None) -> str:
    """Return a key that no object has yet."""
    return f"{hour_prefix(tenant_id, now or datetime.now(UTC))}{uuid4()}"


def tenant_prefix(tenant_id: UUID) -> str:
    return f"{tenant_id}/"


def hour_prefix(tenant_id: UUID, hour: datetime) -> str:
    return f"{tenant_id}/{hour.astimezone(UTC):{_HOUR}}/"


def parse_key(key: str) -> KeyParts | None:
    """Return the parts of a key that `new_key` made, or None for any other key."""
    parts = key.split("/")
    if len(parts) != 3:
        return None
    try:
        UUID(parts[2])
        hour = datetime.strptime(parts[1], _HOUR).replace(tzinfo=UTC)
        return KeyParts(UUID(parts[0]), hour)
    except ValueError:
        return None


def check_key(key: str) -> str:
    """Return the key, or raise InvalidKey when it could name something outside the store."""
    if len(key) > LONGEST_KEY or not _KEY.fullmatch(key):
        raise InvalidKey(
            f"object key {key[:80]!r}: up to {LONGEST_KEY} characters, segments of A-Z a-z 0-9 "
            "'-' '_' '.' separated by '/', none starting with '.'"
        )
    return key


def check_prefix(prefix: str) -> str:
    """Return the prefix, or raise InvalidKey when no key can start with it."""
    if len(prefix) > LONGEST_KEY or not _PREFIX.fullmatch(prefix):
        raise InvalidKey(f"object key prefix {prefix[:80]!r} is not the beginning of a key")
    return prefix
