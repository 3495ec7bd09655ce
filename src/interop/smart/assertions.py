"""private_key_jwt: a client proves who it is with a signed JWT (RFC 7523, SMART App Launch 2.2
"Client Authentication: Asymmetric").

One signature, one algorithm of two, one audience, five minutes, used once in the installation.
Whatever is wrong with an assertion, the caller hears the same.
"""

from __future__ import annotations

import hashlib
import json
import time
from base64 import urlsafe_b64decode
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from joserfc import jwt
from joserfc.errors import JoseError

from interop.smart.client_keys import ALGORITHMS, ClientKey, algorithm_of
from interop.smart.clients import ApiClient
from interop.smart.keys import LEEWAY_SECONDS
from storage.database import Database
from storage.tenancy import Tenant

TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
MAX_LENGTH = 16 * 1024
MAX_LIFETIME_SECONDS = 300
# A jku is heard only when it repeats what was registered; a key is never taken from a header.
HEADER = frozenset({"alg", "typ", "kid", "jku"})


class AssertionRefused(Exception):
    """The assertion does not prove who the client is."""


@dataclass(frozen=True, slots=True)
class Assertion:
    """What an assertion says before anything of it is believed."""

    text: str
    kid: str
    algorithm: str
    jku: str | None
    client_id: str


@dataclass(frozen=True, slots=True)
class Once:
    """What of an accepted assertion is remembered, and how long."""

    token_id: str
    expires_at: datetime


def read(text: str) -> Assertion:
    """Take an assertion apart. Raises AssertionRefused."""
    segments = text.split(".")
    if len(text) > MAX_LENGTH or len(segments) != 3:
        raise AssertionRefused("not a JWS of three parts (a JWE has five)")
    header, claims = _json(segments[0]), _json(segments[1])
    if not header.keys() <= HEADER:
        raise AssertionRefused(f"header parameters besides {', '.join(sorted(HEADER))}")
    if header.get("alg") not in ALGORITHMS:
        raise AssertionRefused(f"alg is not one of {', '.join(ALGORITHMS)}")
    if str(header.get("typ", "JWT")).upper() != "JWT":
        raise AssertionRefused("typ is not JWT")
    kid, jku, client_id = header.get("kid"), header.get("jku"), claims.get("iss")
    if not isinstance(kid, str) or not isinstance(client_id, str):
        raise AssertionRefused("kid or iss is missing")
    if jku is not None and not isinstance(jku, str):
        raise AssertionRefused("jku is not a URL")
    return Assertion(text, kid, header["alg"], jku, client_id)


def require_registered_address(assertion: Assertion, client: ApiClient) -> None:
    """Refuse a jku that is not, character for character, where the client's keys were registered.

    Before any key is fetched: what is fetched is the registered address, never one from a header.
    SMART App Launch 2.2 lets a client repeat it; security.md E1 lets nobody else name one.
    """
    if assertion.jku is not None and assertion.jku != client.jwks_uri:
        raise AssertionRefused("jku is not the registered jwks_uri")


def verify(assertion: Assertion, client: ApiClient, key: ClientKey, token_url: str) -> Once:
    """Check signature and claims. Raises AssertionRefused."""
    if algorithm_of(key) != assertion.algorithm:
        raise AssertionRefused("the key is not of the algorithm in the header")
    try:
        claims = jwt.decode(assertion.text, key, algorithms=[assertion.algorithm]).claims
    except (JoseError, ValueError, TypeError) as error:
        raise AssertionRefused("the signature does not verify") from error
    if claims.get("iss") != client.client_id or claims.get("sub") != client.client_id:
        raise AssertionRefused("iss and sub are not the client's id")
    # One audience: a list with others could be an assertion made for another server.
    if claims.get("aud") not in (token_url, [token_url]):
        raise AssertionRefused("aud is not the token endpoint")
    expires_at = _check_times(claims, time.time())
    token_id = claims.get("jti")
    if not isinstance(token_id, str) or not 0 < len(token_id) <= 256:
        raise AssertionRefused("jti is missing or longer than 256 characters")
    return Once(token_id, datetime.fromtimestamp(expires_at + LEEWAY_SECONDS, UTC))


def use_once(database: Database, tenant: Tenant, client: ApiClient, once: Once) -> None:
    """Note the jti for all workers. Raises AssertionRefused when it was used before."""
    digest = hashlib.sha256(once.token_id.encode()).hexdigest()
    with database.connection(tenant.id) as connection:
        inserted = connection.execute(
            "INSERT INTO client_assertions"
            " (tenant_id, api_client_id, assertion_hash, expires_at) VALUES (%s, %s, %s, %s)"
            " ON CONFLICT DO NOTHING",
            (tenant.id, client.id, digest, once.expires_at),
        ).rowcount
    if inserted != 1:
        raise AssertionRefused("jti was used before")


def _check_times(claims: dict[str, Any], now: float) -> float:
    """Raise unless the assertion is young enough; returns when it expires."""
    expires_at, issued_at, not_before = (_number(claims, name) for name in ("exp", "iat", "nbf"))
    if expires_at is None:
        raise AssertionRefused("exp is missing")
    if expires_at + LEEWAY_SECONDS <= now:
        raise AssertionRefused("the assertion has expired")
    if issued_at is None:
        latest = now + MAX_LIFETIME_SECONDS
    else:
        # A client's clock may be ahead by the leeway, which its iat then shows.
        latest = min(issued_at + MAX_LIFETIME_SECONDS, now + MAX_LIFETIME_SECONDS + LEEWAY_SECONDS)
        if issued_at > now + LEEWAY_SECONDS:
            raise AssertionRefused("iat is in the future")
    if expires_at > latest:
        raise AssertionRefused("exp is more than five minutes away")
    if not_before is not None and not_before > now + LEEWAY_SECONDS:
        raise AssertionRefused("nbf is in the future")
    return expires_at


def _number(claims: dict[str, Any], name: str) -> float | None:
    value = claims.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e11:
        raise AssertionRefused(f"{name} is not a time in seconds")
    return float(value)


def _json(segment: str) -> dict[str, Any]:
    try:
        found = json.loads(urlsafe_b64decode(segment + "=" * (-len(segment) % 4)))
    except (ValueError, RecursionError) as error:
        raise AssertionRefused("a part is not base64url of JSON") from error
    if not isinstance(found, dict):
        raise AssertionRefused("a part is not a JSON object")
    return found
