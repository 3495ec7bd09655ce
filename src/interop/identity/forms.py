"""Forms that only our own pages can send (security.md E8, cross-site request forgery).

Three locks: the browser says where a POST comes from and it must be here (Origin, RFC 6454 7);
cookies are SameSite; and each form carries a token sealed for its action, the browser's form
cookie and its session, which no other site can read and no other form can use.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, urlsplit
from uuid import UUID

from interop.errors import BadRequest, Forbidden, PayloadTooLarge, UnsupportedMediaType
from interop.identity.sessions import token_hash
from storage.encryption import MasterKey, SealBroken

if TYPE_CHECKING:
    from starlette.requests import Request

COOKIE = "interop_form"
FIELD = "form_token"
LIFETIME_SECONDS = 3600
MAX_BYTES = 16 * 1024
MAX_FIELDS = 32


def require_same_origin(request: Request, public_url: str) -> None:
    """Raise Forbidden unless the browser says that the form was on a page of this server."""
    origin = request.headers.get("origin")
    if origin is None:
        raise Forbidden("the browser does not say which page sent this form (no Origin header)")
    ours = {urlsplit(public_url)[:2]}
    # Behind a proxy that ends TLS the scheme is not ours to see; the Host header is.
    ours |= {(scheme, request.headers.get("host", "")) for scheme in ("http", "https")}
    if urlsplit(origin)[:2] not in ours:
        raise Forbidden(f"this form was sent from another site; open {public_url} itself")


async def read_form(request: Request) -> dict[str, str]:
    """The fields of a posted form. Raises for another type, too many bytes, repeated fields."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/x-www-form-urlencoded":
        raise UnsupportedMediaType("a form is sent as application/x-www-form-urlencoded")
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BYTES:
            raise PayloadTooLarge(f"a form has at most {MAX_BYTES} bytes")
    try:
        pairs = parse_qsl(
            body.decode("ascii"), keep_blank_values=True, max_num_fields=MAX_FIELDS, errors="strict"
        )
    except ValueError as error:
        raise BadRequest("the form is not well formed") from error
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise BadRequest("a field of the form is repeated")
    return fields


def issue(keys: MasterKey, tenant_id: UUID, action: str, browser: str) -> str:
    """A token for the form that posts to `action` in the browser of these cookies."""
    until = int(time.time()) + LIFETIME_SECONDS
    return keys.seal(str(until), _place(tenant_id, action, browser))


def require_token(
    keys: MasterKey, tenant_id: UUID, action: str, browser: str, token: str | None
) -> None:
    """Raise Forbidden unless `issue` made the token for this form and browser, within the hour."""
    try:
        until = int(keys.open(token or "", _place(tenant_id, action, browser)))
    except (SealBroken, ValueError) as error:
        raise Forbidden("this form is not one that this page has sent; load it again") from error
    if until < time.time():
        raise Forbidden("this form was open for too long; load it again")


def browser_of(form_cookie: str, session_token: str | None) -> str:
    """What a form token is bound to: it dies with the session in which the form was shown."""
    return token_hash(f"{form_cookie}\x00{session_token or ''}")


def _place(tenant_id: UUID, action: str, browser: str) -> str:
    return f"form:{tenant_id}:{action}:{browser}"
