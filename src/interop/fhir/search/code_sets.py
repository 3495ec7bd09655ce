"""Codes that a search names by a value set or by a place in a hierarchy.

The token modifiers :in, :not-in, :above and :below (FHIR R4 search.html 3.1.1.4.11) become lists of
codes before the search is written as SQL, by the terminology that the caller may see.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cache

from interop.access import Caller
from interop.errors import BadRequest, TooCostly
from interop.fhir.fhirpath_compile import compile_expression
from interop.fhir.lens import Connection
from interop.fhir.search.clauses import Clause, split_values, unescape
from interop.fhir.search.terms import Term, leaves
from interop.fhir.terminology import NotExpandable, Terminology
from interop.fhir.terminology.value_set import value_set

MODIFIERS = ("in", "not-in", "above", "below")
# How many codes a search may look for; a value set of more is asked for by a smaller one.
MAX_CODES = 10_000

# System -> codes. Codes of one search value are alternatives.
CodeSet = Mapping[str, frozenset[str]]
CodeSets = Mapping[tuple[str, Clause], CodeSet]


def asks_for_code_sets(resource_type: str, terms: Iterable[Term]) -> bool:
    """Whether some clause of a search needs `resolved`."""
    return any(_needs_codes(clause) for term in terms for _, clause in leaves(resource_type, term))


def resolved(
    connection: Connection,
    caller: Caller,
    own_base: str,
    resource_type: str,
    terms: Sequence[Term],
) -> dict[tuple[str, Clause], CodeSet]:
    """The codes of each such clause, by the caller's terminology on their open transaction.

    Raises BadRequest for a value set or code system that is not known or has no end, and TooCostly.
    """
    # It reads stored definitions by a search, which needs this module.
    from interop.fhir.terminology.tenant import TenantSource, tenant_terminology

    known = tenant_terminology(connection, caller, own_base)
    stored = TenantSource(connection, caller, own_base)
    return {
        (type_, clause): _codes(known, stored, type_, clause)
        for term in terms
        for type_, clause in leaves(resource_type, term)
        if _needs_codes(clause)
    }


def _needs_codes(clause: Clause) -> bool:
    return clause.parameter.type == "token" and clause.modifier in MODIFIERS


def _codes(known: Terminology, stored: object, resource_type: str, clause: Clause) -> CodeSet:
    found: dict[str, set[str]] = {}
    for value in clause.values:
        if clause.modifier in ("in", "not-in"):
            pairs = _of_value_set(known, stored, unescape(value), clause)
        else:
            pairs = _of_hierarchy(known, resource_type, value, clause)
        for system, code in pairs:
            found.setdefault(system, set()).add(code)
    if sum(map(len, found.values())) > MAX_CODES:
        raise TooCostly(f"{clause.name} stands for more than {MAX_CODES} codes")
    return {system: frozenset(codes) for system, codes in sorted(found.items())}


def _of_value_set(
    known: Terminology, stored: object, url: str, clause: Clause
) -> list[tuple[str, str]]:
    """The members of a value set, by its canonical URL or as ValueSet/id of this server."""
    try:
        resource_type, slash, resource_id = url.partition("/")
        if resource_type == "ValueSet" and slash:
            definition = stored.by_id("ValueSet", resource_id)  # type: ignore[attr-defined]
            if definition is None:
                raise BadRequest(f"{clause.name}={url[:128]}: there is no such value set here")
            members = known.expand_definition(value_set(definition))
        else:
            members = known.expand(url)
    except NotExpandable as error:
        raise BadRequest(f"{clause.name}={url[:128]}: {error}") from None
    return [(member.system or "", member.code) for member in members]


def _of_hierarchy(
    known: Terminology, resource_type: str, value: str, clause: Clause
) -> list[tuple[str, str]]:
    parts = [unescape(part) for part in split_values(value, "|")]
    systems = (
        [parts[0]] if len(parts) == 2 else _systems(resource_type, clause.parameter.expression)
    )
    if len(parts) > 2 or not parts[-1] or not any(systems):
        raise BadRequest(f"{clause.name}={value[:128]!r}; expected <system>|<code>")
    pairs: list[tuple[str, str]] = []
    for system in systems:
        related = known.descendants if clause.modifier == "below" else known.ancestors
        codes = related(system, parts[-1])
        if codes is None:
            raise BadRequest(
                f"{clause.name}={value[:128]!r}: the code system {system[:128]!r} is not known, "
                "so neither is what lies above or below its codes"
            )
        pairs += [(system, code) for code in codes or {parts[-1]}]
    return pairs


@cache
def _systems(resource_type: str, expression: str) -> list[str]:
    """The code systems that a bare code of a parameter means, from its elements' bindings."""
    streams = compile_expression(expression, resource_type)
    found = {stream.element.code_system for stream in streams if stream.element}
    return sorted(system for system in found if system)
