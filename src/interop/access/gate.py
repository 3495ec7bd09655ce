"""The rate limits, which every authenticated request passes before its handler.

Pure ASGI, outermost but for the application's own error handling. A request without a valid token
passes untouched: its handler refuses it, and it must not use up what a tenant may ask.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import TYPE_CHECKING, Any

import orjson

from interop.access import costs
from interop.access.cross_origin import PROVEN_TENANT
from interop.access.limits import (
    Leases,
    RateLimiter,
    limit_field,
    policy_field,
    too_many,
)
from interop.errors import TooManyRequests, Unauthorized

if TYPE_CHECKING:
    from interop.services import Services

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

# Where tokens open something.
DOORS = ("/t/", "/api/v1/")
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
        services: Services = state.services
        limiter: RateLimiter = state.limiter
        try:
            claims = (await services.authenticator.standing(token)).claims
        except Unauthorized:
            await self._app(scope, receive, send)
            return
        # Where its app is registered: at home, if it acts in another tenant.
        scope[PROVEN_TENANT] = claims.via_tenant_id or claims.tenant_id
        leases = await limiter.leases(claims.tenant_id, claims.client_id, claims.user_id)
        if not leases:
            await self._app(scope, receive, send)
            return
        path = scope["path"]
        refusal = await limiter.charge(leases, costs.request_cost(scope["method"], path))
        if refusal is not None:
            await _answer(too_many(refusal, leases), path, send)
            return
        scope[LEASES] = leases
        await self._app(scope, receive, _with_fields(send, leases))


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
    if scope["type"] != "http" or not scope["path"].startswith(DOORS):
        return None
    for name, value in scope["headers"]:
        if name == b"authorization":
            kind, _, token = value.partition(b" ")
            if kind.lower() == b"bearer":
                return str(token.strip().decode("latin-1"))
            return None
    return None


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


async def _answer(error: TooManyRequests, path: str, send: Send) -> None:
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
        title, status = "Too Many Requests", error.http_status
        body = orjson.dumps({"title": title, "status": status, "detail": error.diagnostics})
    headers = [
        (b"content-type", kind),
        (b"content-length", str(len(body)).encode()),
        (b"cache-control", b"no-store"),
        *((name.lower().encode(), value.encode()) for name, value in error.headers.items()),
    ]
    await send({"type": "http.response.start", "status": error.http_status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
