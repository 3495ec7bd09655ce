"""A small OpenID Connect provider that tests start as a process of its own, over TLS.

Discovery, authorization with a sign-in form, code flow with PKCE and client secret (both checked),
id_tokens signed with RS256. The account that signs in decides what the provider says, so that an
account named for a fault makes exactly that fault.

    python openid_provider.py PORT CERTIFICATE KEY CLIENT_ID CLIENT_SECRET
"""

from __future__ import annotations

import base64
import sys
import time
from typing import Any
from urllib.parse import parse_qs, urlencode

import uvicorn
from authlib.oauth2.rfc7636 import create_s256_code_challenge
from joserfc import jwt
from joserfc.jwk import OctKey, RSAKey
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Route

KEY = RSAKey.generate_key(2048, {"kid": "one", "use": "sig", "alg": "RS256"})
FOREIGN_KEY = RSAKey.generate_key(2048, {"kid": "one", "use": "sig", "alg": "RS256"})
CODES: dict[str, dict[str, str]] = {}
ISSUER = CLIENT_ID = CLIENT_SECRET = ""


async def configuration(request: Request) -> Response:
    return JSONResponse(
        {
            "issuer": ISSUER,
            "authorization_endpoint": f"{ISSUER}/authorize",
            "token_endpoint": f"{ISSUER}/token",
            "jwks_uri": f"{ISSUER}/keys",
            "response_types_supported": ["code"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["RS256"],
        }
    )


async def keys(request: Request) -> Response:
    return JSONResponse({"keys": [KEY.as_dict(private=False)]})


async def authorize(request: Request) -> Response:
    """GET asks who it is; POST gives the code to the client."""
    asked = dict(request.query_params)
    if asked["client_id"] != CLIENT_ID or asked["code_challenge_method"] != "S256":
        return Response("unknown client, or no PKCE", 400)
    if request.method == "GET":
        return HTMLResponse('<form method="post"><input name="account"></form>')
    account = parse_qs((await request.body()).decode())["account"][0]
    code = f"code-{len(CODES)}-{time.time_ns()}"
    CODES[code] = {**asked, "account": account}
    answer = {"code": code, "state": asked["state"], "iss": ISSUER}
    if account.startswith("wrong-issuer-answer"):
        answer["iss"] = "https://evil.example"
    if account.startswith("refuses"):
        answer = {"error": "access_denied", "state": asked["state"]}
    return RedirectResponse(f"{asked['redirect_uri']}?{urlencode(answer)}", 303)


async def token(request: Request) -> Response:
    """Exchange a code, once."""
    expected = base64.b64encode(f"{CLIENT_ID}:{CLIENT_SECRET}".encode()).decode()
    if request.headers.get("authorization") != f"Basic {expected}":
        return JSONResponse({"error": "invalid_client"}, 401)
    form = {name: values[0] for name, values in parse_qs((await request.body()).decode()).items()}
    asked = CODES.pop(form["code"], None)
    if asked is None or asked["redirect_uri"] != form["redirect_uri"]:
        return JSONResponse({"error": "invalid_grant"}, 400)
    if create_s256_code_challenge(form["code_verifier"]) != asked["code_challenge"]:
        return JSONResponse({"error": "invalid_grant"}, 400)
    return JSONResponse(
        {
            "access_token": "an-access-token",
            "token_type": "Bearer",
            "expires_in": 60,
            "id_token": id_token(asked["account"], asked.get("nonce", "")),
        }
    )


def id_token(account: str, nonce: str) -> str:
    """What the account `fault+name` or `name` is told to be."""
    fault, _, _ = account.partition("+")
    now = int(time.time())
    claims: dict[str, Any] = {
        "iss": ISSUER,
        "sub": f"subject of {account}",
        "aud": CLIENT_ID,
        "iat": now,
        "exp": now + 300,
        "nonce": nonce,
        "name": "Sam Provided",
        "email": f"{account.rpartition('+')[2]}@clinic.example",
        "email_verified": True,
    }
    changes: dict[str, dict[str, Any]] = {
        "unverified": {"email_verified": False},
        "verified-as-text": {"email_verified": "true"},
        "no-nonce": {"nonce": None},
        "wrong-nonce": {"nonce": "another"},
        "wrong-issuer": {"iss": "https://evil.example"},
        "wrong-audience": {"aud": "another client"},
        "expired": {"iat": now - 900, "exp": now - 600},
        "mfa": {"amr": ["pwd", "mfa"]},
    }
    claims.update(changes.get(fault, {}))
    claims = {name: value for name, value in claims.items() if value is not None}
    header = {"alg": "RS256", "kid": "one"}
    if fault == "foreign-key":
        return jwt.encode(header, claims, FOREIGN_KEY)
    if fault == "symmetric":
        secret = OctKey.import_key(CLIENT_SECRET)
        return jwt.encode({"alg": "HS256", "kid": "one"}, claims, secret, algorithms=["HS256"])
    if fault == "unsigned":
        head, body, _ = jwt.encode(header, claims, KEY).split(".")
        head = base64.urlsafe_b64encode(b'{"alg":"none"}').decode().rstrip("=")
        return f"{head}.{body}."
    if fault == "critical":
        return jwt.encode({**header, "crit": ["exp"], "exp": 1}, claims, KEY)
    return jwt.encode(header, claims, KEY)


APP = Starlette(
    routes=[
        Route("/.well-known/openid-configuration", configuration),
        Route("/keys", keys),
        Route("/authorize", authorize, methods=["GET", "POST"]),
        Route("/token", token, methods=["POST"]),
    ]
)

if __name__ == "__main__":
    port, certificate, key, CLIENT_ID, CLIENT_SECRET = sys.argv[1:]
    ISSUER = f"https://127.0.0.1:{port}"
    uvicorn.run(
        APP, host="127.0.0.1", port=int(port), log_level="warning",
        ssl_certfile=certificate, ssl_keyfile=key,
    )  # fmt: skip
