"""Section IX: code systems, reference catalogues, custom fields, workflows."""

from __future__ import annotations

from datetime import date, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from sqlalchemy import CheckConstraint, Index, Integer, Numeric, UniqueConstraint, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from storage.schema.declarative import (
    Base,
    Exact,
    GlobalTable,
    Json,
    Sensitivity,
    TenantTable,
    bounded,
    flag,
    global_link,
    link,
    member_link,
    one_of,
    period,
    phi,
)

SECTION = "IX. Governance, Reference & Extensibility"
_ENTITIES = (
    "PATIENT",
    "ENCOUNTER",
    "PROCEDURE",
    "TREATMENT_PLAN",
    "IMAGING_STUDY",
    "CLAIM",
    "LOCATION",
    "USER",
)


class CodeSystem(GlobalTable, Base):
    """A coding system: ICD-10, SNOMED CT, CDT, DICOM, internal codes."""

    __tablename__ = "code_systems"
    __section__ = SECTION
    __table_args__ = (UniqueConstraint("uri", "version", postgresql_nulls_not_distinct=True),)

    code: Mapped[str]
    uri: Mapped[str]
    name: Mapped[str]
    version: Mapped[str | None]
    publisher: Mapped[str | None]
    license_note: Mapped[str | None]


class CodeValue(GlobalTable, Base):
    """One code with its description."""

    __tablename__ = "code_values"
    __section__ = SECTION
    __table_args__ = (UniqueConstraint("code_system_id", "code"),)

    code_system_id: Mapped[UUID] = global_link("code_systems", cascade=True)
    code: Mapped[Exact]
    display: Mapped[str]
    definition: Mapped[str | None]
    parent_code: Mapped[str | None]
    category: Mapped[str | None]
    is_active: Mapped[bool] = flag(True)
    valid_from: Mapped[date | None]
    valid_until: Mapped[date | None]


class DrugReference(GlobalTable, Base):
    """A drug."""

    __tablename__ = "drug_reference"
    __section__ = SECTION
    __table_args__ = (
        UniqueConstraint("code_system_uri", "code", postgresql_nulls_not_distinct=True),
    )

    code_system_uri: Mapped[str | None]
    code: Mapped[str]
    name: Mapped[str]
    generic_name: Mapped[str | None]
    form: Mapped[str | None]
    strength: Mapped[str | None]
    atc_code: Mapped[str | None]
    is_active: Mapped[bool] = flag(True)


class MaterialReference(GlobalTable, Base):
    """A dental material."""

    __tablename__ = "material_reference"
    __section__ = SECTION
    __table_args__ = (UniqueConstraint("manufacturer", "code", postgresql_nulls_not_distinct=True),)

    code: Mapped[str]
    name: Mapped[str]
    manufacturer: Mapped[str | None]
    material_type: Mapped[str | None]
    unique_device_identifier: Mapped[str | None]
    allergens: Mapped[list[str]] = mapped_column(server_default=text("'{}'"))
    is_active: Mapped[bool] = flag(True)


class EquipmentReference(GlobalTable, Base):
    """A device, such as a panoramic unit or an intra-oral scanner."""

    __tablename__ = "equipment_reference"
    __section__ = SECTION
    __table_args__ = (
        UniqueConstraint("manufacturer", "model_name", postgresql_nulls_not_distinct=True),
    )

    manufacturer: Mapped[str | None]
    model_name: Mapped[str]
    equipment_type: Mapped[str | None]
    modality: Mapped[str | None]
    unique_device_identifier: Mapped[str | None]
    is_active: Mapped[bool] = flag(True)


