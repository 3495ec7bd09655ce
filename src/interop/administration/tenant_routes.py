"""/tenants/{tenant}: the organization, its settings and branding, suspending and resuming."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar
from uuid import UUID

from fastapi import APIRouter, Response
from pydantic import BaseModel, Field, StringConstraints

from interop.administration.desk import AtDesk, Desk
from interop.administration.door import AdministrationRoute
from interop.administration.values import Body, Email, JsonObject, Line, LongLine
from interop.administration.versions import IfMatch, require_match, tag
from storage.database import Connection
from storage.tenancy import Tenant
from storage.tenants import configuration, lifecycle

router = APIRouter(route_class=AdministrationRoute, tags=["tenant"])
T = TypeVar("T", bound=BaseModel)

Years = Annotated[int, Field(strict=True, ge=0, le=200)]
Flag = Annotated[bool, Field(strict=True)]


class TenantShown(BaseModel):
    """An organization."""

    id: UUID
    slug: str
    name: str
    ae_title: str | None = Field(description="The called AE title of its DICOM door.")
    status: Literal["ACTIVE", "SUSPENDED", "CLOSED"]
    partition_strategy: str
    parent_id: UUID | None


class Settings(Body):
    """Configuration and preferences. What a change leaves out stays as it is."""

    data_residency_region: Line | None = None
    is_data_residency_enforced: Flag | None = None
    default_retention_min_years: Years | None = None
    default_retention_max_years: Years | None = None
    locale: Line | None = Field(None, description="BCP 47, e.g. de-CH.")
    time_zone: Line | None = Field(None, description="IANA, e.g. Europe/Zurich.")
    currency: Line | None = Field(None, description="ISO 4217, e.g. CHF.")
    tooth_numbering_system: Literal["FDI", "UNIVERSAL", "PALMER"] | None = None
    requires_ai_review: Flag | None = None
    clinical_workflow: JsonObject | None = None
    allow_any_calling_ae: Flag | None = Field(
        None,
        description="Whether DICOM devices that are not registered may send. They never query.",
    )
    quiet_window_seconds: Annotated[int, Field(strict=True, ge=0, le=86400)] | None = None
    require_reference_resolution: Flag | None = None
    require_if_match: Flag | None = Field(
        None, description="FHIR: changes must name the version that they change (If-Match)."
    )
    validation_level: Literal["NONE", "BASE", "PROFILE"] | None = Field(
        None,
        description="FHIR: what is asked of a resource beyond its structure: nothing, R4's own "
        "rules and codes (BASE), or also the profiles that it claims.",
    )
    default_issuer_of_patient_id: Line | None = None
    allow_storing_deleted: Flag | None = Field(
        None, description="DICOM: whether an instance that was deleted here is taken again."
    )
    change_feed_days: Annotated[int, Field(strict=True, ge=1, le=36500)] | None = Field(
        None, description="DICOMweb: how long the change feed remembers."
    )


class Branding(Body):
    """How the organization's pages and letters look. What a change leaves out stays as it is."""

    display_name: Line | None = None
    logo_uri: LongLine | None = None
    color_scheme: JsonObject | None = None
    email_templates: JsonObject | None = None
    support_email: Email | None = None
    website_url: LongLine | None = None


class Reason(Body):
    """Why; kept with the tenant and in its audit trail."""

    reason: Annotated[str, StringConstraints(min_length=1, max_length=500, pattern=r"\S")]


@router.get("/tenants/{tenant}")
def get_tenant(tenant: str, desk: AtDesk) -> TenantShown:
    """The organization."""
    return desk.read(lambda _: _shown(desk.tenant), "Tenant", desk.tenant.id)


@router.get("/tenants/{tenant}/settings")
def get_settings(tenant: str, desk: AtDesk, response: Response) -> Settings:
    """Its settings; the ETag is what a change asks for."""
    return _read(desk, "settings", Settings, response)


@router.patch("/tenants/{tenant}/settings")
def change_settings(
    tenant: str, changes: Settings, desk: AtDesk, response: Response, if_match: IfMatch = None
) -> Settings:
    """Change some of its settings."""
    return _change(desk, "settings", changes, response, if_match)


@router.get("/tenants/{tenant}/branding")
def get_branding(tenant: str, desk: AtDesk, response: Response) -> Branding:
    """Its branding; the ETag is what a change asks for."""
    return _read(desk, "branding", Branding, response)


@router.patch("/tenants/{tenant}/branding")
def change_branding(
    tenant: str, changes: Branding, desk: AtDesk, response: Response, if_match: IfMatch = None
) -> Branding:
    """Change some of its branding."""
    return _change(desk, "branding", changes, response, if_match)


@router.post("/tenants/{tenant}/suspend")
def suspend(tenant: str, why: Reason, desk: AtDesk) -> TenantShown:
    """Leave the organization its data to read, and nothing else. For the operator."""
    lifecycle.suspend(desk.database, desk.tenant.id, why.reason, desk.changer)
    return _as_it_is_now(desk)


@router.post("/tenants/{tenant}/resume")
def resume(tenant: str, why: Reason, desk: AtDesk) -> TenantShown:
    """Let a suspended organization work again. For the operator."""
    lifecycle.resume(desk.database, desk.tenant.id, why.reason, desk.changer)
    return _as_it_is_now(desk)


def _read(desk: Desk, section: str, model: type[T], response: Response) -> T:
    found = desk.read(lambda connection: _current(connection, desk, section, model), _what(section))
    tag(response, found)
    return found


def _change(desk: Desk, section: str, changes: T, response: Response, if_match: str | None) -> T:
    def work(connection: Connection) -> T:
        require_match(if_match, _current(connection, desk, section, type(changes)))
        wanted = changes.model_dump(exclude_unset=True)
        configuration.change(connection, desk.tenant.id, section, wanted, desk.changer)
        return _current(connection, desk, section, type(changes))

    changed = desk.change(work, _what(section))
    tag(response, changed)
    return changed


def _current(connection: Connection, desk: Desk, section: str, model: type[T]) -> T:
    values: dict[str, Any] = configuration.read(connection, desk.tenant.id, section)
    # What is stored was checked when it was written, perhaps by another version's rules.
    return model.model_construct(**values)


def _what(section: str) -> str:
    return configuration.SECTIONS[section].upper()


def _as_it_is_now(desk: Desk) -> TenantShown:
    """The tenant after its state changed, which this process need not learn by waiting."""
    tenants = desk.services.tenants
    tenants.forget()
    return _shown(tenants.by_id(desk.tenant.id) or desk.tenant)


def _shown(tenant: Tenant) -> TenantShown:
    return TenantShown.model_validate(tenant, from_attributes=True)
