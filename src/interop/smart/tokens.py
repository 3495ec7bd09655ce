"""Access tokens: JWT (RFC 9068 in spirit) signed with ES256 by a key of the installation.

The key lies in `signing_keys`, its private part sealed under the master key, so every process and
machine of an installation signs and verifies alike. A token names its tenant by id and is good
for that tenant only.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, KeySet

from interop.access.scopes import InvalidScope, Scopes
from interop.errors import Unauthorized
from storage.database import Connection, Database
from storage.encryption import MasterKey
from storage.tenancy import Tenant

ALGORITHM = "ES256"
ISSUER = "interop"
LEEWAY_SECONDS = 60  # reliability.md R18: clocks of two machines differ
RELOAD_SECONDS = 2.0
# Any constant serves; it keeps two first processes from making two keys.
_KEY_LOCK = 0x1A7E_0001


@dataclass(frozen=True, slots=True)
class Claims:
    """What a verified token says."""

    tenant_id: UUID
    client_id: UUID | None  # None: the operator of this machine
    name: str
    scopes: Scopes
    expires_at: float


class TokenService:
    """Issues and verifies the access tokens of one installation."""

    def __init__(self, database: Database, master_key: MasterKey, lifetime_seconds: int) -> None:
        self._database = database
        self._master_key = master_key
        self.lifetime_seconds = lifetime_seconds
        self._keys: dict[str, ECKey] = {}
        self._loaded_at = -RELOAD_SECONDS

    def issue(self, tenant: Tenant, client_id: UUID | None, name: str, scopes: Scopes) -> str:
        """A signed token for `scopes` in `tenant`, valid for `lifetime_seconds`."""
        key = self._signing_key()
        now = int(time.time())
        claims = {
            "iss": ISSUER,
            "aud": str(tenant.id),
            "sub": str(client_id) if client_id else "operator",
            "name": name,
            "scope": str(scopes),
            "iat": now,
            "exp": now + self.lifetime_seconds,
            "jti": str(uuid4()),
        }
        header = {"alg": ALGORITHM, "typ": "at+jwt", "kid": key.kid}
        return jwt.encode(header, claims, key)

    def verify(self, token: str) -> Claims:
        """Read a token. Raises Unauthorized for anything not issued here or expired."""
        try:
            decoded = jwt.decode(
                token, KeySet(list(self._known_keys(token))), algorithms=[ALGORITHM]
            )
            if decoded.header.get("typ") != "at+jwt":
                raise Unauthorized("the token is not an access token")
            return _claims(decoded.claims)
        except (JoseError, ValueError, KeyError, TypeError, InvalidScope) as error:
            raise Unauthorized("the access token is not valid here") from error

    def _known_keys(self, token: str) -> list[ECKey]:
        """All keys, read again once when a token names a key made by another process."""
        is_unknown = not self._keys or _key_id(token) not in self._keys
        # Anybody can name a key that does not exist; that must not become a query each time.
        if is_unknown and time.monotonic() - self._loaded_at > RELOAD_SECONDS:
            self._load()
        return list(self._keys.values())

    def _signing_key(self) -> ECKey:
        if not self._keys:
            self._load()
        if not self._keys:
            self._create()
        return next(iter(self._keys.values()))

    def _load(self) -> None:
        with self._database.platform_connection() as connection:
            self._read(connection)

    def _read(self, connection: Connection) -> None:
        self._loaded_at = time.monotonic()
        rows = connection.execute(
            "SELECT kid, private_jwk FROM signing_keys WHERE retired_at IS NULL"
            " ORDER BY created_at DESC, kid"
        ).fetchall()
        self._keys = {
            kid: ECKey.import_key(json.loads(self._master_key.open(sealed, _place(kid))))
            for kid, sealed in rows
        }

    def _create(self) -> None:
        with self._database.platform_connection() as connection:
            connection.execute("SELECT pg_advisory_xact_lock(%s)", (_KEY_LOCK,))
            self._read(connection)
            if self._keys:
                return
            kid = str(uuid4())
            key = ECKey.generate_key("P-256", {"kid": kid, "use": "sig", "alg": ALGORITHM})
            connection.execute(
                "INSERT INTO signing_keys (kid, algorithm, private_jwk, public_jwk)"
                " VALUES (%s, %s, %s, %s)",
                (
                    kid,
                    ALGORITHM,
                    self._master_key.seal(json.dumps(key.as_dict(private=True)), _place(kid)),
                    json.dumps(key.as_dict(private=False)),
                ),
            )
            self._keys = {kid: key}


def _place(kid: str) -> str:
    return f"signing_keys.private_jwk:{kid}"


def _key_id(token: str) -> str | None:
    from base64 import urlsafe_b64decode

    head = token.split(".", 1)[0]
    try:
        header = json.loads(urlsafe_b64decode(head + "=" * (-len(head) % 4)))
    except ValueError:
        return None
    kid = header.get("kid") if isinstance(header, dict) else None
    return kid if isinstance(kid, str) else None


def _claims(claims: dict[str, Any]) -> Claims:
    if claims["iss"] != ISSUER:
        raise Unauthorized("the access token was issued elsewhere")
    expires_at = float(claims["exp"])
    if expires_at + LEEWAY_SECONDS < time.time():
        raise Unauthorized("the access token has expired; request a new one")
    subject = claims["sub"]
    return Claims(
        tenant_id=UUID(claims["aud"]),
        client_id=None if subject == "operator" else UUID(subject),
        name=str(claims["name"]),
        scopes=Scopes.parse(claims["scope"]),
        expires_at=expires_at,
    )
