"""SQL of a FHIR search: conditions on search rows, order, pages, included resources, totals.

Every value of the client is bound, never written into the text. Conditions keep to operators that
PostgreSQL holds for leakproof (equality, ranges in COLLATE "C", float8, timestamptz, = ANY), since
under row-level security no other may use an index (reliability.md M11); what is not (distance,
position in a text) only filters rows that such a condition has already found.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

# A condition on the search row of this alias.
RowCondition = Callable[[str], str]

LAST_CHARACTER = "\U0010ffff"
EARTH_RADIUS_KM = 6371.0088

# The columns that ascending and descending order go by, each with an index, and their type.
SORT_COLUMNS = {
    "string": ("value", "value", "text"),
    "token": ("code", "code", "text"),
    "uri": ("value", "value", "text"),
    "reference": ("target_id", "target_id", "text"),
    "date": ("low", "high", "timestamptz"),
    "number": ("low", "low", "float8"),
    "quantity": ("low", "low", "float8"),
}
PAGE_COLUMNS = "r.resource_id, r.version, r.last_updated, r.body"


@dataclass(frozen=True, slots=True)
class SortKey:
    """One sort key: a column of the resource, or the least (greatest) search row of a parameter."""

    column: str
    type: str
    descending: bool
    table: str | None = None
    parameter: str = ""


@dataclass(frozen=True, slots=True)
class After:
    """Where the page before ended: the keys of its last resource, as text, and its id."""

    keys: tuple[str | None, ...]
    resource_id: str


@dataclass(frozen=True, slots=True)
class Include:
    """Resources to add to a page: those it refers to, or (`reverse`) those that refer to it."""

    source_type: str
    parameter: str
    target_types: tuple[str, ...]
    reverse: bool


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
    # The row of the resource, and the expression of its id.
    alias: str = "r"
    id_column: str = "r.resource_id"

    def about(
        self, resource_type: str, alias: str, id_column: str | None = None
    ) -> SearchStatement:
        """Conditions on another row of the same statement, whose values are bound with ours."""
        column = id_column or f"{alias}.resource_id"
        return SearchStatement(resource_type, self.values, [], alias, column)

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
        return self.exists_together([(table, parameter, condition)])

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

    def refers_to(self, parameter: str, other: SearchStatement, conditions: Sequence[str]) -> str:
        """By the parameter it names some `other` resource that meets the conditions."""
        row = f"h{other.alias}"
        return self._joined(
            row,
            other,
            [
                f"{row}.resource_type = '{self.resource_type}'",
                f"{row}.parameter = '{parameter}'",
                f"{row}.resource_id = {self.alias}.resource_id",
                f"{row}.target_type = '{other.resource_type}'",
                f"{row}.target_id = {other.alias}.resource_id",
                *conditions,
            ],
        )

    def referred_to_by(
        self, parameter: str, other: SearchStatement, conditions: Sequence[str]
    ) -> str:
        """Some `other` resource that meets the conditions names it by the parameter."""
        row = f"h{other.alias}"
        return self._joined(
            row,
            other,
            [
                f"{row}.resource_type = '{other.resource_type}'",
                f"{row}.parameter = '{parameter}'",
                f"{row}.resource_id = {other.alias}.resource_id",
                f"{row}.target_type = '{self.resource_type}'",
                f"{row}.target_id = {self.alias}.resource_id",
                *conditions,
            ],
        )

    def _joined(self, row: str, other: SearchStatement, wheres: Sequence[str]) -> str:
        return (
            f"EXISTS (SELECT FROM fhir_search_reference AS {row}, fhir_resources AS {other.alias}"
            f" WHERE {row}.tenant_id = $1 AND {other.alias}.tenant_id = $1"
            f" AND {other.alias}.resource_type = '{other.resource_type}'"
            f" AND NOT {other.alias}.deleted AND {other.alias}.version > 0"
            f" AND {' AND '.join(wheres)})"
        )

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

    # -- conditions on a search row -----------------------------------------------------

    def token(self, system: str | None, code: str | None) -> RowCondition:
        """None means any."""
        parts: list[tuple[str, str]] = []
        if code is not None:
            parts.append(("code", self.bind(code)))
        if system is not None:
            parts.append(("system", self.bind(system)))
        return lambda s: " AND ".join(f"{s}.{column} = {value}" for column, value in parts)

    def codes(self, codes: Sequence[str]) -> RowCondition:
        array = self.bind_all(codes)
        return lambda s: f"{s}.code = ANY ({array})"

    def codes_of(self, system: str, codes: Iterable[str]) -> RowCondition:
        """One of many codes of a system; they are bound as one value."""
        listed, space = self.bind(array_text(codes), "text[]"), self.bind(system)
        return lambda s: f"{s}.code = ANY ({listed}) AND {s}.system = {space}"

    def text_prefix(self, prefix: str) -> RowCondition:
        low, high = self.bind(prefix), self.bind(prefix + LAST_CHARACTER)
        return lambda s: f"{s}.value >= {low} AND {s}.value < {high}"

    def text_word(self, folded: str) -> RowCondition:
        """It begins a text or a word of it; the second only filters the rows of the parameter."""
        of_text, word = self.text_prefix(folded), self.bind(f" {folded}")
        return lambda s: f"({of_text(s)} OR strpos({s}.value, {word}) > 0)"

    def text_exact(self, indexed: str, exact: str) -> RowCondition:
        value, whole = self.bind(indexed), self.bind(exact)
        return lambda s: f"{s}.value = {value} AND {s}.value_exact = {whole}"

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
        value = self.bind(uri)
        return lambda s: f"{s}.value = {value}"

    def uris(self, uris: Sequence[str]) -> RowCondition:
        array = self.bind_all(uris)
        return lambda s: f"{s}.value = ANY ({array})"

    def reference_to(self, resource_id: str, types: Sequence[str]) -> RowCondition:
        """A resource of this server, of one of `types` where any are given."""
        target = self.bind(resource_id)
        of_type = f" = ANY ({self.bind_all(types)})" if types else ""
        return lambda s: (
            f"{s}.target_id = {target}" + (f" AND {s}.target_type{of_type}" if of_type else "")
        )

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

    # -- order --------------------------------------------------------------------------

    def sort_key(self, table: str, parameter: str, descending: bool) -> SortKey:
        """Order by a parameter: its least value, or its greatest when descending."""
        lowest, highest, type_ = SORT_COLUMNS[table]
        column = highest if descending else lowest
        return SortKey(column, type_, descending, table, parameter)

    def _by_id(self, after: After | None, count: int) -> str:
        beyond = f" AND r.resource_id > {self.bind(after.resource_id)}" if after else ""
        return (
            f"SELECT {PAGE_COLUMNS}, NULL::text[] AS sort_keys {self._from_where()}{beyond}"
            f" ORDER BY r.resource_id LIMIT {count}"
        )

    def _by_column(self, key: SortKey, after: After | None, count: int) -> str:
        """Along the index of a column that is never NULL."""
        direction, sign = ("DESC", "<") if key.descending else ("ASC", ">")
        beyond = ""
        if after:
            value, last = self.bind(after.keys[0], key.type), self.bind(after.resource_id)
            beyond = f" AND ({key.column}, r.resource_id) {sign} ({value}, {last})"
        return (
            f"SELECT {PAGE_COLUMNS}, ARRAY[{key.column}::text] AS sort_keys"
            f" {self._from_where()}{beyond}"
            f" ORDER BY {key.column} {direction}, r.resource_id {direction} LIMIT {count}"
        )

    def _by_value(self, key: SortKey, after: After | None, count: int) -> str:
        """Along the index of a parameter's values, then the resources that have none.

        PostgreSQL stops walking when the page is full; sorting everything first took 1.5 s for
        50,000 resources where this takes milliseconds.
        """
        direction, sign = ("DESC", "<") if key.descending else ("ASC", ">")
        beyond = id_beyond = ""
        if after and after.keys[0] is not None:
            value, last = self.bind(after.keys[0], key.type), self.bind(after.resource_id)
            beyond = f" AND (v.{key.column}, v.resource_id) {sign} ({value}, {last})"
        elif after:
            id_beyond = f" AND r.resource_id > {self.bind(after.resource_id)}"
        row = (
            f"v.tenant_id = $1 AND v.resource_type = '{self.resource_type}'"
            f" AND v.parameter = '{key.parameter}'"
        )
        nearer = (
            f"SELECT FROM fhir_search_{key.table} AS o WHERE o.tenant_id = $1"
            f" AND o.resource_type = '{self.resource_type}' AND o.resource_id = v.resource_id"
            f" AND o.parameter = '{key.parameter}' AND (v.{key.column}, v.ordinal) {sign}"
            f" (o.{key.column}, o.ordinal)"
        )
        with_value = (
            f"(SELECT {PAGE_COLUMNS}, ARRAY[v.{key.column}::text] AS sort_keys"
            f" FROM fhir_search_{key.table} AS v JOIN fhir_resources AS r"
            f" ON r.resource_id = v.resource_id {self._where()} AND {row}{beyond}"
            f" AND NOT EXISTS ({nearer})"
            f" ORDER BY v.{key.column} {direction}, v.resource_id {direction} LIMIT {count})"
        )
        without = (
            f"(SELECT {PAGE_COLUMNS}, ARRAY[NULL::text] AS sort_keys"
            f" {self._from_where()}{id_beyond}"
            f" AND NOT EXISTS (SELECT FROM fhir_search_{key.table} AS v WHERE {row}"
            f" AND v.resource_id = r.resource_id) ORDER BY r.resource_id LIMIT {count})"
        )
        if id_beyond:
            return without
        return f"SELECT * FROM ({with_value} UNION ALL {without}) AS found LIMIT {count}"

    def _by_keys(self, order: Sequence[SortKey], after: After | None, count: int) -> str:
        """By several keys: each is computed for every match, and NULL is last."""
        expressions = ", ".join(
            f"{self._least(key)} AS k{index}" for index, key in enumerate(order)
        )
        listed = ", ".join(f"k{index}::text" for index in range(len(order)))
        by = ", ".join(
            f"k{index} {'DESC' if key.descending else 'ASC'} NULLS LAST"
            for index, key in enumerate(order)
        )
        return (
            f"SELECT {PAGE_COLUMNS}, ARRAY[{listed}] AS sort_keys FROM fhir_resources AS r"
            f" CROSS JOIN LATERAL (SELECT {expressions}) AS k {self._where()}"
            f"{self._after_keys(order, after)} ORDER BY {by}, r.resource_id LIMIT {count}"
        )

    def _least(self, key: SortKey) -> str:
        if key.table is None:
            return key.column
        return (
            f"(SELECT {'max' if key.descending else 'min'}(s.{key.column})"
            f" FROM fhir_search_{key.table} AS s WHERE s.tenant_id = $1"
            f" AND s.resource_type = '{self.resource_type}' AND s.parameter = '{key.parameter}'"
            " AND s.resource_id = r.resource_id)"
        )

    def _after_keys(self, order: Sequence[SortKey], after: After | None) -> str:
        if after is None:
            return ""
        condition = f"r.resource_id > {self.bind(after.resource_id)}"
        for index in reversed(range(len(order))):
            key, value = f"k{index}", after.keys[index]
            if value is None:
                condition = f"{key} IS NULL AND {condition}"
                continue
            bound = self.bind(value, order[index].type)
            sign = "<" if order[index].descending else ">"
            condition = (
                f"({key} {sign} {bound} OR {key} IS NULL OR ({key} = {bound} AND {condition}))"
            )
        return f" AND {condition}"

    # -- the whole ----------------------------------------------------------------------

    def page(
        self,
        *,
        order: Sequence[SortKey] = (),
        after: After | None = None,
        limit: int,
        includes: Sequence[Include] = (),
        include_limit: int,
        stale_types: Sequence[str],
        with_total: bool = False,
        visible: Mapping[str, str] | None = None,
    ) -> str:
        """One statement for a page of `limit` matches (and one more, if there is one).

        Rows of kind `stale` say that something must be rendered first; `total`, `match` and
        `include` are what they say. An ordinal numbers the matches. Of the types that `visible`
        names only those resources are included that meet its condition on the row `i`.
        """
        parts = [self._stale(stale_types)]
        if with_total:
            parts.append(
                f"SELECT 'total', count(*), '', '', 0, now(), NULL::text[], '' {self._from_where()}"
            )
        with_ = [f"matches AS MATERIALIZED ({self._matches(order, after, limit)})"]
        if limit:
            parts.append(
                f"SELECT 'match', ordinal, '{self.resource_type}', resource_id, version,"
                " last_updated, sort_keys, body FROM matches"
            )
        if includes and limit:
            included = self._included(includes, limit, include_limit, visible or {})
            with_.append(f"included AS ({included})")
            parts.append(
                "SELECT 'include', 0, i.resource_type, i.resource_id, i.version, i.last_updated,"
                " NULL, i.body FROM included AS n JOIN fhir_resources AS i ON i.tenant_id = $1"
                " AND i.resource_type = n.type AND i.resource_id = n.id"
            )
        return f"WITH {', '.join(with_)} {' UNION ALL '.join(parts)}"

    def _from_where(self) -> str:
        return f"FROM fhir_resources AS r {self._where()}"

    def _where(self) -> str:
        always = [
            "r.tenant_id = $1",
            f"r.resource_type = '{self.resource_type}'",
            "NOT r.deleted",
            "r.version > 0",
        ]
        return "WHERE " + " AND ".join(always + self.conditions)

    def _matches(self, order: Sequence[SortKey], after: After | None, limit: int) -> str:
        count = limit + 1 if limit else 0
        if not order:
            rows = self._by_id(after, count)
        elif len(order) > 1:
            rows = self._by_keys(order, after, count)
        elif order[0].table is None:
            rows = self._by_column(order[0], after, count)
        else:
            rows = self._by_value(order[0], after, count)
        return f"SELECT row_number() OVER () AS ordinal, page.* FROM ({rows}) AS page"

    def _included(
        self,
        includes: Sequence[Include],
        limit: int,
        include_limit: int,
        visible: Mapping[str, str],
    ) -> str:
        """Type and id of what comes along; only what may be seen, before the limit."""
        branches: list[str] = []
        for include in includes:
            row = (
                "s.tenant_id = $1"
                f" AND s.resource_type = '{include.source_type}'"
                f" AND s.parameter = '{include.parameter}'"
            )
            types = ", ".join(f"'{type_}'" for type_ in include.target_types)
            if include.reverse:
                branches.append(
                    f"SELECT s.resource_type AS type, s.resource_id AS id FROM matches AS m JOIN"
                    f" fhir_search_reference AS s ON {row} AND s.target_id = m.resource_id"
                    f" AND s.target_type = '{self.resource_type}' WHERE m.ordinal <= {limit}"
                )
            else:
                branches.append(
                    "SELECT s.target_type AS type, s.target_id AS id FROM matches AS m JOIN"
                    f" fhir_search_reference AS s ON {row} AND s.resource_id = m.resource_id"
                    f" AND s.target_id <> '' AND s.target_type IN ({types})"
                    f" WHERE m.ordinal <= {limit}"
                )
        guard = "".join(
            f" AND (w.type <> '{type_}' OR {condition})" for type_, condition in visible.items()
        )
        return (
            f"SELECT DISTINCT w.type, w.id FROM ({' UNION '.join(branches)}) AS w"
            " JOIN fhir_resources AS i ON i.tenant_id = $1 AND i.resource_type = w.type"
            " AND i.resource_id = w.id AND NOT i.deleted AND i.version > 0"
            f" WHERE NOT (w.type = '{self.resource_type}' AND EXISTS (SELECT FROM matches AS m"
            f" WHERE m.resource_id = w.id AND m.ordinal <= {limit})){guard}"
            f" LIMIT {include_limit + 1}"
        )

    def _stale(self, types: Sequence[str]) -> str:
        listed = ", ".join(f"'{type_}'" for type_ in types)
        return (
            "SELECT 'stale' AS kind, 0::bigint AS ordinal, '' AS resource_type, '' AS resource_id,"
            " 0::bigint AS version, now() AS last_updated, NULL::text[] AS sort_keys, '' AS body"
            " WHERE EXISTS (SELECT FROM fhir_resources AS r WHERE r.tenant_id = $1"
            f" AND r.resource_type IN ({listed}) AND r.stale)"
        )
