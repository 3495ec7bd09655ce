"""Whose a file is: patients and visits by what a sender calls them."""

from __future__ import annotations

from uuid import UUID

from interop.errors import BadRequest, NotFound
from storage.database import Connection


def row_of(connection: Connection, tenant_id: UUID, resource_type: str, text: str) -> UUID:
    """The row of a resource by its id, or by a reference to it."""
    resource_id = text.removeprefix(f"{resource_type}/")
    row = connection.execute(
        "SELECT row_id FROM fhir_resources WHERE tenant_id = %s AND resource_type = %s"
        " AND resource_id = %s AND NOT deleted AND row_id IS NOT NULL",
        (tenant_id, resource_type, resource_id),
    ).fetchone()
    if row is None:
        raise NotFound(f"there is no {resource_type}/{resource_id[:64]}")
    found: UUID = row[0]
    return found


def patient_by_identifier(connection: Connection, tenant_id: UUID, value: str) -> UUID:
    """The one patient with this record number (MRN). Raises NotFound and BadRequest."""
    rows = connection.execute(
        "SELECT DISTINCT i.patient_id FROM patient_identifiers AS i JOIN patients AS p"
        " ON p.tenant_id = i.tenant_id AND p.id = i.patient_id"
        " WHERE i.tenant_id = %s AND i.system = 'MRN' AND i.value = %s AND p.status <> 'INACTIVE'"
        " AND coalesce(i.valid_until, current_date) >= current_date LIMIT 2",
        (tenant_id, value),
    ).fetchall()
    if not rows:
        raise NotFound(f"no patient has the record number {value[:64]!r}")
    if len(rows) > 1:
        raise BadRequest("several patients have this record number; name one by patient=<id>")
    found: UUID = rows[0][0]
    return found
