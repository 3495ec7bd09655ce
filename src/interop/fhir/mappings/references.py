"""Between references in resources and row ids, always within one tenant.

A reference resolves when its resource exists in the tenant and its row does too: a resource that
still waits for a reference of its own has no row that a foreign key could point at.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final, LiteralString
from uuid import UUID

from interop.fhir.lens import Connection

# The table and the column that holds the row id, for every type that a mapped column points at.
TARGETS: Final[dict[str, tuple[LiteralString, LiteralString]]] = {
    "Patient": ("patients", "id"),
    "Practitioner": ("user_tenants", "user_id"),
    "Location": ("locations", "id"),
    "Encounter": ("encounters", "id"),
    "Condition": ("patient_conditions", "id"),
    "Procedure": ("procedures", "id"),
    "ImagingStudy": ("imaging_studies", "id"),
    # Another tenant is an Organization here once rows of this one name it (organization.py).
    "Organization": ("(SELECT id, %(tenant_id)s::uuid AS tenant_id FROM tenants)", "id"),
    "Coverage": ("patient_insurance_policies", "id"),
    "Claim": ("claims", "id"),
    "CarePlan": ("treatment_plans", "id"),
    "ServiceRequest": ("treatment_plan_items", "id"),
    # What a record may name of the platform's catalogues (catalogue.py).
    "Medication": ("(SELECT id, %(tenant_id)s::uuid AS tenant_id FROM drug_reference)", "id"),
    "Device": ("(SELECT id, %(tenant_id)s::uuid AS tenant_id FROM material_reference)", "id"),
}
_OWN_URL = re.compile(r"https?://.*/t/(?P<slug>[^/]+)/fhir/R4/(?P<rest>[^/]+/[^/]+)")


def row_id(
    connection: Connection, tenant_id: UUID, resource_type: str, resource_id: str
) -> UUID | None:
    """The row of a resource of this tenant; None where resource or row is missing."""
    table, key = TARGETS[resource_type]
    found = connection.execute(
        "SELECT r.row_id FROM fhir_resources AS r"
        " WHERE r.tenant_id = %(tenant_id)s AND r.resource_type = %(type)s"
        " AND r.resource_id = %(id)s AND NOT r.deleted AND EXISTS (SELECT FROM "
        + table
        + " AS t WHERE t.tenant_id = %(tenant_id)s AND t."
        + key
        + " = r.row_id)",
        {"tenant_id": tenant_id, "type": resource_type, "id": resource_id},
    ).fetchone()
    return found[0] if found else None


def resolve(connection: Connection, tenant_id: UUID, reference: str) -> UUID | None:
    """The row of `Type/id`, or of an absolute URL of this server and this tenant."""
    local = local_part(connection, tenant_id, reference)
    if local is None:
        return None
    resource_type, _, resource_id = local.partition("/")
    return row_id(connection, tenant_id, resource_type, resource_id)


def local_part(connection: Connection, tenant_id: UUID, reference: str) -> str | None:
    """`Type/id` of a reference of this tenant; None for the URL of another tenant."""
    absolute = _OWN_URL.fullmatch(reference)
    if absolute is None:
        return reference
    found = connection.execute("SELECT slug FROM tenants WHERE id = %s", (tenant_id,)).fetchone()
    return absolute["rest"] if found and found[0] == absolute["slug"] else None


def local_parts(connection: Connection, tenant_id: UUID, named: Iterable[str]) -> list[str]:
    """References as `Type/id`, where they are of this tenant; others as they are."""
    return [local_part(connection, tenant_id, item) or item for item in named]


def unresolved(connection: Connection, tenant_id: UUID, named: Iterable[str]) -> list[str]:
    """Those of the references that have no row yet."""
    waiting = [item for item in named if resolve(connection, tenant_id, item) is None]
    return local_parts(connection, tenant_id, waiting)


def literals(
    connection: Connection, tenant_id: UUID, resource_type: str, rows: Iterable[UUID | None]
) -> dict[UUID, str]:
    """The references to several rows of one type."""
    wanted = [row for row in rows if row is not None]
    found = {row: f"{resource_type}/{row}" for row in wanted}
    if wanted:
        named = connection.execute(
            "SELECT row_id, resource_id FROM fhir_resources"
            " WHERE tenant_id = %s AND resource_type = %s AND row_id = ANY(%s)",
            (tenant_id, resource_type, wanted),
        )
        found |= {row: f"{resource_type}/{resource_id}" for row, resource_id in named}
    return found


def literal(connection: Connection, tenant_id: UUID, resource_type: str, row: UUID) -> str:
    """`Type/id` of the resource of a row; without a client's own id it is the row's UUID."""
    found = connection.execute(
        "SELECT resource_id FROM fhir_resources"
        " WHERE tenant_id = %s AND resource_type = %s AND row_id = %s",
        (tenant_id, resource_type, row),
    ).fetchone()
    return f"{resource_type}/{found[0] if found else row}"
