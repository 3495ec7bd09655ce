"""SQL of the newest resources of each code among what a search finds (Observation's $lastn)."""

from __future__ import annotations

from collections.abc import Sequence

from storage.resource_search import SearchStatement
from storage.search_pages import PageQuery, audited, stale, whole_sets


def newest_of_each(
    statement: SearchStatement, maximum: int, limit: int, stale_types: Sequence[str]
) -> PageQuery:
    """Of each `code` the newest `maximum` by `date`, at most `limit` and one more in all.

    The rows are those of a search's page: `stale` where something must be rendered first, and
    matches in the order of codes, each from the newest.
    """
    row = f"tenant_id = $1 AND s.resource_type = '{statement.resource_type}'"
    # The first coding says what was measured, else the text.
    code = (
        f"coalesce((SELECT s.system || '|' || s.code FROM fhir_search_token AS s WHERE s.{row}"
        " AND s.parameter = 'code' AND s.resource_id = r.resource_id"
        " ORDER BY s.ordinal LIMIT 1), '')"
    )
    date = (
        f"(SELECT max(s.low) FROM fhir_search_date AS s WHERE s.{row}"
        " AND s.parameter = 'date' AND s.resource_id = r.resource_id)"
    )
    all_conditions = [*statement.conditions, *(link.whole for link in statement.links)]
    conditions = "".join(f" AND {condition}" for condition in all_conditions)
    found = (
        "SELECT r.resource_id, r.version, r.last_updated, r.body, r.patient_id,"
        f" {code} AS code, {date} AS date FROM fhir_resources AS r WHERE r.tenant_id = $1"
        f" AND r.resource_type = '{statement.resource_type}' AND NOT r.deleted AND r.version > 0"
        f"{conditions}"
    )
    order = "date DESC NULLS LAST, last_updated DESC, resource_id"
    ranked = (
        f"SELECT f.*, row_number() OVER (PARTITION BY code ORDER BY {order}) AS place"
        f" FROM ({found}) AS f"
    )
    page = (
        f"SELECT * FROM ({ranked}) AS n WHERE place <= {maximum}"
        f" ORDER BY code, {order} LIMIT {limit + 1}"
    )
    rows = (
        f"{stale(stale_types)} UNION ALL SELECT 'match', row_number() OVER (),"
        f" '{statement.resource_type}', resource_id, version, last_updated, NULL, body, patient_id"
        f" FROM ({page}) AS page"
    )
    sets = [*statement.sets, *whole_sets([statement])]
    with_ = [f"{name} AS MATERIALIZED ({query})" for name, query in sets]
    return PageQuery(audited(with_, rows, limit))
