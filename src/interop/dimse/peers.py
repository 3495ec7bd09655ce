"""How a registered peer is reached: its address, our AE title there, TLS as it was registered."""

from __future__ import annotations

from interop.dimse import registry
from interop.dimse.registry import ApplicationEntity
from interop.dimse.requestor import Destination
from interop.dimse.tls import TlsFiles
from interop.events.egress_policy import EgressPolicy
from interop.settings import Settings, is_loopback
from storage.database import Database
from storage.tenancy import Tenant

DEFAULT_AE_TITLE = "INTEROP"
_LOOPBACK = "127.0.0.0/8, ::1/128"


class NotReachable(Exception):
    """The peer may not be called, or nobody said where it listens."""


def reach(
    database: Database, settings: Settings, tenant: Tenant, ae_title: str, *, to_send: bool
) -> Destination:
    """The registered peer of this AE title. Raises NotReachable, saying what to register."""
    found = registry.find(database, tenant, ae_title)
    if found is None or not found.active or found.host is None or found.port is None:
        raise NotReachable(
            f"{ae_title!r} is not registered with an address; register it: interop ae create "
            f"--tenant {tenant.slug} --ae-title {ae_title} --host HOST --port PORT"
        )
    if to_send and not found.may_be_sent_to:
        raise NotReachable(
            f"{ae_title!r} may not be sent to; allow it: interop ae update --tenant {tenant.slug} "
            f"--ae-title {ae_title} --be-sent-to"
        )
    return destination(settings, tenant, found)


def destination(settings: Settings, tenant: Tenant, entity: ApplicationEntity) -> Destination:
    """The same for an entity whose registration is at hand, with its address."""
    if entity.host is None or entity.port is None:
        raise NotReachable(f"{entity.ae_title!r} is registered without an address")
    context = None
    if entity.require_tls or entity.is_pinned:
        context = TlsFiles.of(settings).client_context(frozenset(entity.certificate_fingerprints))
    return Destination(
        entity.host,
        entity.port,
        entity.ae_title,
        tenant.ae_title or DEFAULT_AE_TITLE,
        context,
        peer_policy(settings),
    )


def peer_policy(settings: Settings) -> EgressPolicy:
    """Which addresses may be called because an organization has registered them.

    What listens on this machine alone is for this machine: only a server that does so itself calls
    it there.
    """
    networks = settings.dicom_peer_networks
    if is_loopback(settings.dicom_host):
        networks += f", {_LOOPBACK}"
    return EgressPolicy.parse(networks, None)
