"""Dynamic client registration by an administrator (RFC 7591): POST /t/{tenant}/oauth2/register."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from anyio import to_thread
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from interop.access.audit import audit_parameters
from interop.access.principals import Caller
from interop.access.scopes import InvalidScope, Scopes
from interop.smart.administrators import audited, bearer_or_session, json_body, require_manager
from interop.smart.clients import (
    AUTHORIZATION_CODE,
    CLIENT_SECRET,
    PRIVATE_KEY_JWT,
    PUBLIC,
    ApiClient,
    InvalidRegistration,
    Registration,
    insert,
)
from interop.smart.errors import NO_STORE, OAuthError, translated
from storage.audit import INSERT_AUDIT

if TYPE_CHECKING:
    from interop.services import Services

# RFC 7591 2: how a client proves itself, and what that is called here.
METHODS = {
    "client_secret_basic": CLIENT_SECRET,
    "client_secret_post": CLIENT_SECRET,
    "private_key_jwt": PRIVATE_KEY_JWT,
    "none": PUBLIC,
}


@translated
async def register(request: Request) -> Response:
    """POST /t/{tenant}/oauth2/register"""
    services: Services = request.app.state.services
    caller = await bearer_or_session(request)
    try:
        async with audited(request, caller, "CLIENT_CREATED"):
            require_manager(caller)
            metadata = await json_body(request)
            registration = read(metadata)
            body = await to_thread.run_sync(_register, services, caller, registration, metadata)
    except InvalidRegistration as error:
        raise OAuthError(error.error, str(error)) from error
    return JSONResponse(body, 201, NO_STORE)


def read(metadata: dict[str, Any]) -> Registration:
    """Client metadata as a registration. Raises InvalidRegistration."""
    method = _text(metadata, "token_endpoint_auth_method") or "client_secret_basic"
    if method not in METHODS:
        raise InvalidRegistration(
            "invalid_client_metadata", f"token_endpoint_auth_method: one of {', '.join(METHODS)}"
        )
    if _texts(metadata, "response_types") not in ((), ("code",)):
        raise InvalidRegistration("invalid_client_metadata", "response_types: only 'code'")
    try:
        scopes = Scopes.parse(_text(metadata, "scope") or "")
    except InvalidScope as error:
        raise InvalidRegistration("invalid_client_metadata", str(error)) from error
    jwks = metadata.get("jwks")
    if jwks is not None and not isinstance(jwks, dict):
        raise InvalidRegistration("invalid_client_metadata", "jwks must be a JWK Set")
    return Registration(
        name=_text(metadata, "client_name") or "",
        scopes=scopes,
        authentication=METHODS[method],
        # RFC 7591 2: left out means authorization_code.
        grant_types=_texts(metadata, "grant_types") or (AUTHORIZATION_CODE,),
        redirect_uris=_texts(metadata, "redirect_uris"),
        jwks=jwks,
        jwks_uri=_text(metadata, "jwks_uri"),
        client_uri=_text(metadata, "client_uri"),
        launch_uri=_text(metadata, "launch_uri") or _text(metadata, "initiate_login_uri"),
    )


def _register(
    services: Services, caller: Caller, registration: Registration, metadata: dict[str, Any]
) -> dict[str, Any]:
    with services.database.connection(caller.tenant.id) as connection:
        client, secret = insert(connection, caller.tenant, registration)
        values = audit_parameters(caller, "CLIENT_CREATED", metadata={"client": str(client.id)})
        connection.execute(INSERT_AUDIT, values)
    return _information(client, secret, metadata)


def _information(client: ApiClient, secret: str | None, metadata: dict[str, Any]) -> dict[str, Any]:
    """RFC 7591 3.2.1: what was registered, which may differ from what was asked."""
    given = metadata.get("token_endpoint_auth_method", "client_secret_basic")
    found: dict[str, Any] = {
        "client_id": client.client_id,
        "client_id_issued_at": int(time.time()),
        "client_name": client.name,
        "scope": str(client.scopes),
        "token_endpoint_auth_method": given,
        "grant_types": list(client.grant_types),
        "response_types": ["code"] if AUTHORIZATION_CODE in client.grant_types else [],
        "redirect_uris": list(client.redirect_uris),
        "jwks": client.jwks,
        "jwks_uri": client.jwks_uri,
        "client_uri": client.client_uri,
        "launch_uri": client.launch_uri,
    }
    if secret is not None:
        found |= {"client_secret": secret, "client_secret_expires_at": 0}
    return {name: value for name, value in found.items() if value is not None}


def _text(metadata: dict[str, Any], name: str) -> str | None:
    value = metadata.get(name)
    if value is not None and (not isinstance(value, str) or "\x00" in value):
        raise InvalidRegistration("invalid_client_metadata", f"{name} must be a string")
    return value


def _texts(metadata: dict[str, Any], name: str) -> tuple[str, ...]:
    value = metadata.get(name, [])
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        error = "invalid_redirect_uri" if name == "redirect_uris" else "invalid_client_metadata"
        raise InvalidRegistration(error, f"{name} must be a list of strings")
    return tuple(value)


def routes() -> list[Route]:
    return [Route("/t/{tenant}/oauth2/register", register, methods=["POST"])]
