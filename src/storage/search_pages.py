"""SQL of the answer to a FHIR search: order, keyset pages, totals, what must be rendered first.

A page is one statement over one or several resource types. Where a search leads over references
(`Link`), what they lead to is counted first, up to LINKED: few are looked up one by one, many are
met soon by walking along the order of the page. Left to the planner, a chain over 100,000 resources
took 20 to 140 ms, and ten times that over a million.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal
from uuid import UUID

from storage.database import Database
from storage.resource_search import LAST_CHARACTER, LINKED, Link, Lookup, SearchStatement
from storage.search_includes import Include, bodies, rounds
from storage.statements import Row, Statement, function_call

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
# How far an estimated total is counted before it is estimated.
COUNTED = 1000

_COLUMNS = "r.resource_type, r.resource_id, r.version, r.last_updated, r.body, r.patient_id"


@dataclass(frozen=True, slots=True)
class SortKey:
    """One sort key: a column of the resource, or the least (greatest) search row of a parameter."""

    column: str
    type: str
    descending: bool
    table: str | None = None
    parameter: str = ""

    @classmethod
    def of(cls, table: str, parameter: str, descending: bool) -> SortKey:
        """Order by a parameter: its least value, or its greatest when descending."""
        lowest, highest, type_ = SORT_COLUMNS[table]
        return cls(highest if descending else lowest, type_, descending, table, parameter)

    @property
    def direction(self) -> str:
        return "DESC" if self.descending else "ASC"

    @property
    def sign(self) -> str:
        return "<" if self.descending else ">"


@dataclass(frozen=True, slots=True)
class After:
    """Where the page before ended: the keys of its last resource, as text, its id and its type."""

    keys: tuple[str | None, ...]
    resource_id: str
    resource_type: str = ""


@dataclass(frozen=True, slots=True)
class PageQuery:
    """The statement of a page. `keeps_plan`: the best plan does not depend on what is bound.

    `where_many` makes the one that answers where this says `many` instead, and is not audited.
    """

    text: str
    keeps_plan: bool = False
    where_many: Callable[[], PageQuery] | None = None


@dataclass(slots=True)
class Pages:
    """Pages of what the statements find. All of them share one list of values."""

    statements: Sequence[SearchStatement]
    order: Sequence[SortKey] = ()
    after: After | None = None
    # Only what is found where some link leads to few; else a row says `many`.
    is_of_few: bool = False

    def matches(self, limit: int) -> str:
        """The first `limit` matches after `after`, numbered by `ordinal` in their order."""
        if len(self.statements) == 1:
            rows = self._rows_of(self.statements[0], limit)
        else:
            each = " UNION ALL ".join(
                f"(SELECT * FROM ({self._rows_of(one, limit)}) AS of_type)"
                for one in self.statements
            )
            rows = f"SELECT * FROM ({each}) AS merged ORDER BY {self._merged()} LIMIT {limit}"
        return f"SELECT row_number() OVER () AS ordinal, page.* FROM ({rows}) AS page"

    def total(self, limit: int | None = None) -> str:
        """How many there are; no further than `limit`."""
        counts = [
            f"SELECT 1 {_from_where(one, [link.whole for link in one.links])}"
            for one in self.statements
        ]
        rows = " UNION ALL ".join(counts)
        if limit is not None and rows:
            rows = f"SELECT 1 FROM ({rows}) AS each_one LIMIT {limit}"
        return f"(SELECT count(*) FROM ({rows}) AS counted)" if rows else "0"

    def all_rows(self) -> str:
        """The query whose number of rows is the total, for the planner's estimate of it."""
        rows = " UNION ALL ".join(
            f"SELECT r.resource_id {_from_where(one, [link.whole for link in one.links])}"
            for one in self.statements
        )
        return with_sets([*_sets(self.statements), *whole_sets(self.statements)], rows)

    def _merged(self) -> str:
        """The order of pages over several types: by keys, then type, then id.

        Types run as ids do; and those as they do in `by_value`, along the index of the key.
        """
        parts: list[str] = []
        for index, key in enumerate(self.order, 1):
            is_time = key.type == "timestamptz"
            column = "last_updated" if is_time else f'sort_keys[{index}] COLLATE "C"'
            parts.append(f"{column} {key.direction} NULLS LAST")
        if len(self.order) == 1 and self.order[0].descending:
            parts += [
                f"CASE WHEN sort_keys[1] IS NULL THEN {column} END"
                for column in ("resource_type", "resource_id")
            ]
            return ", ".join([*parts, "resource_type DESC", "resource_id DESC"])
        return ", ".join([*parts, "resource_type", "resource_id"])

    def _after_of(self, statement: SearchStatement) -> After | None:
        """Where the page of one type begins: of another type every id follows, or none does."""
        after = self.after
        if after is None or after.resource_type in ("", statement.resource_type):
            return after
        # Before all ids or behind them, in whichever direction they run.
        is_after = statement.resource_type > after.resource_type
        return After(after.keys, "" if is_after else LAST_CHARACTER)

    # -- rows of one type -----------------------------------------------------------------

    def _rows_of(self, statement: SearchStatement, limit: int) -> str:
        rows = _Rows(statement, self.order, self._after_of(statement), limit)
        stream = _stream(statement, self.order)
        if stream is not None:
            return rows.streamed(stream)
        if self.is_of_few:
            return f"SELECT * FROM {rows.looked_up()} AS o"
        if statement.links:
            return f"SELECT * FROM ({rows.looked_up()} UNION ALL ({rows.walked_where_many()})) AS o"
        if len(self.order) == 1 and self.order[0].table is not None:
            return rows.by_value(self.order[0])
        return rows.walked()


