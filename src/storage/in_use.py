"""Which profiles, tags and security labels the resources of a tenant have: from search rows."""

from __future__ import annotations

import json
from collections.abc import Sequence
from uuid import UUID

from storage.database import Connection
from storage.resource_search import SearchStatement
from storage.resource_visibility import JUDGE


def labels_in_use(
    connection: Connection, tenant_id: UUID, statements: Sequence[SearchStatement], limit: int
) -> list[tuple[str, str, str]]:
    """("profile", "security" or "tag", system, code) of what meets one of the statements.

    All share one list of values.
    """
    if not statements:
        return []
    each = " UNION ".join(_of_type(statement) for statement in statements)
    query = (
        "SELECT json_build_array(name, system, code)::text"
        f" FROM ({each}) AS labels ORDER BY name, system, code LIMIT {limit}"
    )
    rows = connection.execute(JUDGE, (tenant_id, query, statements[0].values, None)).fetchall()
    return [tuple(json.loads(row[0])) for row in rows]


def _of_type(statement: SearchStatement) -> str:
    conditions = "".join(f" AND {condition}" for condition in statement.conditions)
    of_type = f"s.tenant_id = $1 AND s.resource_type = '{statement.resource_type}'"
    resource = (
        " JOIN fhir_resources AS r ON r.tenant_id = $1 AND r.resource_type = s.resource_type"
        " AND r.resource_id = s.resource_id AND NOT r.deleted AND r.version > 0"
    )
    return (
        "SELECT substr(s.parameter, 2) AS name, s.system, s.code FROM fhir_search_token AS s"
        f"{resource} WHERE {of_type} AND s.parameter IN ('_tag', '_security'){conditions}"
        " UNION SELECT 'profile', '', s.value FROM fhir_search_uri AS s"
        f"{resource} WHERE {of_type} AND s.parameter = '_profile'{conditions}"
    )
