"""Searches on the wire: of a type, of everything, of a compartment; by GET and by POST.

FHIR R4 http.html#search, search.html#vs (search over several types), compartmentdefinition.html.
"""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import parse_qsl

from starlette.convertors import StringConvertor, register_url_convertor
from starlette.responses import Response
from starlette.routing import Route

from interop.access import Filter, decide
from interop.errors import BadRequest, Forbidden, NotFound, UnsupportedMediaType
from interop.fhir.audit_log import RESOURCE_TYPE as AUDIT_EVENT
from interop.fhir.audit_log import AuditLog
from interop.fhir.definitions import definitions
from interop.fhir.exchange import BASE, RESOURCE_ID, Exchange, endpoint
from interop.fhir.negotiation import limited_body, preference
from interop.fhir.search.compartments import OWNERS, member, members
from interop.fhir.search.custom import with_parameters
from interop.fhir.search.request import SearchRequest, parse, parse_over
from interop.fhir.search.searching import Searcher
from interop.fhir.search.terms import APART, apart
from storage import resources

FORM = "application/x-www-form-urlencoded"
TYPE = "_type"
Pairs = list[tuple[str, str]]


class _TypeName(StringConvertor):
    """What may be the name of a resource type."""

    regex = r"[A-Z][A-Za-z]*"


register_url_convertor("fhir_type", _TypeName())


@endpoint
async def search(exchange: Exchange) -> Response:
    filter_ = exchange.require("s")
    return await _of_type(exchange, filter_, exchange.request.query_params.multi_items())


@endpoint
async def search_by_post(exchange: Exchange) -> Response:
    filter_ = exchange.require("s")
    return await _of_type(exchange, filter_, await _posted(exchange))


@endpoint
async def search_system(exchange: Exchange) -> Response:
    return await _of_system(exchange, exchange.request.query_params.multi_items())


@endpoint
async def search_system_by_post(exchange: Exchange) -> Response:
    # Before anything of the body is looked at.
    _filters(exchange, _every_type(), is_named=False)
    return await _of_system(exchange, await _posted(exchange))


@endpoint
async def search_compartment(exchange: Exchange) -> Response:
    """One type of a compartment."""
    filter_ = exchange.require("s")
    return await _in_compartment(exchange, filter_, exchange.request.query_params.multi_items())


@endpoint
async def search_compartment_by_post(exchange: Exchange) -> Response:
    filter_ = exchange.require("s")
    return await _in_compartment(exchange, filter_, await _posted(exchange))


@endpoint
async def search_whole_compartment(exchange: Exchange) -> Response:
    """Every type of a compartment."""
    owner_type, owner_id = _owner(exchange)
    pairs = exchange.request.query_params.multi_items()
    types = sorted(set(members(owner_type)) - set(APART))
    filters = _filters(exchange, _asked_types(pairs) or types, is_named=bool(_asked_types(pairs)))

    def read(lenient: bool) -> SearchRequest:
        request = parse_over(
            filters,
            pairs,
            path=f"{owner_type}/{owner_id}/*",
            lenient=lenient,
            ignored=(TYPE,),
        )
        for type_, asked in request.asked.items():
            asked.append(member(owner_type, owner_id, type_))
        return request

    return await _answer(exchange, filters, read)


# -- what they share ------------------------------------------------------------------------


async def _of_type(exchange: Exchange, filter_: Filter, pairs: Pairs) -> Response:
    if exchange.resource_type == AUDIT_EVENT:
        log = AuditLog(exchange.database, exchange.caller, exchange.own_base, filter_)
        return exchange.respond(200, await log.search(pairs))
    type_ = exchange.resource_type
    return await _answer(exchange, filter_, lambda lenient: parse(type_, pairs, lenient=lenient))


async def _of_system(exchange: Exchange, pairs: Pairs) -> Response:
    named = _asked_types(pairs)
    filters = _filters(exchange, named or _every_type(), is_named=bool(named))

    def read(lenient: bool) -> SearchRequest:
        return parse_over(filters, pairs, path="", lenient=lenient, ignored=(TYPE,))

    return await _answer(exchange, filters, read)


async def _in_compartment(exchange: Exchange, filter_: Filter, pairs: Pairs) -> Response:
    owner_type, owner_id = _owner(exchange)
    type_ = exchange.resource_type
    belongs = member(owner_type, owner_id, type_)

    def read(lenient: bool) -> SearchRequest:
        path = f"{owner_type}/{owner_id}/{type_}"
        request = parse_over([type_], pairs, path=path, lenient=lenient)
        request.asked[type_].append(belongs)
        return request

    return await _answer(exchange, filter_, read)


