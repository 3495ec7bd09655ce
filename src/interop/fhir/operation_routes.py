"""Operations on records: $everything, $lastn, $meta, $meta-add, $meta-delete (operations.html)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from starlette.responses import Response
from starlette.routing import Route

from interop.access import Filter, decide
from interop.access.audit import INSERT_AUDIT, audit_parameters, mark_audited
from interop.errors import BadRequest, Forbidden, NotFound
from interop.fhir import gate, json, metadata
from interop.fhir.definitions import definitions
from interop.fhir.everything import ENCOUNTER, PARAMETERS, PATIENT, request_of
from interop.fhir.exchange import BASE, Endpoint, Exchange, endpoint
from interop.fhir.last_observations import OBSERVATION, LastSearcher, parse_lastn
from interop.fhir.lens import JsonObject
from interop.fhir.negotiation import FORM_PARAMETERS, json_body, precondition
from interop.fhir.reading import Reader
from interop.fhir.search.criteria import matching_ids
from interop.fhir.search.searching import Searcher
from interop.fhir.search.terms import APART
from interop.fhir.terminology.inputs import read_inputs
from interop.fhir.versions import Version
from interop.fhir.write_routes import refuse_audit_event
from interop.fhir.writing import Change, Writer

OPERATION = "FHIR_OPERATION"


# -- $everything ------------------------------------------------------------------------------


def _everything(focus: str) -> Endpoint:
    @endpoint
    async def everything(exchange: Exchange) -> Response:
        filter_ = decide(exchange.caller, "r", focus).require()
        query = exchange.request.query_params.multi_items()
        inputs = read_inputs(PARAMETERS[focus], query, await _parameters(exchange))
        id_ = exchange.resource_id
        request, filters = request_of(exchange.caller, focus, id_, inputs)
        if id_ and not await asyncio.to_thread(_is_there, exchange, focus, filter_):
            raise NotFound
        searcher = Searcher(exchange.database, exchange.caller, exchange.own_base, filters)
        return exchange.respond(200, await searcher.search(request))

    return everything


def _is_there(exchange: Exchange, focus: str, filter_: Filter) -> bool:
    """Whether the caller may see whose record is asked for."""
    with exchange.database.connection(exchange.caller.tenant.id) as connection:
        found = matching_ids(
            connection,
            exchange.caller,
            filter_,
            focus,
            f"_id={exchange.resource_id}",
            1,
            own_base=exchange.own_base,
        )
    return bool(found)


# -- $lastn -----------------------------------------------------------------------------------


@endpoint
async def lastn(exchange: Exchange) -> Response:
    filter_ = decide(exchange.caller, "s", OBSERVATION).require()
    pairs = exchange.request.query_params.multi_items()
    pairs += [_pair(row) for row in (await _parameters(exchange) or {}).get("parameter", ())]
    request, maximum = parse_lastn(pairs)
    searcher = LastSearcher(exchange.database, exchange.caller, exchange.own_base, filter_, maximum)
    return exchange.respond(200, await searcher.search(request))


def _pair(row: JsonObject) -> tuple[str, str]:
    """A parameter of a body as it would stand in the URL."""
    for name, value in row.items():
        if name.startswith("value") and isinstance(value, str | int):
            return row["name"], str(value).lower() if isinstance(value, bool) else str(value)
        if name == "valueReference" and isinstance(value.get("reference"), str):
            return row["name"], value["reference"]
    raise BadRequest(f"the parameter {row['name']!r} needs a valueString, valueReference or number")


# -- $meta ------------------------------------------------------------------------------------


@endpoint
async def meta(exchange: Exchange) -> Response:
    """Of one resource or version, or of all that the caller may see of a type, or of everything."""
    _refuse_other_parameters(exchange)
    if not exchange.resource_id:
        found = await asyncio.to_thread(_labels, exchange)
        return exchange.respond(200, metadata.answer(found))
    refuse_audit_event(exchange)
    exchange.require_valid_id()
    reader = Reader(exchange.database, exchange.caller, exchange.own_base, exchange.require("r"))
    key = (exchange.resource_type, exchange.resource_id)
    number = exchange.request.path_params.get("version_id")
    version = await (reader.vread(*key, number) if number else reader.read(*key))
    resource = json.loads(version.body or b"{}")
    return exchange.respond(200, metadata.answer(resource.get("meta", {})))


def _labels(exchange: Exchange) -> JsonObject:
    types = [exchange.resource_type] if exchange.resource_type else definitions().resource_types
    filters = {type_: decide(exchange.caller, "r", type_).filter for type_ in sorted(types)}
    allowed = {
        type_: filter_ for type_, filter_ in filters.items() if filter_.ways and type_ not in APART
    }
    if not allowed:
        if exchange.resource_type:
            exchange.require("r")
        raise Forbidden("the token's scopes and the user's roles let nothing be read here")
    caller = exchange.caller
    with exchange.database.connection(caller.tenant.id) as connection:
        found = metadata.in_use(connection, caller, exchange.own_base, allowed)
        audit = audit_parameters(caller, OPERATION, exchange.resource_type or None)
        connection.execute(INSERT_AUDIT, audit)
    mark_audited()
    return found


def _changing(change_of: Callable[[JsonObject], Change]) -> Endpoint:
    @endpoint
    async def change_meta(exchange: Exchange) -> Response:
        refuse_audit_event(exchange)
        exchange.require("u")
        _refuse_other_parameters(exchange)
        exchange.require_valid_id()
        parameters = await _parameters(exchange)
        change = change_of(metadata.meta_of(parameters or {}))
        condition = precondition(exchange.request)

        def write() -> Version:
            writer = Writer(exchange.database, exchange.caller, exchange.own_base)
            key = (exchange.resource_type, exchange.resource_id)
            return writer.run(
                lambda session: session.patch(*key, change, condition, event=OPERATION)
            )

        version = await asyncio.to_thread(write)
        resource = json.loads(version.body or b"{}")
        body = metadata.answer(resource.get("meta", {}))
        return exchange.respond_version(200, version, body)

    return change_meta


async def _parameters(exchange: Exchange) -> JsonObject | None:
    """The Parameters of a POST, through the gate; None where there is no body."""
    if exchange.request.method != "POST":
        return None
    if exchange.request.headers.get("content-length") == "0":
        return None
    parameters = json.loads(await json_body(exchange.request))
    gate.check(parameters, "Parameters")
    return parameters


def _refuse_other_parameters(exchange: Exchange) -> None:
    for name in exchange.request.query_params:
        if name not in FORM_PARAMETERS:
            raise BadRequest(
                f"the parameter {name[:64]!r} is not supported; accepted: "
                f"{', '.join(FORM_PARAMETERS)}"
            )


_BOTH = ["GET", "POST"]
_INSTANCE = "{resource_type}/{resource_id}"
ROUTES = [
    Route(f"{BASE}/{PATIENT}/$everything", _everything(PATIENT), methods=_BOTH),
    Route(f"{BASE}/{PATIENT}/{{resource_id}}/$everything", _everything(PATIENT), methods=_BOTH),
    Route(f"{BASE}/{ENCOUNTER}/{{resource_id}}/$everything", _everything(ENCOUNTER), methods=_BOTH),
    Route(f"{BASE}/{OBSERVATION}/$lastn", lastn, methods=_BOTH),
    Route(f"{BASE}/$meta", meta, methods=["GET"]),
    Route(f"{BASE}/{{resource_type}}/$meta", meta, methods=["GET"]),
    Route(f"{BASE}/{_INSTANCE}/$meta", meta, methods=["GET"]),
    Route(f"{BASE}/{_INSTANCE}/_history/{{version_id}}/$meta", meta, methods=["GET"]),
    Route(f"{BASE}/{_INSTANCE}/$meta-add", _changing(metadata.adding), methods=["POST"]),
    Route(f"{BASE}/{_INSTANCE}/$meta-delete", _changing(metadata.deleting), methods=["POST"]),
]