class _Rows:
    """The rows of one type for a page: resources with their sort keys as text."""

    def __init__(
        self,
        statement: SearchStatement,
        order: Sequence[SortKey],
        after: After | None,
        limit: int,
    ) -> None:
        self._statement = statement
        self._order = order
        self._after = after
        self._limit = limit

    def streamed(self, lookup: Lookup) -> str:
        """Along the index that finds them in the order of the page."""
        where = _where(self._statement.resource_type, ["r.resource_id = x.id"])
        source = (
            f"FROM (SELECT DISTINCT id FROM ({lookup.ids}) AS ids ORDER BY id) AS x"
            f" CROSS JOIN LATERAL (SELECT r.* FROM fhir_resources AS r {where} OFFSET 0) AS r"
        )
        return self._by_id(f"{source} WHERE true", "x.id")

    def looked_up(self) -> str:
        """Where some link leads to few: those, one by one."""
        links = self._statement.links
        few = [f"(SELECT g.{link.name} FROM few AS g)" for link in links]
        sources = [
            f"SELECT id FROM {link.name} WHERE {' AND NOT '.join([few[at], *few[:at]])}"
            for at, link in enumerate(links)
        ]
        conditions = [
            f"CASE WHEN {one} THEN r.resource_id IN (SELECT id FROM {link.name})"
            f" ELSE {link.walk} END"
            for one, link in zip(few, links, strict=True)
            if len(links) > 1
        ]
        where = self._where([*conditions, "r.resource_id = x.id"])
        either = " OR ".join(few)
        source = (
            f"FROM (SELECT DISTINCT id FROM ({' UNION ALL '.join(sources)}) AS ids ORDER BY id)"
            f" AS x CROSS JOIN LATERAL (SELECT r.* FROM fhir_resources AS r {where} OFFSET 0) AS r"
        )
        return f"({self._sorted(source, f'WHERE ({either})', 'x.id')})"

    def walked_where_many(self) -> str:
        """Where every link leads to many: along the order, asking each resource."""
        links = self._statement.links
        many = [f"NOT (SELECT g.{link.name} FROM few AS g)" for link in links]
        conditions = [*many, *(link.walk for link in links)]
        if len(self._order) == 1 and self._order[0].table is not None:
            return self.by_value(self._order[0], conditions)
        return self.walked(conditions)

    def walked(self, conditions: Sequence[str] = ()) -> str:
        """Along the order, until the page is full."""
        where = self._where(conditions)
        return self._sorted("FROM fhir_resources AS r", where, "r.resource_id")

    def _where(self, conditions: Sequence[str] = ()) -> str:
        statement = self._statement
        return _where(statement.resource_type, [*statement.conditions, *conditions])

    def _sorted(self, source: str, where: str, id_: str) -> str:
        order = self._order
        if not order:
            return self._by_id(f"{source} {where}", id_)
        if len(order) == 1 and order[0].table is None:
            return self._by_column(f"{source} {where}", order[0])
        return self._by_keys(source, where)

    def _by_id(self, source: str, id_: str) -> str:
        beyond = f" AND {id_} > {self._bind(self._after.resource_id)}" if self._after else ""
        return (
            f"SELECT {_COLUMNS}, NULL::text[] AS sort_keys {source}{beyond}"
            f" ORDER BY {id_} LIMIT {self._limit}"
        )

    def _by_column(self, source: str, key: SortKey) -> str:
        """Along the index of a column that is never NULL."""
        beyond = ""
        if self._after:
            value = self._bind(self._after.keys[0] or "", key.type)
            last = self._bind(self._after.resource_id)
            beyond = f" AND ({key.column}, r.resource_id) {key.sign} ({value}, {last})"
        return (
            f"SELECT {_COLUMNS}, ARRAY[{key.column}::text] AS sort_keys {source}{beyond}"
            f" ORDER BY {key.column} {key.direction}, r.resource_id {key.direction}"
            f" LIMIT {self._limit}"
        )

    def by_value(self, key: SortKey, conditions: Sequence[str] = ()) -> str:
        """Along the index of a parameter's values, then the resources that have none.

        PostgreSQL stops walking when the page is full; sorting everything first took 1.5 s for
        50,000 resources where this takes milliseconds.
        """
        statement, after = self._statement, self._after
        beyond = id_beyond = ""
        if after and after.keys[0] is not None:
            value, last = self._bind(after.keys[0], key.type), self._bind(after.resource_id)
            beyond = f" AND (v.{key.column}, v.resource_id) {key.sign} ({value}, {last})"
        elif after:
            id_beyond = f" AND r.resource_id > {self._bind(after.resource_id)}"
        row = (
            f"v.tenant_id = $1 AND v.resource_type = '{statement.resource_type}'"
            f" AND v.parameter = '{key.parameter}'"
        )
        nearer = (
            f"SELECT FROM fhir_search_{key.table} AS o WHERE o.tenant_id = $1"
            f" AND o.resource_type = '{statement.resource_type}' AND o.resource_id = v.resource_id"
            f" AND o.parameter = '{key.parameter}' AND (v.{key.column}, v.ordinal) {key.sign}"
            f" (o.{key.column}, o.ordinal)"
        )
        with_value = (
            f"(SELECT {_COLUMNS}, ARRAY[v.{key.column}::text] AS sort_keys"
            f" FROM fhir_search_{key.table} AS v JOIN fhir_resources AS r"
            f" ON r.resource_id = v.resource_id {self._where(conditions)} AND {row}{beyond}"
            f" AND NOT EXISTS ({nearer})"
            f" ORDER BY v.{key.column} {key.direction}, v.resource_id {key.direction}"
            f" LIMIT {self._limit})"
        )
        without = (
            f"(SELECT {_COLUMNS}, ARRAY[NULL::text] AS sort_keys"
            f" {_from_where(statement, conditions)}{id_beyond}"
            f" AND NOT EXISTS (SELECT FROM fhir_search_{key.table} AS v WHERE {row}"
            f" AND v.resource_id = r.resource_id) ORDER BY r.resource_id LIMIT {self._limit})"
        )
        if id_beyond:
            return without
        return f"SELECT * FROM ({with_value} UNION ALL {without}) AS found LIMIT {self._limit}"

    def _by_keys(self, source: str, where: str) -> str:
        """By keys that are computed for every match; NULL is last."""
        order = self._order
        expressions = ", ".join(f"{self._least(key)} AS k{at}" for at, key in enumerate(order))
        listed = ", ".join(f"k{at}::text" for at in range(len(order)))
        by = ", ".join(f"k{at} {key.direction} NULLS LAST" for at, key in enumerate(order))
        return (
            f"SELECT {_COLUMNS}, ARRAY[{listed}] AS sort_keys {source}"
            f" CROSS JOIN LATERAL (SELECT {expressions}) AS k {where}"
            f"{self._after_keys()} ORDER BY {by}, {self._ties()} LIMIT {self._limit}"
        )

    def _ties(self) -> str:
        """Ids run as they do in `by_value`: a page may be followed by one made the other way."""
        if len(self._order) == 1 and self._order[0].descending:
            return "CASE WHEN k0 IS NULL THEN r.resource_id END, r.resource_id DESC"
        return "r.resource_id"

    def _least(self, key: SortKey) -> str:
        if key.table is None:
            return key.column
        return (
            f"(SELECT {'max' if key.descending else 'min'}(s.{key.column})"
            f" FROM fhir_search_{key.table} AS s WHERE s.tenant_id = $1"
            f" AND s.resource_type = '{self._statement.resource_type}'"
            f" AND s.parameter = '{key.parameter}' AND s.resource_id = r.resource_id)"
        )

    def _after_keys(self) -> str:
        after, order = self._after, self._order
        if after is None:
            return ""
        sign = "<" if len(order) == 1 and order[0].descending and after.keys[0] is not None else ">"
        condition = f"r.resource_id {sign} {self._bind(after.resource_id)}"
        for index in reversed(range(len(order))):
            key, value = f"k{index}", after.keys[index]
            if value is None:
                condition = f"{key} IS NULL AND {condition}"
                continue
            bound = self._bind(value, order[index].type)
            condition = (
                f"({key} {order[index].sign} {bound} OR {key} IS NULL"
                f" OR ({key} = {bound} AND {condition}))"
            )
        return f" AND {condition}"

    def _bind(self, value: str, type_: str = "text") -> str:
        return self._statement.bind(value, type_)


