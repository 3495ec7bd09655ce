"""What a search asks of a resource: clauses, chains, `_has`, lists, and filters over them.

FHIR R4 search.html 3.1.1.4.14 (chained parameters), 3.1.1.4.15 (_has), 3.1.1.4.16 (_list). A term
is read here and becomes SQL in `term_conditions`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from interop.errors import BadRequest, TooCostly, UnsupportedParameter
from interop.fhir.definitions import SearchParameter, definitions
from interop.fhir.search.clauses import (
    Clause,
    clause,
    hierarchy_of,
    known_parameter,
    split_values,
    unescape,
)
from interop.fhir.search.current_lists import criteria

HAS = "_has"
LIST = "_list"
FILTER = "_filter"
# From one resource to the next, in one parameter and in all of a search.
MAX_HOPS = 8
MAX_BRANCHES = 100
# Resources that are not in the read model (docs/audit.md).
APART = ("AuditEvent",)

Catalog = Callable[[str], Mapping[str, SearchParameter]]


@dataclass(frozen=True, slots=True)
class Chain:
    """`parameter.rest`: some resource that the parameter refers to meets the term of its type."""

    parameter: SearchParameter
    targets: tuple[tuple[str, Term], ...]


@dataclass(frozen=True, slots=True)
class Reverse:
    """`_has:Source:parameter:rest`: some source that refers to the resource meets the term."""

    source_type: str
    parameter: SearchParameter
    term: Term


@dataclass(frozen=True, slots=True)
class Listed:
    """`_list`: the resource is an entry of one of these Lists."""

    list_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Member:
    """The resource belongs to a compartment by one of the parameters, or is its owner itself."""

    owner_type: str
    owner_id: str
    parameters: tuple[str, ...]
    is_owner: bool


@dataclass(frozen=True, slots=True)
class AllOf:
    terms: tuple[Term, ...]


@dataclass(frozen=True, slots=True)
class AnyOf:
    terms: tuple[Term, ...]


@dataclass(frozen=True, slots=True)
class Not:
    term: Term


@dataclass(frozen=True, slots=True)
class Compared:
    """A clause of one value that rows meet otherwise: `eq`, `ne` and `ew` of texts, `po` of dates.

    `ne` is met by any row of another value (search_filter.html), unlike `:not`.
    """

    clause: Clause
    operator: str


# What is met over references.
Linked = Chain | Reverse | Listed
Term = Clause | Linked | Member | AllOf | AnyOf | Not | Compared


@dataclass(slots=True)
class Budget:
    """How much a search may still ask for: ways from one resource to others, over all its terms."""

    branches: int = MAX_BRANCHES
    reads: int = 20 * MAX_BRANCHES

    def take(self, name: str) -> None:
        """One more way. Raises TooCostly."""
        self.branches -= 1
        self._check(self.branches, name)

    def read(self, name: str) -> None:
        """One more reading of a name, for whatever type. Raises TooCostly."""
        self.reads -= 1
        self._check(self.reads, name)

    def _check(self, left: int, name: str) -> None:
        if left < 0:
            raise TooCostly(
                f"{name[:64]!r} follows references to too many types (at most {MAX_BRANCHES} in a "
                "search); name the type, as in subject:Patient.name"
            )


def term(
    resource_type: str, name: str, value: str, budget: Budget | None = None, hops: int = 0
) -> Term:
    """Read one parameter of a search. Raises BadRequest, UnsupportedParameter, TooCostly."""
    budget = budget or Budget()
    budget.read(name)
    if name.startswith(f"{HAS}:"):
        return _reverse(resource_type, name, value, budget, hops)
    first, dot, rest = name.partition(".")
    if dot:
        return follow(
            resource_type,
            first,
            lambda type_: term(type_, rest, value, budget, hops + 1),
            budget,
            hops,
        )
    if name == LIST:
        return _listed(resource_type, value)
    return clause(resource_type, name, value)


def follow(
    resource_type: str, name: str, make: Callable[[str], Term], budget: Budget, hops: int
) -> Term:
    """Go by `parameter[:Type]` to the types it refers to; `make` reads what is asked of each.

    Types for which that is no search are left out. Raises what the last refused it with.
    """
    if hops >= MAX_HOPS:
        raise TooCostly(f"a chain of more than {MAX_HOPS} references")
    code, colon, type_ = name.partition(":")
    parameter = known_parameter(resource_type, code, repr(name[:64]))
    if parameter.type != "reference":
        raise BadRequest(f"{name[:64]!r}: {code} of {resource_type} is not a reference")
    types = parameter.targets or tuple(sorted(definitions().resource_types))
    if colon:
        if type_ not in definitions().resource_types or type_ not in types:
            accepted = ", ".join(parameter.targets) or "any"
            raise BadRequest(f"{name[:64]!r}: accepted types: {accepted}")
        types = (type_,)
    found: list[tuple[str, Term]] = []
    refusal: BadRequest | None = None
    for target in types:
        try:
            if target in APART:
                raise apart(target)
            found.append((target, make(target)))
        except TooCostly:
            raise
        except BadRequest as error:
            refusal = error
            continue
        budget.take(name)
    if not found:
        raise refusal or BadRequest(f"{name[:64]!r} leads nowhere")
    return Chain(parameter, tuple(found))


def _reverse(resource_type: str, name: str, value: str, budget: Budget, hops: int) -> Term:
    parts = name.split(":", 3)
    if len(parts) != 4 or not all(parts):
        raise BadRequest(f"{name[:64]!r}; expected _has:<type>:<reference parameter>:<parameter>")
    _, source_type, code, rest = parts
    if source_type not in definitions().resource_types:
        raise BadRequest(f"{name[:64]!r} names an unknown resource type")
    if source_type in APART:
        raise apart(source_type)
    parameter = known_parameter(source_type, code, repr(name[:64]))
    if parameter.type != "reference":
        raise BadRequest(f"{name[:64]!r}: {code} of {source_type} is not a reference")
    if parameter.targets and resource_type not in parameter.targets:
        raise BadRequest(
            f"{name[:64]!r}: {code} of {source_type} refers to {', '.join(parameter.targets)}"
        )
    if hops >= MAX_HOPS:
        raise TooCostly(f"a chain of more than {MAX_HOPS} references")
    budget.take(name)
    return Reverse(source_type, parameter, term(source_type, rest, value, budget, hops + 1))


def _listed(resource_type: str, value: str) -> Term:
    names = tuple(unescape(one).removeprefix("List/") for one in split_values(value))
    if not all(names):
        raise BadRequest("_list has no value, or an empty one between commas")
    ids = tuple(name for name in names if not name.startswith("$"))
    kinds: list[Term] = [
        AllOf(tuple(clause(resource_type, *one) for one in criteria(resource_type, name)))
        for name in names
        if name.startswith("$")
    ]
    if ids:
        kinds.append(Listed(ids))
    return kinds[0] if len(kinds) == 1 else AnyOf(tuple(kinds))


def apart(resource_type: str) -> UnsupportedParameter:
    """The refusal of what is not in the read model."""
    return UnsupportedParameter(
        f"{resource_type} is kept apart and found by a search of its own only, not through others"
    )


# -- what a term speaks of ------------------------------------------------------------------


def leaves(resource_type: str, found: Term) -> Iterator[tuple[str, Clause]]:
    """Each clause of a term, with the type that it is about."""
    match found:
        case Clause():
            yield resource_type, found
        case Compared(clause=inner):
            yield resource_type, inner
        case Chain(targets=targets):
            for type_, inner in targets:
                yield from leaves(type_, inner)
        case Reverse(source_type=source_type, term=inner):
            yield from leaves(source_type, inner)
        case AllOf(terms=terms) | AnyOf(terms=terms):
            for inner in terms:
                yield from leaves(resource_type, inner)
        case Not(term=inner):
            yield from leaves(resource_type, inner)


def named(found: Term) -> Iterator[SearchParameter]:
    """Each parameter whose rows a term looks at."""
    match found:
        case Clause(parameter=parameter) | Compared(clause=Clause(parameter=parameter)):
            yield parameter
        case Chain(parameter=parameter, targets=targets):
            yield parameter
            for _, inner in targets:
                yield from named(inner)
        case Reverse(parameter=parameter, term=inner):
            yield parameter
            yield from named(inner)
        case AllOf(terms=terms) | AnyOf(terms=terms):
            for inner in terms:
                yield from named(inner)
        case Not(term=inner):
            yield from named(inner)


def touched(found: Term) -> Iterator[str]:
    """The types of the resources that a term looks at beside the one searched."""
    match found:
        case Clause(parameter=parameter, modifier="above" | "below") if (
            parameter.type == "reference"
        ):
            yield from (type_ for type_ in parameter.targets if hierarchy_of(type_))
        case Listed():
            yield "List"
        case Chain(targets=targets):
            for type_, inner in targets:
                yield type_
                yield from touched(inner)
        case Reverse(source_type=source_type, term=inner):
            yield source_type
            yield from touched(inner)
        case AllOf(terms=terms) | AnyOf(terms=terms):
            for inner in terms:
                yield from touched(inner)
        case Not(term=inner):
            yield from touched(inner)
