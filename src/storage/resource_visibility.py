"""SQL conditions on whose record a FHIR resource belongs to, and their use on versions of it.

A resource belongs to the patients whom its compartment parameters name in its search rows. The same
condition judges a version that is not the current one, or not stored yet: its search rows are given
beside the query, under the names of the tables.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, LiteralString
from uuid import UUID

import orjson

from storage import patient_access
from storage.audit import mark_audited
from storage.database import Connection, Database
from storage.encryption.columns import PREFIX
from storage.resource_search import SearchStatement
from storage.resources import Audit, Stored, Version, body_place, call, json_text, open_body
from storage.search_pages import whole_sets, with_sets

PATIENT = "Patient"
TENANT = "$1"
# A condition on the patient whose patients.id is this expression.
PatientCondition = Callable[[str], str]

JUDGE: LiteralString = "SELECT * FROM fhir_judge(%s, %s, %s, %s)"

# The columns of search rows after parameter, ordinal and cluster, as extraction writes them.
_COLUMNS = {
    "token": ("system", "code"),
    "string": ("value", "value_exact"),
    "reference": (
        "target_type", "target_id", "target_url", "target_version", "identifier_system",
        "identifier_value",
    ),
    "date": ("low timestamptz", "high timestamptz"),
    "number": ("low float8", "high float8"),
    "quantity": (
        "low float8",
        "high float8",
        "system",
        "code",
        "unit",
        "base_unit",
        "base_low float8",
        "base_high float8",
    ),
    "uri": ("value",),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Candidate:
    """A version of a resource to be judged by its own content. `name` tells it from others."""

    name: str
    resource_id: str
    row_id: UUID | None
    last_updated: datetime
    search_rows: Mapping[str, Any]


# -- conditions -----------------------------------------------------------------------------


def belongs_to(statement: SearchStatement, parameters: Sequence[str], patient_id: UUID) -> str:
    """The resource is in the compartment of the patient whose patients.id this is."""
    row_id = statement.bind(patient_id, "uuid")
    # Read once for the whole query: the id under which FHIR knows the patient.
    known_as = (
        f"(SELECT p.resource_id FROM fhir_resources AS p WHERE p.tenant_id = {TENANT}"
        f" AND p.resource_type = '{PATIENT}' AND p.row_id = {row_id})"
    )
    named = _references(statement, parameters)
    member = f"EXISTS (SELECT FROM {named} AND c.target_id = {known_as})"
    if statement.resource_type != PATIENT:
        return member
    return f"({statement.alias}.row_id = {row_id} OR {member})"


def belongs_to_patients(
    statement: SearchStatement, parameters: Sequence[str], condition: PatientCondition
) -> str:
    """The resource is in the compartment of some patient who meets the condition."""
    member = (
        f"EXISTS (SELECT FROM {_references(statement, parameters, 'JOIN')}"
        f" AND {condition('p.row_id')})"
    )
    if statement.resource_type != PATIENT:
        return member
    return f"({condition(f'{statement.alias}.row_id')} OR {member})"


def all_have_given(statement: SearchStatement, parameters: Sequence[str], consent: str) -> str:
    """Some patient is named, and each has given the consent: who is not known here has not."""
    kind = statement.bind(consent)
    if statement.resource_type == PATIENT:
        return patient_access.has_given(TENANT, f"{statement.alias}.row_id", kind)
    given = patient_access.has_given(TENANT, "p.row_id", kind)
    return (
        f"(EXISTS (SELECT FROM {_references(statement, parameters)}) AND NOT EXISTS"
        f" (SELECT FROM {_references(statement, parameters, 'LEFT JOIN')} AND NOT {given}))"
    )


def in_units(
    statement: SearchStatement,
    location_ids: Iterable[UUID],
    team_ids: Iterable[UUID],
    user_id: UUID | None,
    patient_id: UUID | None,
) -> PatientCondition:
    """A patient of one of the locations, of one of the teams, of the user, or this very patient."""

    def condition(patient: str) -> str:
        bind = statement.bind
        found: list[str] = []
        if locations := list(location_ids):
            found.append(patient_access.is_of_locations(bind, TENANT, patient, locations))
        if teams := list(team_ids):
            found.append(patient_access.is_of_teams(bind, TENANT, patient, teams))
        if user_id is not None:
            found.append(patient_access.is_treated_by(bind, TENANT, patient, user_id))
        if patient_id is not None:
            found.append(f"{patient} = {bind(patient_id, 'uuid')}")
        return f"({' OR '.join(found)})" if found else "false"

    return condition


def _references(statement: SearchStatement, parameters: Sequence[str], join: str = "") -> str:
    """The rows by which a resource names patients, with the Patient resources behind them."""
    # Names of parameters and types are those of the R4 definitions.
    names = ", ".join(f"'{name}'" for name in parameters)
    patients = (
        f" {join} fhir_resources AS p ON p.tenant_id = {TENANT}"
        f" AND p.resource_type = '{PATIENT}' AND p.resource_id = c.target_id AND NOT p.deleted"
        if join
        else ""
    )
    return (
        f"fhir_search_reference AS c{patients} WHERE c.tenant_id = {TENANT}"
        f" AND c.resource_type = '{statement.resource_type}'"
        f" AND c.parameter IN ({names}) AND c.target_type = '{PATIENT}'"
        f" AND c.resource_id = {statement.alias}.resource_id"
    )


def visible_ids(connection: Connection, tenant_id: UUID, statement: SearchStatement) -> set[str]:
    """The ids of the resources that meet the conditions of a statement."""
    query = (
        "SELECT r.resource_id FROM fhir_resources AS r WHERE r.tenant_id = $1"
        f" AND r.resource_type = '{statement.resource_type}' AND NOT r.deleted AND r.version > 0"
        + "".join(f" AND {condition}" for condition in statement.conditions)
    )
    rows = connection.execute(JUDGE, (tenant_id, query, statement.values, None)).fetchall()
    return {row[0] for row in rows}


def first_ids(
    connection: Connection, tenant_id: UUID, statement: SearchStatement, limit: int
) -> list[str]:
    """The first ids, in their order, of the resources that a statement finds, links included."""
    conditions = [*statement.conditions, *(link.whole for link in statement.links)]
    query = (
        "SELECT r.resource_id FROM fhir_resources AS r WHERE r.tenant_id = $1"
        f" AND r.resource_type = '{statement.resource_type}' AND NOT r.deleted AND r.version > 0"
        + "".join(f" AND {condition}" for condition in conditions)
        + f" ORDER BY r.resource_id LIMIT {limit}"
    )
    query = with_sets([*statement.sets, *whole_sets([statement])], query)
    rows = connection.execute(JUDGE, (tenant_id, query, statement.values, None)).fetchall()
    return [row[0] for row in rows]


# -- versions -------------------------------------------------------------------------------


def judging(statement: SearchStatement, condition: str) -> str:
    """The names of the candidates ($3) that meet the condition on the row `r`."""
    tables = [
        "r AS MATERIALIZED (SELECT (v ->> 'name') COLLATE \"C\" AS resource_id,"
        " (v ->> 'id') COLLATE \"C\" AS own_id, (v ->> 'row_id')::uuid AS row_id,"
        " (v ->> 'last_updated')::timestamptz AS last_updated"
        " FROM jsonb_array_elements($3) AS v)"
    ]
    tables += [
        f"fhir_search_{table} AS (SELECT $1 AS tenant_id,"
        f" '{statement.resource_type}'::text AS resource_type,"
        ' (v ->> \'name\') COLLATE "C" AS resource_id, (w ->> 0) COLLATE "C" AS parameter,'
        f" (w ->> 1)::int AS ordinal, (w ->> 2)::int AS cluster, {_typed(columns)}"
        f" FROM jsonb_array_elements($3) AS v, jsonb_array_elements(v -> 'rows' -> '{table}') AS w)"
        for table, columns in _COLUMNS.items()
    ]
    tables.append(
        f"fhir_search_gram AS (SELECT $1 AS tenant_id,"
        f" '{statement.resource_type}'::text AS resource_type,"
        ' (v ->> \'name\') COLLATE "C" AS resource_id, g COLLATE "C" AS gram'
        " FROM jsonb_array_elements($3) AS v,"
        " jsonb_array_elements_text(v -> 'rows' -> 'gram') AS g)"
    )
    return f"WITH {', '.join(tables)} SELECT r.resource_id FROM r WHERE {condition}"


def _typed(columns: Sequence[str]) -> str:
    parts: list[str] = []
    for index, column in enumerate(columns, 3):
        name, _, type_ = column.partition(" ")
        value = f"(w ->> {index})"
        parts.append(f"{value}::{type_} AS {name}" if type_ else f'{value} COLLATE "C" AS {name}')
    return ", ".join(parts)


def judge(
    connection: Connection,
    tenant_id: UUID,
    query: str,
    values: Sequence[str],
    candidates: Iterable[Candidate],
) -> set[str]:
    """The names of the candidates that meet the condition of `query`; in the open transaction."""
    rows = connection.execute(JUDGE, (tenant_id, query, list(values), _json(candidates))).fetchall()
    return {row[0] for row in rows}


async def judge_async(
    database: Database,
    tenant_id: UUID,
    query: str,
    values: Sequence[str],
    candidates: Iterable[Candidate],
) -> set[str]:
    """The same in a transaction of its own."""
    rows = await call(database, tenant_id, "fhir_judge", query, list(values), _json(candidates))
    return {row[0] for row in rows}


def _json(candidates: Iterable[Candidate]) -> str:
    return orjson.dumps(
        [
            {
                "name": one.name,
                "id": one.resource_id,
                "row_id": one.row_id,
                "last_updated": one.last_updated,
                "rows": one.search_rows,
            }
            for one in candidates
        ]
    ).decode()


# -- reading --------------------------------------------------------------------------------


async def read_within(
    database: Database,
    tenant_id: UUID,
    resource_type: str,
    resource_id: str,
    query: tuple[str, str | None],
    values: Sequence[str],
    audit: Audit,
) -> Stored | None:
    """The current version where it meets the condition `query[0]`, audited; None where it does not.

    A stale or deleted one is returned whatever the condition says, without body and audit row: the
    caller renders the one and judges the other by its last content. `query[1]` holds where only a
    consent was missing, which the audit row then says.
    """
    parameters = (resource_type, resource_id, *query, list(values), json_text(audit))
    rows = await call(database, tenant_id, "fhir_read_within", *parameters)
    if not rows:
        mark_audited()
        return None
    row_id, version, last_updated, deleted, stale, body = rows[0]
    if not (stale or deleted):
        mark_audited()
    body = await _opened(database, tenant_id, (resource_type, resource_id), version, body)
    return Stored(row_id, version, last_updated, deleted, stale, body)


async def versions(
    database: Database,
    tenant_id: UUID,
    resource_type: str,
    resource_id: str,
    *,
    before: int | None,
    limit: int,
) -> tuple[UUID | None, list[Version]]:
    """The row of a resource and its versions older than `before`, newest first; not audited."""
    rows = await call(
        database, tenant_id, "fhir_versions", resource_type, resource_id, None, before, limit
    )
    found = [Version(*row[1:]) for row in rows]
    for index, one in enumerate(found):
        if one.body is not None:
            key = (resource_type, resource_id)
            body = await _opened(database, tenant_id, key, one.version, one.body)
            found[index] = replace(one, body=body)
    return (rows[0][0] if rows else None), found


async def _opened(
    database: Database, tenant_id: UUID, key: tuple[str, str], version: int, body: str
) -> str:
    """A body that may be stored sealed, open."""
    if not body.startswith(PREFIX):
        return body
    return await open_body(database, tenant_id, body_place(*key, version), body)


async def write_audit(
    database: Database, tenant_id: UUID, resource_type: str, resource_id: str, audit: Audit
) -> None:
    """The audit row of a read that took several steps."""
    await call(database, tenant_id, "fhir_audit_read", resource_type, resource_id, json_text(audit))
    mark_audited()
