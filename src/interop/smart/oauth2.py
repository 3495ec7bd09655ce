"""The token endpoint of each tenant: OAuth 2.0 client credentials (RFC 6749 4.4).

The client authenticates with its secret, in the Authorization header (basic) or in the body
(post). Errors are those of RFC 6749 5.2. An unknown tenant answers like an unknown client.
"""

from __future__ import annotations

import base64
import binascii
from typing import TYPE_CHECKING
from urllib.parse import unquote_plus

from anyio import to_thread
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from interop.access.audit import INSERT_AUDIT, system_audit
from interop.access.http import request_id
from interop.access.scopes import InvalidScope, Scopes
from interop.smart.clients import ApiClient, authenticate
from storage.tenancy import Tenant

if TYPE_CHECKING:
    from interop.services import Services

NO_STORE = {"Cache-Control": "no-store", "Pragma": "no-cache"}
MAX_BODY = 64 * 1024


class TokenError(Exception):
    """An RFC 6749 5.2 error answer."""

    def __init__(self, error: str, description: str, status: int = 400) -> None:
        self.error, self.description, self.status = error, description, status
        super().__init__(description)


async def token(request: Request) -> Response:
    """POST /t/{tenant}/oauth2/token"""
    services: Services = request.app.state.services
    try:
        form = await _form(request)
        client_id, secret = _credentials(request, form)
        if form.get("grant_type") != "client_credentials":
            raise TokenError("unsupported_grant_type", "grant_type must be 'client_credentials'")
        tenant = await services.tenants.aby_slug(request.path_params["tenant"])
        client = await _authenticated(services, tenant, client_id, secret, request)
        scopes = _scopes(client, form.get("scope"))
    except TokenError as error:
        headers = {**NO_STORE}
        if error.status == 401:
            headers["WWW-Authenticate"] = 'Basic realm="oauth2"'
        return JSONResponse(
            {"error": error.error, "error_description": error.description},
            status_code=error.status,
            headers=headers,
        )
    assert tenant is not None  # _authenticated refused it otherwise
    issued = await to_thread.run_sync(services.tokens.issue, tenant, client.id, client.name, scopes)
    return JSONResponse(
        {
            "access_token": issued,
            "token_type": "Bearer",
            "expires_in": services.tokens.lifetime_seconds,
            "scope": str(scopes),
        },
        headers=NO_STORE,
    )


async def _form(request: Request) -> dict[str, str]:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/x-www-form-urlencoded":
        raise TokenError("invalid_request", "the body must be application/x-www-form-urlencoded")
    if int(request.headers.get("content-length") or 0) > MAX_BODY:
        raise TokenError("invalid_request", f"the body may have {MAX_BODY} bytes at most")
    fields = await request.form(max_files=0, max_fields=32)
    if len(fields.multi_items()) != len(fields):
        raise TokenError("invalid_request", "a parameter is repeated (RFC 6749 3.2)")
    return {name: value for name, value in fields.items() if isinstance(value, str)}


def _credentials(request: Request, form: dict[str, str]) -> tuple[str, str]:
    scheme, _, encoded = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "basic":
        try:
            name, _, secret = base64.b64decode(encoded, validate=True).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError) as error:
            raise TokenError("invalid_client", "the Basic header is malformed", 401) from error
        return unquote_plus(name), unquote_plus(secret)
    if "client_id" in form and "client_secret" in form:
        return form["client_id"], form["client_secret"]
    raise TokenError(
        "invalid_client",
        "client authentication is missing: HTTP Basic, or client_id and client_secret in the body",
        401,
    )


async def _authenticated(
    services: Services, tenant: Tenant | None, client_id: str, secret: str, request: Request
) -> ApiClient:
    if tenant is None or not tenant.is_active:
        raise TokenError("invalid_client", "client authentication failed", 401)
    client = await to_thread.run_sync(authenticate, services.database, tenant, client_id, secret)
    async with services.database.async_connection(tenant.id) as connection:
        await connection.execute(
            INSERT_AUDIT,
            system_audit(
                tenant.id,
                "LOGIN_SUCCESS" if client else "LOGIN_FAILED",
                outcome="SUCCESS" if client else "FAILURE",
                actor_type="API_CLIENT",
                api_client_id=client.id if client else None,
                request_id=request_id(request),
                ip_address=request.client.host if request.client else None,
                user_agent=request.headers.get("user-agent"),
            ),
        )
    if client is None:
        raise TokenError("invalid_client", "client authentication failed", 401)
    return client


def _scopes(client: ApiClient, asked: str | None) -> Scopes:
    """The client's scopes, narrowed to what it asked for."""
    if not asked:
        return client.scopes
    try:
        scopes = client.scopes.narrowed_to(Scopes.parse(asked))
    except InvalidScope as error:
        raise TokenError("invalid_scope", str(error)) from error
    if not scopes.granted:
        raise TokenError("invalid_scope", f"this client is granted: {client.scopes}")
    return scopes


def routes() -> list[Route]:
    return [Route("/t/{tenant}/oauth2/token", token, methods=["POST"])]
