"""/tenants/{tenant}/quotas and /features: what an organization may use. Changed by the operator."""

from __future__ import annotations

from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Path, Response
from pydantic import BaseModel, Field

from interop.administration.desk import AtDesk
from interop.administration.door import AdministrationRoute
from interop.administration.paging import After, Limit, Page, page_of
from interop.administration.values import BigCount, Body, Count, JsonObject, Moment
from interop.administration.versions import IfMatch, require_match, tag
from interop.errors import BadRequest
from storage import quotas
from storage.database import Connection
from storage.tenants import configuration, features

router = APIRouter(route_class=AdministrationRoute, tags=["quotas and features"])

# The table, as the audit trail names what is changed there.
QUOTAS = configuration.SECTIONS["quota"].upper()
FeatureName = Annotated[str, Path(pattern=r"^[A-Z][A-Z0-9_]{1,63}$")]


class Quotas(Body):
    """Limits; null is no limit. All are replaced at once."""

    max_users: Count | None = None
    max_storage_bytes: BigCount | None = None
    max_ai_inferences_per_month: BigCount | None = None
    api_rate_limit_per_minute: Count | None = Field(
        None, description="Units: a read costs 1, a search 20, a write 100."
    )
    api_rate_limit_per_user_per_minute: Count | None = None
    max_dicom_associations: Count | None = None
    max_locations: Count | None = None
    max_concurrent_exports: Count | None = None


class Usage(BaseModel):
    """What is used now."""

    users: int
    storage_bytes: int
    ai_inferences_this_month: int


class QuotasShown(BaseModel):
    """Limits and what is used of them. The ETag is of the limits alone."""

    limits: Quotas
    used: Usage


class FeatureShown(BaseModel):
    """What holds for a feature now, and where that comes from."""

    name: str
    is_enabled: bool
    configuration: dict[str, Any]
    origin: str = Field(description="SWITCH, PLAN and its code, or NONE: nobody switched it on.")


class Switch(Body):
    """A switch: on, off, or null to leave the feature to the plans again."""

    is_enabled: Annotated[bool, Field(strict=True)] | None
    configuration: JsonObject | None = None
    valid_from: Moment | None = None
    valid_until: Moment | None = None


@router.get("/tenants/{tenant}/quotas")
def get_quotas(tenant: str, desk: AtDesk, response: Response) -> QuotasShown:
    """The limits of the organization, and what is used of them."""
    found = desk.read(lambda connection: _quotas(connection, desk.tenant.id), QUOTAS)
    tag(response, found.limits)
    return found


@router.put("/tenants/{tenant}/quotas")
def put_quotas(
    tenant: str, limits: Quotas, desk: AtDesk, response: Response, if_match: IfMatch = None
) -> QuotasShown:
    """Set the limits; what is left out is without limit. For the operator."""

    def work(connection: Connection) -> QuotasShown:
        require_match(if_match, _quotas(connection, desk.tenant.id).limits)
        configuration.change(connection, desk.tenant.id, "quota", limits.model_dump(), desk.changer)
        return _quotas(connection, desk.tenant.id)

    changed = desk.change(work, QUOTAS)
    tag(response, changed.limits)
    return changed


@router.get("/tenants/{tenant}/features")
def list_features(
    tenant: str, desk: AtDesk, limit: Limit = 50, after: After = None
) -> Page[FeatureShown]:
    """The features that a switch or a plan names, by name."""
    found = desk.read(
        lambda connection: features.effective_features(connection, desk.tenant.id),
        "TENANT_FEATURE",
    )
    return page_of(found.values(), after, limit, str, lambda one: one.name, _shown)


@router.get("/tenants/{tenant}/features/{feature}")
def get_feature(
    tenant: str, feature: FeatureName, desk: AtDesk, response: Response
) -> FeatureShown:
    """What holds for one feature now."""
    found = desk.read(
        lambda connection: _feature(connection, desk.tenant.id, feature), "TENANT_FEATURE", feature
    )
    tag(response, found)
    return found


@router.put("/tenants/{tenant}/features/{feature}")
def put_feature(
    tenant: str,
    feature: FeatureName,
    switch: Switch,
    desk: AtDesk,
    response: Response,
    if_match: IfMatch = None,
) -> FeatureShown:
    """Switch a feature on or off, or leave it to the plans. For the operator."""
    if switch.valid_from and switch.valid_until and switch.valid_until < switch.valid_from:
        raise BadRequest("valid_until must not be before valid_from")

    def work(connection: Connection) -> FeatureShown:
        require_match(if_match, _feature(connection, desk.tenant.id, feature))
        features.switch_feature(
            connection, desk.tenant.id, feature, actor=desk.changer, **switch.model_dump()
        )
        return _feature(connection, desk.tenant.id, feature)

    changed = desk.change(work, "TENANT_FEATURE", feature)
    tag(response, changed)
    return changed


def _quotas(connection: Connection, tenant_id: UUID) -> QuotasShown:
    values = configuration.read(connection, tenant_id, "quota")
    used = quotas.usage(connection, tenant_id)
    return QuotasShown(
        limits=Quotas.model_construct(**values),
        used=Usage.model_validate(used, from_attributes=True),
    )


def _feature(connection: Connection, tenant_id: UUID, name: str) -> FeatureShown:
    found = features.effective_features(connection, tenant_id).get(name)
    if found is None:
        return FeatureShown(name=name, is_enabled=False, configuration={}, origin="NONE")
    return _shown(found)


def _shown(feature: features.Feature) -> FeatureShown:
    return FeatureShown.model_validate(feature, from_attributes=True)
