"""$validate, of a type and of an instance (FHIR R4 resource-operation-validate.html).

Answers 200 with an OperationOutcome whatever is found; another status means that nothing could be
validated. The resource comes as the body, or in Parameters with `mode` and `profile`.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

from starlette.responses import Response
from starlette.routing import Route

from interop.access import decide
from interop.access.audit import INSERT_AUDIT, audit_parameters, mark_audited
from interop.errors import BadRequest, NotFound, UnsupportedParameter
from interop.fhir import json
from interop.fhir.exchange import BASE, Exchange, endpoint
from interop.fhir.lens import Connection, JsonObject
from interop.fhir.negotiation import FORM_PARAMETERS, json_body
from interop.fhir.outcomes import Issue, operation_outcome
from interop.fhir.search.criteria import matching_ids
from interop.fhir.validation.stored import stored_codes, stored_library
from interop.fhir.validation.validating import MAX_PROFILES, validate
from storage import resources

MODES = ("create", "update", "delete", "profile")
ACCEPTED = ("resource", "mode", "profile")


@dataclass(slots=True)
class Asked:
    """What is to be validated, and how."""

    resource: JsonObject | None = None
    mode: str | None = None
    profiles: list[str] = field(default_factory=list)

    def set(self, name: str, value: Any) -> None:
        """Take one parameter. Raises BadRequest and UnsupportedParameter."""
        if name == "mode":
            if value not in MODES:
                raise BadRequest(f"mode {str(value)[:32]!r}; accepted: {' | '.join(MODES)}")
            self.mode = value
        elif name == "profile":
            if not isinstance(value, str) or not value or len(self.profiles) >= MAX_PROFILES:
                raise BadRequest(f"profile: the URL of a profile, {MAX_PROFILES} at most")
            self.profiles.append(value)
        else:
            raise UnsupportedParameter(
                f"the parameter {name[:64]!r} is not supported; accepted: {', '.join(ACCEPTED)}"
            )


@endpoint
async def validate_operation(exchange: Exchange) -> Response:
    exchange.require("r")
    body = await json_body(exchange.request) if exchange.request.method == "POST" else b""
    answer = await asyncio.to_thread(_answered, exchange, body)
    return exchange.respond(200, answer)


def _answered(exchange: Exchange, body: bytes) -> bytes:
    asked = _asked(exchange, body)
    caller, type_, id_ = exchange.caller, exchange.resource_type, exchange.resource_id
    with exchange.database.connection(caller.tenant.id) as connection:
        issues = _issues(connection, exchange, asked)
        audit = audit_parameters(
            caller, "FHIR_OPERATION", type_, id_ or None, metadata={"operation": "$validate"}
        )
        connection.execute(INSERT_AUDIT, audit)
    mark_audited()
    return operation_outcome(issues or [Issue("informational", "no issues", None, "information")])


def _asked(exchange: Exchange, body: bytes) -> Asked:
    asked = Asked()
    for name, value in exchange.request.query_params.multi_items():
        if name not in FORM_PARAMETERS:
            asked.set(name, value)
    if not body:
        return asked
    content = json.loads(body)
    rows = content.get("parameter")
    if content.get("resourceType") != "Parameters" or not isinstance(rows, list):
        asked.resource = content
        return asked
    named = [row for row in rows if isinstance(row, dict) and isinstance(row.get("name"), str)]
    if exchange.resource_type == "Parameters" and not any(r["name"] == "resource" for r in named):
        asked.resource = content
        return asked
    if len(named) != len(rows):
        raise BadRequest("each parameter has a name", expression="Parameters.parameter")
    for row in named:
        if row["name"] == "resource":
            if not isinstance(row.get("resource"), dict) or asked.resource is not None:
                raise BadRequest("the parameter 'resource' holds one resource")
            asked.resource = row["resource"]
        else:
            values = [value for key, value in row.items() if key.startswith("value")]
            asked.set(row["name"], values[0] if len(values) == 1 else None)
    return asked


def _issues(connection: Connection, exchange: Exchange, asked: Asked) -> list[Issue]:
    if asked.mode == "delete":
        return _deletion(connection, exchange)
    resource = asked.resource
    if resource is None:
        if not exchange.resource_id:
            raise BadRequest("send the resource by POST, as it is or in Parameters as 'resource'")
        resource = _stored(connection, exchange)
    found = _of_the_url(exchange, asked, resource)
    if found:
        return found
    caller, own_base = exchange.caller, exchange.own_base
    readable = decide(caller, "r", "StructureDefinition").filter
    return validate(
        resource,
        asked.profiles,
        known=stored_library(connection, caller, own_base, readable),
        codes=stored_codes(connection, caller, own_base),
    )


def _of_the_url(exchange: Exchange, asked: Asked, resource: JsonObject) -> list[Issue]:
    """What does not fit the URL or the mode; the rest is not looked at then."""
    type_, wanted = resource.get("resourceType"), exchange.resource_type
    if type_ != wanted:
        what = f"resourceType is {str(type_)[:64]!r}; this URL validates {wanted}"
        return [Issue("invalid", what, "resourceType")]
    identifier = resource.get("id")
    if asked.mode == "update" and not identifier:
        return [Issue("required", "an update needs the id", f"{wanted}.id")]
    if asked.mode == "create" and exchange.resource_id:
        return [Issue("invalid", "a create has no id in the URL; the server makes it")]
    if exchange.resource_id and asked.mode == "update" and identifier != exchange.resource_id:
        what = f"the resource's id must be that of the URL, {exchange.resource_id!r}"
        return [Issue("invalid", what, f"{wanted}.id")]
    return []


def _deletion(connection: Connection, exchange: Exchange) -> list[Issue]:
    """Whether the resource of the URL could be deleted by the caller."""
    if not exchange.resource_id:
        raise BadRequest("mode=delete is about a resource: .../{type}/{id}/$validate")
    _stored(connection, exchange)
    if not decide(exchange.caller, "d", exchange.resource_type).is_allowed:
        return [Issue("forbidden", f"you may not delete {exchange.resource_type}")]
    return []


def _stored(connection: Connection, exchange: Exchange) -> JsonObject:
    """The resource of the URL, as far as the caller may see it. Raises NotFound."""
    caller, type_ = exchange.caller, exchange.resource_type
    exchange.require_valid_id()
    ids = matching_ids(
        connection,
        caller,
        exchange.require("r"),
        type_,
        f"_id={exchange.resource_id}",
        1,
        own_base=exchange.own_base,
    )
    bodies = resources.bodies(connection, caller.tenant.id, type_, ids) if ids else []
    if not bodies:
        raise NotFound
    return json.loads(bodies[0].encode())


_PATH = f"{BASE}/{{resource_type}}"

ROUTES = [
    Route(f"{_PATH}/$validate", validate_operation, methods=["GET", "POST"]),
    Route(f"{_PATH}/{{resource_id}}/$validate", validate_operation, methods=["GET", "POST"]),
]
