"""Search parameters that a tenant defines: a SearchParameter that is active is in force.

FHIR R4 search.html#3.1.1.1, searchparameter.html. Its index is built by a job (`reindexing`), and
until that is whole a search by it is refused; what is written meanwhile is indexed already. R4's
own parameters are answered as R4 defines them, whatever else a SearchParameter says of their codes.
"""

from __future__ import annotations

import re
import time
from collections.abc import Awaitable, Callable, Mapping
from functools import lru_cache
from typing import Any, TypeVar
from uuid import UUID

import orjson

from interop.errors import TooCostly, Unprocessable, UnsupportedParameter
from interop.fhir.definitions import ABSTRACT, SearchParameter, definitions
from interop.fhir.fhirpath import FhirPathError
from interop.fhir.lens import JsonObject
from interop.fhir.search.catalog import CustomParameter, ParametersChanged, catalog, r4
from interop.fhir.search.converters import OF_TYPE, TEXT
from interop.fhir.search.extraction import (
    Extractor,
    Indexing,
    Plan,
    compiled,
    component_name,
    planned,
)
from storage import search_definitions
from storage import search_parameters as stored
from storage.database import Connection, Database
from storage.search_definitions import (
    BUILDING,
    DROPPING,
    EVERYTHING,
    READY,
    Definition,
    Known,
)

T = TypeVar("T")

RESOURCE_TYPE = "SearchParameter"
TYPES = ("token", "string", "reference", "date", "number", "quantity", "uri", "composite")
# Kept by the server alone (docs/audit.md), and so not in the read model.
APART = ("AuditEvent",)
MAX_PARAMETERS = 100
LONGEST_EXPRESSION = 2000
MAX_COMPONENTS = 10
# How old what a reader knows may be; a parameter is called unknown only by what was read since the
# search came.
FRESH_SECONDS = 2.0

_CODE = re.compile(r"[A-Za-z][A-Za-z0-9-]{0,63}")


# -- what is in force -----------------------------------------------------------------------


def parameters_of(tenant_id: UUID, resource_type: str) -> Mapping[str, SearchParameter]:
    """R4's parameters of a type, and the tenant's that this process knows of."""
    own = _own(search_definitions.known(tenant_id).definitions, resource_type)
    return {**own, **r4(resource_type)} if own else r4(resource_type)


@lru_cache(2048)
def _own(definitions_: tuple[Definition, ...], resource_type: str) -> dict[str, SearchParameter]:
    found: dict[str, SearchParameter] = {}
    for definition in definitions_:
        if definition.status == DROPPING or definition.definition_id == EVERYTHING:
            continue
        parameter = parameter_of(definition)
        if resource_type in bases_of(definition.definition):
            found[parameter.code] = parameter
    return found


def parameter_of(definition: Definition) -> CustomParameter:
    """A stored definition as a search parameter."""
    said = _said(definition.definition)
    return CustomParameter(
        url=said["url"],
        code=said["code"],
        type=said["type"],
        expression=said["expression"],
        targets=tuple(said["targets"]),
        components=tuple((code, type_, path) for code, type_, path in said["components"]),
        definition_id=definition.definition_id,
        epoch=definition.epoch,
        is_ready=definition.status == READY,
        progress=f"{definition.done} of {definition.total} resources",
    )


@lru_cache(2048)
def _said(definition: str) -> dict[str, Any]:
    said: dict[str, Any] = orjson.loads(definition)
    return said


def bases_of(definition: str) -> list[str]:
    """The resource types that a stored definition is about."""
    bases: list[str] = _said(definition)["bases"]
    if any(base in ABSTRACT for base in bases):
        return sorted(definitions().resource_types - set(APART))
    return bases


def row_names(parameter: SearchParameter) -> list[str]:
    """What the search rows of a parameter are called."""
    components = [component_name(parameter.code, n) for n in range(len(parameter.components))]
    return [parameter.code, parameter.code + OF_TYPE, parameter.code + TEXT, *components]


# -- searching ------------------------------------------------------------------------------


