"""Fields that a tenant has added to its records, as extensions of the resources that have them.

A definition is a StructureDefinition that says what the extension is, and where it belongs. A value
is the extension on the resource of its record; both ways, as with any column. A field that holds
secrets (RESTRICTED) or is out of use is not presented, and what a client says of it is not kept in
its rows.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final, LiteralString, Protocol
from uuid import UUID

from interop.fhir.lens import (
    Connection,
    FillsLinks,
    HoldsSome,
    JsonObject,
    Lens,
    NamesItsRow,
    ShowsRows,
)
from interop.fhir.mappings import statements
from interop.fhir.mappings.converters import Boolean, Codes, Converter, Day, Moment, Text, number
from interop.fhir.mappings.lens import Entry, ResourceMapping, Row, Rows, constant
from interop.fhir.mappings.systems import OWN
from interop.fhir.mappings.views import Shown, ViewLens
from storage.schema.presentation import CUSTOM_FIELDS

# The table and the column of the rows of an entity.
ENTITIES: Final[dict[str, tuple[LiteralString, LiteralString]]] = {
    "PATIENT": ("patients", "id"),
    "ENCOUNTER": ("encounters", "id"),
    "PROCEDURE": ("procedures", "id"),
    "TREATMENT_PLAN": ("treatment_plans", "id"),
    "IMAGING_STUDY": ("imaging_studies", "id"),
    "CLAIM": ("claims", "id"),
    "LOCATION": ("locations", "id"),
    "USER": ("user_tenants", "user_id"),
}
EXTENSION: Final = "http://hl7.org/fhir/StructureDefinition/Extension"
_MAX_DIGITS: Final = 100


def url_of(entity_type: str, field_key: str) -> str:
    """The URL of the extension of a field."""
    return f"{OWN}:custom-field:{entity_type.lower().replace('_', '-')}:{field_key}"


# -- values -----------------------------------------------------------------------------------


class Value(Protocol):
    """How the values of one data type stand in an extension and in the value columns."""

    def read(self, node: Any) -> Any:
        """The column's value; None for what it cannot hold."""
        ...

    def shown(self, value: Any) -> Any:
        """The extension's value; None for what FHIR cannot say."""
        ...


@dataclass(frozen=True, slots=True)
class _InText:
    """A value that is kept as it is written, where `converter` can read it."""

    converter: Converter

    def read(self, node: Any) -> str | None:
        return node if isinstance(node, str) and self.converter.get(node) is not None else None

    def shown(self, value: str) -> str | None:
        return value if self.converter.get(value) is not None else None


class _Truth:
    def read(self, node: Any) -> str | None:
        known = Boolean().get(node)
        return None if known is None else str(known).lower()

    def shown(self, value: str) -> bool | None:
        return {"true": True, "false": False}.get(value)


class _Number:
    def read(self, node: Any) -> Decimal | None:
        value = number(node)
        return value if value is not None and abs(value.adjusted()) < _MAX_DIGITS else None

    def shown(self, value: Decimal) -> Decimal:
        return value


class _Json:
    """An object, as its text: an extension holds no JSON of other kinds."""

    def read(self, node: Any) -> JsonObject | None:
        try:
            value = json.loads(node) if isinstance(node, str) else None
        except ValueError:
            return None
        return value if isinstance(value, dict) else None

    def shown(self, value: JsonObject) -> str:
        return json.dumps(value)


@dataclass(frozen=True, slots=True)
class DataType:
    """The element of the extension, and the column of the value."""

    fhir_type: str
    column: str
    value: Value

    @property
    def element(self) -> str:
        return f"value{self.fhir_type[0].upper()}{self.fhir_type[1:]}"


DATA_TYPES: Final = {
    "TEXT": DataType("string", "value_text", _InText(Text())),
    "CHOICE": DataType("string", "value_text", _InText(Text())),
    "NUMBER": DataType("decimal", "value_number", _Number()),
    "BOOLEAN": DataType("boolean", "value_text", _Truth()),
    "DATE": DataType("date", "value_text", _InText(Day())),
    "DATETIME": DataType("dateTime", "value_text", _InText(Moment())),
    "JSON": DataType("string", "value_json", _Json()),
}


