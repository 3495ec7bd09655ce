"""Rows of one tenant in every table that has rows of tenants, whatever tables there will be.

Values follow the models: enums, ranges, tooth numbers, references to rows that were made before.
"""

from __future__ import annotations

import json
import random
from datetime import UTC, date, datetime, time, timedelta
from typing import Any
from uuid import UUID, uuid4

from psycopg.types.json import Jsonb
from sqlalchemy import Column, Table

from storage.database import Connection, vault_of
from storage.encryption.columns import place
from storage.partitions.mirror import CATALOGS
from storage.schema import metadata
from storage.schema.declarative import FDI_TOOTH, SURFACES
from storage.tenancy import Tenant

ROWS = 3
# Made by triggers, or with the tenant.
LEFT_ALONE = frozenset(
    {
        "tenant_settings",
        "tenant_storage_usage",
        "audit_seals",
        "data_keys",
    }
)
# Where the types say too little.
CHOSEN: dict[str, Any] = {
    "audit_events.transaction_id": None,
    "consents.refused_at": None,
    "custom_field_definitions.field_key": lambda n: f"field_{n}",
    "dicom_application_entities.ae_title": lambda n: f"DEVICE {n}",
    # What is received later is looked through for these.
    "dicom_query_tags.path": lambda n: ("00101010", "00102160", "00104000")[n % 3],
    "dicom_query_tags.private_creator": None,
    "dicom_query_tags.vr": lambda n: ("AS", "SH", "LT")[n % 3],
    "documents.hash": lambda n: f"{n:064x}",
    "emergency_accesses.ended_at": None,
    "emergency_accesses.expires_at": lambda n: datetime.now(UTC) + timedelta(minutes=30),
    "emergency_accesses.opened_at": lambda n: datetime.now(UTC),
    "fhir_search_parameters.definition": lambda n: json.dumps(
        {
            "url": f"urn:test:every-table:{n}",
            "code": f"every-table-{n}",
            "type": "token",
            "expression": "Basic.code",
            "bases": ["Basic"],
            "targets": [],
            "components": [],
        }
    ),
    "fhir_search_parameters.status": lambda n: "READY",
    "identity_providers.name": lambda n: f"provider-{n}",
    "imaging_objects.frame_table": lambda n: bytes(range(16)),
    "imaging_objects.hash": lambda n: f"{n:064x}",
    "imaging_objects.sop_instance_uid": lambda n: f"2.25.{uuid4().int}",
    "imaging_objects.tooth_numbers": lambda n: [11, 48],
    "imaging_series.series_uid": lambda n: f"2.25.{uuid4().int}",
    "imaging_studies.study_uid": lambda n: f"2.25.{uuid4().int}",
    "invoices.status": lambda n: "PAID",
    "messages.sender_type": lambda n: "USER",
    "patient_identifiers.assigner": lambda n: f"assigner {n}",
    "patient_identifiers.system": lambda n: "NATIONAL_ID",
    "patient_relationships.related_patient_id": None,
    "roles.code": lambda n: f"ROLE_{uuid4().hex[:8].upper()}",
    "sign_in_challenges.kind": lambda n: "TOTP",
    "storage_commitments.transaction_uid": lambda n: f"2.25.{uuid4().int}",
    "tenant_deletions.certificate": None,
    "tenant_features.feature": lambda n: f"FEATURE_{n}",
    "tenant_grants.user_id": None,
}
LATER = ("end", "until", "expires", "completed", "revoked", "stop", "paid", "left", "released")
CHOSEN |= {
    f"tenant_quotas.{name}": lambda n: 10**9
    for name in (
        "max_users",
        "max_storage_bytes",
        "max_ai_inferences_per_month",
        "api_rate_limit_per_minute",
        "max_associations",
    )
}
SECRET = "a secret of "


def fill(connection: Connection, tenant: Tenant, *, below: UUID | None = None) -> dict[str, int]:
    """Make rows in every table; returns how many by table. `below`: a tenant below this one."""
    made: dict[str, list[dict[str, Any]]] = {}
    counts = {}
    maker = random.Random(tenant.slug)
    for table in metadata.sorted_tables:
        mine = table.name in ("users", "user_auth_identities")
        if table.name in LEFT_ALONE or not (mine or table.info["scope"] in ("tenant", "platform")):
            continue
        if table.name == "tenant_grants" and below is None:
            continue
        rows = []
        for n in range(1 if _is_single(table) else ROWS):
            values = _row(connection, table, n, made, tenant, maker)
            if table.name == "tenant_grants":
                values["root_tenant_id"] = below
            rows.append(_insert(connection, table, values))
        made[table.name] = rows
        counts[table.name] = len(rows)
    return counts


def fill_catalogs(owner: Connection) -> None:
    """A row in every catalog of the platform that has none."""
    maker = random.Random(0)
    for name in CATALOGS:
        table = metadata.tables[name]
        if owner.execute(f"SELECT FROM {name} LIMIT 1".encode()).fetchone() is None:
            values = _row(owner, table, 0, {}, None, maker)
            _insert(owner, table, values)


