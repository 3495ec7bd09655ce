"""The FHIR ids of rows that a token speaks of: fhirUser, patient, encounter.

A token names rows; an app reads resources, whose logical id is the row's own unless a client chose
another when it wrote the resource.
"""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from storage.database import Connection

# User types that are presented as Practitioner (interop.fhir.mappings.practitioner).
PRACTITIONERS = ("DENTIST", "HYGIENIST", "ASSISTANT", "ADMIN", "FRONT_DESK")


def logical_id(connection: Connection, tenant_id: UUID, resource_type: str, row_id: UUID) -> str:
    """The logical id under which a row is presented."""
    row = connection.execute(
        "SELECT resource_id FROM fhir_resources"
        " WHERE tenant_id = %s AND resource_type = %s AND row_id = %s AND NOT deleted",
        (tenant_id, resource_type, row_id),
    ).fetchone()
    return str(row[0]) if row else str(row_id)


def row_of(
    connection: Connection, tenant_id: UUID, resource_type: str, resource_id: str
) -> UUID | None:
    """The row behind a logical id, None when there is none."""
    row = connection.execute(
        "SELECT row_id FROM fhir_resources"
        " WHERE tenant_id = %s AND resource_type = %s AND resource_id = %s AND NOT deleted",
        (tenant_id, resource_type, resource_id),
    ).fetchone()
    return row[0] if row else None


@dataclass(frozen=True, slots=True)
class FhirUser:
    """A member of a tenant as FHIR presents them."""

    name: str
    user_type: str
    reference: str | None  # Practitioner/{id} or Patient/{id}; None for who is presented as neither


def fhir_user_of(connection: Connection, tenant_id: UUID, user_id: UUID) -> FhirUser:
    """Who a user is. The user is a member: a grant names nobody else."""
    row = connection.execute(
        "SELECT u.full_name, m.user_type, m.patient_id FROM user_tenants AS m"
        " JOIN users AS u ON u.id = m.user_id WHERE m.tenant_id = %s AND m.user_id = %s",
        (tenant_id, user_id),
    ).fetchone()
    assert row is not None
    name, user_type, patient_id = row
    reference = None
    if user_type == "PATIENT" and patient_id is not None:
        reference = f"Patient/{logical_id(connection, tenant_id, 'Patient', patient_id)}"
    elif user_type in PRACTITIONERS:
        reference = f"Practitioner/{logical_id(connection, tenant_id, 'Practitioner', user_id)}"
    return FhirUser(name, user_type, reference)
