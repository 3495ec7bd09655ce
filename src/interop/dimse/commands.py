"""`interop ae`, `tls` and `echo`: an operator's view of DICOM peers."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from interop.command_line import (
    CommandFailed,
    JsonOption,
    TenantOption,
    opened,
    out,
    require,
    show,
)
from interop.dimse.exchange_commands import reached

if TYPE_CHECKING:
    from interop.dimse.registry import ApplicationEntity
    from storage.tenancy import Tenant

ae_app = typer.Typer(no_args_is_help=True, help="Application entities: DICOM peers of a tenant.")
tls_app = typer.Typer(no_args_is_help=True, help="Certificates of DICOM TLS.")

AeTitle = Annotated[str, typer.Option("--ae-title", help="AE title of the peer.")]
Host = Annotated[str | None, typer.Option(help="Where it listens, to be sent to.")]
Port = Annotated[int | None, typer.Option(min=1, max=65535, help="Port at which it listens.")]
Description = Annotated[str | None, typer.Option(help="What it is, for people.")]
NetworkList = Annotated[
    list[str] | None, typer.Option(help="Network it calls from, e.g. 10.1.2.0/24; repeatable.")
]
Certificate = Annotated[
    list[Path] | None,
    typer.Option(help="PEM file of a certificate it shows; repeatable, for rotation."),
]
Fingerprint = Annotated[
    list[str] | None, typer.Option(help="SHA-256 of a certificate it shows; repeatable.")
]
Subject = Annotated[
    str | None, typer.Option(help="Subject of the certificate it shows, e.g. CN=pano-1,O=Clinic.")
]
MaySend = Annotated[bool | None, typer.Option("--send/--no-send", help="It may store objects.")]
MayQuery = Annotated[bool | None, typer.Option("--query/--no-query", help="It may query.")]
MayBeSentTo = Annotated[
    bool | None, typer.Option("--be-sent-to/--no-be-sent-to", help="Objects may be sent to it.")
]
Purpose = Annotated[
    str | None,
    typer.Option(help="CARE; or DATA_SHARING, RESEARCH: sees only patients who consented to that."),
]
RequireTls = Annotated[
    bool | None,
    typer.Option("--require-tls/--no-require-tls", help="TLS only, both when it calls and we do."),
]
Limit = Annotated[int | None, typer.Option(min=1)]
Moment = Annotated[datetime | None, typer.Option(help="UTC.")]

_CLEARED: dict[str, dict[str, Any]] = {
    "host": {"host": None, "port": None, "may_be_sent_to": False},
    "description": {"description": None},
    "networks": {"source_networks": ()},
    "certificates": {"certificate_fingerprints": ()},
    "subject": {"certificate_subject": None},
    "limits": {
        "max_associations": None,
        "max_objects_per_minute": None,
        "max_bytes_per_minute": None,
    },
    "validity": {"valid_from": None, "valid_until": None},
}


@ae_app.command("create")
def ae_create(
    tenant: TenantOption,
    ae_title: AeTitle,
    host: Host = None,
    port: Port = None,
    description: Description = None,
    network: NetworkList = None,
    certificate: Certificate = None,
    fingerprint: Fingerprint = None,
    subject: Subject = None,
    may_send: MaySend = None,
    may_query: MayQuery = None,
    may_be_sent_to: MayBeSentTo = None,
    purpose: Purpose = None,
    require_tls: RequireTls = None,
    max_associations: Limit = None,
    max_objects_per_minute: Limit = None,
    max_bytes_per_minute: Limit = None,
    valid_from: Moment = None,
    valid_until: Moment = None,
    as_json: JsonOption = False,
) -> None:
    """Register a remote AE that may send, query, and be sent to where a host is given.

    One that is registered already is changed as said, and is active again.
    """
    from interop.dimse import registry

    given = _given(locals())
    if may_be_sent_to is None and host is not None and port is not None:
        given["may_be_sent_to"] = True
    with opened() as interop:
        owner = require(interop.tenants, tenant)
        try:
            made = registry.create(interop.database, owner, {"ae_title": ae_title, **given})
        except registry.ApplicationEntityExists:
            made = registry.update(interop.database, owner, ae_title, {"active": True, **given})
    _show(owner, made, as_json)


@ae_app.command("update")
def ae_update(
    tenant: TenantOption,
    ae_title: AeTitle,
    host: Host = None,
    port: Port = None,
    description: Description = None,
    network: NetworkList = None,
    certificate: Certificate = None,
    fingerprint: Fingerprint = None,
    remove_fingerprint: Annotated[
        list[str] | None, typer.Option(help="SHA-256 of a certificate that it no longer shows.")
    ] = None,
    subject: Subject = None,
    may_send: MaySend = None,
    may_query: MayQuery = None,
    may_be_sent_to: MayBeSentTo = None,
    purpose: Purpose = None,
    require_tls: RequireTls = None,
    max_associations: Limit = None,
    max_objects_per_minute: Limit = None,
    max_bytes_per_minute: Limit = None,
    valid_from: Moment = None,
    valid_until: Moment = None,
    enable: Annotated[bool, typer.Option("--enable", help="Make it active again.")] = False,
    clear: Annotated[
        list[str] | None, typer.Option(help=f"Forget one of: {', '.join(_CLEARED)}; repeatable.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Change a registration; what is not said stays. Networks are replaced, certificates added."""
    from interop.dimse import registry
    from interop.dimse.certificates import normal_fingerprint

    given = _given(locals())
    changes: dict[str, Any] = {"active": True} if enable else {}
    for name in clear or []:
        if name not in _CLEARED:
            raise CommandFailed(f"--clear {name}: one of {', '.join(_CLEARED)}")
        changes |= _CLEARED[name]
    with opened() as interop:
        owner = require(interop.tenants, tenant)
        found = registry.find(interop.database, owner, ae_title)
        added = given.pop("certificate_fingerprints", [])
        gone = {normal_fingerprint(text) for text in remove_fingerprint or []}
        if (added or gone) and found is not None:
            kept = changes.get("certificate_fingerprints", found.certificate_fingerprints)
            changes["certificate_fingerprints"] = [f for f in kept if f not in gone] + added
        made = registry.update(interop.database, owner, ae_title, changes | given)
    _show(owner, made, as_json)


