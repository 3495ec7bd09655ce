"""`interop`: the command line of an operator. Commands work beside a running server or alone.

Each command that prints data takes `--json`. Errors name the setting or argument that is wrong
and exit with 1 (2: wrong usage).
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from interop.audit.commands import audit_app, record
from interop.command_line import (
    CommandFailed,
    JsonOption,
    TenantOption,
    err,
    opened,
    out,
    read_settings,
    require,
    show,
)
from interop.dimse.commands import ae_app, echo, tls_app
from interop.dimse.exchange_commands import commitments, pull, send
from interop.errors import ServerError
from interop.identity.commands import provider_app, user_app
from interop.imaging_commands import delete, quarantine_app
from interop.key_commands import keys_app
from interop.logs import configure_logging
from interop.move_commands import tenant_app
from interop.query_tag_commands import query_tag_app
from interop.routing.commands import deliveries, route_app
from interop.smart.commands import client_app, parse_scopes

if TYPE_CHECKING:
    from interop.doctor import Check

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, help=__doc__)
bundle_app = typer.Typer(no_args_is_help=True, help="AI models.")
app.add_typer(tenant_app, name="tenant")
app.add_typer(user_app, name="user")
app.add_typer(provider_app, name="provider")
app.add_typer(client_app, name="client")
app.add_typer(keys_app, name="keys")
app.add_typer(ae_app, name="ae")
app.add_typer(query_tag_app, name="query-tag")
app.add_typer(tls_app, name="tls")
app.add_typer(route_app, name="route")
app.add_typer(bundle_app, name="bundle")
app.add_typer(audit_app, name="audit")
app.add_typer(quarantine_app, name="quarantine")


def main() -> None:
    """Entry point: runs a command, prints a failure as one readable line."""
    try:
        app()
    except (CommandFailed, ServerError, ValueError, OSError) as error:
        err.print(f"[red]error:[/red] {error}", soft_wrap=True)
        sys.exit(1)


# -- server ---------------------------------------------------------------------------------


@app.command()
def serve(
    role: Annotated[str, typer.Option(help="all, http, dicom or worker.")] = "all",
) -> None:
    """Start the server; migrates the database first."""
    from interop.supervisor import ROLES, StartFailed
    from interop.supervisor import serve as run

    if role not in ("all", *ROLES):
        raise CommandFailed(f"--role {role}: one of all, {', '.join(ROLES)}")
    settings = read_settings()
    configure_logging(settings.log_level)
    try:
        run(settings, ROLES if role == "all" else (role,), lambda line: print(line, flush=True))
    except StartFailed as error:
        raise CommandFailed(str(error)) from error


@app.command()
def migrate(as_json: JsonOption = False) -> None:
    """Bring the tables of the platform, and of every tenant's own place, to this version."""
    from interop.supervisor import running_database, upgrade_places

    with running_database(read_settings()) as running:
        places = upgrade_places(running)
    failed = [place for place in places if place.error is not None]
    if as_json:
        print(json.dumps([asdict(place) for place in places], default=str))
    else:
        for place in failed:
            err.print(f"[red]failed[/red] {place.place}: {place.error}", soft_wrap=True)
        out.print(
            f"{len(places) - len(failed)} of {len(places)} places are at the newest version"
            if len(places) > 1
            else "the database is at the newest version"
        )
    if failed:
        raise typer.Exit(1)


@app.command()
def doctor(as_json: JsonOption = False) -> None:
    """Check every part that the server needs; each failing line says what to change."""
    from interop.doctor import examine

    checks = examine(read_settings())
    if as_json:
        print(json.dumps([vars(check) for check in checks]))
    for check in [] if as_json else checks:
        out.print(f"{_mark(check)} {check.name}: {check.detail}", soft_wrap=True)
    if not all(check.ok for check in checks if check.required):
        raise typer.Exit(1)


def _mark(check: Check) -> str:
    if check.ok:
        return "[green]ok[/green]  "
    return "[red]fail[/red]" if check.required else "[yellow]note[/yellow]"


# -- tenants, clients, peers ------------------------------------------------------------------


@app.command()
def token(
    tenant: TenantOption,
    scope: Annotated[str, typer.Option(help="SMART scopes.")] = "system/*.cruds",
) -> None:
    """Print a bearer token for the operator of this machine."""
    from interop.connections import open_tokens

    scopes = parse_scopes(scope)
    with opened() as interop:
        issuer = open_tokens(interop.settings, interop.database)
        owner = require(interop.tenants, tenant)
        record(interop, owner, "TOKEN_ISSUED", scope=str(scopes))
        print(issuer.issue(owner, None, "operator", scopes))


# -- objects ----------------------------------------------------------------------------------


