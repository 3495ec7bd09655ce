"""`interop user ...` and `interop provider ...`: people of a tenant and where they sign in."""

from __future__ import annotations

import json
import sys
from datetime import datetime, timedelta
from typing import Annotated, Any
from urllib.parse import urlencode
from uuid import UUID

import typer

from interop.command_line import (
    CommandFailed,
    JsonOption,
    Opened,
    TenantOption,
    opened,
    out,
    require,
    show,
)
from interop.identity import invitations, passwords, providers, roles, users
from interop.identity.actors import Actor
from storage.tenancy import Tenant

user_app = typer.Typer(no_args_is_help=True, help="Users: people of a tenant, and their roles.")
provider_app = typer.Typer(no_args_is_help=True, help="OpenID Connect providers of a tenant.")

EmailOption = Annotated[str, typer.Option("--email", help="E-mail address of the user.")]
PasswordOption = Annotated[
    bool, typer.Option("--password-stdin", help="Read the password from standard input.")
]
ScopeOption = Annotated[
    str, typer.Option("--scope", help="Where the role holds: ALL_LOCATIONS, LOCATION, TEAM, SELF.")
]
LocationOption = Annotated[UUID | None, typer.Option("--location", help="With scope LOCATION.")]
TeamOption = Annotated[UUID | None, typer.Option("--team", help="With scope TEAM.")]
UntilOption = Annotated[
    datetime | None, typer.Option("--until", help="When the role ends (UTC), e.g. 2027-01-31.")
]


@user_app.command("create")
def user_create(
    tenant: TenantOption,
    email: EmailOption,
    name: Annotated[str | None, typer.Option(help="Full name; default: from the address.")] = None,
    user_type: Annotated[str, typer.Option("--type", help="DENTIST, ADMIN, ...")] = "ADMIN",
    role: Annotated[list[str] | None, typer.Option(help="Code of a role; repeatable.")] = None,
    scope: ScopeOption = "ALL_LOCATIONS",
    location: LocationOption = None,
    team: TeamOption = None,
    until: UntilOption = None,
    password_stdin: PasswordOption = False,
    as_json: JsonOption = False,
) -> None:
    """Create a user with a password, or print an invitation link to pass on to them."""
    grants = [_grant(code, scope, location, team, until) for code in role or []]
    full_name = name or users.typed_email(email).partition("@")[0].replace(".", " ").title()
    with opened() as interop:
        owner = require(interop.tenants, tenant)
        if not password_stdin:
            show(_invited(interop, owner, email, full_name, user_type, grants), as_json)
            return
        hashed = _read_password(email, full_name)
        with interop.database.connection(owner.id) as connection:
            user_id = users.create_user(
                connection, owner.id, Actor.operator(), email=email, full_name=full_name,
                user_type=user_type, password_hash=hashed, grants=grants,
            )  # fmt: skip
        show({"user_id": user_id, "sign_in": _page(interop, owner, "sign-in")}, as_json)


@user_app.command("list")
def user_list(tenant: TenantOption, as_json: JsonOption = False) -> None:
    """List the users of a tenant with their roles, and the invitations that are open."""
    with opened() as interop:
        owner = require(interop.tenants, tenant)
        with interop.database.connection(owner.id) as connection:
            members = users.list_members(connection, owner.id)
            open_invitations = invitations.list_open(connection, owner.id)
    rows: list[dict[str, Any]] = [
        {
            "user_id": str(member.user_id),
            "email": member.email,
            "name": member.full_name,
            "type": member.user_type,
            "status": member.status,
            "roles": list(member.roles),
            "second_factor": member.has_second_factor,
            "last_activity_at": member.last_activity_at,
        }
        for member in members
    ]
    rows += [
        {"email": invitation.email, "type": invitation.user_type, "status": "INVITED", "roles": []}
        for invitation in open_invitations
    ]
    if as_json:
        print(json.dumps(rows, default=str))
        return
    for row in rows:
        out.print(f"{row['email']}  {row['type']}  {row['status']}  {' '.join(row['roles'])}")


@user_app.command("disable")
def user_disable(
    tenant: TenantOption,
    email: EmailOption,
    everywhere: Annotated[
        bool, typer.Option("--everywhere", help="In every tenant, not only this one.")
    ] = False,
) -> None:
    """Keep a user out: their sessions end now, and no new one begins."""
    with opened() as interop:
        owner = require(interop.tenants, tenant)
        with interop.database.connection(owner.id) as connection:
            user_id = users.find_member(connection, owner.id, email)
            users.disable(connection, owner.id, Actor.operator(), user_id, everywhere=everywhere)
    out.print(f"{email} is disabled {'everywhere' if everywhere else f'in {owner.slug}'}")


@user_app.command("enable")
def user_enable(
    tenant: TenantOption,
    email: EmailOption,
    everywhere: Annotated[
        bool, typer.Option("--everywhere", help="Also if disabled in every tenant.")
    ] = False,
) -> None:
    """Let a user sign in again."""
    with opened() as interop:
        owner = require(interop.tenants, tenant)
        with interop.database.connection(owner.id) as connection:
            user_id = users.find_member(connection, owner.id, email)
            users.enable(connection, owner.id, Actor.operator(), user_id, everywhere=everywhere)
    out.print(f"{email} may sign in to {owner.slug}")


