"""What a token is worth, and its end before its time (RFC 7662, RFC 7009; SMART App Launch 2.2,
"Token Introspection")."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from anyio import to_thread
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from interop.access.http import request_id
from interop.errors import Unauthorized
from interop.smart import authorizations
from interop.smart.authorizations import digest
from interop.smart.client_authentication import authenticate
from interop.smart.clients import ApiClient
from interop.smart.errors import NO_STORE, OAuthError, client_refused, translated
from interop.smart.fhir_user import logical_id
from interop.smart.forms import read_form
from interop.smart.keys import LEEWAY_SECONDS
from interop.smart.token_response import issuer
from interop.smart.token_state import ended
from interop.smart.tokens import Claims
from storage.audit import INSERT_AUDIT, system_audit
from storage.tenancy import Tenant

if TYPE_CHECKING:
    from interop.services import Services

INACTIVE: dict[str, Any] = {"active": False}


@translated
async def introspect(request: Request) -> Response:
    """POST /t/{tenant}/oauth2/introspect"""
    # RFC 7662 2.1: without authentication, anybody could try tokens here.
    services, tenant, client, form = await _asked(request, is_public_refused=True)
    claims = await _active(services, tenant, form["token"])
    body = INACTIVE
    if claims is not None:
        body = await to_thread.run_sync(_described, services, tenant, claims)
    else:
        body = await to_thread.run_sync(_refresh_token, services, tenant, client, form["token"])
    async with services.database.async_connection(tenant.id) as connection:
        values = _audit(request, tenant, client, "TOKEN_INTROSPECTED")
        await connection.execute(INSERT_AUDIT, values)
    return JSONResponse(body, headers=NO_STORE)


@translated
async def revoke(request: Request) -> Response:
    """POST /t/{tenant}/oauth2/revoke: an unknown token is as good as revoked."""
    services, tenant, client, form = await _asked(request)
    claims = await _active(services, tenant, form["token"])
    if claims is not None and claims.client_id != client.id:
        raise OAuthError("unauthorized_client", "the token was issued to another client")

    def work() -> None:
        with services.database.connection(tenant.id) as connection:
            if claims is not None:
                connection.execute(
                    "INSERT INTO revoked_access_tokens (tenant_id, token_id, expires_at)"
                    " VALUES (%s, %s, %s) ON CONFLICT DO NOTHING",
                    (
                        tenant.id,
                        claims.token_id,
                        datetime.fromtimestamp(claims.expires_at + LEEWAY_SECONDS, UTC),
                    ),
                )
            row = connection.execute(
                "SELECT g.id FROM refresh_tokens AS t JOIN authorization_grants AS g"
                " ON g.tenant_id = t.tenant_id AND g.id = t.grant_id"
                " WHERE t.tenant_id = %s AND t.token_hash = %s AND g.api_client_id = %s",
                (tenant.id, digest(form["token"]), client.id),
            ).fetchone()
            if row is not None:
                authorizations.revoke(connection, tenant.id, row[0], "CLIENT_REQUEST")
            connection.execute(INSERT_AUDIT, _audit(request, tenant, client, "TOKEN_REVOKED"))

    await to_thread.run_sync(work)
    return Response(status_code=200, headers=NO_STORE)


async def _asked(
    request: Request, *, is_public_refused: bool = False
) -> tuple[Services, Tenant, ApiClient, dict[str, str]]:
    services: Services = request.app.state.services
    form = await read_form(request)
    tenant = await services.tenants.aby_slug(request.path_params["tenant"])
    try:
        client = await authenticate(services, tenant, request, form)
        if is_public_refused and client.is_public:
            raise client_refused("a public client")
    except OAuthError as refusal:
        if tenant is not None:
            values = _audit(request, tenant, None, "TOKEN_REFUSED", refusal.reason or refusal.error)
            async with services.database.async_connection(tenant.id) as connection:
                await connection.execute(INSERT_AUDIT, values)
        raise
    assert tenant is not None  # authenticate refused it otherwise
    if "token" not in form:
        raise OAuthError("invalid_request", "token is missing")
    return services, tenant, client, form


async def _active(services: Services, tenant: Tenant, token: str) -> Claims | None:
    """The claims of an access token of this tenant that still holds."""
    try:
        claims = await to_thread.run_sync(services.tokens.verify, token)
    except Unauthorized:
        return None
    if claims.tenant_id != tenant.id:
        return None
    async with services.database.async_connection(tenant.id) as connection:
        return None if await ended(connection, claims) else claims


def _described(services: Services, tenant: Tenant, claims: Claims) -> dict[str, Any]:
    found: dict[str, Any] = {
        "active": True,
        "scope": str(claims.scopes),
        "token_type": "Bearer",
        "exp": int(claims.expires_at),
        "iat": int(claims.issued_at),
        "iss": issuer(services, tenant),
        "aud": f"{issuer(services, tenant)}/fhir/R4",
        "sub": str(claims.user_id or claims.client_id or "operator"),
    }
    with services.database.connection(tenant.id) as connection:
        if claims.client_id is not None:
            row = connection.execute(
                "SELECT client_id FROM api_clients WHERE tenant_id = %s AND id = %s",
                (tenant.id, claims.client_id),
            ).fetchone()
            found["client_id"] = row[0] if row else str(claims.client_id)
        if claims.patient_id is not None:
            found["patient"] = logical_id(connection, tenant.id, "Patient", claims.patient_id)
    if claims.fhir_user is not None:
        found["fhirUser"] = f"{issuer(services, tenant)}/fhir/R4/{claims.fhir_user}"
    return found


def _refresh_token(
    services: Services, tenant: Tenant, client: ApiClient, token: str
) -> dict[str, Any]:
    """A refresh token, to its own client only."""
    with services.database.connection(tenant.id) as connection:
        row = connection.execute(
            "SELECT g.scopes, extract(epoch FROM t.expires_at)::bigint, g.user_id"
            " FROM refresh_tokens AS t JOIN authorization_grants AS g"
            " ON g.tenant_id = t.tenant_id AND g.id = t.grant_id"
            " WHERE t.tenant_id = %s AND t.token_hash = %s AND g.api_client_id = %s"
            " AND t.used_at IS NULL AND t.expires_at > now() AND g.revoked_at IS NULL"
            " AND g.expires_at > now()",
            (tenant.id, digest(token), client.id),
        ).fetchone()
    if row is None:
        return INACTIVE
    return {
        "active": True,
        "scope": " ".join(row[0]),
        "client_id": client.client_id,
        "exp": row[1],
        "iss": issuer(services, tenant),
        "sub": str(row[2]),
    }


def _audit(
    request: Request,
    tenant: Tenant,
    client: ApiClient | None,
    event_type: str,
    refused: str | None = None,
) -> dict[str, Any]:
    return system_audit(
        tenant.id,
        event_type,
        outcome="FAILURE" if refused else "SUCCESS",
        metadata={"reason": refused} if refused else None,
        actor_type="API_CLIENT",
        api_client_id=client.id if client else None,
        request_id=request_id(request),
        ip_address=request.client.host if request.client else None,
        user_agent=request.headers.get("user-agent"),
    )


def routes() -> list[Route]:
    return [
        Route("/t/{tenant}/oauth2/introspect", introspect, methods=["POST"]),
        Route("/t/{tenant}/oauth2/revoke", revoke, methods=["POST"]),
    ]
