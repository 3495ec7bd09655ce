"""`interop tenant ...`: organizations, their configuration, and the end of their life."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Annotated, Any
from uuid import UUID

import typer

from interop.command_line import (
    CommandFailed,
    JsonOption,
    Opened,
    opened,
    out,
    require,
    show,
)
from storage import quotas, tenant_tree
from storage.database import Connection, Database
from storage.tenancy import STRATEGIES, Tenant
from storage.tenants import features, lifecycle, subscriptions
from storage.tenants.changes import OPERATOR

tenant_app = typer.Typer(no_args_is_help=True, help="Tenants: organizations kept apart.")

Changes = Annotated[
    list[str] | None, typer.Argument(help="NAME=VALUE; 'null' is no value; without: show all.")
]
VersionOption = Annotated[
    str | None,
    typer.Option(help="Change only what still has the version that was shown; else nothing."),
]
ReasonOption = Annotated[str, typer.Option("--reason", help="Why; kept in the audit trail.")]
UntilOption = Annotated[
    datetime | None, typer.Option("--until", help="Until when (UTC), e.g. 2027-01-31.")
]


@tenant_app.command("create")
def tenant_create(
    slug: str,
    name: Annotated[str | None, typer.Option(help="Name of the organization.")] = None,
    ae_title: Annotated[str | None, typer.Option(help="Called AE title of its DICOM door.")] = None,
    partition_strategy: Annotated[
        str, typer.Option(help="ROW_LEVEL, SCHEMA or DATABASE: where its rows lie.")
    ] = "ROW_LEVEL",
    database_url: Annotated[
        str | None,
        typer.Option(
            help="DATABASE: an empty database on another server, as its owner; '-' reads it from"
            " standard input."
        ),
    ] = None,
    below: Annotated[
        str | None, typer.Option(help="Slug of the organization that it belongs to.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Create a tenant, with a schema or database of its own where the strategy says so."""
    if partition_strategy not in STRATEGIES:
        raise CommandFailed(
            f"--partition-strategy {partition_strategy}: one of {', '.join(STRATEGIES)}"
        )
    if database_url is not None and partition_strategy != "DATABASE":
        raise CommandFailed("--database-url goes with --partition-strategy DATABASE only")
    if database_url == "-":
        database_url = sys.stdin.readline().strip()
    with opened() as interop, closing(Database(interop.owner_url, pool_size=1)) as owner:
        owner.vault = interop.database.vault
        tenant = interop.tenants.create(
            slug,
            name=name,
            ae_title=ae_title,
            partition_strategy=partition_strategy,
            parent_id=require(interop.tenants, below).id if below else None,
            owner=owner,
            database_url=database_url,
        )
    show({"id": tenant.id, "slug": tenant.slug, "ae_title": tenant.ae_title}, as_json)


@tenant_app.command("list")
def tenant_list(as_json: JsonOption = False) -> None:
    """List the active tenants."""
    with opened() as interop:
        rows = [
            {"id": str(t.id), "slug": t.slug, "name": t.name, "ae_title": t.ae_title}
            for t in interop.tenants.all_active()
        ]
    if as_json:
        print(json.dumps(rows))
        return
    for row in rows:
        out.print(f"{row['slug']}  {row['ae_title'] or '-'}  {row['name']}")


# -- tree and grants --------------------------------------------------------------------------


@tenant_app.command("place")
def tenant_place(
    slug: str,
    below: Annotated[
        str | None, typer.Option(help="Slug of the new parent; without: stands alone.")
    ] = None,
) -> None:
    """Move a tenant, with all below it, under another one."""
    with opened() as interop:
        tenant = require(interop.tenants, slug)
        parent = require(interop.tenants, below) if below else None
        tenant_tree.place_below(
            interop.database, tenant.id, parent.id if parent else None, OPERATOR
        )
    out.print(f"{slug} lies below {below}" if below else f"{slug} stands alone")


