"""The token endpoint of each tenant: client_credentials, authorization_code, refresh_token
(RFC 6749 4.1.3, 4.4, 6; SMART App Launch 2.2).

Errors are those of RFC 6749 5.2. An unknown tenant answers like an unknown client. Each request
leaves one audit row, with what it changed or after it was refused.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from uuid import UUID

from anyio import to_thread
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from interop.access.http import request_id
from interop.smart import (
    authorizations,
    authorize,
    discovery,
    introspection,
    launch,
    registration_endpoint,
    scope_negotiation,
    token_response,
)
from interop.smart.authorizations import Redeemed
from interop.smart.client_authentication import authenticate
from interop.smart.clients import AUTHORIZATION_CODE, CLIENT_CREDENTIALS, REFRESH, ApiClient
from interop.smart.errors import NO_STORE, OAuthError, translated
from interop.smart.forms import read_form
from interop.smart.token_response import Issue
from storage.audit import INSERT_AUDIT, system_audit
from storage.database import Connection
from storage.tenancy import Tenant

if TYPE_CHECKING:
    from interop.services import Services


@dataclass(frozen=True, slots=True)
class TokenRequest:
    """A request at the token endpoint, whose client has proved who it is."""

    services: Services
    tenant: Tenant
    client: ApiClient
    form: dict[str, str]
    http: Request

    def audit(self, connection: Connection, user_id: UUID | None = None, **metadata: Any) -> None:
        """Write the row of a request that succeeds, in the transaction of its work."""
        values = _audit(self.http, self.tenant, "TOKEN_ISSUED", self.client, metadata)
        if user_id is not None:
            values.update(actor_type="USER", user_id=user_id)
        connection.execute(INSERT_AUDIT, values)


@translated
async def token(request: Request) -> Response:
    """POST /t/{tenant}/oauth2/token"""
    services: Services = request.app.state.services
    form = await read_form(request)
    tenant = await services.tenants.aby_slug(request.path_params["tenant"])
    client: ApiClient | None = None
    try:
        client = await authenticate(services, tenant, request, form)
        assert tenant is not None  # authenticate refused it otherwise
        work = _grant_type(client, form)
        asked = TokenRequest(services, tenant, client, form, request)
        body = await to_thread.run_sync(work, asked)
    except OAuthError as error:
        if tenant is not None:
            await _audit_refusal(services, request, tenant, client, error)
        raise
    return JSONResponse(body, headers=NO_STORE)


def _grant_type(client: ApiClient, form: dict[str, str]) -> Callable[[TokenRequest], Any]:
    name = form.get("grant_type", "")
    work = _WORK.get(name)
    if work is None:
        raise OAuthError("unsupported_grant_type", f"grant_type must be one of {', '.join(_WORK)}")
    if name not in client.grant_types:
        raise OAuthError(
            "unauthorized_client", f"this client is registered for {', '.join(client.grant_types)}"
        )
    return work


def _client_credentials(asked: TokenRequest) -> dict[str, Any]:
    scopes = scope_negotiation.for_service(asked.client.scopes, asked.form.get("scope"))
    body = token_response.for_service(asked.services, asked.tenant, asked.client, scopes)
    with asked.services.database.connection(asked.tenant.id) as connection:
        asked.audit(connection, grant_type=CLIENT_CREDENTIALS)
    return body


def _authorization_code(asked: TokenRequest) -> dict[str, Any]:
    form = asked.form
    if "code" not in form:
        raise OAuthError("invalid_request", "code is missing")

    def redeem(connection: Connection) -> Redeemed:
        return authorizations.redeem_code(
            connection,
            asked.tenant,
            asked.client,
            form["code"],
            form.get("redirect_uri"),
            form.get("code_verifier"),
        )

    return _spend(asked, redeem, AUTHORIZATION_CODE)


def _refresh_token(asked: TokenRequest) -> dict[str, Any]:
    form = asked.form
    if "refresh_token" not in form:
        raise OAuthError("invalid_request", "refresh_token is missing")

    def use(connection: Connection) -> Redeemed:
        return authorizations.use_refresh_token(
            connection, asked.tenant, asked.client, form["refresh_token"]
        )

    return _spend(asked, use, REFRESH)


def _spend(
    asked: TokenRequest, redeem: Callable[[Connection], Redeemed], grant_type: str
) -> dict[str, Any]:
    """Spend a code or refresh token and issue what follows, in one transaction.

    A failed attempt commits too: it may have ended the grant.
    """
    with asked.services.database.connection(asked.tenant.id) as connection:
        redeemed = redeem(connection)
        if redeemed.grant is not None:
            grant = redeemed.grant
            is_refreshed = grant_type == REFRESH
            wanted = asked.form.get("scope") if is_refreshed else None
            scopes = scope_negotiation.narrowed(grant.scopes, wanted)
            text = str(scopes) if wanted else " ".join(grant.scope_texts)
            issue = Issue(grant, redeemed.nonce, scopes, text, is_refreshed)
            body = token_response.for_app(
                asked.services, connection, asked.tenant, asked.client, issue
            )
            asked.audit(connection, grant.user_id, grant_type=grant_type, grant_id=str(grant.id))
            return body
    redeemed.require()
    raise AssertionError("require raises where there is no grant")


_WORK: dict[str, Callable[[TokenRequest], dict[str, Any]]] = {
    AUTHORIZATION_CODE: _authorization_code,
    REFRESH: _refresh_token,
    CLIENT_CREDENTIALS: _client_credentials,
}


async def _audit_refusal(
    services: Services,
    request: Request,
    tenant: Tenant,
    client: ApiClient | None,
    error: OAuthError,
) -> None:
    metadata = {"error": error.error, "reason": error.reason}
    values = _audit(request, tenant, "TOKEN_REFUSED", client, metadata, outcome="FAILURE")
    async with services.database.async_connection(tenant.id) as connection:
        await connection.execute(INSERT_AUDIT, values)


def _audit(
    request: Request,
    tenant: Tenant,
    event_type: str,
    client: ApiClient | None,
    metadata: dict[str, Any],
    outcome: str = "SUCCESS",
) -> dict[str, Any]:
    return system_audit(
        tenant.id,
        event_type,
        outcome=outcome,
        actor_type="API_CLIENT",
        api_client_id=client.id if client else None,
        request_id=request_id(request),
        ip_address=request.client.host if request.client else None,
        user_agent=request.headers.get("user-agent"),
        metadata={name: value for name, value in metadata.items() if value is not None},
    )


def routes() -> list[Route]:
    """Everything that the authorization server of a tenant answers."""
    return [
        Route("/t/{tenant}/oauth2/token", token, methods=["POST"]),
        *authorize.routes(),
        *launch.routes(),
        *introspection.routes(),
        *registration_endpoint.routes(),
        *discovery.routes(),
    ]
