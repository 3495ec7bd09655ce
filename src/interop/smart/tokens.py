"""Access tokens: JWT (RFC 9068 in spirit) signed with ES256 by a key of the installation.

A token names its tenant by id and is good for that tenant only. What it says was true when it was
issued; whether it still is, `interop.smart.token_state` tells.
"""

from __future__ import annotations

import json
import time
from base64 import urlsafe_b64decode
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

from joserfc import jwt
from joserfc.errors import JoseError

from interop.access.scopes import InvalidScope, Scopes
from interop.errors import Unauthorized
from interop.smart.keys import (
    ACCESS_TOKEN_ALGORITHM,
    ID_TOKEN_ALGORITHM,
    LEEWAY_SECONDS,
    SigningKeys,
)
from storage.database import Database
from storage.encryption import MasterKey
from storage.tenancy import Tenant

ISSUER = "interop"
OPERATOR = "operator"
TYPE = "at+jwt"
# RFC 7515 4.1: what a header of ours has. A key, or the address of one, is not for a token to say.
HEADER = frozenset({"alg", "typ", "kid"})


@dataclass(frozen=True, slots=True)
class Claims:
    """What a verified token says."""

    tenant_id: UUID
    client_id: UUID | None  # api_clients.id; None: the operator of this machine
    name: str
    scopes: Scopes
    expires_at: float
    user_id: UUID | None = None
    patient_id: UUID | None = None  # patients.id, the patient in context
    session_id: UUID | None = None  # sessions.id; None for offline access
    grant_id: UUID | None = None  # authorization_grants.id of an app launch
    fhir_user: str | None = None  # relative reference: Practitioner/{id} or Patient/{id}
    key_id: str = ""  # signing_keys.kid
    issued_at: float = 0.0
    token_id: str = ""
    # The tenant whose member acts here by a grant on its subtree (interop.access.acting).
    via_tenant_id: UUID | None = None


@dataclass(frozen=True, slots=True)
class Subject:
    """For whom a token is issued, besides its client."""

    user_id: UUID | None = None
    patient_id: UUID | None = None
    session_id: UUID | None = None
    grant_id: UUID | None = None
    fhir_user: str | None = None
    via_tenant_id: UUID | None = None


NOBODY = Subject()


class TokenService:
    """Issues and verifies the access tokens of one installation."""

    def __init__(self, database: Database, master_key: MasterKey, lifetime_seconds: int) -> None:
        self.keys = SigningKeys(database, master_key)
        self.lifetime_seconds = lifetime_seconds

    def issue(
        self,
        tenant: Tenant,
        client_id: UUID | None,
        name: str,
        scopes: Scopes,
        subject: Subject = NOBODY,
        lifetime_seconds: int | None = None,
    ) -> str:
        """A signed token for `scopes` in `tenant`, valid as long as others or as it is said."""
        key = self.keys.signing(ACCESS_TOKEN_ALGORITHM)
        now = int(time.time())
        claims = {
            "iss": ISSUER,
            "aud": str(tenant.id),
            "sub": str(subject.user_id or client_id or OPERATOR),
            "client_id": _text(client_id),
            "name": name,
            "scope": str(scopes),
            "patient": _text(subject.patient_id),
            "fhirUser": subject.fhir_user,
            "sid": _text(subject.session_id),
            "grant": _text(subject.grant_id),
            "via": _text(subject.via_tenant_id),
            "iat": now,
            "exp": now + (lifetime_seconds or self.lifetime_seconds),
            "jti": str(uuid4()),
        }
        header = {"alg": ACCESS_TOKEN_ALGORITHM, "typ": TYPE, "kid": key.kid}
        return jwt.encode(header, {k: v for k, v in claims.items() if v is not None}, key)

    def verify(self, token: str) -> Claims:
        """Read a token. Raises Unauthorized for anything not issued here or expired."""
        try:
            keys = self.keys.verifying(ACCESS_TOKEN_ALGORITHM, _key_id(token))
            decoded = jwt.decode(token, keys, algorithms=[ACCESS_TOKEN_ALGORITHM])
            if decoded.header.get("typ") != TYPE or not decoded.header.keys() <= HEADER:
                raise Unauthorized("the token is not an access token")
            return _claims(decoded.claims, decoded.header["kid"])
        except (
            JoseError,
            ValueError,
            KeyError,
            TypeError,
            InvalidScope,
            RecursionError,  # a header or payload nested a thousand deep
        ) as error:
            raise Unauthorized("the access token is not valid here") from error

    def id_token(self, issuer: str, client_id: str, subject: str, more: dict[str, Any]) -> str:
        """An id_token (OpenID Connect Core 2) for a client, valid as long as an access token."""
        key = self.keys.signing(ID_TOKEN_ALGORITHM)
        now = int(time.time())
        claims = {
            "iss": issuer,
            "aud": client_id,
            "sub": subject,
            "iat": now,
            "exp": now + self.lifetime_seconds,
            **more,
        }
        return jwt.encode(
            {"alg": ID_TOKEN_ALGORITHM, "kid": key.kid}, claims, key, [ID_TOKEN_ALGORITHM]
        )


def _text(value: UUID | None) -> str | None:
    return None if value is None else str(value)


def _key_id(token: str) -> str | None:
    head = token.split(".", 1)[0]
    try:
        header = json.loads(urlsafe_b64decode(head + "=" * (-len(head) % 4)))
    except (ValueError, RecursionError):
        return None
    kid = header.get("kid") if isinstance(header, dict) else None
    return kid if isinstance(kid, str) else None


def _claims(claims: dict[str, Any], key_id: str) -> Claims:
    if claims["iss"] != ISSUER:
        raise Unauthorized("the access token was issued elsewhere")
    expires_at = float(claims["exp"])
    if expires_at + LEEWAY_SECONDS < time.time():
        raise Unauthorized("the access token has expired; request a new one")
    client_id = _id(claims, "client_id")
    subject = claims["sub"]
    is_user = subject not in (OPERATOR, claims.get("client_id"))
    return Claims(
        tenant_id=UUID(claims["aud"]),
        client_id=client_id,
        name=str(claims["name"]),
        scopes=Scopes.parse(claims["scope"]),
        expires_at=expires_at,
        user_id=UUID(subject) if is_user else None,
        patient_id=_id(claims, "patient"),
        session_id=_id(claims, "sid"),
        grant_id=_id(claims, "grant"),
        fhir_user=claims.get("fhirUser"),
        key_id=key_id,
        issued_at=float(claims["iat"]),
        token_id=str(claims["jti"]),
        via_tenant_id=_id(claims, "via"),
    )


def _id(claims: dict[str, Any], name: str) -> UUID | None:
    return UUID(claims[name]) if name in claims else None