@ae_app.command("list")
def ae_list(tenant: TenantOption, as_json: JsonOption = False) -> None:
    """List the registered application entities of a tenant."""
    from interop.dimse import registry

    with opened() as interop:
        found = registry.list_all(interop.database, require(interop.tenants, tenant))
    if as_json:
        print(json.dumps([registry.described(entity) for entity in found]))
        return
    for entity in found:
        where = f"{entity.host}:{entity.port}" if entity.host else "-"
        may = [
            word
            for word, is_allowed in (
                ("send", entity.may_send),
                ("query", entity.may_query),
                ("be sent to", entity.may_be_sent_to),
            )
            if is_allowed
        ]
        known_by = [str(network) for network in entity.source_networks]
        known_by += [f"sha256:{text[:12]}…" for text in entity.certificate_fingerprints]
        known_by += [entity.certificate_subject] if entity.certificate_subject else []
        state = "" if entity.required_consent is None else f"  for {entity.purpose}"
        state += "" if entity.active else "  disabled"
        tls = "  TLS only" if entity.require_tls or entity.is_pinned else ""
        out.print(
            f"{entity.ae_title:<16}  {where}  may {', '.join(may) or 'nothing'}{tls}{state}"
            f"  {' '.join(known_by)}",
            markup=False,
            soft_wrap=True,
        )


@ae_app.command("disable")
def ae_disable(tenant: TenantOption, ae_title: AeTitle, as_json: JsonOption = False) -> None:
    """Admit an AE no more, within five seconds, and send nothing to it."""
    from interop.dimse import registry

    with opened() as interop:
        owner = require(interop.tenants, tenant)
        made = registry.disable(interop.database, owner, ae_title)
    _show(owner, made, as_json)


def _given(options: dict[str, Any]) -> dict[str, Any]:
    """The fields of a registration that the options of a command name."""
    from interop.dimse.certificates import fingerprint_of_file
    from interop.dimse.registry import networks

    same = (
        "host", "port", "description", "may_send", "may_query", "may_be_sent_to", "purpose",
        "require_tls",
        "max_associations", "max_objects_per_minute", "max_bytes_per_minute",
    )  # fmt: skip
    values = {name: options[name] for name in same}
    values["certificate_subject"] = options["subject"]
    for name in ("valid_from", "valid_until"):
        moment: datetime | None = options[name]
        values[name] = moment.replace(tzinfo=UTC) if moment is not None else None
    if options["network"]:
        values["source_networks"] = networks(options["network"])
    shown = [fingerprint_of_file(path) for path in options["certificate"] or []]
    shown += options["fingerprint"] or []
    values["certificate_fingerprints"] = shown or None
    return {name: value for name, value in values.items() if value is not None}


def _show(tenant: Tenant, entity: ApplicationEntity, as_json: bool) -> None:
    from interop.dimse.registry import described

    values = {"tenant": tenant.slug, **described(entity)}
    if as_json:
        show(values, as_json)
        return
    for name, value in values.items():
        text = ", ".join(value) if isinstance(value, list) else value
        if text not in (None, ""):
            # Not in a table: a fingerprint that is cut short can be compared with nothing.
            out.print(f"{name}: {text}", markup=False, soft_wrap=True)


# -- calling a peer -----------------------------------------------------------------------------


@ae_app.command("echo")
def echo(
    tenant: TenantOption,
    ae_title: Annotated[str, typer.Option(help="Registered AE to verify.")],
) -> None:
    """Verify the connection to a registered AE by C-ECHO, over TLS where it requires that."""
    from interop.dimse import scu
    from interop.dimse.sender import SendFailed

    with opened() as interop:
        owner = require(interop.tenants, tenant)
        peer = reached(interop, owner, ae_title, to_send=False)
    where = f"{ae_title} at {peer.host}:{peer.port}"
    try:
        status = scu.echo(
            peer.host, peer.port, ae_title, peer.calling_ae_title, tls_context=peer.tls_context
        )
    except SendFailed as error:
        raise CommandFailed(str(error)) from error
    if status != 0:
        raise CommandFailed(f"{where} answers with status 0x{status:04X}")
    out.print(f"{where} answers{' over TLS' if peer.tls_context else ''}")


# -- certificates -------------------------------------------------------------------------------


@tls_app.command("self-signed")
def tls_self_signed(
    folder: Annotated[Path, typer.Option("--out", help="Folder to write to.")],
    name: Annotated[
        list[str] | None, typer.Option(help="Further name or address of the server; repeatable.")
    ] = None,
    days: Annotated[int, typer.Option(min=1, max=825, help="How long they are valid.")] = 90,
) -> None:
    """Write certificates for trying DICOM TLS out: a CA, a server, a client. Not for patients."""
    from interop.dimse.certificates import write_trial_certificates

    ca, server, server_key, client, client_key = (
        path.absolute() for path in write_trial_certificates(folder, name or [], days)
    )
    print(f"INTEROP_DICOM_TLS_CERTIFICATE={server}")
    print(f"INTEROP_DICOM_TLS_KEY={server_key}")
    print(f"INTEROP_DICOM_TLS_CA={ca}")
    print(f"# for a peer: {client} with {client_key}, trusting {ca}")
