"""What a caller may see and write, as conditions of FHIR queries: the policy's filters in SQL.

`interop.access.policy` decides; here its filters become conditions on resources and their search
rows, inside the query and before its limit. A version that is not current, and one about to be
written, is judged by its own content with the very same condition (security.md D5).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from uuid import UUID

from interop.access import Caller, Filter, Way, decide
from interop.access.compartments import patient_parameters
from interop.errors import ServerError
from interop.fhir import json
from interop.fhir.lens import Connection, JsonObject
from interop.fhir.search.catalog import catalog, r4
from interop.fhir.search.clauses import clause
from interop.fhir.search.conditions import Conditions
from interop.fhir.search.extraction import extract
from storage import resource_visibility as visibility
from storage.database import Database
from storage.resource_search import SearchStatement
from storage.resource_visibility import Candidate
from storage.resources import Version

NOTHING = "false"
ReadConditions = tuple[tuple[str, str | None], list[str]]
# Text and values follow from the filter alone, and the next request mostly brings the same one.
REMEMBERED_READS = 4096
_READS: dict[tuple[str, Filter], ReadConditions] = {}


class Visibility:
    """What one caller may see. `own_base` is the tenant's FHIR base URL."""

    def __init__(self, caller: Caller, own_base: str) -> None:
        self.caller = caller
        self._own_base = own_base

    def shown(self, resource_type: str) -> Filter:
        """What may come along with a search: what may be read or searched itself."""
        read = decide(self.caller, "r", resource_type).filter
        return read.or_(decide(self.caller, "s", resource_type).filter)

    def condition(self, statement: SearchStatement, filter_: Filter) -> str | None:
        """The filter as a condition on the statement's row; None where it admits all."""
        if filter_.is_whole_tenant:
            return None
        ways = [self._way(statement, way) for way in filter_.ways]
        return f"({' OR '.join(ways)})" if ways else NOTHING

    def restrict(self, statement: SearchStatement, filter_: Filter) -> None:
        """Have the statement find only what the filter admits."""
        condition = self.condition(statement, filter_)
        if condition is not None:
            statement.conditions.append(condition)

    def included(self, statement: SearchStatement, types: Iterable[str]) -> dict[str, str]:
        """The conditions on the row `i` for those types of which not everything may be shown."""
        found: dict[str, str] = {}
        for type_ in sorted(set(types)):
            condition = self.condition(statement.about(type_, "i"), self.shown(type_))
            if condition is not None:
                found[type_] = condition
        return found

    def of_read(self, resource_type: str, filter_: Filter) -> ReadConditions:
        """The condition of a read, what holds where only a consent is missing, and the values."""
        if any(way.constraints for way in filter_.ways):
            # A search value may mean another moment each time it is read (ap).
            return self._of_read(resource_type, filter_)
        key = (resource_type, filter_)
        known = _READS.get(key)
        if known is None:
            if len(_READS) >= REMEMBERED_READS:
                _READS.clear()
            known = _READS[key] = self._of_read(resource_type, filter_)
        return known

    def _of_read(self, resource_type: str, filter_: Filter) -> ReadConditions:
        statement = SearchStatement(resource_type)
        condition = self.condition(statement, filter_) or "true"
        but_for_consent = None
        if filter_.asks_consent:
            but_for_consent = self.condition(statement, filter_.without_consent()) or "true"
        return (condition, but_for_consent), statement.values

    # -- versions -----------------------------------------------------------------------

    def judging(self, resource_type: str, filter_: Filter) -> tuple[str, list[str]]:
        """The query that names those candidates which the filter admits, and its values."""
        statement = SearchStatement(resource_type, id_column="r.own_id")
        condition = self.condition(statement, filter_) or "true"
        return visibility.judging(statement, condition), statement.values

    def candidate(
        self, name: str, resource: JsonObject, row_id: UUID | None, moment: datetime
    ) -> Candidate:
        """A version as its own content says whose it is."""
        rows = extract(resource, self._own_base).as_json()
        return Candidate(name, str(resource.get("id", "")), row_id, moment, rows)

    async def visible_versions(
        self,
        database: Database,
        resource_type: str,
        filter_: Filter,
        row_id: UUID | None,
        versions: Sequence[Version],
    ) -> set[int]:
        """The numbers of those versions with a body that the filter admits."""
        candidates = [
            self.candidate(
                str(version.version),
                json.loads(version.body.encode()),
                row_id,
                version.last_updated,
            )
            for version in versions
            if version.body is not None
        ]
        if not candidates:
            return set()
        query, values = self.judging(resource_type, filter_)
        tenant_id = self.caller.tenant.id
        named = await visibility.judge_async(database, tenant_id, query, values, candidates)
        return {int(name) for name in named}

    def admits(
        self,
        connection: Connection,
        filter_: Filter,
        resource: JsonObject,
        row_id: UUID | None,
    ) -> bool:
        """Whether a resource is within the filter, judged by its content, stored or not."""
        if filter_.is_whole_tenant:
            return True
        candidate = self.candidate("1", resource, row_id, datetime.now(UTC))
        query, values = self.judging(str(resource["resourceType"]), filter_)
        tenant_id = self.caller.tenant.id
        return bool(visibility.judge(connection, tenant_id, query, values, [candidate]))

    # -- one way in ---------------------------------------------------------------------

    def _way(self, statement: SearchStatement, way: Way) -> str:
        """All that a way requires; what cannot be understood admits nothing."""
        try:
            parts = self._constraints(statement, way)
        except ServerError:
            return NOTHING
        parameters = patient_parameters(statement.resource_type)
        speaks_of_patients = way.patient_id or way.units is not None or way.consent
        if speaks_of_patients and not parameters:
            return NOTHING
        if way.patient_id is not None:
            parts.append(visibility.belongs_to(statement, parameters, way.patient_id))
        if (units := way.units) is not None:
            condition = visibility.in_units(
                statement, units.location_ids, units.team_ids, units.user_id, units.patient_id
            )
            parts.append(visibility.belongs_to_patients(statement, parameters, condition))
        if way.consent is not None:
            parts.append(visibility.all_have_given(statement, parameters, way.consent))
        return f"({' AND '.join(parts)})" if parts else "true"

    def _constraints(self, statement: SearchStatement, way: Way) -> list[str]:
        """The search parameters of a scope. Raises ServerError for what is no search."""
        own = statement.about(statement.resource_type, statement.alias, statement.id_column)
        conditions = Conditions(own, self._own_base)
        # A scope must not come to mean something else by what a tenant defines.
        with catalog(r4):
            for name, value in way.constraints:
                conditions.add(clause(statement.resource_type, name, value))
        return own.conditions
