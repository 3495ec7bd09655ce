"""/tenants/{tenant}/roles: the roles that can be given here, and what they permit."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Path, Response
from pydantic import BaseModel, Field, StringConstraints

from interop.administration.desk import AtDesk
from interop.administration.door import AdministrationRoute
from interop.administration.paging import After, Limit, Page, page_of
from interop.administration.values import Body, Code, LongLine, Name
from interop.administration.versions import IfMatch, require_match, tag
from interop.identity import roles
from storage.database import Connection

router = APIRouter(route_class=AdministrationRoute, tags=["roles"])

RoleCode = Annotated[str, Path(pattern=r"^[A-Z][A-Z0-9_]{1,63}$")]
Permission = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z_]{1,63}$")]
Permissions = Annotated[list[Permission], Field(max_length=100)]


class RoleShown(BaseModel):
    """A role of the platform, which nobody here changes, or of the organization's own."""

    id: UUID
    code: str
    name: str
    description: str | None
    is_platform: bool
    permissions: list[str]


class NewRole(Body):
    """A role of the organization's own. Nobody gives what they do not hold."""

    code: Code
    name: Name
    description: LongLine | None = None
    permissions: Permissions


class PermissionsChange(Body):
    """All that the role shall permit."""

    permissions: Permissions


@router.get("/tenants/{tenant}/roles")
def list_roles(
    tenant: str, desk: AtDesk, limit: Limit = 50, after: After = None
) -> Page[RoleShown]:
    """The roles of the platform, then those of the organization's own, each by code."""
    found = desk.read(lambda connection: roles.list_roles(connection, desk.tenant.id), "Role")
    return page_of(found, after, limit, tuple[bool, str], _key, _shown)


@router.post("/tenants/{tenant}/roles", status_code=201)
def create_role(tenant: str, role: NewRole, desk: AtDesk, response: Response) -> RoleShown:
    """Make a role of the organization's own."""

    def work(connection: Connection) -> RoleShown:
        roles.create_role(
            connection,
            desk.tenant.id,
            desk.actor,
            role.code,
            role.name,
            role.permissions,
            role.description,
        )
        return _shown(roles.role(connection, desk.tenant.id, role.code))

    made = desk.change(work, "Role")
    tag(response, made)
    return made


@router.get("/tenants/{tenant}/roles/{code}")
def get_role(tenant: str, code: RoleCode, desk: AtDesk, response: Response) -> RoleShown:
    """One role; the ETag is what a change asks for."""
    found = desk.read(
        lambda connection: _shown(roles.role(connection, desk.tenant.id, code)), "Role"
    )
    tag(response, found)
    return found


@router.put("/tenants/{tenant}/roles/{code}/permissions")
def set_permissions(
    tenant: str,
    code: RoleCode,
    wanted: PermissionsChange,
    desk: AtDesk,
    response: Response,
    if_match: IfMatch = None,
) -> RoleShown:
    """Replace what a role of the organization's own permits; its holders sign in again."""

    def work(connection: Connection) -> RoleShown:
        require_match(if_match, _shown(roles.role(connection, desk.tenant.id, code)))
        roles.set_permissions(connection, desk.tenant.id, desk.actor, code, wanted.permissions)
        return _shown(roles.role(connection, desk.tenant.id, code))

    changed = desk.change(work, "Role")
    tag(response, changed)
    return changed


@router.delete("/tenants/{tenant}/roles/{code}", status_code=204)
def delete_role(tenant: str, code: RoleCode, desk: AtDesk) -> None:
    """Remove a role of the organization's own that nobody holds."""
    desk.change(
        lambda connection: roles.delete_role(connection, desk.tenant.id, desk.actor, code), "Role"
    )


def _key(role: roles.Role) -> tuple[bool, str]:
    return (not role.is_platform, role.code)


def _shown(role: roles.Role) -> RoleShown:
    return RoleShown.model_validate(role, from_attributes=True)