async def with_parameters(
    database: Database, tenant_id: UUID, attempt: Callable[[], Awaitable[T]], *, sure: bool = False
) -> T:
    """Do a search by R4's and the tenant's parameters; again where they have just changed.

    With `sure` no parameter is unknown only because this process has not heard of it.
    """
    asked_at = time.monotonic()
    await _refreshed(database, tenant_id, asked_at - (0 if sure else FRESH_SECONDS))
    with catalog(lambda resource_type: parameters_of(tenant_id, resource_type)):
        try:
            return await attempt()
        except (UnsupportedParameter, ParametersChanged):
            if not await _refreshed(database, tenant_id, asked_at):
                raise
            return await attempt()


def with_parameters_on(connection: Connection, tenant_id: UUID, attempt: Callable[[], T]) -> T:
    """The same on a transaction that is open."""
    asked_at = time.monotonic()
    search_definitions.of_writer(connection, tenant_id)
    with catalog(lambda resource_type: parameters_of(tenant_id, resource_type)):
        try:
            return attempt()
        except UnsupportedParameter:
            if search_definitions.known(tenant_id).read_at > asked_at:
                raise
            search_definitions.read(connection, tenant_id)
            return attempt()


async def _refreshed(database: Database, tenant_id: UUID, since: float) -> bool:
    """Read the tenant's parameters unless they were read since then."""
    if search_definitions.known(tenant_id).read_at > since:
        return False
    await search_definitions.read_async(database, tenant_id)
    return True


# -- indexing -------------------------------------------------------------------------------


def indexing(connection: Connection, tenant_id: UUID) -> Indexing | None:
    """How the tenant's resources are indexed besides by R4's parameters."""
    return indexing_by(search_definitions.of_writer(connection, tenant_id))


def indexing_by(known: Known) -> Indexing | None:
    if not known.epoch:
        return None
    return Indexing(known.epoch, lambda resource_type: _plan(known.definitions, resource_type))


@lru_cache(2048)
def _plan(definitions_: tuple[Definition, ...], resource_type: str) -> Plan | None:
    own = _own(definitions_, resource_type)
    if not own:
        return None
    return planned([extractor_of(parameter, resource_type) for parameter in own.values()])


@lru_cache(4096)
def extractor_of(parameter: SearchParameter, resource_type: str) -> Extractor:
    return compiled(parameter, resource_type)


# -- defining -------------------------------------------------------------------------------


def read(resource: JsonObject) -> str | None:
    """What an active SearchParameter puts in force; None where it is nothing of its own.

    Raises Unprocessable for what cannot be indexed, with the reason, and TooCostly.
    """
    if resource.get("status") != "active":
        return None
    code, type_, expression = (resource.get(name, "") for name in ("code", "type", "expression"))
    bases = list(dict.fromkeys(resource.get("base", ())))
    if _is_r4s(resource, code, bases):
        return None
    if not _CODE.fullmatch(code):
        raise _refused("code", f"{code[:64]!r}; letters, digits and dashes after a letter")
    if type_ not in TYPES:
        raise _refused("type", f"{type_!r}; accepted: {', '.join(TYPES)}")
    if unknown := [base for base in bases if base not in ABSTRACT and not _is_indexed(base)]:
        raise _refused("base", f"{unknown[0]!r} is no type that can be searched")
    if not expression:
        raise _refused("expression", "is missing: there is nothing to index")
    if len(expression) > LONGEST_EXPRESSION:
        raise TooCostly(f"SearchParameter.expression: at most {LONGEST_EXPRESSION} characters")
    said = {
        "url": resource.get("url", ""),
        "code": code,
        "type": type_,
        "expression": expression,
        "bases": bases,
        "targets": sorted(set(resource.get("target", ()))),
        "components": _components(resource),
    }
    definition = orjson.dumps(said).decode()
    _check_compiles(definition)
    return definition


def _is_indexed(resource_type: str) -> bool:
    return resource_type in definitions().resource_types and resource_type not in APART


def _is_r4s(resource: JsonObject, code: str, bases: list[str]) -> bool:
    """Whether it is a parameter of R4, or narrows one: those are indexed as R4 says.

    Raises Unprocessable where it would give the code of one another meaning.
    """
    for base in bases:
        known = r4(base) if _is_indexed(base) else r4("Basic") if base in ABSTRACT else {}
        if code in known:
            url = known[code].url
            if url in (resource.get("url"), resource.get("derivedFrom")):
                return True
            raise _refused(
                "code",
                f"{base} has a search parameter {code!r} of R4 already ({url}); choose another "
                "code, or name that one as derivedFrom",
            )
    return False


