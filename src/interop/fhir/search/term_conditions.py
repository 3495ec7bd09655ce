"""From terms of a search to SQL. Each resource on the way is one that the caller may see.

A chain, a `_has` or a list that led over what is hidden would tell of it (security.md D2, D3): the
policy's condition stands at every hop, inside the query.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

from interop.fhir.definitions import definitions
from interop.fhir.search.catalog import used
from interop.fhir.search.clauses import Clause
from interop.fhir.search.code_sets import CodeSets
from interop.fhir.search.conditions import Conditions
from interop.fhir.search.extraction import extractors
from interop.fhir.search.terms import (
    AllOf,
    AnyOf,
    Chain,
    Compared,
    Linked,
    Listed,
    Member,
    Not,
    Reverse,
    Term,
    named,
)
from interop.fhir.visibility import Visibility
from storage.resource_search import Link, SearchStatement

LIST, LIST_MEMBER = "List", "item"
Steps = list[tuple[str, str]]


class TermConditions:
    """Makes conditions on the rows of statements. `own_base` is this tenant's FHIR base URL.

    `blind` makes of a number what stands for it where it is indexed blindly (see `sensitive`).
    """

    def __init__(
        self,
        visibility: Visibility,
        own_base: str,
        blind: Callable[[str], str] | None = None,
        code_sets: CodeSets | None = None,
    ) -> None:
        self._visibility = visibility
        self._own_base = own_base
        self._blind = blind
        self._code_sets = code_sets
        self._hops = 0
        # Where queries go that are made once for all rows of a statement.
        self._sets: Steps = []
        # Whether all that the present link is over so far is found by an index.
        self._is_sure = True

    def require(self, statement: SearchStatement, term: Term) -> None:
        """Have the statement find only what meets the term. Raises BadRequest."""
        for parameter in used(named(term)):
            statement.require_parameter(parameter.definition_id, parameter.epoch)
        self._sets = statement.sets
        if isinstance(term, AllOf):
            for inner in term.terms:
                self.require(statement, inner)
        elif isinstance(term, Linked):
            statement.links.append(self._link(statement, term))
        else:
            statement.conditions.append(self.condition(statement, term))

    def condition(self, statement: SearchStatement, term: Term, *, row_by_row: bool = False) -> str:
        """The term as a condition on the statement's row. Raises BadRequest.

        What it is met over is asked `row_by_row`, or looked for once for all rows.
        """

        def of(inner: Term) -> str:
            return self.condition(statement, inner, row_by_row=row_by_row)

        match term:
            case Clause():
                own = statement.about(statement.resource_type, statement.alias, statement.id_column)
                self._of(own).add(term)
                return _all(own.conditions)
            case Compared():
                own = statement.about(statement.resource_type, statement.alias, statement.id_column)
                return self._of(own).compared(term.clause, term.operator)
            case Member(owner_type=type_, owner_id=id_, parameters=parameters, is_owner=is_owner):
                itself = [statement.ids([id_])] if is_owner else []
                named = [statement.names(parameters, type_, id_)] if parameters else []
                return _any([*itself, *named])
            case AllOf(terms=terms):
                return _all([of(inner) for inner in terms])
            case AnyOf(terms=terms):
                return _any([of(inner) for inner in terms])
            case Not(term=inner):
                return f"NOT {of(inner)}"
        if row_by_row:
            return self._walk(statement, term)
        return f"{statement.alias}.resource_id IN (SELECT id FROM {self._sought(statement, term)})"

    def _of(self, statement: SearchStatement) -> Conditions:
        return Conditions(statement, self._own_base, self._blind, self._code_sets, self._step)

    def _step(
        self, statement: SearchStatement, resource_type: str
    ) -> tuple[SearchStatement, list[str]]:
        other = self._other(statement, resource_type)
        return other, self._visible(other)

    # -- row by row ---------------------------------------------------------------------

    def _walk(self, statement: SearchStatement, term: Linked) -> str:
        match term:
            case Chain(parameter=parameter, targets=targets):
                found: list[str] = []
                for type_, inner in targets:
                    other = self._other(statement, type_)
                    asked, is_there = self._asked(other, inner)
                    found.append(
                        statement.refers_to(parameter.code, other, asked, is_there=is_there)
                    )
                    if names_by_url(statement.resource_type, parameter.code, type_):
                        other = self._other(statement, type_)
                        asked, _ = self._asked(other, inner)
                        found.append(statement.refers_by_url(parameter.code, other, asked))
                return _any(found)
            case Reverse(source_type=type_, parameter=parameter, term=inner):
                other = self._other(statement, type_)
                asked, is_there = self._asked(other, inner)
                return statement.referred_to_by(parameter.code, other, asked, is_there=is_there)
            case Listed(list_ids=list_ids):
                other = self._other(statement, LIST)
                asked = [*self._visible(other), other.ids(list_ids)]
                return statement.referred_to_by(LIST_MEMBER, other, asked, is_there=False)

    def _asked(self, other: SearchStatement, term: Term) -> tuple[list[str], bool]:
        """The conditions on the other resource; whether they ask only for the id of what is there.

        What has search rows is there: they go with their resource.
        """
        visible = self._visible(other)
        condition = self.condition(other, term, row_by_row=True)
        lookup = other.lookups.get(condition)
        asked = lookup.probe if lookup else condition
        return [*visible, asked], not visible and (lookup is not None or isinstance(term, Linked))

    # -- from the far end ---------------------------------------------------------------

    def _link(self, statement: SearchStatement, term: Linked) -> Link:
        steps: Steps = []
        self._is_sure = True
        name = self._sought(statement, term, steps)
        is_sure = self._is_sure
        walk = self._walk(statement, term)
        self._sets = []
        whole = self.condition(statement, term)
        found = Link(name, tuple(steps), walk, tuple(self._sets), whole, is_sure)
        self._sets = statement.sets
        return found

    def _sought(self, statement: SearchStatement, term: Linked, steps: Steps | None = None) -> str:
        """Where the ids of the resources of the statement's type are that meet the term."""
        match term:
            case Chain(parameter=parameter, targets=targets):
                queries = []
                for type_, inner in targets:
                    met = self._met(statement, type_, inner, steps)
                    queries.append(statement.sources_of(parameter.code, type_, met))
                    if names_by_url(statement.resource_type, parameter.code, type_):
                        queries.append(statement.sources_by_url(parameter.code, type_, met))
            case Reverse(source_type=type_, parameter=parameter, term=inner):
                sources = self._met(statement, type_, inner, steps)
                queries = [statement.targets_of(parameter.code, type_, sources)]
            case Listed(list_ids=list_ids):
                other = self._other(statement, LIST)
                lists = other.all_ids([*self._visible(other), other.ids(list_ids)])
                self._is_sure = False
                queries = [statement.targets_of(LIST_MEMBER, LIST, self._named(lists, steps))]
        return self._named(" UNION ALL ".join(queries), steps)

    def _met(self, statement: SearchStatement, type_: str, term: Term, steps: Steps | None) -> str:
        """Where the ids of the visible resources of a type are that meet the term."""
        other = self._other(statement, type_)
        conditions = self._visible(other)
        # Whom the policy lets see all, an index serves; what it lets others see is planned for.
        self._is_sure &= not conditions
        if isinstance(term, Linked):
            sought = self._sought(other, term, steps)
            if isinstance(term, Chain) and not conditions:
                return sought  # what has references is there
            conditions.append(f"{other.alias}.resource_id IN (SELECT id FROM {sought})")
            return self._named(other.all_ids(conditions), steps)
        condition = self.condition(other, term)
        lookup = other.lookups.get(condition)
        if lookup is not None and not conditions:
            return self._named(lookup.ids, steps)  # so is what has values
        self._is_sure = False
        return self._named(other.all_ids([*conditions, condition]), steps)

    def _named(self, query: str, steps: Steps | None) -> str:
        """A query by a name, planned apart and made once: a step, or of the whole."""
        self._hops += 1
        name = f"l{self._hops}"
        (self._sets if steps is None else steps).append((name, query))
        return name

    def _other(self, statement: SearchStatement, resource_type: str) -> SearchStatement:
        """Another resource of the same statement, under a name that no other has."""
        self._hops += 1
        return statement.about(resource_type, f"t{self._hops}")

    def _visible(self, other: SearchStatement) -> list[str]:
        condition = self._visibility.condition(other, self._visibility.shown(other.resource_type))
        return [] if condition is None else [condition]


@cache
def names_by_url(resource_type: str, code: str, target_type: str) -> bool:
    """Whether a parameter names resources of the target type by their canonical URL."""
    of_target = definitions().search_parameters[target_type].get("url")
    return (
        of_target is not None
        and of_target.type == "uri"
        and any(
            source.value.stream.type in ("canonical", "uri")
            for extractor in extractors(resource_type)
            if extractor.parameter.code == code
            for source in extractor.values
        )
    )


def _all(conditions: list[str]) -> str:
    return conditions[0] if len(conditions) == 1 else f"({' AND '.join(conditions)})"


def _any(conditions: list[str]) -> str:
    return conditions[0] if len(conditions) == 1 else f"({' OR '.join(conditions)})"
