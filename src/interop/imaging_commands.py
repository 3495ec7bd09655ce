"""`interop delete`, `interop quarantine`, and what `interop import` does for one patient."""

from __future__ import annotations

import getpass
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any
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
    from pathlib import Path

    from interop.dicom.importer import ImportReport, Progress
    from interop.services import Services
    from storage.tenancy import Tenant

quarantine_app = typer.Typer(help="Objects that were refused and kept.")

Quarantined = Annotated[UUID, typer.Argument(help="Its id, from the list.")]
DespiteRetention = Annotated[
    str | None,
    typer.Option(help="Why it need not be kept any longer; kept in the audit trail."),
]


def delete(
    tenant: TenantOption,
    study: Annotated[str, typer.Option(help="Study Instance UID.")],
    series: Annotated[str | None, typer.Option(help="Only this Series Instance UID.")] = None,
    instance: Annotated[str | None, typer.Option(help="Only this SOP Instance UID.")] = None,
    despite_retention: DespiteRetention = None,
    with_reviewed_findings: Annotated[
        bool, typer.Option(help="Delete findings of the AI, too, that people have judged.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Delete a study, series or instance for good, unless a legal hold or retention keeps it."""
    from interop.dicom import deletion

    if instance is not None and series is None:
        raise CommandFailed("--instance needs --series too: the instance's own")
    waiver = deletion.Waiver(despite_retention, with_reviewed_findings)
    with opened() as interop:
        owner = require(interop.tenants, tenant)
        target = deletion.Target(study, series, instance)
        audit = _audit(owner, deletion.EVENT)
        found = deletion.delete(interop.database, owner, target, audit, waiver=waiver)
    show(asdict(found), as_json)


def import_for_patient(
    services: Services,
    tenant: Tenant,
    paths: list[Path],
    patient: str,
    study: str | None,
    title: str | None,
    advance: Progress,
) -> ImportReport:
    """Take in files that are no DICOM, for the patient with this record number or FHIR id."""
    from interop.dicom.file_importer import import_files
    from interop.dicom.file_ingest import Description
    from interop.dicom.file_owners import patient_by_identifier, row_of
    from interop.errors import NotFound

    with services.database.connection(tenant.id) as connection:
        try:
            patient_id = patient_by_identifier(connection, tenant.id, patient)
        except NotFound as unknown:
            try:
                patient_id = row_of(connection, tenant.id, "Patient", patient)
            except NotFound:
                raise CommandFailed(
                    f"no patient has the record number or the FHIR id {patient!r}"
                ) from unknown
    said = Description(patient_id, study_instance_uid=study, title=title)
    return import_files(services, tenant, paths, said, advance, actor=getpass.getuser())


@quarantine_app.callback(invoke_without_command=True)
def quarantine(
    context: typer.Context,
    tenant: Annotated[str | None, typer.Option("--tenant", help="Slug of the tenant.")] = None,
    as_json: JsonOption = False,
) -> None:
    """List the objects that were refused and kept, and the studies whose patient is in doubt."""
    if context.invoked_subcommand is not None:
        return
    if tenant is None:
        raise typer.BadParameter("--tenant: slug of the tenant")
    with opened() as interop:
        owner = require(interop.tenants, tenant)
        with interop.database.connection(owner.id) as connection:
            objects = connection.execute(
                "SELECT id, received_at, sop_instance_uid, study_instance_uid, reason, source,"
                " state FROM quarantined_objects WHERE tenant_id = %s"
                " ORDER BY received_at DESC LIMIT 200",
                (owner.id,),
            ).fetchall()
            studies = connection.execute(
                "SELECT last_received_at, study_uid, demographics_conflict FROM imaging_studies"
                " WHERE tenant_id = %s AND demographics_conflict IS NOT NULL"
                " ORDER BY last_received_at DESC LIMIT 200",
                (owner.id,),
            ).fetchall()
        record(interop, owner, "QUARANTINE_LISTED", rows=len(objects) + len(studies))
    kept = (
        "id", "received_at", "sop_instance_uid", "study_instance_uid", "reason", "source", "state"
    )  # fmt: skip
    report: dict[str, list[dict[str, Any]]] = {
        "objects": [dict(zip(kept, row, strict=True)) for row in objects],
        "studies": [
            {"last_received_at": row[0], "study_instance_uid": row[1], "conflicts": row[2]}
            for row in studies
        ],
    }
    if as_json:
        print(json.dumps(report, default=str))
        return
    for entry in report["objects"]:
        when = f"{entry['received_at']:%Y-%m-%d %H:%M}"
        out.print(f"{when} {entry['state']}  {entry['id']}  {entry['reason']}", soft_wrap=True)
    for study in report["studies"]:
        out.print(f"study {study['study_instance_uid']}: the patient's demographics disagree")
    if not objects and not studies:
        out.print("nothing was refused and kept, no study is in doubt")


@quarantine_app.command("show")
def quarantine_show(tenant: TenantOption, id: Quarantined) -> None:
    """Print one object beside the stored one that it contradicts, as JSON."""
    from interop.dicom import quarantine as kept

    with _services(tenant) as (services, owner):
        with services.database.connection(owner.id) as connection:
            one = kept.find(connection, owner.id, id)
            audit = _audit(owner, "QUARANTINE_VIEWED", str(id))
            _write(connection, audit)
        found = asdict(kept.compare(services, owner, one))
    print(json.dumps({**asdict(one), **found}, default=str, indent=2))


@quarantine_app.command("release")
def quarantine_release(tenant: TenantOption, id: Quarantined, as_json: JsonOption = False) -> None:
    """Store it in the place of what contradicts it, which goes to quarantine for it."""
    from interop.dicom import quarantine as kept
    from interop.dicom.ingest_types import Source

    with _services(tenant) as (services, owner):
        outcome = kept.let_in(services, owner, id, Source("QUARANTINE", getpass.getuser()))
        with services.database.connection(owner.id) as connection:
            audit = _audit(owner, "QUARANTINE_RELEASED", outcome.study_instance_uid)
            _write(connection, audit)
    show({"result": outcome.kind, "sop_instance_uid": outcome.sop_instance_uid}, as_json)


@quarantine_app.command("discard")
def quarantine_discard(
    tenant: TenantOption,
    id: Quarantined,
    despite_retention: DespiteRetention = None,
    as_json: JsonOption = False,
) -> None:
    """Have its bytes erased; what is stored stays."""
    from interop.dicom import quarantine as kept

    with opened() as interop:
        owner = require(interop.tenants, tenant)
        audit = _audit(owner, "QUARANTINE_DISCARDED", str(id))
        one = kept.discard(interop.database, owner, id, audit, despite_retention=despite_retention)
    show({"id": one.id, "state": "DISCARDED", "bytes": one.byte_size}, as_json)


@contextmanager
def _services(slug: str) -> Iterator[tuple[Services, Tenant]]:
    from interop.services import open_services

    with opened() as interop:
        services = open_services(interop.settings)
        try:
            yield services, require(interop.tenants, slug)
        finally:
            services.close()


def _audit(tenant: Tenant, event_type: str, resource_id: str | None = None) -> dict[str, Any]:
    from storage.audit import system_audit

    said = {"door": "CLI", "operator": getpass.getuser()}
    return system_audit(tenant.id, event_type, "ImagingStudy", resource_id, metadata=said)


def _write(connection: Any, audit: dict[str, Any]) -> None:
    from storage.audit import INSERT_AUDIT

    connection.execute(INSERT_AUDIT, audit)
