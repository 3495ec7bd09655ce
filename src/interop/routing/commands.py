"""`interop route` and `deliveries`: where stored objects are sent on, and what became of them."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, TypeVar
from uuid import UUID

import typer

from interop.audit.commands import record
from interop.command_line import (
    CommandFailed,
    JsonOption,
    TenantOption,
    opened,
    out,
    require,
    show,
)

if TYPE_CHECKING:
    from storage.database import Connection

T = TypeVar("T")

route_app = typer.Typer(no_args_is_help=True, help="Rules by which stored objects are sent on.")
destination_app = typer.Typer(no_args_is_help=True, help="DICOMweb services to send to.")
route_app.add_typer(destination_app, name="destination")

Name = Annotated[str, typer.Argument(help="Name of the rule.")]
DestinationName = Annotated[str, typer.Argument(help="Name of the destination.")]
Several = list[str] | None


def _change(tenant: str, work: Callable[[Connection, UUID], T]) -> T:
    with opened() as interop:
        owner = require(interop.tenants, tenant)
        with interop.database.connection(owner.id) as connection:
            return work(connection, owner.id)


def _look(tenant: str, work: Callable[[Connection, UUID], list[T]]) -> list[T]:
    with opened() as interop:
        owner = require(interop.tenants, tenant)
        with interop.database.connection(owner.id) as connection:
            found = work(connection, owner.id)
        record(interop, owner, "CONFIG_VIEWED", rows=len(found))
    return found


# -- rules --------------------------------------------------------------------------------------


@route_app.command("put")
def route_put(
    name: Name,
    tenant: TenantOption,
    to_ae: Annotated[str | None, typer.Option(help="AE title to send to.")] = None,
    to_web: Annotated[str | None, typer.Option(help="DICOMweb destination to send to.")] = None,
    modality: Annotated[Several, typer.Option(help="Only these; repeatable.")] = None,
    sop_class: Annotated[Several, typer.Option(help="SOP Class UID; repeatable.")] = None,
    calling_ae: Annotated[Several, typer.Option(help="Who sent it; repeatable.")] = None,
    description: Annotated[
        Several, typer.Option(help="Study description; * and ? are wildcards; repeatable.")
    ] = None,
    body_part: Annotated[Several, typer.Option(help="Body part; repeatable.")] = None,
    manufacturer: Annotated[
        Several, typer.Option(help="Manufacturer, with wildcards; repeatable.")
    ] = None,
    station: Annotated[
        Several, typer.Option(help="Station name, with wildcards; repeatable.")
    ] = None,
    location: Annotated[
        Several, typer.Option(help="Id of the patient's primary location; repeatable.")
    ] = None,
    quiet: Annotated[
        int, typer.Option(help="Seconds without anything new of the study; 0: at once.")
    ] = 0,
    commit: Annotated[
        bool, typer.Option("--commit", help="Ask the peer for storage commitment.")
    ] = False,
    consent: Annotated[
        str | None, typer.Option(help="Consent without which nothing goes, e.g. DATA_SHARING.")
    ] = None,
    disabled: Annotated[
        bool, typer.Option("--disabled", help="Keep it, and send nothing.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Make a rule, or replace the one of this name. All conditions that are said must hold."""
    from interop.routing import rules

    said = {
        "modalities": modality, "sop_class_uids": sop_class, "calling_ae_titles": calling_ae,
        "study_descriptions": description, "body_parts": body_part,
        "manufacturers": manufacturer, "station_names": station, "location_ids": location,
    }  # fmt: skip
    values = {
        "predicate": {key: texts for key, texts in said.items() if texts},
        "ae_title": to_ae, "web_destination": to_web, "quiet_seconds": quiet,
        "with_commitment": commit, "required_consent": consent, "enabled": not disabled,
    }  # fmt: skip
    made = _change(
        tenant, lambda connection, tenant_id: rules.put(connection, tenant_id, name, values)
    )
    show(made.described(), as_json)


@route_app.command("list")
def route_list(tenant: TenantOption, as_json: JsonOption = False) -> None:
    """List the rules."""
    from interop.routing import rules

    found = _look(tenant, rules.list_all)
    if as_json:
        print(json.dumps([rule.described() for rule in found]))
        return
    for rule in found:
        conditions = ", ".join(
            f"{key} {'|'.join(texts)}" for key, texts in rule.predicate.to_json().items()
        )
        when = f"after {rule.quiet_seconds} s" if rule.quiet_seconds else "at once"
        out.print(
            f"{rule.name:<20} to {rule.ae_title or rule.web_destination}, {when}:"
            f" {conditions or 'everything'}{'' if rule.enabled else '  disabled'}",
            markup=False,
            soft_wrap=True,
        )


