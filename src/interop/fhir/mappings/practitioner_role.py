"""PractitionerRole over user_tenants and user_roles (US Core PractitionerRole).

One is the membership: what somebody is here, and where. The others are the roles that a member
holds, each for a place and a time. Both decide about rights, so they are changed in administration
and shown here; a client's own PractitionerRole is kept whole. A role that has ended says so in its
period; `active` is that of the membership.
"""

from __future__ import annotations

from typing import Final, LiteralString
from uuid import UUID

from interop.fhir.lens import Connection, JsonObject
from interop.fhir.mappings import references
from interop.fhir.mappings.care_team import period
from interop.fhir.mappings.concepts import Coding, Reference
from interop.fhir.mappings.converters import Boolean
from interop.fhir.mappings.lens import Entry, ResourceMapping, Row, Rows
from interop.fhir.mappings.places import FirstOf
from interop.fhir.mappings.practitioner import KINDS, NOT_PRESENTED
from interop.fhir.mappings.shared_type import SharedLens
from interop.fhir.mappings.statements import query
from interop.fhir.mappings.systems import NUCC, OWN
from interop.fhir.mappings.views import Loader, Shown, ViewLens

ROLE: Final = f"{OWN}:role"


def _mapping(table: str, codes: str) -> ResourceMapping:
    return ResourceMapping(
        "PractitionerRole",
        table,
        [
            Entry("is_active", "active", Boolean()),
            Entry("period", "period", Shown("valid_from, valid_until")),
            Entry("practitioner", "practitioner", Reference(("Practitioner",))),
            Entry("organization", "organization", Reference(("Organization",))),
            Entry("codes", "code", Shown(codes)),
            Entry("specialty", "specialty", Shown("user_type, where NUCC has it")),
            Entry("location", "location", FirstOf(Reference(("Location",)))),
            # US Core pd-1 wants a way to reach the role; the tenant's DICOMweb is one.
            Entry("endpoint", "endpoint", FirstOf(Reference(("Endpoint",)))),
        ],
    )


MEMBERSHIP: Final = _mapping("user_tenants", "user_type")
ASSIGNMENT: Final = _mapping("user_roles", "the role, user_type")

_MEMBERSHIP: Final = """
SELECT m.user_id, m.user_type, m.status, m.default_location_id AS location_id,
    NULL AS valid_from, NULL AS valid_until, NULL AS code, NULL AS name, s.id AS settings_id
FROM user_tenants AS m LEFT JOIN tenant_settings AS s ON s.tenant_id = m.tenant_id
WHERE m.tenant_id = %s AND m.id = %s AND m.user_type <> ALL (%s)
"""
_ASSIGNMENT: Final = """
SELECT m.user_id, m.user_type, m.status, a.location_id, a.valid_from, a.valid_until,
    r.code, r.name, s.id AS settings_id
FROM user_roles AS a JOIN roles AS r ON r.id = a.role_id
JOIN user_tenants AS m ON m.tenant_id = a.tenant_id AND m.user_id = a.user_id
LEFT JOIN tenant_settings AS s ON s.tenant_id = a.tenant_id
WHERE a.tenant_id = %s AND a.id = %s AND m.user_type <> ALL (%s)
"""


def _loader(statement: LiteralString) -> Loader:
    def load(connection: Connection, tenant_id: UUID, row_id: UUID) -> Rows | None:
        found = query(connection, statement, tenant_id, row_id, list(NOT_PRESENTED))
        return Rows(_row(connection, tenant_id, found[0])) if found else None

    return load


def _row(connection: Connection, tenant_id: UUID, found: Row) -> Row:
    def literal(resource_type: str, column: str) -> str | None:
        target = found[column]
        return target and references.literal(connection, tenant_id, resource_type, target)

    kind: JsonObject = KINDS.put(found["user_type"], None)
    role = Coding(ROLE, found["code"], found["name"]).concept() if found["code"] else None
    is_specialty = KINDS.codes[found["user_type"]].system == NUCC
    return {
        "is_active": found["status"] == "ACTIVE",
        "period": period(found["valid_from"], found["valid_until"]),
        "practitioner": literal("Practitioner", "user_id"),
        "organization": f"Organization/{tenant_id}",
        "codes": [role, kind] if role else [kind],
        "specialty": [kind] if is_specialty else None,
        "location": literal("Location", "location_id"),
        "endpoint": literal("Endpoint", "settings_id"),
    }


def lens(public_url: str | None) -> SharedLens:
    origin = "a role of a member of this organization; it is changed in administration"
    return SharedLens(
        [
            ViewLens(MEMBERSHIP, _loader(_MEMBERSHIP), origin),
            ViewLens(ASSIGNMENT, _loader(_ASSIGNMENT), origin),
        ]
    )
