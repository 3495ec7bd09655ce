"""What a search asks of a resource: clauses, chains, `_has`, lists, and filters over them.

FHIR R4 search.html 3.1.1.4.14 (chained parameters), 3.1.1.4.15 (_has), 3.1.1.4.16 (_list). A term
is read here and becomes SQL in `term_conditions`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from interop.errors import BadRequest, TooCostly, UnsupportedParameter
from interop.fhir.definitions import SearchParameter, definitions
from interop.fhir.search.clauses import Clause, clause, known_parameter, split_values, unescape

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
class AllOf:
    terms: tuple[Term, ...]


@dataclass(frozen=True, slots=True)
class AnyOf:
    terms: tuple[Term, ...]


@dataclass(frozen=True, slots=True)
class Not:
    term: Term


Term = Clause | Chain | Reverse | Listed | AllOf | AnyOf | Not


@dataclass(slots=True)
class Budget:
    """How much a search may still ask for: ways from one resource to others, over all its terms."""

    branches: int = MAX_BRANCHES
    reads: int = field(default=20 * MAX_BRANCHES)

    def take(self, name: str) -> None:
        """Raises TooCostly."""
        self.branches -= 1
        if self.branches < 0:
            raise TooCostly(
                f"{name[:64]!r} follows references to too many types (at most {MAX_BRANCHES} in a "
                "search); name the type, as in subject:Patient.name"
            )


def term(
    resource_type: str, name: str, value: str, budget: Budget | None = None, hops: int = 0
) -> Term:
    """Read one parameter of a search. Raises BadRequest, UnsupportedParameter, TooCostly."""
    budget = budget or Budget()
    if hops > MAX_HOPS:
        raise TooCostly(f"a chain of more than {MAX_HOPS} references")
    budget.reads -= 1
    if budget.reads < 0:
        budget.branches = 0
        budget.take(name)
    if name.startswith(f"{HAS}:"):
        return _reverse(resource_type, name, value, budget, hops)
    first, dot, rest = name.partition(".")
    if dot:
        return _chain(resource_type, (first, rest), value, budget, hops)
    if name == LIST:
        return _listed(value)
    return clause(resource_type, name, value)


def _chain(
    resource_type: str, name: tuple[str, str], value: str, budget: Budget, hops: int
) -> Term:
    first, rest = name
    code, colon, type_ = first.partition(":")
    parameter = known_parameter(resource_type, code, repr(f"{first}.{rest}"[:64]))
    if parameter.type != "reference":
        raise BadRequest(f"{first[:64]}.{rest[:64]}: {code} of {resource_type} is not a reference")
    types = parameter.targets or tuple(sorted(definitions().resource_types))
    if colon:
        if type_ not in definitions().resource_types or (
            parameter.targets and type_ not in parameter.targets
        ):
            raise BadRequest(
                f"{first[:64]}: accepted types: {', '.join(parameter.targets) or 'any'}"
            )
        types = (type_,)
    return Chain(parameter, _targets(types, rest, value, budget, hops))


def _targets(
    types: tuple[str, ...], rest: str, value: str, budget: Budget, hops: int
) -> tuple[tuple[str, Term], ...]:
    """The types for which the rest of a chain is a search. Raises what the last refused it with."""
    found: list[tuple[str, Term]] = []
    refusal: BadRequest | None = None
    for type_ in types:
        if type_ in APART:
            refusal = refusal or apart(type_)
            continue
        try:
            found.append((type_, term(type_, rest, value, budget, hops + 1)))
        except TooCostly:
            raise
        except BadRequest as error:
            refusal = error
            continue
        budget.take(rest)
    if not found:
        raise refusal or BadRequest(f"{rest[:64]!r} leads nowhere")
    return tuple(found)


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
    budget.take(name)
    return Reverse(source_type, parameter, term(source_type, rest, value, budget, hops + 1))


def _listed(value: str) -> Term:
    ids = tuple(unescape(one).removeprefix("List/") for one in split_values(value))
    if any(one.startswith("$") for one in ids):
        raise UnsupportedParameter(
            f"_list={value[:64]}: functional lists are not supported; accepted: the id of a List"
        )
    if not all(ids):
        raise BadRequest("_list has no value, or an empty one between commas")
    return Listed(ids)


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


def touched(found: Term) -> Iterator[str]:
    """The types of the resources that a term looks at beside the one searched."""
    match found:
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
