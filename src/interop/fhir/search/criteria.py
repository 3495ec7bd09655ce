"""Which resources meet the criteria of a conditional write (FHIR R4 http.html#ccreate).

The same parameters, authorized in the same way, as a search has, on the caller's open transaction.
"""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import parse_qsl

from interop.access import Caller, Filter
from interop.errors import BadRequest
from interop.fhir.lens import Connection
from interop.fhir.rendering import render_stale_within
from interop.fhir.search.code_sets import asks_for_code_sets, resolved
from interop.fhir.search.custom import with_parameters_on
from interop.fhir.search.request import SearchRequest, parse
from interop.fhir.search.term_conditions import TermConditions
from interop.fhir.sensitive import blinding
from interop.fhir.visibility import Visibility
from storage.resource_search import SearchStatement
from storage.resource_visibility import first_ids


def matching_ids(
    connection: Connection,
    caller: Caller,
    filter_: Filter,
    resource_type: str,
    query: str,
    limit: int,
    *,
    own_base: str = "",
) -> list[str]:
    """The first `limit` ids of the resources that meet `query` ("identifier=a|b&active=true").

    Only what `filter_` admits is found. `own_base` is the FHIR base URL of the tenant, by which
    absolute references are known as local. What is stale is rendered first, in this transaction.
    Nothing is audited. Raises BadRequest, also where the query has no criteria at all,
    UnsupportedParameter and TooCostly.
    """
    pairs = parse_qsl(query.removeprefix("?"), keep_blank_values=True)
    request = with_parameters_on(
        connection, caller.tenant.id, lambda: criteria(resource_type, pairs)
    )
    render_stale_within(connection, caller.tenant.id, request.types(), own_base)
    statement = SearchStatement(resource_type)
    visibility = Visibility(caller, own_base)
    visibility.restrict(statement, filter_)
    blind = blinding(connection, caller.tenant.id)
    code_sets = (
        resolved(connection, caller, own_base, resource_type, request.terms)
        if asks_for_code_sets(resource_type, request.terms)
        else None
    )
    conditions = TermConditions(visibility, own_base, blind, code_sets)
    for term in request.terms:
        conditions.require(statement, term)
    return first_ids(connection, caller.tenant.id, statement, limit)


def criteria(resource_type: str, pairs: Sequence[tuple[str, str]]) -> SearchRequest:
    """The criteria of a conditional interaction, checked. Raises what `parse` raises."""
    request = parse(resource_type, pairs)
    if not request.terms:
        raise BadRequest(
            "a conditional interaction needs at least one search parameter that selects resources, "
            "such as identifier"
        )
    if request.includes or request.sort or request.cursor:
        raise BadRequest("criteria only select: no _include, _revinclude, _sort or page")
    return request