@user_app.command("password")
def user_password(tenant: TenantOption, email: EmailOption) -> None:
    """Give a user a new password, read from standard input; switches two-step sign-in off."""
    with opened() as interop:
        owner = require(interop.tenants, tenant)
        with interop.database.connection(owner.id) as connection:
            user_id = users.find_member(connection, owner.id, email)
        hashed = _read_password(email, "")
        with interop.database.connection(owner.id) as connection:
            users.reset_password(connection, owner.id, Actor.operator(), user_id, hashed)
    out.print(f"{email} has a new password")


@user_app.command("role")
def user_role(
    tenant: TenantOption,
    email: EmailOption,
    add: Annotated[str | None, typer.Option(help="Code of a role to give.")] = None,
    remove: Annotated[str | None, typer.Option(help="Code of a role to take back.")] = None,
    scope: ScopeOption = "ALL_LOCATIONS",
    location: LocationOption = None,
    team: TeamOption = None,
    until: UntilOption = None,
    as_json: JsonOption = False,
) -> None:
    """Give or take a role, then show the roles that the user holds. Their sessions end."""
    with opened() as interop:
        owner = require(interop.tenants, tenant)
        with interop.database.connection(owner.id) as connection:
            user_id = users.find_member(connection, owner.id, email)
            actor = Actor.operator()
            if add is not None:
                grant = _grant(add, scope, location, team, until)
                roles.assign(connection, owner.id, actor, user_id, grant)
            if remove is not None:
                held = roles.assignments(connection, owner.id, user_id)
                found = [one.id for one in held if one.grant.role == remove]
                if not found:
                    raise CommandFailed(f"{email} does not hold the role {remove!r}")
                for assignment in found:
                    roles.revoke(connection, owner.id, actor, user_id, assignment)
            held = roles.assignments(connection, owner.id, user_id)
    lines = [
        {
            "role": one.grant.role,
            "scope": one.grant.resource_scope,
            "unit": one.grant.location_id or one.grant.team_id,
            "valid_until": one.grant.valid_until,
        }
        for one in held
    ]
    if as_json:
        print(json.dumps(lines, default=str))
        return
    for line in lines:
        out.print("  ".join(str(value) for value in line.values() if value is not None))


@provider_app.command("set")
def provider_set(
    tenant: TenantOption,
    name: Annotated[str, typer.Option(help="Short name in addresses, e.g. 'hospital'.")],
    issuer: Annotated[str, typer.Option(help="Issuer URL, as the provider spells it.")],
    client_id: Annotated[str, typer.Option(help="What the provider calls this server.")],
    display_name: Annotated[str | None, typer.Option(help="On the button; default: NAME.")] = None,
    secret_stdin: Annotated[
        bool, typer.Option("--secret-stdin", help="Read the client secret from standard input.")
    ] = False,
    domain: Annotated[
        list[str] | None, typer.Option(help="Only verified addresses of this domain; repeatable.")
    ] = None,
    link_by_email: Annotated[
        bool,
        typer.Option("--link-by-email", help="A verified address may claim a member's account."),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Set a provider up, or change it; prints the redirect URI to register there."""
    secret = sys.stdin.readline().rstrip("\r\n") if secret_stdin else None
    with opened() as interop:
        owner = require(interop.tenants, tenant)
        with interop.database.connection(owner.id) as connection:
            providers.save(
                connection, owner.id, Actor.operator(),
                name=name, display_name=display_name or name, issuer=issuer, client_id=client_id,
                secret=secret, allowed_email_domains=domain or [],
                may_link_by_email=link_by_email,
            )  # fmt: skip
        callback = _page(interop, owner, f"sign-in/oidc/{name}/callback")
    show({"name": name, "redirect_uri": callback}, as_json)


@provider_app.command("disable")
def provider_disable(tenant: TenantOption, name: Annotated[str, typer.Option()]) -> None:
    """Take a provider off the sign-in page."""
    with opened() as interop:
        owner = require(interop.tenants, tenant)
        with interop.database.connection(owner.id) as connection:
            providers.disable(connection, owner.id, Actor.operator(), name)
    out.print(f"{name} is off")


def _invited(
    interop: Opened,
    owner: Tenant,
    email: str,
    full_name: str,
    user_type: str,
    grants: list[roles.Grant],
) -> dict[str, Any]:
    with interop.database.connection(owner.id) as connection:
        made, token = invitations.invite(
            connection, owner.id, Actor.operator(), email=email, full_name=full_name,
            user_type=user_type, grants=grants,
            lifetime=timedelta(seconds=interop.settings.invitation_seconds),
        )  # fmt: skip
    link = f"{_page(interop, owner, 'sign-in/invitation')}?{urlencode({'token': token})}"
    return {"invitation": made.id, "link": link, "expires_at": made.expires_at}


def _grant(
    code: str, scope: str, location: UUID | None, team: UUID | None, until: datetime | None
) -> roles.Grant:
    return roles.Grant(code, scope, location, team, None, until)


def _read_password(email: str, full_name: str) -> str:
    password = sys.stdin.readline().rstrip("\r\n")
    passwords.require_acceptable(password, users.normal_email(email), full_name)
    return passwords.hash_password(password)


def _page(interop: Opened, owner: Tenant, rest: str) -> str:
    return f"{interop.settings.effective_public_url}/t/{owner.slug}/{rest}"
