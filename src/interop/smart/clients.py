"""Apps and services of a tenant (`api_clients`): registration, look-up, secrets.

A secret is 256 random bits, so one SHA-256 is a sufficient hash: there is nothing to guess that
a slow hash would protect (unlike a password).
"""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
from dataclasses import dataclass, field
from typing import Any, LiteralString
from urllib.parse import urlsplit
from uuid import UUID, uuid4

from interop.access.scopes import Scopes
from interop.events.egress import EgressRefused, check_url
from interop.settings import is_loopback
from interop.smart.client_keys import usable_keys
from storage.database import Connection, Database
from storage.tenancy import Tenant

CLIENT_SECRET, PRIVATE_KEY_JWT, PUBLIC = "CLIENT_SECRET", "PRIVATE_KEY_JWT", "NONE"
AUTHORIZATION_CODE, REFRESH, CLIENT_CREDENTIALS = (
    "authorization_code",
    "refresh_token",
    "client_credentials",
)
GRANT_TYPES = (AUTHORIZATION_CODE, REFRESH, CLIENT_CREDENTIALS)
MAX_REDIRECT_URIS = 16

_COLUMNS: LiteralString = (
    "id, client_id, name, scopes, authentication, grant_types, redirect_uris, jwks, jwks_uri,"
    " client_uri, launch_uri, client_secret_hash"
)


class InvalidRegistration(ValueError):
    """A client cannot be registered so; `error` is the code of RFC 7591 3.2.2."""

    def __init__(self, error: str, description: str) -> None:
        self.error = error
        super().__init__(description)


@dataclass(frozen=True, slots=True)
class Registration:
    """What is said of a client when it is registered."""

    name: str
    scopes: Scopes
    authentication: str = CLIENT_SECRET
    grant_types: tuple[str, ...] = (CLIENT_CREDENTIALS,)
    redirect_uris: tuple[str, ...] = ()
    jwks: dict[str, Any] | None = None
    jwks_uri: str | None = None
    client_uri: str | None = None
    launch_uri: str | None = None


@dataclass(frozen=True, slots=True)
class ApiClient:
    """A registered client."""

    id: UUID
    client_id: str
    name: str
    scopes: Scopes
    authentication: str = CLIENT_SECRET
    grant_types: tuple[str, ...] = (CLIENT_CREDENTIALS,)
    redirect_uris: tuple[str, ...] = ()
    jwks: dict[str, Any] | None = None
    jwks_uri: str | None = None
    client_uri: str | None = None
    launch_uri: str | None = None
    secret_hash: str | None = field(default=None, repr=False)

    @property
    def is_public(self) -> bool:
        return self.authentication == PUBLIC

    def knows(self, secret: str) -> bool:
        """Whether the secret is the client's own."""
        expected = self.secret_hash or _hash(secrets.token_urlsafe())
        return hmac.compare_digest(expected, _hash(secret))


def create_client(
    database: Database, tenant: Tenant, name: str, scopes: Scopes
) -> tuple[ApiClient, str]:
    """Register a service account with a secret, which is shown once and not stored."""
    client, secret = register(database, tenant, Registration(name, scopes))
    assert secret is not None  # a client of this kind has one
    return client, secret


def register(
    database: Database, tenant: Tenant, registration: Registration
) -> tuple[ApiClient, str | None]:
    """Register a client, with a secret when it is to have one. Raises InvalidRegistration."""
    with database.connection(tenant.id) as connection:
        return insert(connection, tenant, registration)


def insert(
    connection: Connection, tenant: Tenant, registration: Registration
) -> tuple[ApiClient, str | None]:
    """The same inside the caller's transaction."""
    check(registration)
    secret = secrets.token_urlsafe(32) if registration.authentication == CLIENT_SECRET else None
    client_id = secrets.token_urlsafe(18)
    jwks = registration.jwks
    row = connection.execute(
        "INSERT INTO api_clients (tenant_id, id, client_id, client_secret_hash, name, scopes,"
        " authentication, grant_types, redirect_uris, jwks, jwks_uri, client_uri, launch_uri)"
        " VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s) RETURNING " + _COLUMNS,
        (
            tenant.id,
            uuid4(),
            client_id,
            _hash(secret) if secret else None,
            registration.name,
            str(registration.scopes).split(),
            registration.authentication,
            list(registration.grant_types),
            list(registration.redirect_uris),
            json.dumps(jwks) if jwks else None,
            registration.jwks_uri,
            registration.client_uri,
            registration.launch_uri,
        ),
    ).fetchone()
    assert row is not None
    return _client(row), secret