class CustomFieldDefinition(TenantTable, Base):
    """A field that a tenant has added to an entity."""

    __tablename__ = "custom_field_definitions"
    __section__ = SECTION
    __table_args__ = (
        UniqueConstraint("tenant_id", "entity_type", "field_key"),
        CheckConstraint("field_key ~ '^[a-z][a-z0-9_]{0,62}$'", name="field_key"),
    )

    entity_type: Mapped[str] = one_of(*_ENTITIES)
    field_key: Mapped[str]
    label: Mapped[str]
    data_type: Mapped[str] = one_of(
        "TEXT", "NUMBER", "BOOLEAN", "DATE", "DATETIME", "CHOICE", "JSON"
    )
    validation_rules: Mapped[Json] = mapped_column(server_default=text("'{}'"))
    is_indexed: Mapped[bool] = flag()
    is_required: Mapped[bool] = flag()
    is_active: Mapped[bool] = flag(True)
    phi_sensitivity_level: Mapped[str] = one_of(
        *(level.value for level in Sensitivity), default="CLINICAL"
    )


class CustomFieldValue(TenantTable, Base):
    """The value of a custom field of one entity (entity, attribute, value)."""

    __tablename__ = "custom_field_values"
    __section__ = SECTION
    __phi__ = Sensitivity.CLINICAL
    __table_args__ = (
        UniqueConstraint("tenant_id", "definition_id", "entity_id"),
        Index(None, "tenant_id", "entity_type", "entity_id", "field_key"),
        Index(None, "tenant_id", "definition_id", "value_number"),
        CheckConstraint("num_nonnulls(value_text, value_number, value_json) <= 1", name="value"),
    )

    definition_id: Mapped[UUID] = link("custom_field_definitions")
    entity_type: Mapped[str] = one_of(*_ENTITIES)
    entity_id: Mapped[UUID]
    field_key: Mapped[str]
    value_text: Mapped[str | None]
    value_number: Mapped[Decimal | None] = mapped_column(Numeric())
    value_json: Mapped[Json | None]


class Workflow(TenantTable, Base):
    """A configurable state machine, such as AI-assisted review or claim appeals."""

    __tablename__ = "workflows"
    __section__ = SECTION
    __table_args__ = (UniqueConstraint("tenant_id", "code", "version"),)

    code: Mapped[str]
    name: Mapped[str]
    description: Mapped[str | None]
    version: Mapped[int] = bounded(1, None, Integer(), server_default=text("1"))
    initial_state: Mapped[str]
    states: Mapped[list[Any]] = mapped_column(JSONB, server_default=text("'[]'"))
    transitions: Mapped[list[Any]] = mapped_column(JSONB, server_default=text("'[]'"))
    is_active: Mapped[bool] = flag(True)


class WorkflowInstance(TenantTable, Base):
    """One case that runs through a workflow."""

    __tablename__ = "workflow_instances"
    __section__ = SECTION
    __phi__ = Sensitivity.CLINICAL
    __table_args__ = (
        Index(None, "tenant_id", "entity_type", "entity_id"),
        period("started_at", "completed_at"),
    )

    workflow_id: Mapped[UUID] = link("workflows")
    entity_type: Mapped[str]
    entity_id: Mapped[UUID]
    current_state: Mapped[str]
    status: Mapped[str] = one_of("RUNNING", "COMPLETED", "CANCELLED", "FAILED", default="RUNNING")
    assigned_to_id: Mapped[UUID | None] = member_link()
    context: Mapped[Json] = mapped_column(server_default=text("'{}'"))
    started_at: Mapped[datetime] = mapped_column(server_default=text("now()"))
    due_at: Mapped[datetime | None]
    completed_at: Mapped[datetime | None]


class WorkflowTransition(TenantTable, Base):
    """One step that a case has taken: from where, to where, by whom, why."""

    __tablename__ = "workflow_transitions"
    __section__ = SECTION
    __phi__ = Sensitivity.CLINICAL

    instance_id: Mapped[UUID] = link("workflow_instances", cascade=True)
    from_state: Mapped[str | None]
    to_state: Mapped[str]
    action: Mapped[str]
    actor_type: Mapped[str] = one_of("USER", "SYSTEM", "API_CLIENT")
    actor_id: Mapped[UUID | None] = member_link()
    comment: Mapped[str | None] = phi(Sensitivity.CLINICAL)
    occurred_at: Mapped[datetime] = mapped_column(server_default=text("now()"))
