"""Conditional create, update, patch and delete, on the transaction that writes.

FHIR R4 http.html#ccreate, #cond-update, #patch, #cdelete. Criteria are a search that is authorized
like any other: what the caller cannot see meets none. Two that create by the same criteria at once
wait for each other, so that only one of them does.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from urllib.parse import parse_qsl, urlencode

from interop.errors import BadRequest, Conflict, Forbidden, NotFound, PreconditionFailed
from interop.fhir.lens import JsonObject
from interop.fhir.negotiation import FORM_PARAMETERS
from interop.fhir.search.criteria import matching_ids
from interop.fhir.versions import Version
from interop.fhir.visibility import Visibility
from interop.fhir.writing import Change, Precondition, WriteSession

# What one conditional delete may delete at most (Type?criteria&_count=...).
MAX_DELETED = 1000
COUNT = "_count"


def normalized(query: str) -> str:
    """Criteria in one spelling. Raises BadRequest where there are none."""
    pairs = [
        (name, value)
        for name, value in parse_qsl(query.removeprefix("?"), keep_blank_values=True)
        if name not in FORM_PARAMETERS
    ]
    if not pairs:
        raise BadRequest(
            "a conditional interaction needs criteria: search parameters with values, such as"
            " identifier=urn:example|1"
        )
    return urlencode(sorted(pairs))


def matches(session: WriteSession, resource_type: str, query: str, limit: int) -> list[str]:
    """The first ids of what meets the criteria and the caller may see.

    Raises Forbidden where that is nothing of the type, and what `matching_ids` raises.
    """
    session.flush()
    filter_ = Visibility(session.caller, session.own_base).shown(resource_type)
    if not filter_.ways:
        raise Forbidden(
            f"criteria are a search: the token's scopes do not permit 's' or 'r' on {resource_type}"
        )
    criteria = normalized(query)
    return matching_ids(
        session.connection,
        session.caller,
        filter_,
        resource_type,
        criteria,
        limit,
        own_base=session.own_base,
    )


def the_one(session: WriteSession, resource_type: str, query: str) -> str | None:
    """The id of what meets the criteria; None: nothing does. Raises PreconditionFailed for many."""
    found = matches(session, resource_type, query, 2)
    if len(found) > 1:
        raise PreconditionFailed(
            f"more than one {resource_type} meets the criteria; they must select one"
        )
    return found[0] if found else None


def lock_criteria(session: WriteSession, named: Iterable[tuple[str, str]]) -> None:
    """Have whoever may create by the same (type, criteria) wait until this transaction ends."""
    session.lock_criteria(f"{type_}?{normalized(query)}" for type_, query in named)


def create_unless(session: WriteSession, resource: JsonObject, query: str) -> Version:
    """If-None-Exist: create, unless one meets the criteria already; then that one is returned."""
    resource_type = str(resource["resourceType"])
    lock_criteria(session, [(resource_type, query)])
    found = the_one(session, resource_type, query)
    if found is None:
        return session.create(resource)
    return session.existing(resource_type, found, "FHIR_READ")


def update_where(
    session: WriteSession, resource: JsonObject, query: str, precondition: Precondition
) -> Version:
    """Update what meets the criteria; where nothing does, create (under the client's id, if any).

    Raises BadRequest where the client names another id than was found, and Conflict where its id
    is taken by what does not meet the criteria.
    """
    resource_type = str(resource["resourceType"])
    lock_criteria(session, [(resource_type, query)])
    found = the_one(session, resource_type, query)
    named = resource.get("id")
    if found is not None:
        if named not in (None, found):
            raise BadRequest(
                f"the criteria select {resource_type}/{found}, and the resource has the id"
                f" {named!r}; leave the id out, or send the one that is selected",
                expression=f"{resource_type}.id",
            )
        return session.update(found, resource, precondition)
    precondition.check(None)
    if named is None:
        return session.create(resource)
    try:
        return session.update(str(named), resource, replace(precondition, must_be_new=True))
    except PreconditionFailed:
        raise Conflict(f"{resource_type}/{named} exists and does not meet the criteria") from None


def patch_where(
    session: WriteSession,
    resource_type: str,
    query: str,
    change: Change,
    precondition: Precondition,
) -> Version:
    """Patch the one that meets the criteria. Raises NotFound where none does."""
    found = the_one(session, resource_type, query)
    if found is None:
        raise NotFound(f"no {resource_type} meets the criteria")
    return session.patch(resource_type, found, change, precondition)


def delete_where(
    session: WriteSession, resource_type: str, query: str, precondition: Precondition
) -> list[Version]:
    """Delete what meets the criteria: the only one, or with `_count=N` all of up to N.

    Where more do, nothing is deleted and PreconditionFailed is raised.
    """
    criteria, most = _deletable(query)
    found = matches(session, resource_type, criteria, most + 1)
    if len(found) > most:
        raise PreconditionFailed(
            f"more than {most} {resource_type} meet the criteria; narrow them, or say with"
            f" {COUNT}=N that up to N (at most {MAX_DELETED}) shall be deleted"
        )
    if not found:
        session.note("FHIR_DELETE", resource_type)
    session.prefetch((resource_type, one) for one in found)
    deleted = [session.delete(resource_type, one, precondition) for one in found]
    return [version for version in deleted if version is not None]


def _deletable(query: str) -> tuple[str, int]:
    """The criteria without `_count`, and how many resources may be deleted."""
    most = 1
    kept: list[tuple[str, str]] = []
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name != COUNT:
            kept.append((name, value))
            continue
        if not (value.isascii() and value.isdigit() and 0 < len(value) < 10):
            raise BadRequest(f"{COUNT}={value[:32]!r}; expected 1 to {MAX_DELETED}")
        most = int(value)
        if not 1 <= most <= MAX_DELETED:
            raise BadRequest(f"{COUNT}={value}; expected 1 to {MAX_DELETED}")
    return urlencode(kept), most