def find(connection: Connection, tenant_id: UUID, client_id: str) -> ApiClient | None:
    """The client, when it is active and has not expired."""
    row = connection.execute(
        "SELECT " + _COLUMNS + " FROM api_clients WHERE tenant_id = %s AND client_id = %s"
        " AND status = 'ACTIVE' AND (expires_at IS NULL OR expires_at > now())",
        (tenant_id, client_id),
    ).fetchone()
    return None if row is None else _client(row)


def look_up(database: Database, tenant: Tenant, client_id: str) -> ApiClient | None:
    """`find` in a transaction of its own."""
    with database.connection(tenant.id) as connection:
        return find(connection, tenant.id, client_id)


def check(registration: Registration) -> None:
    """Raise InvalidRegistration for a client that could not work, or only work unsafely."""

    def refuse(description: str, error: str = "invalid_client_metadata") -> InvalidRegistration:
        return InvalidRegistration(error, description)

    grants = set(registration.grant_types)
    if not registration.scopes:
        raise refuse("a client needs at least one scope, e.g. system/*.cruds")
    if not registration.name.strip() or len(registration.name) > 200:
        raise refuse("a client needs a name of 1 to 200 characters (client_name)")
    if not grants or not grants <= set(GRANT_TYPES):
        raise refuse(f"grant_types: one or more of {', '.join(GRANT_TYPES)}")
    if AUTHORIZATION_CODE in grants and not registration.redirect_uris:
        raise refuse("authorization_code needs a redirect_uri", "invalid_redirect_uri")
    if len(registration.redirect_uris) > MAX_REDIRECT_URIS:
        raise refuse(f"at most {MAX_REDIRECT_URIS} redirect_uris", "invalid_redirect_uri")
    for uri in registration.redirect_uris:
        _check_redirect_uri(uri)
    for uri in filter(None, (registration.client_uri, registration.launch_uri)):
        if urlsplit(uri).scheme not in ("https", "http"):
            raise refuse(f"{uri[:128]!r} is not an http(s) URL")
    if REFRESH in grants and AUTHORIZATION_CODE not in grants:
        raise refuse("refresh_token goes with authorization_code only")
    if registration.authentication == PUBLIC and CLIENT_CREDENTIALS in grants:
        raise refuse("client_credentials needs a secret or keys: a public client has neither")
    _check_keys(registration)


def _check_keys(registration: Registration) -> None:
    error = "invalid_client_metadata"
    given = [x for x in (registration.jwks, registration.jwks_uri) if x is not None]
    if registration.authentication != PRIVATE_KEY_JWT:
        if given:
            raise InvalidRegistration(error, "keys go with private_key_jwt only")
        return
    if len(given) != 1:
        raise InvalidRegistration(error, "private_key_jwt needs jwks or jwks_uri, and not both")
    if registration.jwks is not None and not usable_keys(registration.jwks):
        raise InvalidRegistration(
            error,
            'jwks holds no usable key: {"keys": [...]} with public keys that have a kid, RSA of '
            "2048 bits or more (RS384) or EC P-384 (ES384)",
        )
    if registration.jwks_uri is not None:
        try:
            check_url(registration.jwks_uri)
        except EgressRefused as refusal:
            raise InvalidRegistration(error, f"jwks_uri: {refusal}") from refusal


def _check_redirect_uri(uri: str) -> None:
    """RFC 6749 3.1.2, RFC 8252 7: https; http on the loopback; or an app's own scheme."""
    parts = urlsplit(uri)
    is_printable = uri.isascii() and all("!" <= c <= "~" and c not in '"\\<>' for c in uri)
    is_web = parts.scheme == "https" and bool(parts.hostname)
    is_local = parts.scheme == "http" and is_loopback(parts.hostname or "")
    is_app = "." in parts.scheme and parts.scheme not in ("", "https", "http")
    if (
        not is_printable
        or len(uri) > 2000
        or "#" in uri
        or parts.username is not None
        or not (is_web or is_local or is_app)
    ):
        raise InvalidRegistration(
            "invalid_redirect_uri",
            f"redirect_uri {uri[:128]!r}: https://host/path, http://127.0.0.1:port/path, or a "
            "scheme of the app's own with a dot (com.example.app:/callback); no fragment",
        )


def _client(row: tuple[Any, ...]) -> ApiClient:
    return ApiClient(
        id=row[0],
        client_id=row[1],
        name=row[2],
        scopes=Scopes.parse(" ".join(row[3]), ignore_unknown=True),
        authentication=row[4],
        grant_types=tuple(row[5]),
        redirect_uris=tuple(row[6]),
        jwks=row[7],
        jwks_uri=row[8],
        client_uri=row[9],
        launch_uri=row[10],
        secret_hash=row[11],
    )


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
