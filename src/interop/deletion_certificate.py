"""Certificates of deletion: a JWS (RFC 7515) that names what was deleted, signed by this server.

Whoever has the installation's JWKS can check it; its type keeps it from being an access token.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from joserfc import jwt
from joserfc.errors import JoseError

from interop.smart.keys import ACCESS_TOKEN_ALGORITHM, SigningKeys

TYPE = "deletion-certificate+jwt"
ISSUER = "interop"


def signer(keys: SigningKeys) -> Callable[[dict[str, Any]], str]:
    """The function that signs what `storage.tenants.deletion` certifies."""

    def sign(claims: dict[str, Any]) -> str:
        key = keys.signing(ACCESS_TOKEN_ALGORITHM)
        header = {"alg": ACCESS_TOKEN_ALGORITHM, "typ": TYPE, "kid": key.kid}
        return jwt.encode(header, {"iss": ISSUER, **claims}, key)

    return sign


def verify(keys: SigningKeys, certificate: str) -> dict[str, Any]:
    """What a certificate says. Raises ValueError when this installation did not sign it."""
    try:
        ring = keys.verifying(ACCESS_TOKEN_ALGORITHM, None)
        decoded = jwt.decode(certificate, ring, algorithms=[ACCESS_TOKEN_ALGORITHM])
    except (JoseError, ValueError) as error:
        raise ValueError("the signature of the certificate is not of this installation") from error
    if decoded.header.get("typ") != TYPE:
        raise ValueError("this is not a certificate of deletion")
    return dict(decoded.claims)
