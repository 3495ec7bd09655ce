"""One FHIR request and its answer: caller, names in the URL, headers, and errors as outcomes."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from uuid import uuid4

import psycopg
from psycopg_pool import PoolTimeout
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import Response

from interop.access import Caller, Filter, Letter, decide
from interop.access.audit import (
    INSERT_AUDIT,
    audit_parameters,
    begin_interaction,
    is_audit_failure,
)
from interop.access.http import caller_from, request_id
from interop.access.refusals import audit_stranger
from interop.errors import (
    BadRequest,
    NotAcceptable,
    NotFound,
    ServerError,
    Unavailable,
    UnsupportedParameter,
)
from interop.fhir.deferring import defer_request, is_deferrable
from interop.fhir.definitions import definitions
from interop.fhir.negotiation import (
    FORM_PARAMETERS,
    MEDIA_TYPE,
    PLAIN,
    QUICK_BYTES,
    Form,
    answer_form,
    form_of,
    with_subset,
)
from interop.fhir.outcomes import Issue, informational, issues_of, operation_outcome
from interop.fhir.published import provide
from interop.fhir.versions import Version, etag, http_date
from interop.key_outages import refusal
from storage.database import Database
from storage.encryption import KeyDestroyed, KeysUnavailable

logger = logging.getLogger(__name__)

# The FHIR base URL of a tenant, as a route.
BASE = "/t/{tenant}/fhir/R4"
RESOURCE_ID = re.compile(r"[A-Za-z0-9\-.]{1,64}")
# What a patient's record says is for this caller alone, and not for any cache (security.md D10).
PRIVATE = {
    "Cache-Control": "private, no-store",
    "Vary": "Authorization, Accept",
    "X-Content-Type-Options": "nosniff",
}
_READS = ("GET", "HEAD")
BINARY = "Binary"


class Answer(Response):
    """An answer whose body was made as JSON; the form that the client asked for comes last.

    `is_page`: a Bundle made to answer, of which the entries are what was asked for.
    """

    is_page = False


@dataclass(slots=True)
class Exchange:
    """A request of an authenticated caller."""

    request: Request
    caller: Caller
    resource_type: str
    resource_id: str
    own_base: str

    @property
    def database(self) -> Database:
        # What a transaction asks of its own entries is asked on its own connection.
        lent: Database | None = getattr(self.request.state, "database", None)
        database: Database = lent or self.request.app.state.services.database
        return database

    def require(self, letter: Letter) -> Filter:
        """What the caller may do `letter` to. Raises Forbidden where that is nothing at all."""
        return decide(self.caller, letter, self.resource_type).require()

    def require_valid_id(self) -> None:
        if not RESOURCE_ID.fullmatch(self.resource_id):
            raise BadRequest("an id has 1 to 64 of the characters A-Z a-z 0-9 - .")

    def refuse_parameters(self) -> None:
        """Raise UnsupportedParameter for anything in the query of a write but the answer's form.

        A condition that is left out in silence writes what the client wanted to avoid: fhirpy's
        get_or_create made a duplicate each time.
        """
        for name in self.request.query_params:
            if name not in FORM_PARAMETERS:
                raise UnsupportedParameter(
                    f"the parameter {name[:64]!r} of this write is not supported (criteria go "
                    "with the URL of the type, or into If-None-Exist); accepted: "
                    f"{', '.join(FORM_PARAMETERS)}"
                )

    def use_parameters(self, parameters: Sequence[tuple[str, str]]) -> None:
        """Take the form of the answer from parameters of which some came in the body."""
        form = form_of(self.request.headers.get("accept"), parameters)
        self.request.state.form = form
        self.request.state.form = with_subset(form, parameters)
        _check_elements(self.request, self.resource_type)

    def respond(self, status: int, body: bytes) -> Response:
        """An answer of JSON: an outcome, or a Bundle of what was found."""
        answer = _response(self.request, status, body, {})
        answer.is_page = True
        return answer

    def respond_version(self, status: int, version: Version, body: bytes) -> Response:
        """An answer about one version: ETag, Last-Modified, and where it is."""
        headers = _about(version)
        url = f"{self.own_base}/{version.reference}/_history/{version.version}"
        if version.body is not None:
            headers["Content-Location"] = url
        if status == 201:
            headers["Location"] = url
        return _response(self.request, status, body, headers)

    def headers_of(self, version: Version) -> dict[str, str]:
        """The headers of an answer that is a version in another form than FHIR's."""
        return {**PRIVATE, "X-Request-Id": self.caller.request_id, **_about(version)}

    def preferred_body(self, wanted: str | None, version: Version) -> bytes:
        """What Prefer: return asks for after a write (http.html#ops)."""
        if wanted == "minimal":
            return b""
        if wanted == "OperationOutcome":
            done = "created" if version.is_new else "updated"
            return informational(f"{version.reference} version {version.version} was {done}")
        return version.body or b""