def with_sets(sets: Sequence[tuple[str, str]], query: str) -> str:
    """A query over others, each made once and planned apart.

    In place they are tempting to run again for each row: without statistics a chain of seven
    references was asked for nine to the seventh.
    """
    if not sets:
        return query
    listed = ", ".join(f"{name} AS MATERIALIZED ({one})" for name, one in sets)
    return f"WITH {listed} {query}"


def whole_sets(statements: Sequence[SearchStatement]) -> list[tuple[str, str]]:
    """What the conditions of links for all rows at once are over."""
    return [step for one in statements for link in one.links for step in link.whole_steps]


def _sets(statements: Sequence[SearchStatement]) -> list[tuple[str, str]]:
    return [one for statement in statements for one in statement.sets]


def linked(statements: Sequence[SearchStatement], *, is_of_few: bool = False) -> list[str]:
    """The common table expressions of all links: their steps, and which lead to few.

    With `is_of_few` the first that does is enough, and those behind it are not counted.
    """
    with_: list[str] = []
    few: list[tuple[str, str]] = []
    for statement in statements:
        for link in statement.links:
            with_ += [
                f"{name} AS MATERIALIZED ({query} LIMIT {LINKED + 1})" for name, query in link.steps
            ]
            # In this order: a step is not taken where one before it led to many.
            counts = " AND ".join(
                f"(SELECT count(*) FROM {name}) <= {LINKED}" for name, _ in link.steps
            )
            if is_of_few and few:
                before = " OR ".join(condition for condition, _ in few)
                counts = f"CASE WHEN {before} THEN false ELSE {counts} END"
            few.append((f"({counts})", link.name))
    if few:
        columns = ", ".join(f"{condition} AS {name}" for condition, name in few)
        with_.append(f"few AS MATERIALIZED (SELECT {columns})")
    return with_