async def _answer(
    exchange: Exchange,
    filters: Filter | dict[str, Filter],
    read: Callable[[bool], SearchRequest],
) -> Response:
    """The page that a search asks for, by R4's parameters and the organization's own."""
    is_lenient = preference(exchange.request, "handling") == "lenient"
    tenant_id = exchange.caller.tenant.id
    searcher = Searcher(exchange.database, exchange.caller, exchange.own_base, filters)

    async def attempt() -> bytes:
        request = read(is_lenient)
        if request.is_over_types:
            rows = await resources.call(exchange.database, tenant_id, "fhir_types")
            there = {row[0] for row in rows}
            request.asked = {type_: a for type_, a in request.asked.items() if type_ in there}
        return await searcher.search(request)

    found = await with_parameters(exchange.database, tenant_id, attempt, sure=is_lenient)
    return exchange.respond(200, found)


async def _posted(exchange: Exchange) -> Pairs:
    """The parameters of the URL and of the form, which count alike."""
    media_type = exchange.request.headers.get("content-type", "").partition(";")[0].strip()
    if media_type.lower() != FORM:
        raise UnsupportedMediaType(f"Content-Type {media_type[:64]!r}; accepted: {FORM}")
    form = (await limited_body(exchange.request)).decode("utf-8", "replace")
    pairs = exchange.request.query_params.multi_items()
    pairs += parse_qsl(form, keep_blank_values=True)
    exchange.use_parameters(pairs)
    return pairs


def _owner(exchange: Exchange) -> tuple[str, str]:
    """Whose compartment it is: whether there is such a one is not said."""
    owner_type = exchange.request.path_params["owner_type"]
    owner_id = exchange.request.path_params["owner_id"]
    if owner_type not in OWNERS or not RESOURCE_ID.fullmatch(owner_id):
        raise NotFound(f"there is no such compartment; R4 has those of {', '.join(OWNERS)}")
    return owner_type, owner_id


def _asked_types(pairs: Pairs) -> list[str]:
    """What `_type` names: what every one of them does. Raises BadRequest."""
    asked = [set(value.split(",")) for name, value in pairs if name == TYPE]
    if not asked:
        return []
    for type_ in sorted(set().union(*asked)):
        if type_ not in definitions().resource_types:
            raise BadRequest(f"_type: {type_[:64]!r} is not a resource type of FHIR R4")
        if type_ in APART:
            raise apart(type_)
    types = sorted(set.intersection(*asked))
    if not types:
        raise BadRequest("_type is given more than once, and no type is in all of them")
    return types


def _every_type() -> list[str]:
    return sorted(definitions().resource_types - set(APART))


def _filters(exchange: Exchange, types: list[str], *, is_named: bool) -> dict[str, Filter]:
    """What of each type the caller may search. Raises Forbidden: for a named type as for all."""
    decisions = {type_: decide(exchange.caller, "s", type_) for type_ in types}
    if is_named:
        return {type_: decision.require() for type_, decision in decisions.items()}
    filters = {type_: one.filter for type_, one in decisions.items() if one.is_allowed}
    if not filters:
        raise Forbidden("the token permits no search of any resource type here")
    return filters


_COMPARTMENT = f"{BASE}/{{owner_type}}/{{owner_id}}"
ROUTES = [
    # Before what takes the name of any type.
    Route(f"{BASE}/_search", search_system, methods=["GET"]),
    Route(f"{BASE}/_search", search_system_by_post, methods=["POST"]),
    Route(f"{BASE}/{{resource_type}}", search, methods=["GET"]),
    Route(BASE, search_system, methods=["GET"]),
    Route(f"{BASE}/", search_system, methods=["GET"]),
    Route(f"{BASE}/{{resource_type}}/_search", search_by_post, methods=["POST"]),
    Route(f"{_COMPARTMENT}/*", search_whole_compartment, methods=["GET"]),
    Route(f"{_COMPARTMENT}/{{resource_type:fhir_type}}", search_compartment, methods=["GET"]),
    Route(
        f"{_COMPARTMENT}/{{resource_type:fhir_type}}/_search",
        search_compartment_by_post,
        methods=["POST"],
    ),
]
