"""`interop audit`: verify, seal and prune the log, list it, and tell who looked at a patient."""

from __future__ import annotations

import getpass
import json
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any
from uuid import UUID

import typer

from interop.command_line import (
    CommandFailed,
    JsonOption,
    Opened,
    TenantOption,
    err,
    opened,
    out,
    require,
    show,
)
from storage.audit import INSERT_AUDIT, system_audit
from storage.audit_queries import PATIENT_ROW, AuditQuery, AuditRow, row_of
from storage.tenancy import Tenant

audit_app = typer.Typer(no_args_is_help=True, help="The audit log: who did what, unchanged.")

OneTenant = Annotated[
    str | None, typer.Option("--tenant", help="Slug of the tenant; default: every active one.")
]
Limit = Annotated[int, typer.Option(min=1, max=10_000, help="How many rows at most.")]


def record(
    interop: Opened, tenant: Tenant, event_type: str, *, outcome: str = "SUCCESS", **details: Any
) -> None:
    """One row for what the operator of this machine did."""
    with interop.database.connection(tenant.id) as connection:
        connection.execute(
            INSERT_AUDIT,
            system_audit(
                tenant.id,
                event_type,
                outcome=outcome,
                metadata={"door": "CLI", "operator": getpass.getuser(), **details},
            ),
        )


def _chosen(interop: Opened, slug: str | None) -> list[Tenant]:
    return [require(interop.tenants, slug)] if slug else interop.tenants.all_active()


@audit_app.command()
def verify(tenant: OneTenant = None, as_json: JsonOption = False) -> None:
    """Recompute the chain; exits with 1 and names the first bad row where one is."""
    from interop.connections import open_audit_key
    from storage.audit_verification import verify as run
    from storage.objects import open_object_store

    found: list[dict[str, Any]] = []
    with opened() as interop:
        key = open_audit_key(interop.settings)
        objects = open_object_store(interop.settings.effective_objects_url)
        for one in _chosen(interop, tenant):
            report = run(interop.database, one.id, key, objects)
            problem = report.problem
            record(
                interop,
                one,
                "AUDIT_LOG_VERIFIED",
                outcome="FAILURE" if problem else "SUCCESS",
                seals=report.seals,
            )
            found.append(
                {
                    "tenant": one.slug,
                    "seals": report.seals,
                    "rows": report.rows,
                    "pruned_rows": report.pruned_rows,
                    "anchors": report.anchors,
                    "unsealed_rows": report.unsealed_rows,
                    "oldest_unsealed": report.oldest_unsealed,
                    "problem": problem.message if problem else None,
                    "row_id": problem.row_id if problem else None,
                    "seal": problem.seal if problem else None,
                }
            )
    if as_json:
        print(json.dumps(found, default=str))
    for line in [] if as_json else found:
        counts = (
            f"{line['seals']} seals, {line['rows']} rows, {line['unsealed_rows']} not sealed yet"
        )
        if line["problem"] is None:
            out.print(f"[green]ok[/green]   {line['tenant']}: {counts}", soft_wrap=True)
        else:
            err.print(f"[red]fail[/red] {line['tenant']}: {line['problem']}", soft_wrap=True)
    if any(line["problem"] for line in found):
        raise typer.Exit(1)


@audit_app.command()
def seal(tenant: OneTenant = None, as_json: JsonOption = False) -> None:
    """Seal what is settled and write the day's anchor, as the worker does every few seconds."""
    from interop.connections import open_audit_key
    from storage.audit_seals import anchor
    from storage.audit_seals import seal as run
    from storage.objects import open_object_store

    done: dict[str, Any] = {}
    with opened() as interop:
        key = open_audit_key(interop.settings)
        objects = open_object_store(interop.settings.effective_objects_url)
        for one in _chosen(interop, tenant):
            done[one.slug] = run(interop.database, one.id, key)
            anchor(interop.database, objects, one.id, key)
    show(done, as_json)


@audit_app.command()
def prune(tenant: OneTenant = None, as_json: JsonOption = False) -> None:
    """Remove rows past their retention (LOGS policy, else six years), never under a legal hold."""
    from interop.connections import open_audit_key
    from storage.audit_pruning import prune as run
    from storage.database import Database

    done: dict[str, Any] = {}
    with opened() as interop:
        key = open_audit_key(interop.settings)
        owner = Database(interop.owner_url, pool_size=1)
        owner.vault = interop.database.vault
        try:
            for one in _chosen(interop, tenant):
                done[one.slug] = asdict(run(owner, one.id, key))
        finally:
            owner.close()
    show(done, as_json)


@audit_app.command("list")
def list_(
    tenant: TenantOption,
    event_type: Annotated[list[str] | None, typer.Option(help="Repeatable.")] = None,
    days: Annotated[float | None, typer.Option(help="Only the last so many days.")] = None,
    limit: Limit = 50,
    as_json: JsonOption = False,
) -> None:
    """List the newest events of a tenant."""
    with opened() as interop:
        owner = require(interop.tenants, tenant)
        query = AuditQuery(owner.id, limit, event_types=event_type)
        if days is not None:
            query.low = datetime.now(UTC) - timedelta(days=days)
        rows = _rows(interop, query)
        record(interop, owner, "AUDIT_LOG_USED", rows=len(rows))
    _print(rows, as_json)


@audit_app.command("who-looked")
def who_looked(
    tenant: TenantOption,
    patient: Annotated[str, typer.Option(help="Id of the Patient, as FHIR or the table has it.")],
    limit: Limit = 200,
    as_json: JsonOption = False,
) -> None:
    """List who saw or changed a patient's data, newest first."""
    with opened() as interop:
        owner = require(interop.tenants, tenant)
        patient_id = _patient(interop, owner, patient)
        query = AuditQuery(owner.id, limit, patient_id=patient_id, only_patient_id=patient_id)
        rows = _rows(interop, query)
        record(interop, owner, "AUDIT_LOG_USED", rows=len(rows), patient_id=str(patient_id))
    _print(rows, as_json)


def _patient(interop: Opened, tenant: Tenant, name: str) -> UUID:
    with interop.database.connection(tenant.id) as connection:
        row = connection.execute(PATIENT_ROW, (tenant.id, name)).fetchone()
    if row is not None:
        found: UUID = row[0]
        return found
    try:
        return UUID(name)
    except ValueError:
        raise CommandFailed(f"--patient {name}: there is no Patient with this id") from None


def _rows(interop: Opened, query: AuditQuery) -> list[AuditRow]:
    statement, values = query.statement()
    with interop.database.connection(query.tenant_id) as connection:
        return [row_of(row) for row in connection.execute(statement.encode(), values)]


def _print(rows: list[AuditRow], as_json: bool) -> None:
    if as_json:
        print(json.dumps([asdict(row) for row in rows], default=str))
        return
    for row in rows:
        who = row.user_id or row.api_client_id or row.actor_type.lower()
        what = f"{row.resource_type or ''}/{row.resource_id or ''}".strip("/")
        out.print(
            f"{row.timestamp:%Y-%m-%d %H:%M:%S} {row.outcome:<7} {row.event_type:<28} "
            f"{who}  {row.ip_address or '-'}  {what}",
            soft_wrap=True,
        )
