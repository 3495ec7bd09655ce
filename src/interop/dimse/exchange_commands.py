"""`interop send`, `pull` and `commitments`: objects to and from a DICOM peer, by hand."""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from interop.audit.commands import record
from interop.command_line import (
    CommandFailed,
    JsonOption,
    Opened,
    TenantOption,
    err,
    opened,
    out,
    require,
)

if TYPE_CHECKING:
    from interop.dimse.pull import Method, PullReport, StudyThere, Wanted
    from interop.dimse.scu import SendReport
    from interop.dimse.sender import Destination
    from storage.tenancy import Tenant

_METHODS = ("get", "move")
_SHOWN = 20
# A peer mostly reports within seconds, on this association or on one to the running server.
_REPORT_SECONDS = 15.0


def reached(interop: Opened, tenant: Tenant, ae_title: str, *, to_send: bool) -> Destination:
    """The registered peer of this AE title. Raises CommandFailed, saying what to register."""
    from interop.dimse.peers import NotReachable, reach

    # Its own log lines say less than the one error that follows.
    logging.getLogger("pynetdicom").setLevel(logging.CRITICAL)
    try:
        return reach(interop.database, interop.settings, tenant, ae_title, to_send=to_send)
    except NotReachable as error:
        raise CommandFailed(str(error)) from error


# -- send ---------------------------------------------------------------------------------------