def _insert(connection: Connection, table: Table, values: dict[str, Any]) -> dict[str, Any]:
    names = ", ".join(f'"{name}"' for name in values)
    places = ", ".join(f"%({name})s" for name in values)
    query = f"INSERT INTO {table.name} ({names}) VALUES ({places}) RETURNING *"
    cursor = connection.execute(query.encode(), values)
    assert cursor.description is not None
    found = cursor.fetchone()
    assert found is not None
    return dict(zip([d.name for d in cursor.description], found, strict=True))


def _is_single(table: Table) -> bool:
    """Whether a tenant has one row of it at most."""
    uniques = [
        {column.name for column in constraint.columns}
        for constraint in table.constraints
        if type(constraint).__name__ in ("PrimaryKeyConstraint", "UniqueConstraint")
    ]
    return {"tenant_id"} in uniques or {"user_id"} in uniques


def _row(
    connection: Connection,
    table: Table,
    n: int,
    made: dict[str, list[dict[str, Any]]],
    tenant: Tenant | None,
    maker: random.Random,
) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for column in table.c:
        chosen = CHOSEN.get(f"{table.name}.{column.name}", ...)
        if chosen is None or column.computed is not None or column.identity is not None:
            continue
        if column.name == "tenant_id" and tenant is not None:
            values["tenant_id"] = tenant.id
        elif column.name == "audit_event_id":
            values[column.name] = made["audit_events"][n]["id"]
        elif chosen is not ...:
            values[column.name] = chosen(n)
        elif column.name in ("created_at", "created_by", "updated_at", "updated_by"):
            continue
        elif (target := _target(column, table)) is not None:
            value = _reference(connection, column, target, n, made)
            if value is not None or not column.nullable:
                values[column.name] = value
        elif column.info.get("sealed"):
            row_id = values.setdefault("id", uuid4())
            owner = tenant.id if tenant is not None and "tenant_id" in table.c else None
            where = place(table.name, column.name, row_id)
            values[column.name] = vault_of(connection).seal(
                owner, where, SECRET + where, connection if owner else None
            )
        elif column.name == "id":
            continue
        elif column.server_default is None or "values" in column.info:
            values[column.name] = _value(column, n, maker)
    return _only_one(table, values)


def _only_one(table: Table, values: dict[str, Any]) -> dict[str, Any]:
    """Of columns of which exactly one may be filled only the first is."""
    for constraint in table.constraints:
        text = str(getattr(constraint, "sqltext", ""))
        if text.startswith("num_nonnulls("):
            names = text.partition("(")[2].partition(")")[0].split(", ")
            filled = [name for name in names if values.get(name) is not None]
            for name in filled[1:]:
                del values[name]
    return values


def _target(column: Column[Any], table: Table) -> tuple[Table, str] | None:
    link = column.info.get("link")
    if link is None:
        return None
    scope, target, _ = link
    return metadata.tables[target], "user_id" if scope == "member" else "id"


def _reference(
    connection: Connection,
    column: Column[Any],
    target: tuple[Table, str],
    n: int,
    made: dict[str, list[dict[str, Any]]],
) -> Any:
    table, key = target
    if table.name == "tenants":
        return None
    known = made.get(table.name)
    if known is None and table.info["scope"] == "global":
        found = connection.execute(f"SELECT id FROM {table.name} LIMIT 1".encode()).fetchone()
        return found[0] if found else None
    return known[n % len(known)][key] if known else None


def _value(column: Column[Any], n: int, maker: random.Random) -> Any:
    kind = type(column.type).__name__
    info = column.info
    if "values" in info:
        return info["values"][n % len(info["values"])]
    if info.get("check") == FDI_TOOTH:
        return 11 + n
    if info.get("check") == SURFACES:
        return "MOD"[: n + 1]
    if "check" in info:
        return None
    low, high = info.get("range", (None, None))
    if kind in ("BigInteger", "Integer", "SmallInteger"):
        return min(high if high is not None else 1000, (low or 0) + n + 1)
    if kind in ("Numeric", "Double"):
        return min(high if high is not None else 1000, (low or 0) + n + 0.25)
    simple: dict[str, Any] = {
        "Uuid": uuid4(),
        "Boolean": n % 2 == 0,
        "DateTime": _moment(column.name, n),
        "Date": date(2026, 1, 1) + timedelta(days=n + 3000 * _is_end(column.name)),
        "Time": time(8 + n, 30),
        "LargeBinary": maker.randbytes(40),
        "JSONB": Jsonb({"n": n, "text": 'Zoë \\ \t \n "quoted" \u2028'}),
        "ARRAY": [f"a{n}", "b,c", 'd"e'],
    }
    if kind in simple:
        return simple[kind]
    return f"{column.name} {n} Zoë \\N \t\\t \n {maker.random()}"


def _moment(name: str, n: int) -> datetime:
    return datetime(2026, 1, 1, 8, n, 30, 123456, UTC) + timedelta(days=3000 * _is_end(name))


def _is_end(name: str) -> bool:
    return any(word in name for word in LATER)
