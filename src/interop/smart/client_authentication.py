"""Which client speaks at the token, introspection and revocation endpoints (RFC 6749 2.3).

Secret by HTTP Basic or in the body, private_key_jwt, or, for a public client, its id alone: what
such a client may do then rests on PKCE and on the tokens that it holds. A client proves itself in
the way that it is registered with, and in one way only.
"""

from __future__ import annotations

import base64
import binascii
from typing import TYPE_CHECKING
from urllib.parse import unquote_plus

from anyio import to_thread
from starlette.requests import Request

from interop.access.cross_origin import PROVEN_TENANT
from interop.smart import assertions
from interop.smart.assertions import AssertionRefused
from interop.smart.client_keys import key_of
from interop.smart.clients import CLIENT_SECRET, PRIVATE_KEY_JWT, ApiClient, look_up
from interop.smart.errors import OAuthError, client_refused
from storage.tenancy import Tenant

if TYPE_CHECKING:
    from interop.services import Services


def token_url(services: Services, tenant: Tenant) -> str:
    """The address of a tenant's token endpoint: what an assertion is for."""
    return f"{services.settings.effective_public_url}/t/{tenant.slug}/oauth2/token"


async def authenticate(
    services: Services, tenant: Tenant | None, request: Request, form: dict[str, str]
) -> ApiClient:
    """The client of a request. Raises OAuthError `invalid_client`, alike for every failure."""
    client = await _proven(services, tenant, request, form)
    request.scope[PROVEN_TENANT] = tenant.id if tenant else None
    return client


async def _proven(
    services: Services, tenant: Tenant | None, request: Request, form: dict[str, str]
) -> ApiClient:
    if "client_assertion" in form or "client_assertion_type" in form:
        return await _by_assertion(services, tenant, request, form)
    client_id, secret = _credentials(request, form)
    if tenant is None or not tenant.is_readable:
        raise client_refused("no such tenant")
    client = await to_thread.run_sync(look_up, services.database, tenant, client_id)
    if client is None:
        raise client_refused("no such client")
    if secret is None:
        if not client.is_public:
            raise client_refused("a confidential client without its secret or assertion")
        return client
    if client.authentication != CLIENT_SECRET or not client.knows(secret):
        raise client_refused("wrong secret")
    return client


async def _by_assertion(
    services: Services, tenant: Tenant | None, request: Request, form: dict[str, str]
) -> ApiClient:
    try:
        if form.get("client_assertion_type") != assertions.TYPE:
            raise AssertionRefused(f"client_assertion_type is not {assertions.TYPE}")
        if "client_secret" in form or "authorization" in request.headers:
            raise AssertionRefused("two ways of authentication in one request (RFC 6749 2.3)")
        if tenant is None or not tenant.is_readable:
            raise AssertionRefused("no such tenant")
        assertion = assertions.read(form.get("client_assertion", ""))
        if form.get("client_id", assertion.client_id) != assertion.client_id:
            raise AssertionRefused("client_id is not the assertion's")
        client = await to_thread.run_sync(look_up, services.database, tenant, assertion.client_id)
        if client is None or client.authentication != PRIVATE_KEY_JWT:
            raise AssertionRefused("no such client with keys")
        assertions.require_registered_address(assertion, client)
        key = await key_of(client, assertion.kid, services.settings)
        if key is None:
            raise AssertionRefused("no registered key with this kid")
        once = assertions.verify(assertion, client, key, token_url(services, tenant))
        await to_thread.run_sync(assertions.use_once, services.database, tenant, client, once)
        return client
    except AssertionRefused as refusal:
        # One text for all: which part was right is not for a forger to learn.
        raise OAuthError(
            "invalid_client",
            "the client assertion is not accepted: a JWT signed with RS384 or ES384 by a "
            "registered key named by kid; iss and sub the client_id, aud this token endpoint, "
            "exp within five minutes, jti never used before",
            reason=str(refusal),
        ) from refusal


def _credentials(request: Request, form: dict[str, str]) -> tuple[str, str | None]:
    scheme, _, encoded = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "basic":
        try:
            name, _, secret = base64.b64decode(encoded, validate=True).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError) as error:
            raise OAuthError("invalid_client", "the Basic header is malformed", 401) from error
        if "client_secret" in form or form.get("client_id", name) not in (name, unquote_plus(name)):
            raise OAuthError(
                "invalid_request", "two ways of client authentication in one request (RFC 6749 2.3)"
            )
        client_id, password = unquote_plus(name), unquote_plus(secret)
        if "\x00" in client_id + password:
            raise OAuthError("invalid_client", "the Basic header is malformed", 401)
        return client_id, password
    if "client_id" in form:
        return form["client_id"], form.get("client_secret")
    raise OAuthError(
        "invalid_client",
        "client authentication is missing: HTTP Basic, client_id and client_secret in the body, "
        "or client_assertion (private_key_jwt); a public client sends its client_id",
        401,
    )
