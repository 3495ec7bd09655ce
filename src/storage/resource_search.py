"""SQL of a FHIR search: conditions on resources and their search rows.

Every value of the client is bound, never written into the text. Conditions keep to operators that
PostgreSQL holds for leakproof (equality, ranges in COLLATE "C", float8, timestamptz, = ANY), since
under row-level security no other may use an index (reliability.md M11); what is not (distance,
position in a text) only filters rows that such a condition has already found.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime

# A condition on the search row of this alias.
RowCondition = Callable[[str], str]

LAST_CHARACTER = "\U0010ffff"
EARTH_RADIUS_KM = 6371.0088

# How far what a link leads to is counted before it is looked for in another way. Each costs some 20
# microseconds to look up; and where more are met among a million, a page of ten is full after seven
# thousand at the most, each asked in about as long.
LINKED = 1500


# Of more values than these the planner is asked how to find any.
MOST_VALUES = 10


@dataclass(frozen=True, slots=True)
class ByIndex:
    """A condition on a search row that an index finds, with `{s}` for the alias of the row.

    `values` are its alternatives, each with the index to itself. `in_order`: what one of them finds
    comes in the order of ids.
    """

    text: str
    values: tuple[str, ...]
    in_order: bool = True

    def __call__(self, alias: str) -> str:
        return self.text.replace("{s}", alias)


@dataclass(frozen=True, slots=True)
class Lookup:
    """A condition on a resource that some index answers, whatever its values: no planner is needed.

    `ids` is the query for the `id`s of what meets it, maybe more than once; `probe` asks one row.
    """

    ids: str
    probe: str
    in_order: bool


@dataclass(frozen=True, slots=True)
class Link:
    """Resources that are met over references: told as steps from the far end, and from the row.

    `steps` are queries for an `id`, each over those before by name; the last, `name`, has the ids
    of the resources sought. `walk` asks one row; `whole` asks for all, over queries of its own.
    `is_sure`: every step goes by an index that was chosen with the statement.
    """

    name: str
    steps: tuple[tuple[str, str], ...]
    walk: str
    whole_steps: tuple[tuple[str, str], ...]
    whole: str
    is_sure: bool = False


def array_text(values: Iterable[str]) -> str:
    """A list as PostgreSQL reads an array from text."""
    quoted = (value.replace("\\", "\\\\").replace('"', '\\"') for value in values)
    return "{" + ",".join(f'"{value}"' for value in quoted) + "}"


@dataclass(slots=True)
class SearchStatement:
    """A search over one resource type, put together condition by condition.

    Type and parameter names come from the R4 definitions, never from a request's text.
    """

    resource_type: str
    values: list[str] = field(default_factory=list)
    conditions: list[str] = field(default_factory=list)
    links: list[Link] = field(default_factory=list)
    # Queries by name that the conditions need, made once.
    sets: list[tuple[str, str]] = field(default_factory=list)
    # Those of the conditions, here and about other rows, that an index answers by itself.
    lookups: dict[str, Lookup] = field(default_factory=dict)
    # The row of the resource, and the expression of its id.
    alias: str = "r"
    id_column: str = "r.resource_id"

    def about(
        self, resource_type: str, alias: str, id_column: str | None = None
    ) -> SearchStatement:
        """Conditions on another row of the same statement, whose values are bound with ours."""
        column = id_column or f"{alias}.resource_id"
        return SearchStatement(
            resource_type, self.values, lookups=self.lookups, alias=alias, id_column=column
        )

    def bind(self, value: object, type_: str = "text") -> str:
        """A place holder for a value of the client."""
        text = value.isoformat() if isinstance(value, datetime) else str(value)
        self.values.append(text)
        place = f"($2)[{len(self.values)}]"
        return place if type_ == "text" else f"{place}::{type_}"

    def bind_all(self, values: Iterable[object]) -> str:
        """Place holders for a list, as an array of text."""
        return f"ARRAY[{', '.join(self.bind(value) for value in values)}]"

    # -- conditions on the resource -----------------------------------------------------

    def exists(self, table: str, parameter: str, condition: RowCondition | None) -> str:
        """Some row of the parameter meets the condition; any row at all without one."""
        found = self.exists_together([(table, parameter, condition)])
        if isinstance(condition, ByIndex) and len(condition.values) <= MOST_VALUES:
            self.lookups[found] = self._lookup(table, parameter, condition, found)
        return found

    def _lookup(self, table: str, parameter: str, condition: ByIndex, exists: str) -> Lookup:
        order = " ORDER BY s.resource_id" if condition.in_order else ""
        each = [
            f"SELECT s.resource_id AS id FROM fhir_search_{table} AS s WHERE s.tenant_id = $1"
            f" AND s.resource_type = '{self.resource_type}' AND s.parameter = '{parameter}'"
            f" AND {value.replace('{s}', 's')}{order}"
            for value in condition.values
        ]
        ids = each[0] if len(each) == 1 else " UNION ALL ".join(f"({one})" for one in each)
        # OFFSET keeps it a question to one row, whatever the planner thinks of the values.
        return Lookup(ids, f"{exists[:-1]} OFFSET 0)", condition.in_order)

    def exists_together(self, rows: Sequence[tuple[str, str, RowCondition | None]]) -> str:
        """Rows of one cluster, one of each (table, parameter, condition): a composite's parts."""
        tables: list[str] = []
        wheres: list[str] = []
        for index, (table, parameter, condition) in enumerate(rows):
            alias = f"s{index}"
            tables.append(f"fhir_search_{table} AS {alias}")
            wheres += [
                f"{alias}.tenant_id = $1",
                f"{alias}.resource_type = '{self.resource_type}'",
                f"{alias}.parameter = '{parameter}'",
                f"{alias}.resource_id = {self.alias}.resource_id",
            ]
            if index:
                wheres.append(f"{alias}.cluster = s0.cluster")
            if condition is not None:
                wheres.append(f"({condition(alias)})")
        return f"EXISTS (SELECT FROM {', '.join(tables)} WHERE {' AND '.join(wheres)})"

    def names(self, parameters: Sequence[str], target_type: str, target_id: str) -> str:
        """By one of the parameters the resource names this one."""
        listed = ", ".join(f"'{parameter}'" for parameter in parameters)
        return (
            "EXISTS (SELECT FROM fhir_search_reference AS c WHERE c.tenant_id = $1"
            f" AND c.resource_type = '{self.resource_type}' AND c.parameter IN ({listed})"
            f" AND c.target_type = '{target_type}' AND c.target_id = {self.bind(target_id)}"
            f" AND c.resource_id = {self.alias}.resource_id)"
        )

    # -- over references ----------------------------------------------------------------

    def refers_to(
        self, parameter: str, other: SearchStatement, conditions: Sequence[str], *, is_there: bool
    ) -> str:
        """By the parameter it names some `other` resource that meets the conditions.

        `is_there`: only what is there meets them, and they ask its id alone.
        """
        return self._met(parameter, self, other, other, conditions, is_there)

    def referred_to_by(
        self, parameter: str, other: SearchStatement, conditions: Sequence[str], *, is_there: bool
    ) -> str:
        """Some `other` resource that meets the conditions names it by the parameter."""
        return self._met(parameter, other, self, other, conditions, is_there)

    @staticmethod
    def _met(
        parameter: str,
        source: SearchStatement,
        target: SearchStatement,
        other: SearchStatement,
        conditions: Sequence[str],
        is_there: bool,
    ) -> str:
        row = f"h{other.alias}"
        wheres = [
            f"{row}.tenant_id = $1",
            f"{row}.resource_type = '{source.resource_type}'",
            f"{row}.parameter = '{parameter}'",
            f"{row}.target_type = '{target.resource_type}'",
        ]
        if other is target:
            wheres.append(f"{row}.resource_id = {source.alias}.resource_id")
            met = f"{row}.target_id"
        else:
            wheres.append(f"{row}.target_id = {target.alias}.resource_id")
            met = f"{row}.resource_id"
        # OFFSET keeps each reference a plan of its own, asked row by row, and the reference before
        # what it leads to: taken apart and joined, six of them kept the planner busy for ten
        # seconds, and a chain of seven was asked for nine to the seventh.
        references = (
            f"(SELECT {met} AS resource_id FROM fhir_search_reference AS {row}"
            f" WHERE {' AND '.join(wheres)} OFFSET 0) AS {other.alias if is_there else row}"
        )
        if not is_there:
            alive = [*other.living(), f"{other.alias}.resource_id = {row}.resource_id"]
            references += (
                f" CROSS JOIN LATERAL (SELECT * FROM fhir_resources AS {other.alias}"
                f" WHERE {' AND '.join(alive)} OFFSET 0) AS {other.alias}"
            )
        return f"EXISTS (SELECT FROM {references} WHERE {' AND '.join(conditions)} OFFSET 0)"

    def refers_by_url(
        self, parameter: str, other: SearchStatement, conditions: Sequence[str]
    ) -> str:
        """By a canonical URL it names some `other` resource that meets the conditions."""
        row = f"h{other.alias}"
        wheres = [
            *self._by_url(row, parameter, other.resource_type),
            f"{row}.resource_id = {self.alias}.resource_id",
            f"u.resource_id = {other.alias}.resource_id",
            *other.living(),
            *conditions,
        ]
        return (
            f"EXISTS (SELECT FROM fhir_search_reference AS {row}, fhir_search_uri AS u,"
            f" fhir_resources AS {other.alias} WHERE {' AND '.join(wheres)} OFFSET 0)"
        )

    def sources_by_url(self, parameter: str, target_type: str, targets: str) -> str:
        """The query for the ids of its type's resources that name some of `targets` by URL."""
        wheres = self._by_url("h", parameter, target_type)
        return (
            "SELECT h.resource_id AS id FROM fhir_search_reference AS h, fhir_search_uri AS u"
            f" WHERE {' AND '.join(wheres)} AND u.resource_id IN (SELECT id FROM {targets})"
        )

    def _by_url(self, row: str, parameter: str, target_type: str) -> list[str]:
        """A reference of the row is the URL `u` of a resource, in its version if it says one."""
        return [
            f"{row}.tenant_id = $1",
            f"{row}.resource_type = '{self.resource_type}'",
            f"{row}.parameter = '{parameter}'",
            f"{row}.target_url <> ''",
            "u.tenant_id = $1",
            f"u.resource_type = '{target_type}'",
            "u.parameter = 'url'",
            f"u.value = {row}.target_url",
            f"({row}.target_version = '' OR EXISTS (SELECT FROM fhir_search_token AS v"
            f" WHERE v.tenant_id = $1 AND v.resource_type = '{target_type}'"
            " AND v.resource_id = u.resource_id AND v.parameter = 'version'"
            f" AND v.code = {row}.target_version))",
        ]

    def living(self) -> list[str]:
        """The row is one of the type's current resources."""
        alias = self.alias
        return [
            f"{alias}.tenant_id = $1",
            f"{alias}.resource_type = '{self.resource_type}'",
            f"NOT {alias}.deleted",
            f"{alias}.version > 0",
        ]

    def all_ids(self, conditions: Sequence[str]) -> str:
        """The query for the ids of all resources of the type that meet the conditions."""
        return (
            f"SELECT {self.alias}.resource_id AS id FROM fhir_resources AS {self.alias}"
            f" WHERE {' AND '.join([*self.living(), *conditions])}"
        )

    def sources_of(self, parameter: str, target_type: str, targets: str) -> str:
        """The query for the ids of its type's resources that name some of `targets`, a query."""
        return (
            "SELECT h.resource_id AS id FROM fhir_search_reference AS h WHERE h.tenant_id = $1"
            f" AND h.resource_type = '{self.resource_type}' AND h.parameter = '{parameter}'"
            f" AND h.target_type = '{target_type}' AND h.target_id IN (SELECT id FROM {targets})"
        )

    def targets_of(self, parameter: str, source_type: str, sources: str) -> str:
        """The query for the ids of its type's resources that some of `sources`, a query, name."""
        return (
            "SELECT h.target_id AS id FROM fhir_search_reference AS h WHERE h.tenant_id = $1"
            f" AND h.resource_type = '{source_type}' AND h.parameter = '{parameter}'"
            f" AND h.target_type = '{self.resource_type}'"
            f" AND h.resource_id IN (SELECT id FROM {sources})"
        )

    def require_parameter(self, definition_id: str, epoch: int) -> None:
        """Fail unless the index of a tenant's own parameter is whole, and of this epoch."""
        definition, at = self.bind(definition_id), self.bind(epoch, "bigint")
        self.conditions.append(f"(SELECT fhir_require_parameter($1, {definition}, {at}))")

    def ids(self, resource_ids: Sequence[str]) -> str:
        return f"{self.id_column} = ANY ({self.bind_all(resource_ids)})"

    def last_updated(self, comparison: str, low: datetime, high: datetime) -> str:
        """A version's time is one moment: [low, high) is the search value's interval."""
        start, end = self.bind(low, "timestamptz"), self.bind(high, "timestamptz")
        time = f"{self.alias}.last_updated"
        within = f"({time} >= {start} AND {time} < {end})"
        return {
            "eq": within,
            "ap": within,
            "ne": f"NOT {within}",
            "gt": f"{time} >= {end}",
            "sa": f"{time} >= {end}",
            "ge": f"{time} >= {start}",
            "lt": f"{time} < {start}",
            "eb": f"{time} < {start}",
            "le": f"{time} < {end}",
        }[comparison]

    def contains_grams(self, grams: Iterable[str]) -> list[str]:
        """The resource has each of these runs of characters in some text."""
        return [
            "EXISTS (SELECT FROM fhir_search_gram AS g WHERE g.tenant_id = $1"
            f" AND g.resource_type = '{self.resource_type}' AND g.gram = {self.bind(gram)}"
            f" AND g.resource_id = {self.alias}.resource_id)"
            for gram in sorted(grams)
        ]

    def has_words(self, condition: RowCondition) -> str:
        """The row of the resource's text meets a condition made of `words`."""
        return (
            "EXISTS (SELECT FROM fhir_search_text AS w WHERE w.tenant_id = $1"
            f" AND w.resource_type = '{self.resource_type}'"
            f" AND w.resource_id = {self.alias}.resource_id AND ({condition('w')}))"
        )

    def words(self, column: str, text: str, *, is_prefix: bool) -> RowCondition:
        part = self.bind(f" {text}" if is_prefix else f" {text} ")
        return lambda w: f"strpos({w}.{column}, {part}) > 0"

    # -- conditions on a search row -----------------------------------------------------

    def token(self, system: str | None, code: str | None) -> RowCondition:
        """None means any."""
        parts: list[str] = []
        if code is not None:
            parts.append(f"{{s}}.code = {self.bind(code)}")
        if system is not None:
            parts.append(f"{{s}}.system = {self.bind(system)}")
        text = " AND ".join(parts)
        if code is None:
            return lambda s: text.replace("{s}", s)
        return ByIndex(text, (text,))

    def codes(self, codes: Sequence[str]) -> RowCondition:
        places = [self.bind(code) for code in codes]
        each = tuple(f"{{s}}.code = {place}" for place in places)
        return ByIndex(f"{{s}}.code = ANY (ARRAY[{', '.join(places)}])", each)

    def codes_of(self, system: str, codes: Iterable[str]) -> RowCondition:
        """One of many codes of a system; they are bound as one value."""
        listed, space = self.bind(array_text(codes), "text[]"), self.bind(system)
        return lambda s: f"{s}.code = ANY ({listed}) AND {s}.system = {space}"

    def text_prefix(self, prefix: str) -> RowCondition:
        low, high = self.bind(prefix), self.bind(prefix + LAST_CHARACTER)
        text = f"{{s}}.value >= {low} AND {{s}}.value < {high}"
        return ByIndex(text, (text,), in_order=False)

    def text_word(self, folded: str) -> RowCondition:
        """It begins a text or a word of it; the second only filters the rows of the parameter."""
        of_text, word = self.text_prefix(folded), self.bind(f" {folded}")
        return lambda s: f"({of_text(s)} OR strpos({s}.value, {word}) > 0)"

    def text_exact(self, indexed: str, exact: str) -> RowCondition:
        text = f"{{s}}.value = {self.bind(indexed)} AND {{s}}.value_exact = {self.bind(exact)}"
        return ByIndex(text, (text,))

    def text(self, folded: str) -> RowCondition:
        value = self.bind(folded)
        return lambda s: f"{s}.value = {value}"

    def text_end(self, folded: str) -> RowCondition:
        part = self.bind(folded)
        return lambda s: f"right({s}.value, {len(folded)}) = {part}"

    def text_contains(self, folded: str) -> RowCondition:
        part = self.bind(folded)
        return lambda s: f"strpos({s}.value, {part}) > 0"

    def uri(self, uri: str) -> RowCondition:
        text = f"{{s}}.value = {self.bind(uri)}"
        return ByIndex(text, (text,))

    def uris(self, uris: Sequence[str]) -> RowCondition:
        array = self.bind_all(uris)
        return lambda s: f"{s}.value = ANY ({array})"

    def reference_to(self, resource_id: str, types: Sequence[str]) -> RowCondition:
        """A resource of this server, of one of `types` where any are given."""
        text = f"{{s}}.target_id = {self.bind(resource_id)}"
        if types:
            text += f" AND {{s}}.target_type = ANY ({self.bind_all(types)})"
        return ByIndex(text, (text,))

    def reference_url(self, url: str, version: str | None) -> RowCondition:
        target = self.bind(url)
        of_version = self.bind(version) if version else None
        return lambda s: (
            f"{s}.target_url = {target} AND {s}.target_url <> ''"
            + (f" AND {s}.target_version = {of_version}" if of_version else "")
        )

    def reference_version_below(self, url: str, version: str) -> RowCondition:
        """A version of a canonical, or one that continues it after a dot or a dash."""
        target, exact = self.bind(url), self.bind(version)
        # The characters after "-" and "." in COLLATE "C" are "." and "/".
        dashed, dotted, end = (self.bind(version + sign) for sign in "-./")
        return lambda s: (
            f"{s}.target_url = {target} AND {s}.target_url <> '' AND ({s}.target_version = {exact}"
            f" OR {s}.target_version >= {dashed} AND {s}.target_version < {dotted}"
            f" OR {s}.target_version >= {dotted} AND {s}.target_version < {end})"
        )

    def reference_within(
        self,
        other: SearchStatement,
        parent: str,
        resource_id: str,
        visible: Sequence[str],
        *,
        upwards: bool,
    ) -> RowCondition:
        """The resource, or one below it (above it) by the parameter `parent` of its own type.

        Each step is over a resource of `other` that meets `visible`. UNION ends at a cycle.
        """
        root = self.bind(resource_id)
        known, next_ = ("resource_id", "target_id") if upwards else ("target_id", "resource_id")
        type_, row = other.resource_type, other.alias
        step = " AND ".join(
            [
                f"{row}.tenant_id = $1",
                f"{row}.resource_type = '{type_}'",
                f"{row}.resource_id = h.resource_id",
                f"NOT {row}.deleted",
                *visible,
            ]
        )
        related = (
            f'WITH RECURSIVE related(id) AS (SELECT {root} COLLATE "C"'
            f" UNION SELECT h.{next_} FROM related"
            " JOIN fhir_search_reference AS h ON h.tenant_id = $1"
            f" AND h.resource_type = '{type_}' AND h.parameter = '{parent}'"
            f" AND h.target_type = '{type_}' AND h.target_id <> '' AND h.{known} = related.id"
            f" JOIN fhir_resources AS {row} ON {step}) SELECT id FROM related"
        )
        return lambda s: f"{s}.target_type = '{type_}' AND {s}.target_id IN ({related})"

    def reference_identifier(self, system: str | None, value: str | None) -> RowCondition:
        code = None if value is None else self.bind(value)
        space = None if system is None else self.bind(system)
        return lambda s: " AND ".join(
            [f"{s}.identifier_value <> ''"]
            + ([f"{s}.identifier_value = {code}"] if code else [])
            + ([f"{s}.identifier_system = {space}"] if space else [])
        )

    def date(self, comparison: str, low: datetime, high: datetime) -> RowCondition:
        """search.html 3.1.1.4.3 on intervals: the row's is [low, high), so is the value's."""
        start, end = self.bind(low, "timestamptz"), self.bind(high, "timestamptz")
        return lambda s: {
            # That low lies before the end follows; said so, the planner knows how few rows match.
            "eq": f"{s}.low >= {start} AND {s}.low < {end} AND {s}.high <= {end}",
            "ne": f"NOT ({s}.low >= {start} AND {s}.high <= {end})",
            "gt": f"{s}.high > {end}",
            "lt": f"{s}.low < {start}",
            # Greater, or within: never an OR of two columns, which no index could serve.
            "ge": f"{s}.high > {start} AND ({s}.high > {end} OR {s}.low >= {start})",
            "le": f"{s}.low < {end} AND ({s}.low < {start} OR {s}.high <= {end})",
            "sa": f"{s}.low >= {end}",
            "eb": f"{s}.high <= {start}",
            "ap": f"{s}.low < {end} AND {s}.high > {start}",
            "po": f"{s}.low < {end} AND {s}.high > {start}",
        }[comparison]

    def number(
        self, comparison: str, exact: float, low: float, high: float, columns: str = ""
    ) -> RowCondition:
        """A row is the numbers low to high, both included; [low, high) is the value's precision.

        search.html: eq, ne and ap work with the precision that the client wrote, the others with
        the exact value. `columns` is what the names of the two columns begin with.
        """
        value = self.bind(repr(exact), "float8")
        start, end = self.bind(repr(low), "float8"), self.bind(repr(high), "float8")
        condition = {
            "eq": f"low >= {start} AND low < {end} AND high < {end}",
            "ne": f"NOT (low >= {start} AND high < {end})",
            "gt": f"high > {value}",
            "lt": f"low < {value}",
            "ge": f"high >= {value}",
            "le": f"low <= {value}",
            "sa": f"low > {value}",
            "eb": f"high < {value}",
            "ap": f"low <= {end} AND high >= {start}",
        }[comparison]
        return lambda s: re.sub(r"\b(low|high)\b", rf"{s}.{columns}\1", condition)

    def in_base_units(
        self, unit: str, comparison: str, exact: float, low: float, high: float
    ) -> RowCondition:
        """The same of quantities in base units, among those that are of the same ones."""
        of_number = self.number(comparison, exact, low, high, "base_")
        value = self.bind(unit)
        return lambda s: f"{s}.base_unit <> '' AND {s}.base_unit = {value} AND {of_number(s)}"

    def unit(self, system: str | None, code: str) -> RowCondition:
        """A coded unit; without a system also by the unit's printed name (search.html quantity)."""
        value = self.bind(code)
        if system is None:
            return lambda s: f"({s}.code = {value} OR {s}.unit = {value})"
        space = self.bind(system)
        return lambda s: f"{s}.code = {value} AND {s}.system = {space}"

    def near(self, latitude: float, longitude: float, kilometres: float) -> str:
        """A position within a distance: a box by index, then the great circle."""
        reach = kilometres / 111.2
        lat = self.bind(repr(latitude), "float8")
        lon = self.bind(repr(longitude), "float8")
        box = self.bind(repr(reach), "float8")
        distance = self.bind(repr(kilometres), "float8")
        within = (
            f"s0.low BETWEEN {lat} - {box} AND {lat} + {box} AND 2 * {EARTH_RADIUS_KM} * asin("
            f"least(1, sqrt(power(sind((s0.low - {lat}) / 2), 2) + cosd({lat}) * cosd(s0.low)"
            f" * power(sind((s1.low - {lon}) / 2), 2)))) <= {distance}"
        )
        return self.exists_together(
            [
                ("number", "near.latitude", None),
                ("number", "near.longitude", lambda _: within),
            ]
        )
