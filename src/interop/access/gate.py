"""The rate limits, which every authenticated request passes before its handler.

Pure ASGI, outermost but for the application's own error handling. A request without a valid token
passes untouched: its handler refuses it, and it must not use up what a tenant may ask.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, MutableMapping
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import orjson
import psycopg
from psycopg_pool import PoolTimeout

from interop.access import costs
from interop.access.cross_origin import PROVEN_TENANT
from interop.access.limits import (
    Leases,
    RateLimiter,
    limit_field,
    policy_field,
    too_many,
)
from interop.errors import ServerError, TooManyRequests, Unauthorized, Unavailable

if TYPE_CHECKING:
    from interop.services import Services

logger = logging.getLogger(__name__)

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
        try:
            leases = await _charged(scope, token)
        except Unauthorized:
            leases = ()
        except TooManyRequests as error:
            await _answer(error, scope["path"], send)
            return
        except (psycopg.OperationalError, PoolTimeout):
            # No limit is known: the tenant's place is down, outdated or on its way.
            logger.exception("limits_unavailable")
            await _answer(Unavailable(headers={"Retry-After": "1"}), scope["path"], send)
            return
        if not leases:
            await self._app(scope, receive, send)
            return
        scope[LEASES] = leases
        await self._app(scope, receive, _with_fields(send, leases))


async def _charged(scope: Scope, token: str) -> Leases:
    """The limits of the caller, with this request spent. Raises Unauthorized, TooManyRequests."""
    state = scope["app"].state
    services: Services = state.services
    limiter: RateLimiter = state.limiter
    claims = (await services.authenticator.standing(token)).claims
    # Where its app is registered: at home, if it acts in another tenant.
    scope[PROVEN_TENANT] = claims.via_tenant_id or claims.tenant_id
    leases = await limiter.leases(claims.tenant_id, claims.client_id, claims.user_id)
    if leases:
        refusal = await limiter.charge(leases, costs.request_cost(scope["method"], scope["path"]))
        if refusal is not None:
            raise too_many(refusal, leases)
    return leases


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
        title = HTTPStatus(status).phrase
        body = orjson.dumps({"title": title, "status": status, "detail": error.diagnostics})
    headers = [
        (b"content-type", kind),
        (b"content-length", str(len(body)).encode()),
        (b"cache-control", b"no-store"),
        *((name.lower().encode(), value.encode()) for name, value in error.headers.items()),
    ]
    await send({"type": "http.response.start", "status": error.http_status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
