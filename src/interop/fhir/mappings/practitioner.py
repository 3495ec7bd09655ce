"""Practitioner over user_tenants and users (US Core Practitioner).

Within a tenant a user is who user_tenants says. A user is global and may be a member elsewhere, so
a Practitioner changes `users.full_name` only of a user whom this tenant's own feed made and who
never signs in (no e-mail address, `created_by` names the tenant); any other name is the user's own.
`user_type` decides about rights: it is taken from the first version and never changed over FHIR.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID, uuid4

from interop.fhir.lens import Connection, JsonObject
from interop.fhir.mappings.concepts import Coding, Concept
from interop.fhir.mappings.converters import Text
from interop.fhir.mappings.lens import Entry, ResourceMapping, Rows
from interop.fhir.mappings.places import FirstOf, Within
from interop.fhir.mappings.statements import delete, insert, mark_stale, update
from interop.fhir.mappings.systems import NPI, NUCC, own
from interop.fhir.mappings.tables import refusing_bad_rows, with_id

# Users who are no practitioners: patients and people of other organizations.
NOT_PRESENTED: Final = ("PATIENT", "PAYER_ANALYST", "REGULATOR", "DEVELOPER")
UNNAMED: Final = "(unnamed practitioner)"

KINDS: Final = Concept(
    {
        "DENTIST": Coding(NUCC, "122300000X", "Dentist"),
        "HYGIENIST": Coding(NUCC, "124Q00000X", "Dental Hygienist"),
        "ASSISTANT": Coding(NUCC, "126800000X", "Dental Assistant"),
        "ADMIN": own("user-type", "admin", "Administrator"),
        "FRONT_DESK": own("user-type", "front-desk", "Front desk"),
    }
)


@dataclass(frozen=True, slots=True)
class FullName:
    """One name in full; the last word is given as the family name when it is written."""

    label: str = "name[0].text, else prefix, given, family, suffix joined"

    def get(self, node: Any) -> str | None:
        name = node[0] if isinstance(node, list) and node else {}
        if Text().get(name.get("text")):
            return str(name["text"])
        lists = [name.get("prefix"), name.get("given"), [name.get("family")], name.get("suffix")]
        words = [word for items in lists for word in items or [] if isinstance(word, str)]
        return " ".join(words) or None

    def put(self, value: str | None, node: Any) -> Any:
        others = node[1:] if isinstance(node, list) else []
        if not value:
            return None
        words = value.split()
        name: JsonObject = {"text": value, "family": words[-1] if words else value}
        if words[:-1]:
            name["given"] = words[:-1]
        return [name, *others]


@dataclass(frozen=True, slots=True)
class IsActive:
    """Whether a membership is in force."""

    label: str = "false = INACTIVE, else ACTIVE"

    def get(self, node: Any) -> str:
        return "INACTIVE" if node is False else "ACTIVE"

    def put(self, value: str, node: Any) -> bool:
        return value == "ACTIVE"


MAPPING: Final = ResourceMapping(
    "Practitioner",
    "user_tenants",
    [
        Entry("national_provider_identifier", f"identifier[system={NPI}].value", Text()),
        Entry("status", "active", IsActive()),
        Entry("full_name", "name", FullName(), UNNAMED),
        Entry(
            "user_type",
            "qualification",
            FirstOf(Within("code", KINDS)),
            "DENTIST",
            insert_only=True,
        ),
    ],
)


class PractitionerLens:
    """Rows of two tables: the membership of the tenant, and the user where it is the tenant's."""

    resource_type = "Practitioner"
    mapping = MAPPING

    def get(self, resource: JsonObject) -> Rows:
        return MAPPING.get(resource)

    def put(self, rows: Rows, resource: JsonObject | None) -> JsonObject:
        return MAPPING.put(rows, resource)

    def row_id(
        self, connection: Connection, tenant_id: UUID, resource: JsonObject, proposed: UUID
    ) -> UUID | None:
        """The proposed row, unless a user elsewhere has that id, who must not become a member."""
        found = connection.execute(
            "SELECT u.created_by = %(feed)s AND u.email IS NULL OR EXISTS"
            " (SELECT FROM user_tenants AS m WHERE m.tenant_id = %(tenant)s AND m.user_id = u.id)"
            " FROM users AS u WHERE u.id = %(user)s",
            {"feed": _feed_of(tenant_id), "tenant": tenant_id, "user": proposed},
        ).fetchone()
        return proposed if found is None or found[0] else uuid4()

    def write(
        self,
        connection: Connection,
        tenant_id: UUID,
        row_id: UUID,
        resource: JsonObject,
        actor: str,
    ) -> list[str]:
        row = dict(self.get(resource).row)
        full_name, user_type = row.pop("full_name"), row.pop("user_type")
        with refusing_bad_rows(self.resource_type):
            key = {"tenant_id": tenant_id, "user_id": row_id}
            if update(connection, "user_tenants", {**row, "updated_by": actor}, key):
                connection.execute(
                    "UPDATE users SET full_name = %s, updated_by = %s"
                    " WHERE id = %s AND email IS NULL AND created_by = %s",
                    (full_name, actor, row_id, _feed_of(tenant_id)),
                )
            else:
                connection.execute(
                    "INSERT INTO users AS known (id, full_name, created_by) VALUES (%s, %s, %s)"
                    " ON CONFLICT (id) DO UPDATE SET full_name = EXCLUDED.full_name"
                    " WHERE known.created_by = EXCLUDED.created_by AND known.email IS NULL",
                    (row_id, full_name, _feed_of(tenant_id)),
                )
                membership = {**key, **row, "user_type": user_type, "created_by": actor}
                insert(connection, "user_tenants", membership)
        self._have_roles_rendered(connection, tenant_id, row_id)
        return []

    def present(
        self, connection: Connection, tenant_id: UUID, row_id: UUID, stored: JsonObject | None
    ) -> JsonObject | None:
        row = self._select(connection, tenant_id, row_id)
        if row is None or row["user_type"] in NOT_PRESENTED:
            return None
        return with_id(self.put(Rows(row), stored), row_id)

    def overlay(
        self, connection: Connection, tenant_id: UUID, row_id: UUID, resource: JsonObject
    ) -> JsonObject:
        """The name of a user who signs in, and what a member is, are not the client's to say."""
        return self.present(connection, tenant_id, row_id, resource) or resource

    def delete(self, connection: Connection, tenant_id: UUID, row_id: UUID) -> None:
        """End the membership. The user stays: rows of the past name who did what."""
        with refusing_bad_rows(self.resource_type):
            self._have_roles_rendered(connection, tenant_id, row_id)
            delete(connection, "user_tenants", {"tenant_id": tenant_id, "user_id": row_id})

    def _have_roles_rendered(self, connection: Connection, tenant_id: UUID, row_id: UUID) -> None:
        """The membership is a PractitionerRole too, and says whether the others are active."""
        roles = connection.execute(
            "SELECT id FROM user_tenants WHERE tenant_id = %(tenant)s AND user_id = %(user)s UNION"
            " SELECT id FROM user_roles WHERE tenant_id = %(tenant)s AND user_id = %(user)s"
            " ORDER BY id",
            {"tenant": tenant_id, "user": row_id},
        ).fetchall()
        for (role,) in roles:
            mark_stale(connection, tenant_id, "PractitionerRole", role)

    def _select(
        self, connection: Connection, tenant_id: UUID, row_id: UUID
    ) -> dict[str, Any] | None:
        found = connection.execute(
            "SELECT m.national_provider_identifier, m.status, u.full_name, m.user_type"
            " FROM user_tenants AS m JOIN users AS u ON u.id = m.user_id"
            " WHERE m.tenant_id = %s AND m.user_id = %s",
            (tenant_id, row_id),
        ).fetchone()
        return dict(zip(MAPPING.columns, found, strict=True)) if found else None


def _feed_of(tenant_id: UUID) -> str:
    """Who made a user over FHIR: the tenant, whose users nobody else's feed may rename."""
    return f"fhir of tenant {tenant_id}"


def lens(public_url: str | None) -> PractitionerLens:
    return PractitionerLens()