@app.command("import")
def import_(
    tenant: TenantOption,
    paths: Annotated[list[Path], typer.Argument(help="DICOM files or folders.")],
    patient: Annotated[
        str | None,
        typer.Option(
            help="Record number or FHIR id: the files are this patient's JPEG, PNG, STL and MP4."
        ),
    ] = None,
    study: Annotated[
        str | None, typer.Option(help="With --patient: Study Instance UID that they belong to.")
    ] = None,
    title: Annotated[str | None, typer.Option(help="With --patient: what they show.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Take DICOM files in, with a progress bar; repeating skips what is stored."""
    from interop.dicom.importer import import_paths
    from interop.imaging_commands import import_for_patient
    from interop.progress import progress_bar
    from interop.services import open_services

    if patient is None and (study or title):
        raise CommandFailed("--study and --title go with --patient; a DICOM file says its own")
    with opened() as interop:
        services = open_services(interop.settings)
        owner = require(interop.tenants, tenant)
        try:
            with progress_bar("importing", quiet=as_json) as advance:
                report = (
                    import_paths(services, owner, paths, advance)
                    if patient is None
                    else import_for_patient(services, owner, paths, patient, study, title, advance)
                )
        finally:
            services.close()
    show(asdict(report), as_json)
    if report.refused or report.failed:
        raise typer.Exit(1)


@app.command()
def export(
    tenant: TenantOption,
    folder: Annotated[Path, typer.Argument(help="Where to write STUDY/SERIES/INSTANCE.dcm.")],
    study: Annotated[list[str] | None, typer.Option(help="Study Instance UID; repeatable.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Write stored DICOM objects as files, byte for byte; repeating continues."""
    from interop.dicom.exporter import export_studies
    from interop.progress import progress_bar
    from storage.objects import open_object_store

    with opened() as interop, progress_bar("exporting", quiet=as_json) as advance:
        report = export_studies(
            interop.database,
            open_object_store(interop.settings.effective_objects_url),
            require(interop.tenants, tenant),
            folder,
            study or [],
            advance,
        )
    show(asdict(report), as_json)


app.command()(delete)
app.command()(send)
app.command()(pull)
app.command()(commitments)
app.command()(deliveries)
app.command()(echo)


# -- operation --------------------------------------------------------------------------------


@app.command()
def sweep(
    dry_run: Annotated[bool, typer.Option(help="Only say what would go.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Remove stored objects that no row names, older than an hour (left by a crash)."""
    from storage.objects import open_object_store
    from storage.sweep import sweep as run

    with opened() as interop:
        report = run(
            interop.database,
            open_object_store(interop.settings.effective_objects_url),
            dry_run=dry_run,
        )
    show(asdict(report), as_json)


@app.command()
def jobs(tenant: TenantOption, as_json: JsonOption = False) -> None:
    """Show the newest AI jobs of a tenant with state and reason."""
    with opened() as interop:
        owner = require(interop.tenants, tenant)
        with interop.database.connection(owner.id) as connection:
            rows = connection.execute(
                "SELECT id, status, attempts, state_reason, error_details, created_at, completed_at"
                " FROM ai_inference_jobs WHERE tenant_id = %s ORDER BY created_at DESC LIMIT 50",
                (owner.id,),
            ).fetchall()
        record(interop, owner, "JOBS_LISTED", rows=len(rows))
    names = ("id", "status", "attempts", "reason", "error", "created_at", "completed_at")
    found = [dict(zip(names, row, strict=True)) for row in rows]
    if as_json:
        print(json.dumps(found, default=str))
        return
    for job in found:
        out.print(f"{job['id']}  {job['status']:<10} {job['reason'] or job['error'] or ''}")


@app.command()
def alive() -> None:
    """Exit with 0 when a job worker has reported within the last minute (health checks)."""
    with opened() as interop, interop.database.platform_connection() as connection:
        row = connection.execute(
            "SELECT count(*) FROM procrastinate_workers"
            " WHERE last_heartbeat > now() - interval '1 minute'"
        ).fetchone()
    if row is None or row[0] == 0:
        raise CommandFailed("no job worker has reported within the last minute")
    out.print(f"{row[0]} job workers report")


@bundle_app.command("add")
def bundle_add(path: Path, as_json: JsonOption = False) -> None:
    """Verify a MONAI Bundle and register its version in the model registry."""
    from ai.registry import owner_connection, register_bundle
    from ai.runtime.bundle import load_bundle

    bundle = load_bundle(path)
    with opened() as interop, owner_connection(interop.owner_url) as connection:
        version = register_bundle(connection, bundle)
    show(
        {"model_version_id": version.id, "name": version.name, "version": version.version}, as_json
    )


@bundle_app.command("deploy")
def bundle_deploy(
    name: str,
    version: str,
    tenant: Annotated[str | None, typer.Option(help="Only for this tenant.")] = None,
) -> None:
    """Roll a registered version out, to one tenant or to all."""
    from ai.registry import UnknownModelVersion, deploy
    from storage.database import Database

    with opened() as interop:
        tenant_id = require(interop.tenants, tenant).id if tenant else None
        owner = Database(interop.owner_url)
        owner.vault = interop.database.vault
        try:
            with owner.connection_apart(tenant_id) as connection:
                deploy(connection, name, version, tenant_id)
        except UnknownModelVersion as error:
            raise CommandFailed(str(error)) from error
        finally:
            owner.close()
        if tenant:
            of = require(interop.tenants, tenant)
            record(interop, of, "AI_MODEL_DEPLOYED", model=name, version=version)
    out.print(f"{name} {version} is rolled out to {tenant or 'every tenant'}")


if __name__ == "__main__":
    main()
