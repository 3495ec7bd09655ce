"""Form bodies of the OAuth endpoints: small, plain, each parameter once (RFC 6749 3.2)."""

from __future__ import annotations

from urllib.parse import parse_qsl

from starlette.requests import Request

from interop.smart.errors import OAuthError

FORM = "application/x-www-form-urlencoded"
MAX_BODY = 64 * 1024
MAX_FIELDS = 64


async def read_body(request: Request, limit: int = MAX_BODY) -> bytes:
    """The body, read no further than the limit, whatever Content-Length says."""
    chunks: list[bytes] = []
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > limit:
            raise OAuthError("invalid_request", f"the body may have {limit} bytes at most", 413)
        chunks.append(chunk)
    return b"".join(chunks)


async def read_form(request: Request) -> dict[str, str]:
    """The parameters of a form body. Raises OAuthError `invalid_request`."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != FORM:
        raise OAuthError("invalid_request", f"the body must be {FORM}")
    try:
        text = (await read_body(request)).decode("utf-8")
        pairs = parse_qsl(text, keep_blank_values=True, max_num_fields=MAX_FIELDS)
    except ValueError as error:
        raise OAuthError("invalid_request", "the body is not a form in UTF-8") from error
    return once_each(pairs)


def once_each(pairs: list[tuple[str, str]]) -> dict[str, str]:
    """Parameters without those that are empty, which count as absent (RFC 6749 3.1)."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise OAuthError("invalid_request", "a parameter is repeated (RFC 6749 3.1, 3.2)")
    if any("\x00" in name + value for name, value in pairs):
        raise OAuthError("invalid_request", "a parameter holds a NUL character")
    return {name: value for name, value in found.items() if value}
