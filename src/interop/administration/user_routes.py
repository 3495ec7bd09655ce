"""/tenants/{tenant}/users and /invitations: the people of an organization, and their roles."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Annotated, Literal
from urllib.parse import urlencode
from uuid import UUID

from fastapi import APIRouter
from pydantic import BaseModel, Field, SecretStr

from interop.administration.desk import AtDesk, Desk
from interop.administration.door import AdministrationRoute
from interop.administration.paging import After, Limit, Listing, Page, page_of
from interop.administration.values import Body, Code, Email, Moment, Name
from interop.identity import invitations, passwords, roles, users
from storage import quotas
from storage.database import Connection

router = APIRouter(route_class=AdministrationRoute, tags=["users"])

UserType = Literal[
    "DENTIST",
    "HYGIENIST",
    "ASSISTANT",
    "ADMIN",
    "FRONT_DESK",
    "PATIENT",
    "PAYER_ANALYST",
    "REGULATOR",
    "DEVELOPER",
]
ResourceScope = Literal["ALL_LOCATIONS", "LOCATION", "TEAM", "SELF"]


class UserShown(BaseModel):
    """A member of the organization."""

    user_id: UUID
    email: str | None
    full_name: str
    user_type: str
    status: str = Field(description="ACTIVE, INACTIVE (disabled here) or DISABLED (everywhere).")
    roles: list[str]
    has_second_factor: bool
    last_activity_at: datetime | None


class Grant(Body):
    """A role as it is given: where it holds, and when."""

    role: Code
    resource_scope: ResourceScope = "ALL_LOCATIONS"
    location_id: UUID | None = Field(None, description="With the scope LOCATION, and only then.")
    team_id: UUID | None = Field(None, description="With the scope TEAM, and only then.")
    valid_from: Moment | None = None
    valid_until: Moment | None = None

    @property
    def terms(self) -> roles.Grant:
        return roles.Grant(**self.model_dump())


class NewUser(Body):
    """Somebody to invite; with a password, which only the operator may choose, to create."""

    email: Email
    full_name: Name
    user_type: UserType
    roles: tuple[Grant, ...] = Field((), max_length=50)
    password: Annotated[SecretStr, Field(max_length=1000)] | None = None


class UserMade(BaseModel):
    """A user, or an invitation with the link to pass on, which is shown only here."""

    user_id: UUID | None = None
    invitation_id: UUID | None = None
    link: str | None = None
    expires_at: datetime | None = None


class InvitationShown(BaseModel):
    """An invitation that can still be accepted."""

    id: UUID
    email: str
    full_name: str
    user_type: str
    expires_at: datetime


class AssignmentShown(BaseModel):
    """A role that a user holds."""

    id: UUID
    role: str
    resource_scope: str
    location_id: UUID | None
    team_id: UUID | None
    valid_from: datetime | None
    valid_until: datetime | None


_MEMBERS = Listing(
    "User",
    users.list_members,
    tuple[str, UUID],
    key=lambda one: (one.full_name, one.user_id),
    show=lambda one: _shown(one),
)


@router.get("/tenants/{tenant}/users")
def list_users(
    tenant: str, desk: AtDesk, limit: Limit = 50, after: After = None
) -> Page[UserShown]:
    """Everybody who is or was a member and can sign in, by name."""
    return _MEMBERS.page(desk, after, limit)


@router.post("/tenants/{tenant}/users", status_code=201)
def create_user(tenant: str, user: NewUser, desk: AtDesk) -> UserMade:
    """Invite somebody; the operator may also create an account with a password."""
    if user.password is None:
        return desk.change(lambda connection: _invite(connection, desk, user), "Invitation")
    return desk.change(lambda connection: _create(connection, desk, user), "User")


@router.get("/tenants/{tenant}/users/{user_id}")
def get_user(tenant: str, user_id: UUID, desk: AtDesk) -> UserShown:
    """One member."""
    return _shown(
        desk.read(
            lambda connection: users.get_member(connection, desk.tenant.id, user_id),
            "User",
            user_id,
        )
    )


@router.post("/tenants/{tenant}/users/{user_id}/disable")
def disable_user(tenant: str, user_id: UUID, desk: AtDesk) -> UserShown:
    """Keep a member out of this organization: their sessions end, and no new one begins."""

    def work(connection: Connection) -> users.Member:
        users.disable(connection, desk.tenant.id, desk.actor, user_id)
        return users.get_member(connection, desk.tenant.id, user_id)

    return _shown(desk.change(work, "User", user_id))


@router.post("/tenants/{tenant}/users/{user_id}/enable")
def enable_user(tenant: str, user_id: UUID, desk: AtDesk) -> UserShown:
    """Let a member sign in again."""

    def work(connection: Connection) -> users.Member:
        users.enable(connection, desk.tenant.id, desk.actor, user_id)
        return users.get_member(connection, desk.tenant.id, user_id)

    return _shown(desk.change(work, "User", user_id))


@router.get("/tenants/{tenant}/users/{user_id}/roles")
def list_assignments(
    tenant: str, user_id: UUID, desk: AtDesk, limit: Limit = 50, after: After = None
) -> Page[AssignmentShown]:
    """The roles that a member holds, also those not yet or no longer valid."""

    def work(connection: Connection) -> list[roles.Assignment]:
        users.get_member(connection, desk.tenant.id, user_id)
        return roles.assignments(connection, desk.tenant.id, user_id)

    rows = desk.read(work, "User", user_id)
    return page_of(rows, after, limit, tuple[str, UUID], _key, _assignment)


@router.post("/tenants/{tenant}/users/{user_id}/roles", status_code=201)
def assign_role(tenant: str, user_id: UUID, grant: Grant, desk: AtDesk) -> AssignmentShown:
    """Give a member a role, of which the giver holds every permission; their sessions end."""

    def work(connection: Connection) -> roles.Assignment:
        users.get_member(connection, desk.tenant.id, user_id)
        made = roles.assign(connection, desk.tenant.id, desk.actor, user_id, grant.terms)
        held = roles.assignments(connection, desk.tenant.id, user_id)
        return next(one for one in held if one.id == made)

    return _assignment(desk.change(work, "User", user_id))


@router.delete("/tenants/{tenant}/users/{user_id}/roles/{assignment_id}", status_code=204)
def revoke_role(tenant: str, user_id: UUID, assignment_id: UUID, desk: AtDesk) -> None:
    """Take a role back; the member's sessions end."""
    desk.change(
        lambda connection: roles.revoke(
            connection, desk.tenant.id, desk.actor, user_id, assignment_id
        ),
        "User",
        user_id,
    )


