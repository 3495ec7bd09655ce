"""What every authenticated request passes before its handler: suspension and rate limits.

Pure ASGI, outermost but for the application's own error handling. A request without a valid token
passes untouched: its handler refuses it, and it must not use up what a tenant may ask.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import TYPE_CHECKING, Any

import orjson

from interop.access import costs
from interop.access.limits import (
    Leases,
    RateLimiter,
    limit_field,
    policy_field,
    too_many,
)
from interop.errors import Forbidden, ServerError, Unauthorized

if TYPE_CHECKING:
    from interop.services import Services
    from interop.smart.tokens import Claims

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

# Where the gate leaves the limits of a request, for `charge`.
LEASES = "interop.leases"


class Gate:
    """The middleware. `app.state` has `services` and `limiter` while the application runs."""

    def __init__(self, app: App) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        token = _token(scope)
        if token is None:
            await self._app(scope, receive, send)
            return
        state = scope["app"].state
        try:
            claims: Claims = await state.services.authenticator.claims(token)
        except Unauthorized:
            await self._app(scope, receive, send)
            return
        method, path = scope["method"], scope["path"]
        try:
            if not costs.is_safe(method, path):
                await _require_active(state.services, claims, path)
            limiter: RateLimiter = state.limiter
            leases = await limiter.leases(claims.tenant_id, claims.client_id, claims.user_id)
            if leases:
                refusal = await limiter.charge(leases, costs.request_cost(method, path))
                if refusal is not None:
                    raise too_many(refusal, leases)
                scope[LEASES] = leases
                send = _with_fields(send, leases)
        except ServerError as error:
            await _answer(error, path, send)
            return
        await self._app(scope, receive, send)


async def charge(scope: Scope, units: int) -> None:
    """Spend more for a request whose cost shows only in its body. Raises TooManyRequests.

    For a batch: `sum(costs.entry_cost(method, url) for each entry)`, before any is processed.
    """
    leases: Leases = scope.get(LEASES, ())
    if not leases:
        return
    refusal = await scope["app"].state.limiter.charge(leases, units)
    if refusal is not None:
        raise too_many(refusal, leases)


def _token(scope: Scope) -> str | None:
    if scope["type"] != "http" or not scope["path"].startswith("/t/"):
        return None
    for name, value in scope["headers"]:
        if name == b"authorization":
            kind, _, token = value.partition(b" ")
            if kind.lower() == b"bearer":
                return str(token.strip().decode("latin-1"))
            return None
    return None


async def _require_active(services: Services, claims: Claims, path: str) -> None:
    """Refuse a change in a suspended tenant, to those who may know of it."""
    tenant = await services.tenants.aby_slug(path.split("/", 3)[2])
    if tenant is None or tenant.id != claims.tenant_id:
        return  # The handler answers as it does for a tenant that does not exist.
    if tenant.status == "SUSPENDED":
        raise Forbidden("the organization is suspended: its data can be read and not changed")


def _with_fields(send: Send, leases: Leases) -> Send:
    async def send_with_fields(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [
                *message["headers"],
                (b"ratelimit-policy", policy_field(leases).encode()),
                (b"ratelimit", limit_field(leases, time.monotonic()).encode()),
            ]
        await send(message)

    return send_with_fields


async def _answer(error: ServerError, path: str, send: Send) -> None:
    """An OperationOutcome where FHIR was asked for, else problem JSON (RFC 9457)."""
    if path.split("/", 4)[3:4] == ["fhir"]:
        kind = b"application/fhir+json"
        issue = {
            "severity": "error",
            "code": error.issue_code,
            "diagnostics": error.diagnostics,
        }
        body = orjson.dumps({"resourceType": "OperationOutcome", "issue": [issue]})
    else:
        kind = b"application/problem+json"
        status = error.http_status
        title = "Too Many Requests" if status == 429 else "Forbidden"
        body = orjson.dumps({"title": title, "status": status, "detail": error.diagnostics})
    headers = [
        (b"content-type", kind),
        (b"content-length", str(len(body)).encode()),
        (b"cache-control", b"no-store"),
        *((name.lower().encode(), value.encode()) for name, value in error.headers.items()),
    ]
    await send({"type": "http.response.start", "status": error.http_status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
