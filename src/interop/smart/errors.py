"""The errors of OAuth 2.0 as JSON answers (RFC 6749 5.2, RFC 7591 3.2.2), made in one place."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from functools import wraps
from uuid import uuid4

import psycopg
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from interop.errors import ServerError

logger = logging.getLogger(__name__)

NO_STORE = {"Cache-Control": "no-store", "Pragma": "no-cache", "X-Content-Type-Options": "nosniff"}

Handler = Callable[[Request], Awaitable[Response]]


class OAuthError(Exception):
    """An error answer of RFC 6749 5.2; `reason` is for the audit and never for the caller."""

    def __init__(
        self, error: str, description: str, status: int = 400, *, reason: str | None = None
    ) -> None:
        self.error, self.description, self.status = error, description, status
        self.reason = reason
        super().__init__(description)

    def response(self) -> JSONResponse:
        headers = {**NO_STORE}
        if self.status == 401:
            # RFC 6749 5.2 for a client, RFC 6750 3 for the bearer of a token.
            scheme = "Bearer" if self.error == "invalid_token" else 'Basic realm="oauth2"'
            headers["WWW-Authenticate"] = scheme
        return JSONResponse(
            {"error": self.error, "error_description": self.description},
            status_code=self.status,
            headers=headers,
        )


def client_refused(reason: str) -> OAuthError:
    """The one answer to a client that did not prove who it is, whatever was wrong."""
    return OAuthError("invalid_client", "client authentication failed", 401, reason=reason)


def translated(handler: Handler) -> Handler:
    """Turn whatever a handler raises into an OAuth error answer."""

    @wraps(handler)
    async def handle(request: Request) -> Response:
        try:
            return await handler(request)
        except OAuthError as error:
            return error.response()
        except ServerError as error:
            name = {401: "invalid_token", 403: "insufficient_scope"}.get(
                error.http_status, "invalid_request"
            )
            return OAuthError(name, error.diagnostics, error.http_status).response()
        except psycopg.OperationalError:
            logger.exception("database_unavailable")
            answer = OAuthError("temporarily_unavailable", "try again later", 503).response()
            answer.headers["Retry-After"] = "1"
            return answer
        except Exception:
            incident = uuid4().hex
            logger.exception("incident", extra={"incident": incident})
            text = f"an internal error; incident {incident}"
            return OAuthError("server_error", text, 500).response()

    return handle