@route_app.command("remove")
def route_remove(name: Name, tenant: TenantOption) -> None:
    """Forget a rule. What is on its way by it still goes."""
    from interop.routing import rules

    _change(tenant, lambda connection, tenant_id: rules.remove(connection, tenant_id, name))
    out.print(f"{name} is removed", markup=False)


# -- DICOMweb destinations ----------------------------------------------------------------------


@destination_app.command("put")
def destination_put(
    name: DestinationName,
    tenant: TenantOption,
    url: Annotated[str | None, typer.Option(help="The service's root, https.")] = None,
    authentication: Annotated[
        str | None, typer.Option(help="NONE, BASIC, BEARER or CLIENT_CREDENTIALS.")
    ] = None,
    client_id: Annotated[str | None, typer.Option(help="User or OAuth client.")] = None,
    secret_stdin: Annotated[
        bool,
        typer.Option(
            "--secret-stdin", help="Read the password, token or client secret from standard input."
        ),
    ] = False,
    token_url: Annotated[str | None, typer.Option(help="OAuth token endpoint, https.")] = None,
    scope: Annotated[str | None, typer.Option(help="OAuth scope.")] = None,
    disable: Annotated[bool, typer.Option("--disable", help="Send nothing there.")] = False,
    enable: Annotated[bool, typer.Option("--enable", help="Send there again.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Register a DICOMweb service, or change what is said of it. Its secret is kept sealed."""
    from interop.routing import web_destinations

    secret = sys.stdin.readline().rstrip("\r\n") if secret_stdin else None
    values = {
        "url": url, "authentication": authentication, "client_id": client_id,
        "token_url": token_url, "scope": scope,
        "active": False if disable else True if enable else None,
    }  # fmt: skip
    made = _change(
        tenant,
        lambda connection, tenant_id: web_destinations.put(
            connection, tenant_id, name, values, secret
        ),
    )
    show(made.described(), as_json)


@destination_app.command("list")
def destination_list(tenant: TenantOption, as_json: JsonOption = False) -> None:
    """List the DICOMweb services."""
    from interop.routing import web_destinations

    found = _look(tenant, web_destinations.list_all)
    if as_json:
        print(json.dumps([one.described() for one in found]))
        return
    for one in found:
        state = "" if one.active else "  disabled"
        out.print(
            f"{one.name:<20} {one.url}  {one.authentication}{state}", markup=False, soft_wrap=True
        )


@destination_app.command("remove")
def destination_remove(name: DestinationName, tenant: TenantOption) -> None:
    """Forget a DICOMweb service that no rule and no delivery names."""
    from interop.routing import web_destinations

    _change(
        tenant, lambda connection, tenant_id: web_destinations.remove(connection, tenant_id, name)
    )
    out.print(f"{name} is removed", markup=False)


# -- deliveries ---------------------------------------------------------------------------------


def deliveries(
    tenant: TenantOption,
    status: Annotated[
        str | None, typer.Option(help="PENDING, RETRYING, DELIVERED, WITHHELD or DEAD_LETTER.")
    ] = None,
    retry: Annotated[
        bool,
        typer.Option("--retry", help="Send again what was given up, withheld or not committed."),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """List the newest deliveries of routing rules, or have the failed ones sent again."""
    from interop.routing import deliveries as rows

    if status is not None and status not in rows.STATUSES:
        raise CommandFailed(f"--status {status}: one of {', '.join(rows.STATUSES)}")
    if retry:
        with opened() as interop:
            owner = require(interop.tenants, tenant)
            with interop.database.connection(owner.id) as connection:
                count = rows.retry(connection, owner.id)
            record(interop, owner, "CONFIG_CHANGED", deliveries_sent_again=count)
        show({"sent_again": count}, as_json)
        return
    found = _look(
        tenant,
        lambda connection, tenant_id: rows.list_deliveries(
            connection, tenant_id, status=status, limit=100
        ),
    )
    if as_json:
        print(json.dumps(found, default=str))
        return
    for one in found:
        out.print(_line(one), markup=False, soft_wrap=True)


def _line(one: dict[str, Any]) -> str:
    commitment = f", {one['commitment'].lower().replace('_', ' ')}" if one["commitment"] else ""
    tried = f" after {one['attempts']}" if one["attempts"] > 1 else ""
    return (
        f"{one['created_at']:%Y-%m-%d %H:%M}  {one['destination']:<16} {one['status']}{tried}"
        f"{commitment}  {one['sop_instance_uid']}  {one['message'] or ''}"
    )
