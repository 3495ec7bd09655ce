"""What users have let apps do: grants, the codes that open them, the refresh tokens that renew them
(RFC 6749 4.1 and 6, RFC 7636, RFC 9700 4.13 and 4.14).

A code works once and for a minute; a second use ends the grant with every token issued from it. A
refresh token works once and is answered with the next; a second use means that one of its two
holders is a thief, and ends the grant too.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass
from datetime import datetime
from typing import Any, LiteralString
from uuid import UUID

from interop.access.scopes import Scopes
from interop.smart.clients import ApiClient
from interop.smart.errors import OAuthError
from storage.database import Connection
from storage.tenancy import Tenant

CODE_SECONDS = 60
_VERIFIER = re.compile(r"[A-Za-z0-9\-._~]{43,128}")  # RFC 7636 4.1
_CHALLENGE = re.compile(r"[A-Za-z0-9\-_]{43}")  # base64url of a SHA-256

_GRANT: LiteralString = (
    "g.id, g.api_client_id, g.user_id, g.session_id, g.scopes, g.patient_id, g.encounter_id,"
    " g.need_patient_banner, g.intent, g.authenticated_at, g.expires_at"
)
# Whose user may still act, and whose session, where it hangs on one, still stands.
_IS_LIVE: LiteralString = (
    "g.revoked_at IS NULL AND g.expires_at > now()"
    " AND EXISTS (SELECT FROM user_tenants AS m JOIN users AS u ON u.id = m.user_id"
    " WHERE m.tenant_id = g.tenant_id AND m.user_id = g.user_id"
    " AND m.status = 'ACTIVE' AND m.may_sign_in AND u.status = 'ACTIVE')"
    " AND (g.session_id IS NULL OR EXISTS (SELECT FROM sessions AS s"
    " WHERE s.tenant_id = g.tenant_id AND s.id = g.session_id AND s.revoked_at IS NULL"
    " AND s.expires_at > now()))"
)


@dataclass(frozen=True, slots=True)
class Approval:
    """What a user has just approved, to be opened by a code."""

    client: ApiClient
    user_id: UUID
    session_id: UUID | None
    scopes: tuple[str, ...]
    patient_id: UUID | None
    encounter_id: UUID | None
    need_patient_banner: bool
    intent: str | None
    authenticated_at: datetime
    redirect_uri: str
    code_challenge: str
    nonce: str | None
    lifetime_seconds: float


@dataclass(frozen=True, slots=True)
class Grant:
    """An approval as it is stored."""

    id: UUID
    api_client_id: UUID
    user_id: UUID
    session_id: UUID | None
    scope_texts: tuple[str, ...]
    patient_id: UUID | None
    encounter_id: UUID | None
    need_patient_banner: bool
    intent: str | None
    authenticated_at: datetime
    expires_at: datetime

    @property
    def scopes(self) -> Scopes:
        return Scopes.parse(" ".join(self.scope_texts), ignore_unknown=True)

    @property
    def is_renewable(self) -> bool:
        return self.scopes.has("offline_access") or self.scopes.has("online_access")


@dataclass(frozen=True, slots=True)
class Redeemed:
    """What came of showing a code or a refresh token: a grant, or why there is none."""

    grant: Grant | None
    nonce: str | None = None
    reason: str | None = None

    def require(self) -> Grant:
        """The grant. Raises OAuthError `invalid_grant`, alike for every failure."""
        if self.grant is None:
            raise OAuthError(
                "invalid_grant",
                "the code or refresh token is not valid, or not for this client, redirect_uri "
                "and code_verifier; start the launch again",
                reason=self.reason,
            )
        return self.grant


def is_challenge(text: str) -> bool:
    """Whether it can be a code_challenge of S256."""
    return _CHALLENGE.fullmatch(text) is not None


def approve(connection: Connection, tenant: Tenant, approval: Approval) -> tuple[UUID, str]:
    """Store an approval; returns the id of its grant and the code that opens it."""
    row = connection.execute(
        "INSERT INTO authorization_grants (tenant_id, api_client_id, user_id, session_id, scopes,"
        " patient_id, encounter_id, need_patient_banner, intent, authenticated_at, expires_at)"
        " VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, now() + make_interval(secs => %s))"
        " RETURNING id",
        (
            tenant.id,
            approval.client.id,
            approval.user_id,
            approval.session_id,
            list(approval.scopes),
            approval.patient_id,
            approval.encounter_id,
            approval.need_patient_banner,
            approval.intent,
            approval.authenticated_at,
            approval.lifetime_seconds,
        ),
    ).fetchone()
    assert row is not None
    code = secrets.token_urlsafe(32)
    connection.execute(
        "INSERT INTO authorization_codes (tenant_id, code_hash, grant_id, redirect_uri,"
        " code_challenge, nonce, expires_at)"
        " VALUES (%s, %s, %s, %s, %s, %s, now() + make_interval(secs => %s))",
        (
            tenant.id,
            digest(code),
            row[0],
            approval.redirect_uri,
            approval.code_challenge,
            approval.nonce,
            CODE_SECONDS,
        ),
    )
    return row[0], code


def redeem_code(
    connection: Connection,
    tenant: Tenant,
    client: ApiClient,
    code: str,
    redirect_uri: str | None,
    verifier: str | None,
) -> Redeemed:
    """Exchange a code. It is spent by the attempt, whether or not that succeeds.

    Returns rather than raises, so that the caller commits what a failed attempt must change.
    """
    row = connection.execute(
        "SELECT c.id, c.redirect_uri, c.code_challenge, c.nonce, c.redeemed_at IS NOT NULL,"
        " c.expires_at > now(), " + _IS_LIVE + ", " + _GRANT + " FROM authorization_codes AS c"
        " JOIN authorization_grants AS g ON g.tenant_id = c.tenant_id AND g.id = c.grant_id"
        " WHERE c.tenant_id = %s AND c.code_hash = %s FOR UPDATE OF c",
        (tenant.id, digest(code)),
    ).fetchone()
    if row is None:
        return Redeemed(None, reason="unknown code")
    code_id, registered_uri, challenge, nonce, is_spent, is_young, is_live = row[:7]
    grant = _grant(row[7:])
    if grant.api_client_id != client.id:
        return Redeemed(None, reason="code of another client")
    if is_spent:
        revoke(connection, tenant.id, grant.id, "CODE_REPLAYED")
        return Redeemed(None, reason="code replayed")
    connection.execute(
        "UPDATE authorization_codes SET redeemed_at = now() WHERE tenant_id = %s AND id = %s",
        (tenant.id, code_id),
    )
    if not is_young or not is_live:
        return Redeemed(None, reason="code expired, or its user or session ended")
    if redirect_uri != registered_uri:
        return Redeemed(None, reason="redirect_uri is not that of the request")
    if verifier is None or not _VERIFIER.fullmatch(verifier) or not _meets(challenge, verifier):
        return Redeemed(None, reason="code_verifier does not match")
    return Redeemed(grant, nonce)


def issue_refresh_token(
    connection: Connection, tenant: Tenant, grant: Grant, lifetime_days: int
) -> str:
    """A new refresh token of a grant; it never outlives the grant."""
    token = secrets.token_urlsafe(32)
    connection.execute(
        "INSERT INTO refresh_tokens (tenant_id, token_hash, grant_id, expires_at)"
        " VALUES (%s, %s, %s, least(%s, now() + make_interval(days => %s)))",
        (tenant.id, digest(token), grant.id, grant.expires_at, lifetime_days),
    )
    return token


def use_refresh_token(
    connection: Connection, tenant: Tenant, client: ApiClient, token: str
) -> Redeemed:
    """Spend a refresh token. Returns rather than raises, as `redeem_code`."""
    row = connection.execute(
        "SELECT t.id, t.used_at IS NOT NULL, t.expires_at > now(), "
        + _IS_LIVE
        + ", "
        + _GRANT
        + " FROM refresh_tokens AS t"
        " JOIN authorization_grants AS g ON g.tenant_id = t.tenant_id AND g.id = t.grant_id"
        " WHERE t.tenant_id = %s AND t.token_hash = %s FOR UPDATE OF t",
        (tenant.id, digest(token)),
    ).fetchone()
    if row is None:
        return Redeemed(None, reason="unknown refresh token")
    token_id, is_used, is_young, is_live = row[:4]
    grant = _grant(row[4:])
    if grant.api_client_id != client.id:
        return Redeemed(None, reason="refresh token of another client")
    if is_used:
        revoke(connection, tenant.id, grant.id, "REFRESH_TOKEN_REUSED")
        return Redeemed(None, reason="refresh token reused")
    if not is_young or not is_live:
        return Redeemed(None, reason="refresh token expired, or its user, session or grant ended")
    connection.execute(
        "UPDATE refresh_tokens SET used_at = now() WHERE tenant_id = %s AND id = %s",
        (tenant.id, token_id),
    )
    return Redeemed(grant)


def revoke(connection: Connection, tenant_id: UUID, grant_id: UUID, reason: str) -> bool:
    """End a grant and with it every token of it; False when it had ended before."""
    return (
        connection.execute(
            "UPDATE authorization_grants SET revoked_at = now(), revocation_reason = %s"
            " WHERE tenant_id = %s AND id = %s AND revoked_at IS NULL",
            (reason, tenant_id, grant_id),
        ).rowcount
        == 1
    )


def digest(secret: str) -> str:
    """What is stored of a random secret."""
    return hashlib.sha256(secret.encode()).hexdigest()


def _meets(challenge: str, verifier: str) -> bool:
    hashed = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest())
    return hmac.compare_digest(hashed.rstrip(b"=").decode(), challenge)


def _grant(row: tuple[Any, ...]) -> Grant:
    return Grant(
        id=row[0],
        api_client_id=row[1],
        user_id=row[2],
        session_id=row[3],
        scope_texts=tuple(row[4]),
        patient_id=row[5],
        encounter_id=row[6],
        need_patient_banner=row[7],
        intent=row[8],
        authenticated_at=row[9],
        expires_at=row[10],
    )