@dataclass(frozen=True, slots=True)
class Field:
    """A field in use, by its definition."""

    id: UUID
    entity_type: str
    key: str
    data_type: DataType

    def get(self, resource: JsonObject) -> Any:
        """What a resource says of the field, as the column holds it."""
        found = (self.data_type.value.read(item.get(self.data_type.element))
                 for item in resource.get("extension") or [] if self._is_ours(item))  # fmt: skip
        return next((value for value in found if value is not None), None)

    def put(self, value: Any, resource: JsonObject) -> JsonObject:
        """The resource with the value of the column in it, None for none."""
        if value == self.get(resource):
            return resource
        items = resource.get("extension") or []
        kept = [item for item in items if not self._is_ours(item)]
        shown = None if value is None else self.data_type.value.shown(value)
        if shown is not None:
            url = url_of(self.entity_type, self.key)
            kept.append({"url": url, self.data_type.element: shown})
        rest = {name: node for name, node in resource.items() if name != "extension"}
        return {**rest, "extension": kept} if kept else rest

    def _is_ours(self, item: Any) -> bool:
        return isinstance(item, Mapping) and item.get("url") == url_of(self.entity_type, self.key)


class CustomFieldsLens:
    """A lens whose resources have a tenant's own fields besides what the lens knows."""

    def __init__(self, lens: Lens, entity_type: str) -> None:
        self.lens = lens
        self.entity_type = entity_type
        self._table, self._column = ENTITIES[entity_type]

    @property
    def resource_type(self) -> str:
        return self.lens.resource_type

    def lens_of_new(self, resource: JsonObject) -> Lens | None:
        """This one, unless no table holds the resource."""
        if isinstance(self.lens, HoldsSome) and self.lens.lens_of_new(resource) is None:
            return None
        return self

    def row_id(
        self, connection: Connection, tenant_id: UUID, resource: JsonObject, proposed: UUID
    ) -> UUID | None:
        """The row that the lens names."""
        if isinstance(self.lens, NamesItsRow):
            return self.lens.row_id(connection, tenant_id, resource, proposed)
        return proposed

    def write(
        self,
        connection: Connection,
        tenant_id: UUID,
        row_id: UUID,
        resource: JsonObject,
        actor: str,
    ) -> list[str]:
        waiting = self.lens.write(connection, tenant_id, row_id, resource, actor)
        if waiting:
            return waiting
        fields = self._fields(connection, tenant_id, row_id)
        if fields is None:
            return []
        for field, before in fields:
            value = field.get(resource)
            if value != before or type(value) is not type(before):
                self._write_value(connection, tenant_id, row_id, field, value, actor)
        return []

    def waits_for(self, connection: Connection, tenant_id: UUID, resource: JsonObject) -> list[str]:
        """What the lens waits for."""
        if isinstance(self.lens, FillsLinks):
            return self.lens.waits_for(connection, tenant_id, resource)
        return []

    def present(
        self, connection: Connection, tenant_id: UUID, row_id: UUID, stored: JsonObject | None
    ) -> JsonObject | None:
        presented = self.lens.present(connection, tenant_id, row_id, stored)
        if presented is None:
            return None
        for field, value in self._fields(connection, tenant_id, row_id) or ():
            presented = field.put(value, presented)
        return presented

    def overlay(
        self, connection: Connection, tenant_id: UUID, row_id: UUID, resource: JsonObject
    ) -> JsonObject:
        """What the lens lays over a client's resource."""
        if isinstance(self.lens, ShowsRows):
            return self.lens.overlay(connection, tenant_id, row_id, resource)
        return resource

    def delete(self, connection: Connection, tenant_id: UUID, row_id: UUID) -> None:
        self.lens.delete(connection, tenant_id, row_id)
        statements.delete(connection, "custom_field_values", self._key(tenant_id, row_id))

    def _key(self, tenant_id: UUID, row_id: UUID) -> Row:
        return {"tenant_id": tenant_id, "entity_type": self.entity_type, "entity_id": row_id}

    def _fields(
        self, connection: Connection, tenant_id: UUID, row_id: UUID
    ) -> list[tuple[Field, Any]] | None:
        """The fields in use with their values; None where there are none, or no such record."""
        rows = statements.query(
            connection,
            "SELECT d.id, d.field_key, d.data_type, v.value_text, v.value_number, v.value_json"
            " FROM custom_field_definitions AS d LEFT JOIN custom_field_values AS v"
            " ON v.tenant_id = d.tenant_id AND v.definition_id = d.id AND v.entity_id = %s"
            " AND v.entity_type = d.entity_type"
            " WHERE d.tenant_id = %s AND d.entity_type = %s AND d.is_active"
            " AND d.phi_sensitivity_level <> 'RESTRICTED' ORDER BY d.field_key",
            row_id,
            tenant_id,
            self.entity_type,
        )
        if not rows:
            return None
        key = {"tenant_id": tenant_id, self._column: row_id}
        if not statements.exists(connection, self._table, key):
            return None
        found: list[tuple[Field, Any]] = []
        for row in rows:
            type_ = DATA_TYPES[row["data_type"]]
            found.append((Field(row["id"], self.entity_type, row["field_key"], type_),
                          row[type_.column]))  # fmt: skip
        return found

    def _write_value(
        self,
        connection: Connection,
        tenant_id: UUID,
        row_id: UUID,
        field: Field,
        value: Any,
        actor: str,
    ) -> None:
        key = {**self._key(tenant_id, row_id), "definition_id": field.id}
        statements.delete(connection, "custom_field_values", key)
        if value is not None:
            columns = {field.data_type.column: value, "field_key": field.key}
            row = {**key, **columns, "created_by": actor}
            statements.insert(connection, "custom_field_values", row)


