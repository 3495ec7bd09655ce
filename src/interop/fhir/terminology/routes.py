"""The operations of terminology: $expand and $validate-code (FHIR R4 terminology-service.html)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import orjson
from starlette.responses import Response
from starlette.routing import Route

from interop.access import decide
from interop.access.audit import INSERT_AUDIT, audit_parameters, mark_audited
from interop.access.routes import FHIR
from interop.errors import NotFound
from interop.fhir import gate, json
from interop.fhir.exchange import Exchange, endpoint
from interop.fhir.lens import JsonObject
from interop.fhir.negotiation import json_body
from interop.fhir.terminology import expansion, validation
from interop.fhir.terminology.evaluation import Terminology
from interop.fhir.terminology.inputs import Inputs, Kind, read_inputs
from interop.fhir.terminology.packages import terminology
from interop.fhir.terminology.tenant import TenantSource

Answer = Callable[[Inputs, Terminology, JsonObject | None], JsonObject]


@dataclass(frozen=True, slots=True)
class Operation:
    """An operation on a type of definitions, or on one of them by its id."""

    resource_type: str
    name: str
    accepted: Mapping[str, Kind]
    answer: Answer


OPERATIONS = (
    Operation("ValueSet", "$expand", expansion.PARAMETERS, expansion.expand),
    Operation(
        "ValueSet",
        "$validate-code",
        validation.VALUE_SET_PARAMETERS,
        validation.validate_in_value_set,
    ),
    Operation(
        "CodeSystem",
        "$validate-code",
        validation.CODE_SYSTEM_PARAMETERS,
        validation.validate_in_code_system,
    ),
)


def _route(operation: Operation, path: str) -> Route:
    @endpoint
    async def handle(exchange: Exchange) -> Response:
        decide(exchange.caller, "r", operation.resource_type).require()
        query = exchange.request.query_params.multi_items()
        parameters = None
        if exchange.request.method == "POST":
            parameters = json.loads(await json_body(exchange.request))
            gate.check(parameters, "Parameters")
        inputs = read_inputs(operation.accepted, query, parameters)
        body = await asyncio.to_thread(_answered, exchange, operation, inputs)
        return exchange.respond(200, body)

    return Route(path, handle, methods=["GET", "POST"])


def _answered(exchange: Exchange, operation: Operation, inputs: Inputs) -> bytes:
    """The answer, from what the caller may see in one transaction that holds its audit row."""
    caller, type_, id_ = exchange.caller, operation.resource_type, exchange.resource_id
    with exchange.database.connection(caller.tenant.id) as connection:
        stored = TenantSource(connection, caller, exchange.own_base)
        by_id = stored.by_id(type_, id_) if id_ else None
        if id_ and by_id is None:
            raise NotFound
        answer = operation.answer(inputs, terminology().beneath(stored), by_id)
        audit = audit_parameters(
            caller,
            "FHIR_OPERATION",
            type_,
            id_ or None,
            metadata={"operation": operation.name},
        )
        connection.execute(INSERT_AUDIT, audit)
    mark_audited()
    return orjson.dumps(answer)


ROUTES = [
    _route(operation, f"{FHIR}/{operation.resource_type}{instance}/{operation.name}")
    for operation in OPERATIONS
    for instance in ("", "/{resource_id}")
]