def own_base(request: Request) -> str:
    """The FHIR base URL of the tenant in the URL."""
    public_url = request.app.state.services.settings.effective_public_url
    return f"{public_url}/t/{request.path_params['tenant']}/fhir/R4"


Handler = Callable[[Exchange], Awaitable[Response]]
Endpoint = Callable[[Request], Awaitable[Response]]


def endpoint(handler: Handler) -> Endpoint:
    """Wrap a handler: authentication and negotiation before it, errors and audit after it."""

    async def handle(request: Request) -> Response:
        interaction = begin_interaction()
        caller: Caller | None = None
        try:
            caller = await caller_from(request)
            request.state.request_id = caller.request_id
            request.state.form = PLAIN
            _take_form(request)
            exchange = _exchange(request, caller)
            if is_deferrable(request):
                place = await defer_request(request, caller, exchange.own_base)
                # R4 async.html: the answer will be there.
                return _response(request, 202, b"", {"Content-Location": place})
            asked = exchange.resource_type or request.query_params.get("_type", "")
            await provide(exchange.database, caller.tenant.id, asked.split(","), exchange.own_base)
            return await _sent(request, await handler(exchange))
        except Exception as raised:
            error, response = _refused(request, raised)
            response = await _sent(request, response)
        if interaction.is_audited:
            return response
        caller = caller or getattr(request.state, "caller", None)
        if caller is None:
            # After the answer, so that the time it takes does not tell whether the tenant exists.
            response.background = BackgroundTask(audit_stranger, request, error)
            return response
        try:
            await _audit_refusal(request, caller, error)
        except (psycopg.Error, PoolTimeout):
            logger.exception("refusal_not_audited")
            unavailable = _error_response(request, Unavailable(headers={"Retry-After": "1"}))
            return await _sent(request, unavailable)
        return response

    return handle


def public_endpoint(handler: Endpoint) -> Endpoint:
    """The same for what needs no token."""

    async def handle(request: Request) -> Response:
        try:
            _take_form(request)
            return await _sent(request, await handler(request))
        except ServerError as error:
            return await _sent(request, _error_response(request, error))

    return handle


def _exchange(request: Request, caller: Caller) -> Exchange:
    """Raises NotFound for a resource type that R4 does not have, and for an impossible id."""
    resource_type = request.path_params.get("resource_type", "")
    if resource_type and resource_type not in definitions().resource_types:
        raise NotFound(f"{resource_type[:64]!r} is not a resource type of FHIR R4")
    resource_id = request.path_params.get("resource_id", "")
    if resource_id and request.method in _READS and not RESOURCE_ID.fullmatch(resource_id):
        raise NotFound
    _check_elements(request, resource_type)
    return Exchange(request, caller, resource_type, resource_id, own_base(request))


def _about(version: Version) -> dict[str, str]:
    return {"ETag": etag(version.version), "Last-Modified": http_date(version.last_updated)}


def _take_form(request: Request) -> None:
    """What the client asks of the answer's form; once it is known, errors have it too.

    A Binary is read in its own form as well, which is for its media type to say (binary.html).
    """
    try:
        request.state.form = form = answer_form(request)
    except NotAcceptable:
        is_binary = request.path_params.get("resource_type") == BINARY and request.method in _READS
        if not is_binary or "_format" in request.query_params:
            raise
        request.state.form = form = PLAIN
    if request.scope["query_string"]:
        request.state.form = with_subset(form, request.query_params.multi_items())


def _check_elements(request: Request, resource_type: str) -> None:
    """Raise BadRequest where `_elements` names what the type has not."""
    subset = request.state.form.subset
    if subset is not None and resource_type:
        subset.require_elements_of(resource_type)


