"""The public keys of a client: registered ones, or those at its jwks_uri (RFC 7517).

What was fetched is kept for minutes, so that a key which a client took down is refused soon, and
an unknown kid is looked up at once, though not by everybody who invents one.
"""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from joserfc.errors import JoseError
from joserfc.jwk import ECKey, RSAKey

from interop.events import egress
from interop.events.egress import EgressFailed, EgressPolicy, EgressRefused

if TYPE_CHECKING:
    from interop.settings import Settings
    from interop.smart.clients import ApiClient

# SMART App Launch, client-confidential-asymmetric: the algorithms of a client assertion.
ALGORITHMS = ("RS384", "ES384")
MIN_RSA_BITS = 2048
MAX_KEYS = 32
KEEP_SECONDS = 300.0
# Between two fetches of one address, whoever asks.
PAUSE_SECONDS = 10.0
REMEMBERED = 1000

ClientKey = RSAKey | ECKey


@dataclass(slots=True)
class _Fetched:
    at: float
    keys: dict[str, ClientKey]


# Of this process, by address: the document is public and the same for whoever names it.
_fetched: dict[str, _Fetched] = {}
_locks: dict[str, asyncio.Lock] = {}


def usable_keys(jwks: Any) -> dict[str, ClientKey]:
    """The keys of a JWKS that can verify an assertion, by kid. Others are left out."""
    keys = jwks.get("keys") if isinstance(jwks, dict) else None
    if not isinstance(keys, list) or len(keys) > MAX_KEYS:
        return {}
    found: dict[str, ClientKey] = {}
    for jwk in keys:
        key = _usable(jwk)
        if key is not None:
            found[key[0]] = key[1]
    return found


def algorithm_of(key: ClientKey) -> str:
    """The one algorithm that a key is used with, whatever a token's header says."""
    return "RS384" if isinstance(key, RSAKey) else "ES384"


async def key_of(client: ApiClient, kid: str, settings: Settings) -> ClientKey | None:
    """The client's key with this id."""
    if client.jwks is not None:
        return usable_keys(client.jwks).get(kid)
    if client.jwks_uri is None:
        return None
    return (await _keys_at(client.jwks_uri, kid, settings)).get(kid)


async def _keys_at(uri: str, kid: str, settings: Settings) -> dict[str, ClientKey]:
    """The keys at an address, fetched when they are old or lack the key."""
    lock = _locks.setdefault(uri, asyncio.Lock())
    async with lock:
        known = _fetched.get(uri)
        age = time.monotonic() - known.at if known else float("inf")
        if known and (age < PAUSE_SECONDS or (kid in known.keys and age < KEEP_SECONDS)):
            return known.keys
        if len(_fetched) >= REMEMBERED:
            _fetched.clear()
        # A failure counts as an answer without keys: fails closed, and is not asked in a loop.
        keys = await _fetch(uri, settings)
        _fetched[uri] = _Fetched(time.monotonic(), keys)
    if len(_locks) > REMEMBERED:
        _locks.clear()
    return keys


async def _fetch(uri: str, settings: Settings) -> dict[str, ClientKey]:
    policy = EgressPolicy.parse(settings.egress_private_networks, settings.egress_ca_file)
    try:
        answer = await egress.request(
            "GET", uri, policy, headers={"Accept": "application/jwk-set+json, application/json"}
        )
        return usable_keys(json.loads(answer.body)) if answer.status == 200 else {}
    except (EgressRefused, EgressFailed, ValueError, RecursionError):
        return {}


def _usable(jwk: Any) -> tuple[str, ClientKey] | None:
    if not isinstance(jwk, dict) or jwk.get("use", "sig") != "sig" or "d" in jwk:
        return None
    kid, operations = jwk.get("kid"), jwk.get("key_ops", ["verify"])
    if not isinstance(kid, str) or not kid or not isinstance(operations, list):
        return None
    if "verify" not in operations:
        return None
    # alg and key_ops are judged here; joserfc would judge them once more and differently.
    bare = {k: v for k, v in jwk.items() if k in ("kty", "n", "e", "crv", "x", "y", "kid")}
    try:
        if jwk.get("kty") == "RSA" and jwk.get("alg", "RS384") == "RS384":
            # base64url has six bits a character; joserfc only warns of a key that is too short.
            is_long = len(str(jwk.get("n", ""))) * 6 >= MIN_RSA_BITS
            return (kid, RSAKey.import_key(bare)) if is_long else None
        if jwk.get("kty") == "EC" and jwk.get("alg", "ES384") == "ES384":
            return (kid, ECKey.import_key(bare)) if jwk.get("crv") == "P-384" else None
    except (JoseError, ValueError, TypeError):
        return None
    return None