def _from_where(statement: SearchStatement, conditions: Sequence[str] = ()) -> str:
    where = _where(statement.resource_type, [*statement.conditions, *conditions])
    return f"FROM fhir_resources AS r {where}"


def _where(resource_type: str, conditions: Sequence[str]) -> str:
    always = [
        "r.tenant_id = $1",
        f"r.resource_type = '{resource_type}'",
        "NOT r.deleted",
        "r.version > 0",
    ]
    return "WHERE " + " AND ".join([*always, *conditions])


# -- plans that are kept --------------------------------------------------------------------


def _stream(statement: SearchStatement, order: Sequence[SortKey]) -> Lookup | None:
    """The one condition there is, where its index finds resources in the order of the page."""
    if order or statement.links or len(statement.conditions) != 1:
        return None
    found = statement.lookups.get(statement.conditions[0])
    return found if found is not None and found.in_order else None


def _by_index(pages: Pages) -> Pages | None:
    """The same pages by a statement whose best plan does not depend on its values, if there is one.

    Whatever is asked of it is found along one index, or counted first (`Link`). With which of two
    conditions to begin, where both are met by many, the planner knows better.
    """
    if len(pages.statements) != 1:
        return None
    (statement,) = pages.statements
    lookups = [statement.lookups.get(condition) for condition in statement.conditions]
    found = [lookup for lookup in lookups if lookup is not None]
    if len(found) < len(lookups) or not all(link.is_sure for link in statement.links):
        return None
    if not found or _stream(statement, pages.order):
        return pages
    links = [
        Link(f"i{at}", ((f"i{at}", lookup.ids),), lookup.probe, (), condition, is_sure=True)
        for at, (lookup, condition) in enumerate(zip(found, statement.conditions, strict=True))
    ]
    counted = replace(statement, conditions=[], links=[*statement.links, *links])
    is_of_few = len(found) > 1 and not statement.links
    return replace(pages, statements=[counted], is_of_few=is_of_few)