# -- definitions ------------------------------------------------------------------------------

DEFINITION: Final = ResourceMapping(
    "StructureDefinition",
    "custom_field_definitions",
    [
        Entry("url", "url", Text()),
        Entry("name", "name", Text()),
        Entry("label", "title", Text()),
        Entry("is_active", "status", Codes({"active": "ACTIVE", "retired": "RETIRED"})),
        Entry("context", "context", Shown("the resource of entity_type")),
        Entry("differential", "differential", Shown("the type of data_type; is_required")),
    ],
    template=constant(
        {
            "fhirVersion": "4.0.1",
            "kind": "complex-type",
            "abstract": False,
            "type": "Extension",
            "baseDefinition": EXTENSION,
            "derivation": "constraint",
        }
    ),
)


def _load_definition(connection: Connection, tenant_id: UUID, row_id: UUID) -> Rows | None:
    found = statements.query(
        connection,
        "SELECT entity_type, field_key, label, data_type, is_required, is_active"
        " FROM custom_field_definitions WHERE tenant_id = %s AND id = %s"
        " AND phi_sensitivity_level <> 'RESTRICTED'",
        tenant_id,
        row_id,
    )
    if not found:
        return None
    field = found[0]
    url = url_of(field["entity_type"], field["field_key"])
    words = f"{field['entity_type'].lower()}_{field['field_key']}".split("_")
    return Rows(
        {
            "url": url,
            "name": "".join(word.capitalize() for word in words),
            "label": field["label"],
            "is_active": "ACTIVE" if field["is_active"] else "RETIRED",
            "context": [{"type": "element", "expression": CUSTOM_FIELDS[field["entity_type"]]}],
            "differential": {"element": _elements(url, field)},
        }
    )


def _elements(url: str, field: Row) -> list[JsonObject]:
    root = {"id": "Extension", "path": "Extension", "short": field["label"]}
    number_of = {"min": 1 if field["is_required"] else 0, "max": "1"}
    type_ = DATA_TYPES[field["data_type"]].fhir_type
    return [
        {name: node for name, node in {**root, **number_of}.items() if node != ""},
        {"id": "Extension.extension", "path": "Extension.extension", "max": "0"},
        {"id": "Extension.url", "path": "Extension.url", "fixedUri": url},
        {
            "id": "Extension.value[x]",
            "path": "Extension.value[x]",
            "min": 1,
            "type": [{"code": type_}],
        },
    ]


def definition(public_url: str | None) -> ViewLens:
    return ViewLens(
        DEFINITION, _load_definition, "a field of this organization; it is set in administration"
    )