@router.get("/tenants/{tenant}/invitations")
def list_invitations(
    tenant: str, desk: AtDesk, limit: Limit = 50, after: After = None
) -> Page[InvitationShown]:
    """The invitations that can still be accepted, by address."""
    rows = desk.read(
        lambda connection: invitations.list_open(connection, desk.tenant.id), "Invitation"
    )
    # An address has one open invitation at most.
    return page_of(
        rows,
        after,
        limit,
        str,
        lambda one: one.email,
        lambda one: InvitationShown.model_validate(one, from_attributes=True),
    )


@router.delete("/tenants/{tenant}/invitations/{invitation_id}", status_code=204)
def revoke_invitation(tenant: str, invitation_id: UUID, desk: AtDesk) -> None:
    """End an invitation that nobody has accepted yet."""
    desk.change(
        lambda connection: invitations.revoke(
            connection, desk.tenant.id, desk.actor, invitation_id
        ),
        "Invitation",
        invitation_id,
    )


def _invite(connection: Connection, desk: Desk, user: NewUser) -> UserMade:
    settings = desk.services.settings
    if user.user_type != "PATIENT":
        quotas.check_users(connection, desk.tenant.id)
    made, token = invitations.invite(
        connection,
        desk.tenant.id,
        desk.actor,
        email=user.email,
        full_name=user.full_name,
        user_type=user.user_type,
        grants=[one.terms for one in user.roles],
        lifetime=timedelta(seconds=settings.invitation_seconds),
    )
    base = f"{settings.effective_public_url}/t/{desk.tenant.slug}/sign-in/invitation"
    return UserMade(
        invitation_id=made.id,
        link=f"{base}?{urlencode({'token': token})}",
        expires_at=made.expires_at,
    )


def _create(connection: Connection, desk: Desk, user: NewUser) -> UserMade:
    assert user.password is not None
    password = user.password.get_secret_value()
    passwords.require_acceptable(password, users.normal_email(user.email), user.full_name)
    if user.user_type != "PATIENT":
        quotas.check_users(connection, desk.tenant.id)
    user_id = users.create_user(
        connection,
        desk.tenant.id,
        desk.actor,
        email=user.email,
        full_name=user.full_name,
        user_type=user.user_type,
        password_hash=passwords.hash_password(password),
        grants=[one.terms for one in user.roles],
    )
    return UserMade(user_id=user_id)


def _key(one: roles.Assignment) -> tuple[str, UUID]:
    return one.grant.role, one.id


def _shown(member: users.Member) -> UserShown:
    return UserShown.model_validate(member, from_attributes=True)


def _assignment(one: roles.Assignment) -> AssignmentShown:
    grant = one.grant
    return AssignmentShown(
        id=one.id,
        role=grant.role,
        resource_scope=grant.resource_scope,
        location_id=grant.location_id,
        team_id=grant.team_id,
        valid_from=grant.valid_from,
        valid_until=grant.valid_until,
    )
