"""What answers where no resource does: a wrong method, an unknown path."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from interop.access.http import caller_from
from interop.dicomweb.errors import Handler
from interop.errors import MethodNotAllowed, NotFound


def only(methods: list[str]) -> Handler:
    """A handler that names the methods which the resource has."""

    async def refuse(request: Request) -> Response:
        await caller_from(request)
        allowed = ", ".join(methods)
        raise MethodNotAllowed(
            f"{request.method} is not supported here; supported: {allowed}",
            headers={"Allow": allowed},
        )

    return refuse


async def not_found(request: Request) -> Response:
    """Answer for every path below the root that is no resource."""
    await caller_from(request)
    raise NotFound()
