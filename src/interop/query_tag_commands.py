"""`interop query-tag`: attributes of images that an organization makes searchable."""

from __future__ import annotations

import json
from typing import Annotated, Any
from uuid import UUID

import typer

from interop.command_line import CommandFailed, JsonOption, TenantOption, opened, out, require, show

query_tag_app = typer.Typer(
    no_args_is_help=True, help="Attributes of images that searches can match."
)
PathArgument = Annotated[str, typer.Argument(help="Keyword, tag, or a path of such.")]
_SHOWN = ("path", "keyword", "private_creator", "vr", "level", "status", "total", "done", "errors")


@query_tag_app.command("add")
def add(
    path: PathArgument,
    tenant: TenantOption,
    level: Annotated[str, typer.Option(help="STUDY, SERIES or INSTANCE.")],
    vr: Annotated[str | None, typer.Option(help="Of what PS3.6 does not have.")] = None,
    creator: Annotated[str | None, typer.Option(help="Creator of a private tag.")] = None,
    wait: Annotated[
        bool, typer.Option("--wait", help="Index what is stored here and now, not by a worker.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Make an attribute searchable; a worker indexes what is stored."""
    from interop.dicom import query_tags
    from interop.dicom.query.attributes import Level
    from storage.tenants.changes import OPERATOR

    if level.upper() not in ("STUDY", "SERIES", "INSTANCE"):
        raise CommandFailed(f"--level {level}: one of STUDY, SERIES, INSTANCE")
    with opened() as interop:
        owner = require(interop.tenants, tenant)
        with interop.database.connection(owner.id) as connection:
            made = query_tags.register(
                connection,
                owner.id,
                path,
                Level[level.upper()],
                OPERATOR,
                vr=vr,
                private_creator=creator,
            )
        if wait:
            query_tags.index_stored(interop.database, owner.id)
            with interop.database.connection(owner.id) as connection:
                made = query_tags.find(connection, owner.id, path)
    show(_values(made), as_json)


@query_tag_app.command("list")
def list_(tenant: TenantOption, as_json: JsonOption = False) -> None:
    """Show the searchable attributes and how far their index is built."""
    from interop.audit.commands import record
    from interop.dicom import query_tags

    with opened() as interop:
        owner = require(interop.tenants, tenant)
        with interop.database.connection(owner.id) as connection:
            found = query_tags.list_all(connection, owner.id)
        record(interop, owner, "CONFIG_VIEWED", rows=len(found))
    if as_json:
        print(json.dumps([_values(one) for one in found], default=str))
        return
    for one in found:
        state = one.status if one.status == "READY" else f"{one.status} {one.done}/{one.total}"
        errors = f", {one.errors} objects not indexed" if one.errors else ""
        out.print(f"{one.path}  {one.keyword}  {one.vr}  {one.level}  {state}{errors}")


@query_tag_app.command("errors")
def errors(path: PathArgument, tenant: TenantOption, as_json: JsonOption = False) -> None:
    """List the objects whose value could not be indexed, and why."""
    from interop.audit.commands import record
    from interop.dicom import query_tags

    with opened() as interop:
        owner = require(interop.tenants, tenant)
        with interop.database.connection(owner.id) as connection:
            tag = query_tags.find(connection, owner.id, path)
            after: UUID | None = None
            found: list[dict[str, Any]] = []
            while more := query_tags.errors_of(connection, owner.id, tag.id, after, 200):
                found += more
                after = more[-1]["object_id"]
        record(interop, owner, "CONFIG_VIEWED", rows=len(found))
    if as_json:
        print(json.dumps(found, default=str))
        return
    for one in found:
        out.print(f"{one['sop_instance_uid']}: {one['message']}")


@query_tag_app.command("remove")
def remove(path: PathArgument, tenant: TenantOption, as_json: JsonOption = False) -> None:
    """Have an attribute be searchable no more; a worker removes its index."""
    from interop.dicom import query_tags
    from storage.tenants.changes import OPERATOR

    with opened() as interop:
        owner = require(interop.tenants, tenant)
        with interop.database.connection(owner.id) as connection:
            found = query_tags.remove(connection, owner.id, path, OPERATOR)
    show(_values(found), as_json)


def _values(tag: object) -> dict[str, Any]:
    return {name: getattr(tag, name) for name in _SHOWN}
