"""SQL of what comes along with a page of a FHIR search (R4 search.html 3.1.1.5.4).

What a page brings is found in rounds: first from its matches, then by `:iterate` from what the
round before brought. Only what may be seen is brought, before the limit, so that nobody goes on
from what is hidden.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

ROUNDS = 6
ANY = ""


@dataclass(frozen=True, slots=True)
class Include:
    """Resources to add: those that sources refer to, or (`reverse`) the sources that refer.

    ANY as parameter stands for all of a forward include, as target type for whichever it is.
    """

    source_type: str
    parameter: str
    target_types: tuple[str, ...]
    reverse: bool
    iterate: bool = False


def rounds(
    includes: Sequence[Include], limit: int, include_limit: int, shown: Mapping[str, str | None]
) -> list[tuple[str, str]]:
    """Common table expressions with the `type` and `id` of what each round brings.

    Of the first `limit` rows of `matches`, and no more than `include_limit` + 1 a round. `shown`
    has the types that may come at all, with a condition on the row `i` where not all may.
    """
    found = [
        ("brought1", _round(includes, f"matches AS m WHERE m.ordinal <= {limit}", (), shown, limit))
    ]
    again = [include for include in includes if include.iterate]
    for number in range(2, ROUNDS + 1) if again else ():
        before = tuple(name for name, _ in found)
        source = (
            f"(SELECT b.type AS resource_type, b.id AS resource_id FROM {before[-1]} AS b) AS m"
        )
        found.append((f"brought{number}", _round(again, source, before, shown, limit)))
    return [(name, f"{query} LIMIT {include_limit + 1}") for name, query in found]


def bodies(names: Iterable[str]) -> str:
    """The rows of what the rounds brought, as a page has them."""
    all_rounds = " UNION ALL ".join(f"SELECT type, id FROM {name}" for name in names)
    return (
        "SELECT 'include', 0, i.resource_type, i.resource_id, i.version, i.last_updated, NULL,"
        f" i.body, i.patient_id FROM ({all_rounds}) AS n"
        " JOIN fhir_resources AS i ON i.tenant_id = $1 AND i.resource_type = n.type"
        " AND i.resource_id = n.id"
    )


def _round(
    includes: Sequence[Include],
    source: str,
    before: Sequence[str],
    shown: Mapping[str, str | None],
    limit: int,
) -> str:
    forward = [one for one in includes if not one.reverse]
    branches = [
        _forward([one for one in forward if one.parameter != ANY], source),
        _all_forward([one for one in forward if one.parameter == ANY], source),
        _reverse([one for one in includes if one.reverse], source),
    ]
    asked = " UNION ".join(filter(None, branches))
    new = "".join(
        f" AND NOT EXISTS (SELECT FROM {name} AS b WHERE b.type = w.type AND b.id = w.id)"
        for name in before
    )
    return (
        f"SELECT DISTINCT w.type, w.id FROM ({asked}) AS w"
        " JOIN fhir_resources AS i ON i.tenant_id = $1 AND i.resource_type = w.type"
        " AND i.resource_id = w.id AND NOT i.deleted AND i.version > 0"
        " WHERE NOT EXISTS (SELECT FROM matches AS m WHERE m.resource_type = w.type"
        f" AND m.resource_id = w.id AND m.ordinal <= {limit}){new} AND {_guard(shown)}"
    )


def _forward(includes: Sequence[Include], source: str) -> str:
    if not includes:
        return ""
    rows = sorted(
        {
            (one.source_type, one.parameter, target)
            for one in includes
            for target in one.target_types
        }
    )
    return (
        "SELECT s.target_type AS type, s.target_id AS id FROM (SELECT m.resource_type,"
        f" m.resource_id FROM {source}) AS m JOIN {_values(rows, 'source, parameter, target')}"
        " ON p.source = m.resource_type JOIN fhir_search_reference AS s ON s.tenant_id = $1"
        " AND s.resource_type = p.source AND s.parameter = p.parameter"
        " AND s.resource_id = m.resource_id AND s.target_id <> ''"
        f" AND (p.target = '{ANY}' OR s.target_type = p.target)"
    )


def _all_forward(includes: Sequence[Include], source: str) -> str:
    if not includes:
        return ""
    types = ", ".join(sorted({f"'{one.source_type}'" for one in includes if one.source_type}))
    is_any = any(not one.source_type for one in includes)
    of_type = "" if is_any else f" AND s.resource_type IN ({types})"
    return (
        "SELECT s.target_type AS type, s.target_id AS id"
        f" FROM (SELECT m.resource_type, m.resource_id FROM {source}) AS m"
        " JOIN fhir_search_reference AS s ON s.tenant_id = $1"
        " AND s.resource_type = m.resource_type AND s.resource_id = m.resource_id"
        f" AND s.target_id <> ''{of_type}"
    )


def _reverse(includes: Sequence[Include], source: str) -> str:
    if not includes:
        return ""
    rows = sorted(
        {
            (one.source_type, one.parameter, target)
            for one in includes
            for target in one.target_types
        }
    )
    return (
        "SELECT s.resource_type AS type, s.resource_id AS id"
        f" FROM (SELECT m.resource_type, m.resource_id FROM {source}) AS m"
        f" CROSS JOIN {_values(rows, 'source, parameter, target')}"
        " JOIN fhir_search_reference AS s ON s.tenant_id = $1 AND s.resource_type = p.source"
        " AND s.parameter = p.parameter AND s.target_id = m.resource_id"
        " AND s.target_type = m.resource_type"
        f" WHERE p.target = '{ANY}' OR p.target = m.resource_type"
    )


def _values(rows: Sequence[tuple[str, ...]], columns: str) -> str:
    # Names of types and parameters are those of definitions, never a request's text.
    listed = [", ".join(f"'{value}'" for value in row) for row in rows]
    # The columns are compared with such of this collation.
    listed[0] = ", ".join(f"'{value}'::text COLLATE \"C\"" for value in rows[0])
    return f"(VALUES {', '.join(f'({row})' for row in listed)}) AS p({columns})"


def _guard(shown: Mapping[str, str | None]) -> str:
    """Only of types that may be shown, and of some of them only what may."""
    whole = sorted(type_ for type_, condition in shown.items() if condition is None)
    listed = ", ".join(f"'{type_}'" for type_ in whole)
    ways = [f"w.type IN ({listed})"] if whole else []
    ways += [
        f"(w.type = '{type_}' AND {condition})"
        for type_, condition in sorted(shown.items())
        if condition is not None
    ]
    return f"({' OR '.join(ways)})" if ways else "false"
