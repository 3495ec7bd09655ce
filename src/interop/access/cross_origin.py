"""Which pages may read our answers in a browser: CORS (Fetch standard 3.2), per tenant.

What is said to everybody, every page may read: preflights, refusals for want of a token, public
documents. They are the same for every tenant and for names that are none, so that they tell nobody
which apps a tenant has. What is said to a proven client or the bearer of a token is for pages of
the tenant's own apps. Cookies open none of these doors: credentials are never allowed.
"""

from __future__ import annotations

from uuid import UUID

from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from interop.smart.origins import AppOrigins

# Where the gate and the authorization server leave the tenant of whoever proved who they are.
PROVEN_TENANT = "interop.proven_tenant"

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
REQUEST_HEADERS = (
    "Authorization",
    "Emergency-Access",
    "If-Match",
    "If-Modified-Since",
    "If-None-Exist",
    "If-None-Match",
    "If-Range",
    "Prefer",
    "Range",
    "X-Request-Id",
    "X-Requested-With",
)
ANSWER_HEADERS = (
    "Accept-Ranges",
    "Content-Disposition",
    "Content-Location",
    "Content-Range",
    "ETag",
    "Last-Modified",
    "Location",
    "RateLimit",
    "RateLimit-Policy",
    "Retry-After",
    "WWW-Authenticate",
    "Warning",
    "X-Request-Id",
)
PREFLIGHT_SECONDS = 600

_DOORS = frozenset(("fhir", "dicom-web", "imaging-objects", "wado", ".well-known"))
_OAUTH2 = frozenset(("token", "introspect", "revoke", "jwks"))


class CrossOrigin(CORSMiddleware):
    """The middleware. `app.state.origins` is an AppOrigins while the application runs."""

    def __init__(self, app: ASGIApp) -> None:
        super().__init__(
            app,
            allow_origins=("*",),
            allow_methods=METHODS,
            allow_headers=REQUEST_HEADERS,
            max_age=PREFLIGHT_SECONDS,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and is_open(scope["path"]):
            await super().__call__(scope, receive, send)
        else:
            await self.app(scope, receive, send)

    async def simple_response(
        self, scope: Scope, receive: Receive, send: Send, request_headers: Headers
    ) -> None:
        origin = request_headers.get("origin")
        if origin is None:
            await self.app(scope, receive, send)
            return

        async def send_readable(message: Message) -> None:
            if message["type"] == "http.response.start":
                await _mark(scope, origin, MutableHeaders(scope=message))
            await send(message)

        await self.app(scope, receive, send_readable)


def is_open(path: str) -> bool:
    """Whether pages of other origins have business at this address."""
    parts = path.split("/", 4)
    if len(parts) < 4 or parts[1] != "t":
        return False
    return parts[3] in _DOORS or (parts[3] == "oauth2" and parts[4:5] != [] and parts[4] in _OAUTH2)


async def _mark(scope: Scope, origin: str, headers: MutableHeaders) -> None:
    tenant_id: UUID | None = scope.get(PROVEN_TENANT)
    if tenant_id is None:
        headers["Access-Control-Allow-Origin"] = "*"
    else:
        headers.add_vary_header("Origin")
        origins: AppOrigins = scope["app"].state.origins
        if not await origins.admits(tenant_id, origin):
            return
        headers["Access-Control-Allow-Origin"] = origin
    headers["Access-Control-Expose-Headers"] = ", ".join(ANSWER_HEADERS)