def page_query(
    pages: Pages,
    *,
    limit: int,
    includes: Sequence[Include] = (),
    include_limit: int,
    shown: Mapping[str, str | None],
    stale_types: Sequence[str],
    total: Literal["none", "estimate", "accurate"] = "none",
) -> PageQuery:
    """One statement for a page of `limit` matches (and one more, if there is one), and its audit.

    Rows of kind `stale` say that something must be rendered first; `total`, `match` and `include`
    are what they say. An ordinal numbers the matches. An estimate is counted to COUNTED + 1.
    """

    def text_of(pages: Pages) -> str:
        parts = [stale(stale_types)]
        sets = _sets(pages.statements)
        if total != "none":
            sets += whole_sets(pages.statements)
            counted = pages.total(COUNTED + 1 if total == "estimate" else None)
            parts.append(_row("total", counted))
        with_ = [f"{name} AS MATERIALIZED ({query})" for name, query in sets]
        if limit and pages.statements:
            with_ += linked(pages.statements, is_of_few=pages.is_of_few)
            if pages.is_of_few:
                parts.append(f"{_row('many')} WHERE NOT {_few(pages.statements[0])}")
            with_.append(f"matches AS MATERIALIZED ({pages.matches(limit + 1)})")
            parts.append(
                "SELECT 'match', ordinal, resource_type, resource_id, version, last_updated,"
                " sort_keys, body, patient_id FROM matches"
            )
            if includes:
                brought = rounds(includes, limit, include_limit, shown)
                with_ += [f"{name} AS MATERIALIZED ({query})" for name, query in brought]
                parts.append(bodies(name for name, _ in brought))
        return audited(with_, " UNION ALL ".join(parts), limit)

    is_sure = total == "none" and not any(shown.values())
    kept = _by_index(pages) if is_sure else None
    if kept is None:
        return PageQuery(text_of(pages))
    planned = (lambda: PageQuery(text_of(pages))) if kept.is_of_few else None
    return PageQuery(text_of(kept), True, planned)


def _row(kind: str, ordinal: str = "0") -> str:
    return f"SELECT '{kind}', {ordinal}, '', '', 0, now(), NULL::text[], '', NULL::uuid"


def _few(statement: SearchStatement) -> str:
    """Whether some link leads to few."""
    return f"({' OR '.join(f'(SELECT g.{link.name} FROM few AS g)' for link in statement.links)})"


def stale(types: Sequence[str]) -> str:
    """A row where something of the types must be rendered first; it names the columns of a page."""
    return (
        "SELECT 'stale' AS kind, 0::bigint AS ordinal, '' AS resource_type, '' AS resource_id,"
        " 0::bigint AS version, now() AS last_updated, NULL::text[] AS sort_keys, '' AS body,"
        " NULL::uuid AS patient_id WHERE EXISTS (SELECT FROM fhir_resources AS r"
        f" WHERE r.tenant_id = $1 AND r.resource_type = ANY ('{{{','.join(types)}}}') AND r.stale)"
    )


def audited(with_: Sequence[str], rows: str, limit: int) -> str:
    """A statement for the rows of a page that writes its audit row ($3) as it ends.

    Every patient of whom the page, its first `limit` matches and what they bring, shows something
    is logged. Where it says `many`, or that something is stale, nothing is, though of what is stale
    it is where $3 says `even_if_stale`. A row of kind `audited` tells.
    """
    # The first names the types of what is bound: nothing in the rest would.
    given = "given AS (SELECT $1::uuid, $2::text[], $3::jsonb)"
    ctes = ", ".join([given, *with_, f"page AS MATERIALIZED ({rows})"])
    patients = (
        "ARRAY(SELECT DISTINCT p.patient_id FROM page AS p WHERE p.patient_id IS NOT NULL"
        f" AND p.ordinal <= {limit})"
    )
    is_stale, is_many = (
        f"EXISTS (SELECT FROM page AS p WHERE p.kind = '{kind}')" for kind in ("stale", "many")
    )
    return (
        f"WITH {ctes} SELECT kind, ordinal, resource_type, resource_id, version, last_updated,"
        " sort_keys, body FROM page UNION ALL SELECT 'audited', 0, '', '', 0, now(), NULL, ''"
        f" FROM fhir_log_search($1, $3, {patients}, {is_stale}, {is_many}) AS is_logged"
        " WHERE is_logged"
    )


async def run_page(
    database: Database, tenant_id: UUID, query: PageQuery, values: Sequence[str], audit: str
) -> list[Row]:
    """The rows of a page, audited, each statement a transaction. Raises psycopg.Error."""
    keeps = query.keeps_plan
    begin = function_call("fhir_begin_search", {"tenant": tenant_id, "keeps_plan": keeps})
    bound = {"tenant": tenant_id, "values": list(values), "audit": audit}
    _, rows = await database.run(tenant_id, begin, Statement(query.text, bound, keeps))
    if query.where_many is not None and any(row[0] == "many" for row in rows):
        return await run_page(database, tenant_id, query.where_many(), values, audit)
    return rows