@tenant_app.command("grant")
def tenant_grant(
    slug: Annotated[str, typer.Argument(help="The parent, whose member or role gets access.")],
    on: Annotated[str | None, typer.Option("--on", help="Slug of the subtree's root.")] = None,
    level: Annotated[str, typer.Option(help="READ or MANAGE.")] = "READ",
    user: Annotated[str | None, typer.Option(help="E-mail address of a member.")] = None,
    role: Annotated[str | None, typer.Option(help="Code of a role.")] = None,
    until: UntilOption = None,
    revoke: Annotated[UUID | None, typer.Option(help="Id of a grant to end now.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Let members of a parent into a subtree below it, end that, or (without options) list it."""
    with opened() as interop:
        tenant = require(interop.tenants, slug)
        if revoke is not None:
            tenant_tree.revoke(interop.database, tenant.id, revoke, OPERATOR)
        elif on is not None:
            tenant_tree.grant(
                interop.database,
                tenant.id,
                require(interop.tenants, on).id,
                level,
                user_id=_user_id(interop, tenant, user) if user else None,
                role_id=_role_id(interop, tenant, role) if role else None,
                valid_until=_utc(until),
                actor=OPERATOR,
            )
        with interop.database.connection(tenant.id) as connection:
            found = [asdict(one) for one in tenant_tree.grants(connection, tenant.id)]
    if as_json:
        print(json.dumps(found, default=str))
        return
    for one in found:
        whom = f"user {one['user_id']}" if one["user_id"] else f"role {one['role_id']}"
        out.print(f"{one['id']}  {one['level']:<6} {one['root_slug']}  {whom}")


def _user_id(interop: Opened, tenant: Tenant, email: str) -> UUID:
    # Accounts lie where the tenant does.
    with interop.database.connection(tenant.id) as connection:
        row = connection.execute(
            "SELECT id FROM users WHERE lower(email) = lower(%s)", (email,)
        ).fetchone()
    if row is None:
        raise CommandFailed(f"--user {email}: no user has this e-mail address")
    return UUID(str(row[0]))


def _role_id(interop: Opened, tenant: Tenant, code: str) -> UUID:
    with interop.database.connection(tenant.id) as connection:
        row = connection.execute(
            "SELECT id FROM roles WHERE code = %s AND (tenant_id = %s OR tenant_id IS NULL)"
            " ORDER BY tenant_id NULLS LAST LIMIT 1",
            (code, tenant.id),
        ).fetchone()
    if row is None:
        raise CommandFailed(f"--role {code}: {tenant.slug} has no such role")
    return UUID(str(row[0]))


# -- configuration ----------------------------------------------------------------------------


@tenant_app.command("settings")
def tenant_settings(
    slug: str, changes: Changes = None, if_match: VersionOption = None, as_json: JsonOption = False
) -> None:
    """Show or change the settings of a tenant."""
    _configure(slug, "settings", changes, if_match, as_json)


@tenant_app.command("branding")
def tenant_branding(
    slug: str, changes: Changes = None, if_match: VersionOption = None, as_json: JsonOption = False
) -> None:
    """Show or change how a tenant's pages and letters look."""
    _configure(slug, "branding", changes, if_match, as_json)


@tenant_app.command("quota")
def tenant_quota(
    slug: str, changes: Changes = None, if_match: VersionOption = None, as_json: JsonOption = False
) -> None:
    """Show or change the quotas of a tenant, with what is used; null is unlimited."""

    def used(connection: Connection, tenant_id: UUID) -> dict[str, Any]:
        return {"used": asdict(quotas.usage(connection, tenant_id))}

    _configure(slug, "quota", changes, if_match, as_json, used)


def _configure(
    slug: str,
    section: str,
    changes: list[str] | None,
    if_match: str | None,
    as_json: bool,
    more: Callable[[Connection, UUID], dict[str, Any]] | None = None,
) -> None:
    # Loads the models, which the other commands need not wait for.
    from interop.administration import sections
    from storage.tenants import configuration

    wanted = {}
    for change in changes or []:
        name, separator, text = change.partition("=")
        if not separator:
            raise CommandFailed(f"{change!r}: NAME=VALUE expected")
        wanted[name] = configuration.from_text(section, name, text)
    with opened() as interop:
        tenant = require(interop.tenants, slug)
        with interop.database.connection(tenant.id) as connection:
            if wanted:
                sections.change(connection, tenant.id, section, wanted, if_match)
            found = configuration.read(connection, tenant.id, section)
            found["version"] = sections.version_of(section, found)
            if more is not None:
                found |= more(connection, tenant.id)
    show(found, as_json)


@tenant_app.command("enable")
def tenant_enable(
    slug: str,
    feature: Annotated[str, typer.Argument(help="Feature flag, e.g. AI_DIAGNOSTICS.")],
    off: Annotated[bool, typer.Option("--off", help="Switch it off instead.")] = False,
) -> None:
    """Switch a feature of a tenant on or off."""
    with opened() as interop:
        owner = require(interop.tenants, slug)
        with interop.database.connection(owner.id) as connection:
            features.switch_feature(
                connection, owner.id, feature, is_enabled=not off, actor=OPERATOR
            )
    out.print(f"{feature} is {'off' if off else 'on'} for {slug}")


@tenant_app.command("feature")
def tenant_feature(
    slug: str,
    feature: Annotated[str | None, typer.Argument(help="Feature; without: show all.")] = None,
    state: Annotated[
        str | None, typer.Argument(help="on, off, or default: what the plan says.")
    ] = None,
    until: UntilOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show the features of a tenant and where they come from, or switch one."""
    states = {"on": True, "off": False, "default": None}
    if feature is not None and state not in states:
        raise CommandFailed(f"{feature} {state or ''}: one of on, off, default")
    with opened() as interop:
        tenant = require(interop.tenants, slug)
        with interop.database.connection(tenant.id) as connection:
            if feature is not None and state is not None:
                features.switch_feature(
                    connection,
                    tenant.id,
                    feature,
                    is_enabled=states[state],
                    valid_until=_utc(until),
                    actor=OPERATOR,
                )
            found = features.effective_features(connection, tenant.id)
    show(
        {
            name: f"{'on' if one.is_enabled else 'off'} ({one.origin.lower()})"
            for name, one in found.items()
        },
        as_json,
    )


@tenant_app.command("subscribe")
def tenant_subscribe(
    slug: str,
    plan: Annotated[str, typer.Argument(help="Code of the plan.")],
    until: UntilOption = None,
    trial_until: Annotated[datetime | None, typer.Option(help="End of the trial (UTC).")] = None,
) -> None:
    """Subscribe a tenant to a plan from now on."""
    with opened() as interop:
        tenant = require(interop.tenants, slug)
        with interop.database.connection(tenant.id) as connection:
            subscriptions.subscribe(
                connection,
                tenant.id,
                plan,
                end_at=_utc(until),
                trial_ends_at=_utc(trial_until),
                actor=OPERATOR,
            )
    out.print(f"{slug} has the plan {plan}")


@tenant_app.command("plan")
def tenant_plan(
    code: str,
    name: Annotated[str, typer.Option(help="Name of the plan.")],
    tier: Annotated[str, typer.Option(help="BASIC, PRO, ENTERPRISE or RESEARCH.")] = "BASIC",
    feature: Annotated[list[str] | None, typer.Option(help="Included; repeatable.")] = None,
) -> None:
    """Offer a plan that tenants may subscribe to, or change it."""
    with opened() as interop:
        owner = Database(interop.owner_url)
        try:
            with owner.platform_connection() as connection:
                subscriptions.define_plan(
                    connection, code, name=name, tier=tier, features=feature or []
                )
        finally:
            owner.close()
    out.print(f"plan {code} includes {', '.join(sorted(feature or [])) or 'no features'}")


# -- suspension and the end -------------------------------------------------------------------


@tenant_app.command("suspend")
def tenant_suspend(slug: str, reason: ReasonOption) -> None:
    """Leave a tenant its data to read, and nothing else."""
    _step(slug, reason, lifecycle.suspend, "is suspended")


@tenant_app.command("resume")
def tenant_resume(slug: str, reason: ReasonOption) -> None:
    """Let a suspended or closed tenant work again."""
    _step(slug, reason, lifecycle.resume, "is active")


@tenant_app.command("close")
def tenant_close(slug: str, reason: ReasonOption) -> None:
    """Take a tenant out of service; nothing is deleted."""
    _step(slug, reason, lifecycle.close, "is closed")


def _step(slug: str, reason: str, step: Callable[..., None], done: str) -> None:
    with opened() as interop:
        step(interop.database, _even_closed(interop, slug).id, reason, OPERATOR)
    out.print(f"{slug} {done}; every process knows within a minute")


@tenant_app.command("offboard")
def tenant_offboard(
    slug: str,
    confirm: Annotated[str, typer.Option(help="The slug again: this cannot be undone.")],
    as_json: JsonOption = False,
) -> None:
    """Delete everything that a tenant owns and print the certificate; repeating goes on."""
    from interop.connections import open_tokens
    from interop.deletion_certificate import signer, verify
    from storage.objects import open_object_store
    from storage.tenants import deletion

    if confirm != slug:
        raise CommandFailed(f"--confirm {confirm}: type {slug} to delete everything that it owns")
    with opened() as interop:
        tenant = _even_closed(interop, slug)
        deletion.request(interop.database, tenant.id, OPERATOR)
        owner = Database(interop.owner_url)
        owner.vault = interop.database.vault
        keys = open_tokens(interop.settings, interop.database).keys
        if not as_json:
            out.print("closed; deleting once no process remembers it, within a minute or so")
        try:
            objects = open_object_store(interop.settings.effective_objects_url)
            certificate = deletion.run(owner, objects, tenant.id, signer(keys))
        finally:
            owner.close()
        said = verify(keys, certificate)
    show({**said, "certificate": certificate}, as_json)


def _even_closed(interop: Opened, slug: str) -> Tenant:
    return interop.tenants.even_closed(slug) or require(interop.tenants, slug)


def _utc(moment: datetime | None) -> datetime | None:
    return moment.replace(tzinfo=UTC) if moment is not None and moment.tzinfo is None else moment
