"""RelatedPerson over patient_relationships and external_contacts.

A relative who is a patient too is named by an extension and not by name: whoever may read one
record need not be allowed to read the other. One contact may stand in several relationships; a
change of one RelatedPerson is then a change of all of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID, uuid4

from interop.errors import Unprocessable
from interop.fhir.lens import Connection, JsonObject
from interop.fhir.mappings import references, statements
from interop.fhir.mappings.concepts import Coding, Concept, Reference
from interop.fhir.mappings.converters import Text
from interop.fhir.mappings.lens import Entry, ResourceMapping, Row, Rows, constant
from interop.fhir.mappings.places import FirstOf
from interop.fhir.mappings.practitioner import FullName
from interop.fhir.mappings.statements import mark_stale
from interop.fhir.mappings.systems import own_extension
from interop.fhir.mappings.tables import refusing_bad_rows, spell, with_id

RELATED_PATIENT: Final = own_extension("related-patient")
UNNAMED: Final = "(unnamed contact)"
_ROLE: Final = "http://terminology.hl7.org/CodeSystem/v3-RoleCode"
_CONTACT: Final = "http://terminology.hl7.org/CodeSystem/v2-0131"
_CONTACT_COLUMNS: Final = ("full_name", "phone", "email", "address")


def _roles(*codes: str) -> tuple[Coding, ...]:
    return tuple(Coding(_ROLE, code) for code in codes)


RELATIONSHIPS: Final = Concept(
    {
        "SPOUSE": Coding(_ROLE, "SPS", "spouse"),
        "CHILD": Coding(_ROLE, "CHILD", "child"),
        "GUARDIAN": Coding(_ROLE, "GUARD", "guardian"),
        "EMERGENCY_CONTACT": Coding(_CONTACT, "C", "Emergency Contact"),
    },
    {
        "SPOUSE": _roles("HUSB", "WIFE"),
        "CHILD": _roles("CHLDADOPT", "CHLDFOST", "NCHILD", "SON", "SONC", "DAU", "DAUC", "STPCHLD"),
        "EMERGENCY_CONTACT": _roles("ECON"),
    },
)


@dataclass(frozen=True, slots=True)
class AddressText:
    """The first address in one text."""

    label: str = "address[0].text, else its lines, city, state, postal code and country joined"

    def get(self, node: Any) -> str | None:
        first = node[0] if isinstance(node, list) and node and isinstance(node[0], dict) else {}
        if Text().get(first.get("text")):
            return str(first["text"])
        parts = [*(first.get("line") or []), first.get("city"), first.get("state")]
        parts += [first.get("postalCode"), first.get("country")]
        return ", ".join(part for part in parts if isinstance(part, str) and part) or None

    def put(self, value: str | None, node: Any) -> Any:
        others = node[1:] if isinstance(node, list) else []
        return [{"text": value}, *others] if value else None


def mapping(public_url: str | None) -> ResourceMapping:
    patient = Reference(("Patient",), public_url)
    return ResourceMapping(
        "RelatedPerson",
        "patient_relationships",
        [
            Entry("patient_id", "patient", patient),
            Entry(
                "related_patient_id", f"extension[url={RELATED_PATIENT}].valueReference", patient
            ),
            Entry("relationship_type", "relationship", FirstOf(RELATIONSHIPS)),
            Entry("full_name", "name", FullName()),
            Entry("phone", "telecom[system=phone].value", Text()),
            Entry("email", "telecom[system=email].value", Text()),
            Entry("address", "address", AddressText()),
        ],
        template=constant({"active": True}),
    )


class RelatedPersonLens:
    """The relationship, and the contact where the related person is no patient."""

    resource_type = "RelatedPerson"
    needs: Final = ("patient_id", "relationship_type")

    def __init__(self, public_url: str | None) -> None:
        self.mapping = mapping(public_url)

    def get(self, resource: JsonObject) -> Rows:
        return self.mapping.get(resource)

    def put(self, rows: Rows, resource: JsonObject | None) -> JsonObject:
        return self.mapping.put(rows, resource)

    def write(
        self,
        connection: Connection,
        tenant_id: UUID,
        row_id: UUID,
        resource: JsonObject,
        actor: str,
    ) -> list[str]:
        row = self.get(resource).row
        before = self._relationship(connection, tenant_id, row_id)
        missing = [column for column in self.needs if row[column] is None]
        if missing:
            if before is None:
                return []
            raise Unprocessable(
                f"RelatedPerson: {', '.join(missing)} of the record cannot be empty; send the"
                " element with a value that the server can hold, or delete the resource"
            )
        named = [row[c] for c in ("patient_id", "related_patient_id") if row[c]]
        waiting = references.unresolved(connection, tenant_id, named)
        if waiting:
            return waiting
        ids = [references.resolve(connection, tenant_id, reference) for reference in named]
        with refusing_bad_rows(self.resource_type):
            contact = before["external_contact_id"] if before else None
            if row["related_patient_id"] is None:
                contact = self._write_contact(connection, tenant_id, contact, row, actor)
                ids.append(None)
            else:
                contact = None
            values = {
                "patient_id": ids[0],
                "related_patient_id": ids[1],
                "external_contact_id": contact,
                "relationship_type": row["relationship_type"],
            }
            self._write_relationship(connection, tenant_id, row_id, values, before, actor)
            self._settle_contact(connection, tenant_id, row_id, before, contact)
        return []

    def present(
        self, connection: Connection, tenant_id: UUID, row_id: UUID, stored: JsonObject | None
    ) -> JsonObject | None:
        found = self._relationship(connection, tenant_id, row_id)
        if found is None:
            return None
        said = self.get(stored).row if stored else {}
        row = {"relationship_type": found["relationship_type"]}
        for column in ("patient_id", "related_patient_id"):
            spelled = said.get(column)
            meant = references.resolve(connection, tenant_id, spelled) if spelled else None
            row[column] = spell(connection, tenant_id, ("Patient",), found[column], spelled, meant)
        contact = self._contact(connection, tenant_id, found["external_contact_id"])
        # Of a relative who is a patient nothing is told here but what the client itself has said.
        row |= contact or {column: said.get(column) for column in _CONTACT_COLUMNS}
        return with_id(self.put(Rows(row), stored), row_id)

    def delete(self, connection: Connection, tenant_id: UUID, row_id: UUID) -> None:
        before = self._relationship(connection, tenant_id, row_id)
        key = {"tenant_id": tenant_id, "id": row_id}
        statements.delete(connection, "patient_relationships", key)
        self._settle_contact(connection, tenant_id, row_id, before, None)

    def _write_contact(
        self, connection: Connection, tenant_id: UUID, known: UUID | None, row: Row, actor: str
    ) -> UUID:
        contact = {column: row[column] for column in _CONTACT_COLUMNS}
        contact["full_name"] = contact["full_name"] or UNNAMED
        key = {"tenant_id": tenant_id, "id": known or uuid4()}
        if known is None:
            row = {**key, **contact, "created_by": actor}
            statements.insert(connection, "external_contacts", row)
        else:
            statements.update(
                connection, "external_contacts", {**contact, "updated_by": actor}, key
            )
        return key["id"]

    def _write_relationship(
        self,
        connection: Connection,
        tenant_id: UUID,
        row_id: UUID,
        values: Row,
        before: Row | None,
        actor: str,
    ) -> None:
        key = {"tenant_id": tenant_id, "id": row_id}
        if before is None:
            row = {**key, **values, "created_by": actor}
            statements.insert(connection, "patient_relationships", row)
        else:
            row = {**values, "updated_by": actor}
            statements.update(connection, "patient_relationships", row, key)

    def _settle_contact(
        self,
        connection: Connection,
        tenant_id: UUID,
        row_id: UUID,
        before: Row | None,
        contact: UUID | None,
    ) -> None:
        """Have the others of a contact rendered; remove one that nobody's relationship names."""
        named = contact or (before["external_contact_id"] if before else None)
        if named is None:
            return
        others = connection.execute(
            "SELECT id FROM patient_relationships"
            " WHERE tenant_id = %s AND external_contact_id = %s AND id <> %s ORDER BY id",
            (tenant_id, named, row_id),
        ).fetchall()
        for (other,) in others:
            mark_stale(connection, tenant_id, self.resource_type, other)
        if contact is None and not others:
            key = {"tenant_id": tenant_id, "id": named}
            statements.delete(connection, "external_contacts", key)

    def _relationship(self, connection: Connection, tenant_id: UUID, row_id: UUID) -> Row | None:
        columns = (
            "patient_id", "related_patient_id", "external_contact_id", "relationship_type",
        )  # fmt: skip
        key = {"tenant_id": tenant_id, "id": row_id}
        found = statements.select(connection, "patient_relationships", columns, key)
        return found[0] if found else None

    def _contact(
        self, connection: Connection, tenant_id: UUID, contact_id: UUID | None
    ) -> Row | None:
        if contact_id is None:
            return None
        key = {"tenant_id": tenant_id, "id": contact_id}
        found = statements.select(connection, "external_contacts", _CONTACT_COLUMNS, key)
        return _as_said(found[0]) if found else None


def _as_said(contact: Row) -> Row:
    """A contact whose name is only the stand-in for a missing one has none."""
    return {**contact, "full_name": None} if contact["full_name"] == UNNAMED else contact


def lens(public_url: str | None) -> RelatedPersonLens:
    return RelatedPersonLens(public_url)