def send(
    tenant: TenantOption,
    ae_title: Annotated[str, typer.Option(help="Registered AE to send to.")],
    paths: Annotated[list[Path], typer.Argument(help="DICOM files or folders.")],
    commit: Annotated[
        bool, typer.Option("--commit", help="Ask the peer to commit itself to keep them.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Send files to a registered AE by C-STORE, over TLS where it requires that."""
    from interop.dimse import scu
    from interop.dimse.sender import SendFailed
    from interop.progress import progress_bar

    files = list(scu.files_below(paths))
    if not files:
        raise CommandFailed(f"there is no file in {', '.join(map(str, paths))}")
    with opened() as interop:
        owner = require(interop.tenants, tenant)
        peer = reached(interop, owner, ae_title, to_send=True)
        try:
            with progress_bar("sending", total=len(files), quiet=as_json) as advance:
                report = scu.send(
                    files, peer.host, peer.port, ae_title, peer.calling_ae_title, advance,
                    tls_context=peer.tls_context,
                )  # fmt: skip
        except SendFailed as error:
            raise CommandFailed(str(error)) from error
        stored = len(report.sent) - len(report.failed)
        record(interop, owner, "IMAGES_SENT", called_ae_title=ae_title, objects=stored)
        commitment = _commitment(interop, owner, peer, report) if commit and stored else None
    _show_sent(report, ae_title, commitment, as_json)
    # Who deletes its files after this command must have the peer's word for them.
    if report.failed or (commitment is not None and commitment["status"] != "COMMITTED"):
        raise typer.Exit(1)


def _commitment(
    interop: Opened, tenant: Tenant, peer: Destination, report: SendReport
) -> dict[str, Any]:
    """Ask for storage commitment of what was stored; how it stands after a few seconds."""
    from pydicom.uid import generate_uid

    from interop.dimse import commitment_jobs, registry
    from interop.dimse import commitment_records as records
    from interop.dimse.commitment_messages import Reference, Request
    from interop.services import open_services

    references = {
        Reference(entry.sop_class_uid, entry.sop_instance_uid)
        for entry in report.sent
        if entry.is_success
    }
    entity = registry.find(interop.database, tenant, peer.called_ae_title)
    parties = records.Parties(
        peer.called_ae_title, peer.calling_ae_title, entity.id if entity is not None else None
    )
    asked = Request(str(generate_uid()), tuple(sorted(references, key=str)))
    with interop.database.connection(tenant.id) as connection:
        overdue_at = datetime.now(UTC) + commitment_jobs.OVERDUE
        id_ = records.begin_asking(connection, tenant.id, parties, asked, overdue_at)
    services = open_services(interop.settings)
    try:
        commitment_jobs.ask(services, tenant, id_, _REPORT_SECONDS)
    finally:
        services.close()
    with interop.database.connection(tenant.id) as connection:
        found = records.find(connection, tenant.id, id_)
        failed = records.failures_of(connection, tenant.id, id_)
    assert found is not None
    return {
        "id": str(id_),
        "transaction_uid": found.transaction_uid,
        "status": found.status,
        "message": found.message,
        "failed": {one.reference.sop_instance_uid: f"0x{one.reason:04X}" for one in failed},
    }


def _show_sent(
    report: SendReport, ae_title: str, commitment: dict[str, Any] | None, as_json: bool
) -> None:
    stored = len(report.sent) - len(report.failed)
    if as_json:
        failed = [
            {"path": str(e.path), "status": _status(e.status), "message": e.message}
            for e in report.failed
        ]
        print(
            json.dumps(
                {"sent": len(report.sent), "stored": stored, "failed": failed}
                | ({"commitment": commitment} if commitment else {})
            )
        )
        return
    out.print(f"{stored} of {len(report.sent)} stored by {ae_title}")
    for entry in report.failed[:_SHOWN]:
        err.print(f"{entry.path}: {_status(entry.status)} {entry.message}", soft_wrap=True)
    if commitment is not None:
        out.print(f"commitment {commitment['id']}: {_state(commitment)}", soft_wrap=True)
        for uid, reason in list(commitment["failed"].items())[:_SHOWN]:
            err.print(f"not committed: {uid} {reason}", soft_wrap=True)


def _state(commitment: dict[str, Any]) -> str:
    said = f" ({commitment['message']})" if commitment["message"] else ""
    if commitment["status"] != "REQUESTED":
        return f"{commitment['status']}{said}"
    return f"no report yet{said}; 'interop commitments' shows it when it has come"


def _status(status: int | None) -> str:
    return "not sent" if status is None else f"0x{status:04X}"


def commitments(tenant: TenantOption, as_json: JsonOption = False) -> None:
    """List the newest storage commitments: asked of us (SCP) and by us (SCU)."""
    from interop.dimse.commitment_records import list_commitments

    with opened() as interop:
        owner = require(interop.tenants, tenant)
        with interop.database.connection(owner.id) as connection:
            found = list_commitments(connection, owner.id, limit=100)
        record(interop, owner, "JOBS_LISTED", rows=len(found))
    if as_json:
        print(json.dumps(found, default=str))
        return
    for one in found:
        out.print(
            f"{one['created_at']:%Y-%m-%d %H:%M}  {one['role']} {one['peer_ae_title']:<16}"
            f" {one['status']:<16} {one['committed']} of {one['objects']} committed"
            f"{', ' + str(one['failed']) + ' failed' if one['failed'] else ''}"
            f"  {one['message'] or ''}",
            markup=False,
            soft_wrap=True,
        )


# -- pull ---------------------------------------------------------------------------------------


def pull(
    tenant: TenantOption,
    from_ae: Annotated[str, typer.Option("--from", help="Registered AE to fetch from.")],
    patient_id: Annotated[str, typer.Option(help="PatientID; * and ? are wildcards.")] = "",
    study_uid: Annotated[
        list[str] | None, typer.Option(help="Study Instance UID; repeatable.")
    ] = None,
    date: Annotated[
        str, typer.Option(help="Study dates: 20260101, 20260101-20260131, 20260101-.")
    ] = "",
    accession_number: Annotated[str, typer.Option(help="AccessionNumber.")] = "",
    modality: Annotated[str, typer.Option(help="A modality of the study, e.g. PX.")] = "",
    method: Annotated[str, typer.Option(help="get: C-GET; move: C-MOVE to this server.")] = "get",
    dry_run: Annotated[bool, typer.Option(help="Only say what would come.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Fetch studies from a PACS. What is stored already is skipped, so repeating continues."""
    from interop.dimse.pull import PullFailed, Wanted
    from interop.dimse.sender import SendFailed

    if method not in _METHODS:
        raise CommandFailed(f"--method {method}: one of {', '.join(_METHODS)}")
    wanted = Wanted(patient_id, tuple(study_uid or ()), date, accession_number, modality)
    if wanted.is_empty:
        raise CommandFailed(
            "say what to pull: --patient-id, --study-uid, --date, --accession-number or --modality"
        )
    with opened() as interop:
        owner = require(interop.tenants, tenant)
        peer = reached(interop, owner, from_ae, to_send=False)
        try:
            studies, report = _pull(interop, owner, peer, wanted, method, dry_run, as_json)
        except (PullFailed, SendFailed) as error:
            raise CommandFailed(f"{from_ae}: {error}") from error
    _show_pulled(studies, report, from_ae, as_json)
    if report is not None and report.failed:
        raise typer.Exit(1)


def _pull(
    interop: Opened,
    tenant: Tenant,
    peer: Destination,
    wanted: Wanted,
    method: str,
    dry_run: bool,
    as_json: bool,
) -> tuple[list[StudyThere], PullReport | None]:
    from interop.dimse.pull import fetch, look
    from interop.progress import progress_bar
    from interop.services import open_services

    services = open_services(interop.settings)
    try:
        studies = look(services, tenant, peer, wanted)
        if dry_run:
            return studies, None
        if not as_json:
            _show_studies(studies)
        record(
            interop, tenant, "IMAGES_PULLED",
            called_ae_title=peer.called_ae_title, method=method,
            studies=[study.study_uid for study in studies if study.missing][:200],
            objects=sum(len(study.missing) for study in studies),
        )  # fmt: skip
        with progress_bar("fetching", quiet=as_json) as advance:
            kind: Method = "move" if method == "move" else "get"
            return studies, fetch(services, tenant, peer, studies, kind, advance)
    finally:
        services.close()


def _show_studies(studies: list[StudyThere]) -> None:
    for study in studies:
        out.print(
            f"{study.study_date or '-':<8}  {'/'.join(study.modalities) or '-':<8}"
            f" {len(study.missing):>5} of {study.number_of_instances} to fetch"
            f"  {study.study_uid}  {study.description}",
            markup=False,
            soft_wrap=True,
        )


def _show_pulled(
    studies: list[StudyThere], report: PullReport | None, ae_title: str, as_json: bool
) -> None:
    if as_json:
        values: dict[str, Any] = {"studies": [study.described() for study in studies]}
        if report is not None:
            values |= {
                "instances": report.instances,
                "stored_before": report.stored_before,
                "fetched": report.fetched,
                "failed": report.failed,
                "problems": report.problems,
            }
        print(json.dumps(values))
        return
    if report is None:
        _show_studies(studies)
        missing = sum(len(study.missing) for study in studies)
        out.print(f"{len(studies)} studies; {missing} instances would come from {ae_title}")
        return
    out.print(
        f"{report.fetched} fetched from {ae_title}, {report.stored_before} were here,"
        f" {report.failed} failed"
    )
    for problem in report.problems[:_SHOWN]:
        err.print(problem, soft_wrap=True, markup=False)