def _response(request: Request, status: int, body: bytes, headers: dict[str, str]) -> Answer:
    # The id that the audit row has; a caller who was not let in gets one of their own.
    given = getattr(request.state, "request_id", None) or request_id(request)
    headers = {**PRIVATE, "X-Request-Id": given, **headers}
    if status in (204, 304):
        return Answer(status_code=status, headers=headers)
    return Answer(body, status, headers, MEDIA_TYPE if body else None)


async def _sent(request: Request, response: Response) -> Response:
    """The answer in the form that the client asked for; to HEAD its headers alone."""
    form: Form = getattr(request.state, "form", PLAIN)
    if form is not PLAIN and isinstance(response, Answer) and response.body:
        body = bytes(response.body)
        if len(body) <= QUICK_BYTES:
            body = form.written(body, is_page=response.is_page)
        else:
            body = await asyncio.to_thread(form.written, body, is_page=response.is_page)
        response.body = body
        response.headers["Content-Length"] = str(len(body))
        response.headers["Content-Type"] = form.media_type
    if request.method == "HEAD":
        response.body = b""
    return response


def _error_response(request: Request, error: ServerError) -> Answer:
    body = operation_outcome(issues_of(error))
    return _response(request, error.http_status, body, dict(error.headers))


def _refused(request: Request, raised: Exception) -> tuple[ServerError, Response]:
    """What an exception means to the client, and the answer that says so."""
    if isinstance(raised, ServerError):
        return raised, _error_response(request, raised)
    if isinstance(raised, KeysUnavailable | KeyDestroyed):
        error = refusal(raised)
        return error, _error_response(request, error)
    is_unaudited = isinstance(raised, psycopg.Error) and is_audit_failure(raised)
    if is_unaudited or isinstance(raised, psycopg.OperationalError | PoolTimeout):
        # Nothing may be shown that is not written down (security.md G4).
        logger.error(
            "audit_unavailable" if is_unaudited else "database_unavailable", exc_info=raised
        )
        unavailable = Unavailable(headers={"Retry-After": "1"})
        return unavailable, _error_response(request, unavailable)
    return ServerError(), _incident(request, raised)


def _incident(request: Request, raised: Exception) -> Response:
    """An error of ours: the client gets a number, the log gets the reason."""
    incident = uuid4().hex
    logger.error("incident", exc_info=raised, extra={"incident": incident})
    issue = Issue("exception", f"an internal error; incident {incident}", severity="fatal")
    return _response(request, 500, operation_outcome([issue]), {})


async def _audit_refusal(request: Request, caller: Caller, error: ServerError) -> None:
    """The row of an interaction that was refused before it could write its own."""
    resource_type = request.path_params.get("resource_type")
    resource_id = request.path_params.get("resource_id")
    parameters = audit_parameters(
        caller,
        _event_type(request),
        resource_type[:64] if resource_type else None,
        resource_id[:64] if resource_id else None,
        outcome="FAILURE",
        metadata={"status": error.http_status},
    )
    database: Database = request.app.state.services.database
    async with database.async_connection(caller.tenant.id) as connection:
        await connection.execute(INSERT_AUDIT, parameters)


_EVENTS = {"PUT": "FHIR_UPDATE", "PATCH": "FHIR_PATCH", "DELETE": "FHIR_DELETE"}


def _event_type(request: Request) -> str:
    """The interaction that the method and the URL ask for (R4 http.html#summary)."""
    path = request.scope["path"].rstrip("/")
    named = request.path_params
    if path.endswith("/_search"):
        return "FHIR_SEARCH"
    if "/$" in path:
        return "FHIR_OPERATION"
    if request.method in _EVENTS:
        return _EVENTS[request.method]
    if request.method == "POST":
        return "FHIR_CREATE" if "resource_type" in named else "FHIR_BATCH"
    if "version_id" in named:
        return "FHIR_VREAD"
    if path.endswith("/_history"):
        return "FHIR_HISTORY"
    if "resource_id" in named:
        return "FHIR_READ"
    is_search = "resource_type" in named or path.endswith(("/*", "/fhir/R4"))
    return "FHIR_SEARCH" if is_search else "FHIR_OPERATION"