def _components(resource: JsonObject) -> list[tuple[str, str, str]]:
    """The components of a composite, each by the R4 parameter that it is defined by."""
    if resource.get("type") != "composite":
        return []
    listed = resource.get("component", ())
    if not 2 <= len(listed) <= MAX_COMPONENTS:
        raise _refused("component", f"a composite has 2 to {MAX_COMPONENTS}")
    by_url = {one.url: one for type_ in definitions().resource_types for one in r4(type_).values()}
    found: list[tuple[str, str, str]] = []
    for component in listed:
        known = by_url.get(component.get("definition", ""))
        if known is None or known.type in ("composite", "special"):
            url = component.get("definition", "")
            raise _refused("component", f"{url[:128]!r} is no simple search parameter of R4")
        found.append((known.code, known.type, component.get("expression", "")))
    return found


def _check_compiles(definition: str) -> None:
    """Raises Unprocessable unless every base type has something to index."""
    parameter = parameter_of(Definition("", definition, BUILDING, 0, 0, 0, ""))
    is_about_all = any(base in ABSTRACT for base in _said(definition)["bases"])
    for base in bases_of(definition):
        try:
            extractor = extractor_of(parameter, base)
        except FhirPathError as error:
            raise _refused("expression", f"for {base}: {error}") from None
        except RecursionError:
            raise _refused("expression", "is nested too deeply") from None
        parts = [part for one in extractor.composites for part in one.components]
        if not (extractor.values or parts) or not all(part.values for part in parts):
            raise _refused(
                "expression",
                f"yields nothing for {base} that a parameter of type {parameter.type} can index",
            )
        if is_about_all:
            break


def _refused(element: str, why: str) -> Unprocessable:
    return Unprocessable(
        f"SearchParameter.{element}: {why}", expression=f"SearchParameter.{element}"
    )


def define(connection: Connection, tenant_id: UUID, changes: Mapping[str, str | None]) -> None:
    """Put definitions by id in force, or out of it (None), at the end of the caller's transaction.

    What they say was read with `read`. Raises Unprocessable where two would have one code.
    """
    known = search_definitions.read(connection, tenant_id).definitions
    live = {one.definition_id: one.definition for one in known if one.status != DROPPING}
    wanted = {id_: said for id_, said in changes.items() if live.get(id_) != said}
    if not wanted:
        return
    epoch = stored.lock(connection, tenant_id)
    for id_, said in wanted.items():
        before = live.pop(id_, None)
        if said is None:
            stored.drop(connection, tenant_id, id_, epoch)
            continue
        if before is not None:
            # What was indexed by another code, or of other types, goes.
            stored.discard(connection, tenant_id, f"{id_}/{epoch}", before, epoch)
        _check_free(said, live)
        live[id_] = said
        if len(live) > MAX_PARAMETERS:
            raise TooCostly(f"an organization has at most {MAX_PARAMETERS} search parameters")
        stored.build(connection, tenant_id, id_, said, epoch)


def rebuild(connection: Connection, tenant_id: UUID, definition_id: str) -> bool:
    """Build an index anew, or with EVERYTHING all of them. False: there is no such parameter."""
    known = search_definitions.read(connection, tenant_id).definitions
    found = {one.definition_id: one.definition for one in known if one.status != DROPPING}
    if definition_id == EVERYTHING:
        everything = {"url": "", "code": "", "type": "", "expression": "", "bases": ["Resource"],
                      "targets": [], "components": []}  # fmt: skip
        found[definition_id] = orjson.dumps(everything).decode()
    if definition_id not in found:
        return False
    epoch = stored.lock(connection, tenant_id)
    stored.build(connection, tenant_id, definition_id, found[definition_id], epoch)
    return True


def _check_free(definition: str, live: Mapping[str, str]) -> None:
    said = _said(definition)
    for id_, other in live.items():
        if id_ == EVERYTHING or _said(other)["code"] != said["code"]:
            continue
        if shared := sorted(set(bases_of(definition)) & set(bases_of(other))):
            raise _refused(
                "code", f"SearchParameter/{id_} defines {said['code']!r} of {shared[0]} already"
            )
