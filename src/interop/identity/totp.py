"""The second factor: time-based codes (RFC 6238) and recovery codes.

The secret lies sealed beside the password. A code is good for one sign-in: the newest time step
used is remembered and only a later one is accepted. Recovery codes have 80 random bits each, so
one SHA-256 hides them, and each works once.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
import time
from dataclasses import dataclass
from uuid import UUID

import pyotp

from interop.errors import BadRequest, Conflict
from interop.key_outages import keys_needed
from storage.database import Connection, vault_of
from storage.encryption import place

STEP_SECONDS = 30
# RFC 6238 5.2 recommends one step back; one ahead is for a telephone whose clock is fast.
WINDOW_STEPS = 1
RECOVERY_CODES = 10
# Columns of user_auth_identities.
ACTIVE = "mfa_secret_encrypted"
PENDING = "mfa_pending_secret_encrypted"


@dataclass(frozen=True, slots=True)
class Enrolment:
    """What an authenticator app needs; shown once."""

    secret: str
    uri: str


def is_enabled(connection: Connection, user_id: UUID) -> bool:
    """Whether a password of this user is only half of a sign-in."""
    row = connection.execute(
        "SELECT 1 FROM user_auth_identities WHERE user_id = %s AND provider = 'PASSWORD'"
        " AND mfa_method = 'TOTP' AND mfa_enabled_at IS NOT NULL",
        (user_id,),
    ).fetchone()
    return row is not None


def begin_enrolment(connection: Connection, user_id: UUID, issuer: str) -> Enrolment:
    """Make a secret that counts only once a code of it was shown (`confirm_enrolment`).

    Raises Conflict for a user without a password, and for one who has a second factor already.
    """
    identity, account = _identity(connection, user_id)
    if is_enabled(connection, user_id):
        raise Conflict("two-step sign-in is on already; switch it off first to begin anew")
    secret = pyotp.random_base32()
    connection.execute(
        "UPDATE user_auth_identities SET mfa_pending_secret_encrypted = %s WHERE id = %s",
        (_sealed(connection, PENDING, identity, secret), identity),
    )
    return Enrolment(secret, pyotp.TOTP(secret).provisioning_uri(name=account, issuer_name=issuer))


def confirm_enrolment(connection: Connection, user_id: UUID, code: str) -> list[str]:
    """Switch the second factor on; returns the recovery codes, which are stored only as hashes.

    Raises BadRequest when the code is not one of the pending secret's.
    """
    identity, _ = _identity(connection, user_id)
    row = connection.execute(
        "SELECT mfa_pending_secret_encrypted FROM user_auth_identities WHERE id = %s FOR UPDATE",
        (identity,),
    ).fetchone()
    if row is None or row[0] is None:
        raise Conflict("no set-up of two-step sign-in has begun")
    secret = _opened(connection, PENDING, identity, row[0])
    step = matching_step(secret, code, time.time())
    if step is None:
        raise BadRequest("the code is not right; enter the six digits that the app shows now")
    codes = [_recovery_code() for _ in range(RECOVERY_CODES)]
    connection.execute(
        "UPDATE user_auth_identities SET mfa_method = 'TOTP', mfa_enabled_at = now(),"
        " mfa_secret_encrypted = %s, mfa_pending_secret_encrypted = NULL, mfa_last_step = %s,"
        " recovery_code_hashes = %s WHERE id = %s",
        (
            _sealed(connection, ACTIVE, identity, secret),
            step,
            [_code_hash(identity, code) for code in codes],
            identity,
        ),
    )
    return codes


def disable(connection: Connection, user_id: UUID) -> bool:
    """Switch the second factor off; False when it was not on."""
    return (
        connection.execute(
            "UPDATE user_auth_identities SET mfa_method = NULL, mfa_enabled_at = NULL,"
            " mfa_secret_encrypted = NULL, mfa_pending_secret_encrypted = NULL,"
            " mfa_last_step = NULL, recovery_code_hashes = '{}'"
            " WHERE user_id = %s AND provider = 'PASSWORD' AND mfa_enabled_at IS NOT NULL",
            (user_id,),
        ).rowcount
        == 1
    )


def use_code(connection: Connection, user_id: UUID, code: str) -> str | None:
    """Accept a code or recovery code once; 'otp' or 'recovery' when it was good, else None."""
    row = connection.execute(
        "SELECT id, mfa_secret_encrypted FROM user_auth_identities"
        " WHERE user_id = %s AND provider = 'PASSWORD' AND mfa_enabled_at IS NOT NULL",
        (user_id,),
    ).fetchone()
    if row is None:
        return None
    step = matching_step(_opened(connection, ACTIVE, row[0], row[1]), code, time.time())
    if step is not None:
        used = connection.execute(
            "UPDATE user_auth_identities SET mfa_last_step = %(step)s, last_used_at = now()"
            " WHERE id = %(id)s AND (mfa_last_step IS NULL OR mfa_last_step < %(step)s)",
            {"step": step, "id": row[0]},
        )
        return "otp" if used.rowcount == 1 else None
    hashed = _code_hash(row[0], code)
    used = connection.execute(
        "UPDATE user_auth_identities SET last_used_at = now(),"
        " recovery_code_hashes = array_remove(recovery_code_hashes, %(hash)s)"
        " WHERE id = %(id)s AND %(hash)s = ANY(recovery_code_hashes)",
        {"hash": hashed, "id": row[0]},
    )
    return "recovery" if used.rowcount == 1 else None


def matching_step(secret: str, code: str, now: float) -> int | None:
    """The time step whose code this is, among those around `now`; the newest first."""
    digits = "".join(code.split())
    if len(digits) != 6 or not (digits.isascii() and digits.isdigit()):
        return None
    codes = pyotp.HOTP(secret)
    current = int(now) // STEP_SECONDS
    found = None
    for step in range(max(0, current - WINDOW_STEPS), current + WINDOW_STEPS + 1):
        if hmac.compare_digest(codes.at(step), digits):
            found = step
    return found


def _identity(connection: Connection, user_id: UUID) -> tuple[UUID, str]:
    row = connection.execute(
        "SELECT id, subject FROM user_auth_identities WHERE user_id = %s AND provider = 'PASSWORD'",
        (user_id,),
    ).fetchone()
    if row is None:
        raise Conflict(
            "two-step sign-in belongs to a password; this account signs in with a provider"
        )
    return row[0], row[1]


def _sealed(connection: Connection, column: str, identity: UUID, secret: str) -> str:
    """Under a key of the platform: a user may belong to several tenants."""
    with keys_needed():
        where = place("user_auth_identities", column, identity)
        return vault_of(connection).seal(None, where, secret, connection)


def _opened(connection: Connection, column: str, identity: UUID, sealed: str) -> str:
    with keys_needed():
        where = place("user_auth_identities", column, identity)
        return vault_of(connection).open(None, where, sealed, connection)


def _recovery_code() -> str:
    text = base64.b32encode(secrets.token_bytes(10)).decode()
    return "-".join(text[i : i + 4] for i in range(0, 16, 4))


def _code_hash(identity: UUID, code: str) -> str:
    plain = "".join(x for x in code.upper() if x.isalnum())
    return hashlib.sha256(f"{identity}\x00{plain}".encode()).hexdigest()
