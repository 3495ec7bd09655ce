"""The history interactions: of a resource, of a type, of everything (R4 http.html#history)."""

from __future__ import annotations

from starlette.responses import Response
from starlette.routing import Route

from interop.fhir.exchange import BASE, Exchange, endpoint
from interop.fhir.histories import HistoryReader
from interop.fhir.write_routes import refuse_audit_event


@endpoint
async def history(exchange: Exchange) -> Response:
    """Of what the URL names: its type and id are empty where it names none."""
    refuse_audit_event(exchange)
    parameters = exchange.request.query_params.multi_items()
    reader = HistoryReader(exchange.database, exchange.caller, exchange.own_base)
    about = (exchange.resource_type, exchange.resource_id)
    return exchange.respond(200, await reader.page(*about, parameters))


ROUTES = [
    # Before {resource_type}/{resource_id}, which would take _history for an id.
    Route(f"{BASE}/_history", history, methods=["GET"]),
    Route(f"{BASE}/{{resource_type}}/_history", history, methods=["GET"]),
    Route(f"{BASE}/{{resource_type}}/{{resource_id}}/_history", history, methods=["GET"]),
]
