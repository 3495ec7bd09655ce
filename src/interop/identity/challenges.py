"""A sign-in between its two steps: kept in the database, bound to the browser by a cookie.

Short-lived, used once, and worth nothing without the second step.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import LiteralString
from uuid import UUID, uuid4

from interop.identity.sessions import new_token, token_hash
from storage.database import Connection
from storage.encryption import MasterKey

LIFETIME_SECONDS = 600
MAX_ATTEMPTS = 5

_OPEN: LiteralString = (
    "tenant_id = %(tenant)s AND token_hash = %(hash)s AND kind = %(kind)s"
    " AND consumed_at IS NULL AND expires_at > now() AND attempts < %(max)s"
)


@dataclass(frozen=True, slots=True)
class Challenge:
    """A second step that is waited for."""

    id: UUID
    user_id: UUID | None
    provider_id: UUID | None
    continue_path: str
    secrets: dict[str, str]


def begin(
    connection: Connection,
    keys: MasterKey,
    tenant_id: UUID,
    kind: str,
    continue_path: str,
    *,
    user_id: UUID | None = None,
    provider_id: UUID | None = None,
    secrets: dict[str, str] | None = None,
) -> str:
    """Remember a first step; returns the token for the browser's cookie."""
    connection.execute(
        "DELETE FROM sign_in_challenges WHERE tenant_id = %s AND expires_at < now()", (tenant_id,)
    )
    challenge_id, token = uuid4(), new_token()
    sealed = keys.seal(json.dumps(secrets), _place(challenge_id)) if secrets else None
    connection.execute(
        "INSERT INTO sign_in_challenges (tenant_id, id, kind, token_hash, user_id, provider_id,"
        " secret_encrypted, continue_path, expires_at)"
        " VALUES (%s, %s, %s, %s, %s, %s, %s, %s, now() + make_interval(secs => %s))",
        (
            tenant_id,
            challenge_id,
            kind,
            token_hash(token),
            user_id,
            provider_id,
            sealed,
            continue_path,
            LIFETIME_SECONDS,
        ),
    )
    return token


def attempt(
    connection: Connection, keys: MasterKey, tenant_id: UUID, kind: str, token: str
) -> Challenge | None:
    """The open challenge of a cookie, one of its few attempts counted; None when there is none."""
    row = connection.execute(
        "UPDATE sign_in_challenges SET attempts = attempts + 1 WHERE "
        + _OPEN
        + " RETURNING id, user_id, provider_id, continue_path, secret_encrypted",
        {"tenant": tenant_id, "hash": token_hash(token), "kind": kind, "max": MAX_ATTEMPTS},
    ).fetchone()
    if row is None:
        return None
    secrets = json.loads(keys.open(row[4], _place(row[0]))) if row[4] else {}
    return Challenge(row[0], row[1], row[2], row[3], secrets)


def consume(connection: Connection, tenant_id: UUID, challenge: Challenge) -> bool:
    """Use a challenge up; False when another request was faster."""
    return (
        connection.execute(
            "UPDATE sign_in_challenges SET consumed_at = now()"
            " WHERE tenant_id = %s AND id = %s AND consumed_at IS NULL",
            (tenant_id, challenge.id),
        ).rowcount
        == 1
    )


def is_open(connection: Connection, tenant_id: UUID, kind: str, token: str) -> bool:
    """Whether the second step may still be shown."""
    row = connection.execute(
        "SELECT 1 FROM sign_in_challenges WHERE " + _OPEN,
        {"tenant": tenant_id, "hash": token_hash(token), "kind": kind, "max": MAX_ATTEMPTS},
    ).fetchone()
    return row is not None


def _place(challenge_id: UUID) -> str:
    return f"sign_in_challenges.secret:{challenge_id}"
