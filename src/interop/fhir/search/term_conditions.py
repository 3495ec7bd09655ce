"""From terms of a search to SQL. Each resource on the way is one that the caller may see.

A chain, a `_has` or a list that led over what is hidden would tell of it (security.md D2, D3): the
policy's condition stands at every hop, inside the query.
"""

from __future__ import annotations

from collections.abc import Callable

from interop.fhir.search.clauses import Clause
from interop.fhir.search.code_sets import CodeSets
from interop.fhir.search.conditions import Conditions
from interop.fhir.search.terms import AllOf, AnyOf, Chain, Compared, Listed, Not, Reverse, Term
from interop.fhir.visibility import Visibility
from storage.resource_search import SearchStatement

LIST_MEMBER = "item"


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

    def require(self, statement: SearchStatement, term: Term) -> None:
        """Have the statement find only what meets the term. Raises BadRequest."""
        statement.conditions.append(self.condition(statement, term))

    def condition(self, statement: SearchStatement, term: Term) -> str:
        """The term as a condition on the statement's row. Raises BadRequest."""
        match term:
            case Clause():
                own = statement.about(statement.resource_type, statement.alias, statement.id_column)
                self._of(own).add(term)
                return _all(own.conditions)
            case Compared():
                own = statement.about(statement.resource_type, statement.alias, statement.id_column)
                return self._of(own).compared(term.clause, term.operator)
            case Chain():
                return _any([self._chain(statement, term, *target) for target in term.targets])
            case Reverse():
                return self._reverse(statement, term)
            case Listed():
                return self._listed(statement, term)
            case AllOf(terms=terms):
                return _all([self.condition(statement, inner) for inner in terms])
            case AnyOf(terms=terms):
                return _any([self.condition(statement, inner) for inner in terms])
            case Not(term=inner):
                return f"NOT {self.condition(statement, inner)}"

    def _of(self, statement: SearchStatement) -> Conditions:
        return Conditions(statement, self._own_base, self._blind, self._code_sets, self._step)

    def _step(
        self, statement: SearchStatement, resource_type: str
    ) -> tuple[SearchStatement, list[str]]:
        other = self._other(statement, resource_type)
        return other, self._visible(other)

    def _chain(self, statement: SearchStatement, chain: Chain, target_type: str, term: Term) -> str:
        other = self._other(statement, target_type)
        conditions = [*self._visible(other), self.condition(other, term)]
        return statement.refers_to(chain.parameter.code, other, conditions)

    def _reverse(self, statement: SearchStatement, reverse: Reverse) -> str:
        other = self._other(statement, reverse.source_type)
        conditions = [*self._visible(other), self.condition(other, reverse.term)]
        return statement.referred_to_by(reverse.parameter.code, other, conditions)

    def _listed(self, statement: SearchStatement, listed: Listed) -> str:
        other = self._other(statement, "List")
        conditions = [*self._visible(other), other.ids(listed.list_ids)]
        return statement.referred_to_by(LIST_MEMBER, other, conditions)

    def _other(self, statement: SearchStatement, resource_type: str) -> SearchStatement:
        """Another resource of the same statement, under a name that no other has."""
        self._hops += 1
        return statement.about(resource_type, f"t{self._hops}")

    def _visible(self, other: SearchStatement) -> list[str]:
        condition = self._visibility.condition(other, self._visibility.shown(other.resource_type))
        return [] if condition is None else [condition]


def _all(conditions: list[str]) -> str:
    return conditions[0] if len(conditions) == 1 else f"({' AND '.join(conditions)})"


def _any(conditions: list[str]) -> str:
    return conditions[0] if len(conditions) == 1 else f"({' OR '.join(conditions)})"
