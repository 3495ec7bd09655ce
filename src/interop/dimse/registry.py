"""The registry of remote application entities of a tenant (`dicom_application_entities`).

What the command line and /api/v1 call to read and change it; every change is one audit row in the
same transaction. `refusal` says whether a peer is the entity that it calls itself.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Any, Final, LiteralString
from uuid import UUID

import psycopg

from interop.access.audit import audit_parameters
from interop.access.principals import Caller
from interop.dimse.certificates import canonical_subject, normal_fingerprint
from storage.audit import INSERT_AUDIT, system_audit
from storage.database import Connection, Database
from storage.tenancy import AE_TITLE, Tenant

Network = IPv4Network | IPv6Network
RESOURCE_TYPE: Final = "DicomApplicationEntity"
# For whom an entity asks; for all but care, patients must have consented.
CARE: Final = "CARE"
PURPOSES: Final = (CARE, "DATA_SHARING", "RESEARCH")
CREATED, UPDATED, DISABLED = "DICOM_AE_CREATED", "DICOM_AE_UPDATED", "DICOM_AE_DISABLED"


class InvalidApplicationEntity(ValueError):
    """A value of a registration that cannot be kept; the message names it."""


class ApplicationEntityExists(ValueError):
    """The tenant has registered this AE title already."""


class UnknownApplicationEntity(ValueError):
    """The tenant has not registered this AE title."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ApplicationEntity:
    """One registration, valid by construction. Raises InvalidApplicationEntity."""

    ae_title: str
    host: str | None = None
    port: int | None = None
    description: str | None = None
    source_networks: tuple[Network, ...] = ()
    certificate_fingerprints: tuple[str, ...] = ()
    certificate_subject: str | None = None
    may_send: bool = True
    may_query: bool = True
    may_be_sent_to: bool = False
    purpose: str = CARE
    require_tls: bool = False
    max_associations: int | None = None
    max_objects_per_minute: int | None = None
    max_bytes_per_minute: int | None = None
    active: bool = True
    valid_from: datetime | None = None
    valid_until: datetime | None = None
    id: UUID | None = None  # the database's

    def __post_init__(self) -> None:
        if not AE_TITLE.fullmatch(self.ae_title) or self.ae_title != self.ae_title.strip(" "):
            raise InvalidApplicationEntity(
                f"AE title {self.ae_title!r}: 1 to 16 printable characters, no backslash, no space "
                "at either end"
            )
        if self.port is not None and not 1 <= self.port <= 65535:
            raise InvalidApplicationEntity(f"port {self.port}: 1 to 65535")
        if self.purpose not in PURPOSES:
            raise InvalidApplicationEntity(
                f"purpose {self.purpose!r}: one of {', '.join(PURPOSES)}"
            )
        if self.may_be_sent_to and (self.host is None or self.port is None):
            raise InvalidApplicationEntity("an AE that may be sent to needs a host and a port")
        for name in _LIMITS:
            limit = getattr(self, name)
            if limit is not None and limit < 1:
                raise InvalidApplicationEntity(f"{name} {limit}: 1 or more, or none at all")
        if self.valid_from and self.valid_until and self.valid_until <= self.valid_from:
            raise InvalidApplicationEntity("valid_until is not after valid_from")

    @property
    def required_consent(self) -> str | None:
        """What patients must have consented to before it sees their images."""
        return None if self.purpose == CARE else self.purpose

    @property
    def is_pinned(self) -> bool:
        """True when only the holder of a registered certificate may use this AE title."""
        return bool(self.certificate_fingerprints) or self.certificate_subject is not None


_LIMITS: Final = ("max_associations", "max_objects_per_minute", "max_bytes_per_minute")
_FIELDS: Final = tuple(f.name for f in fields(ApplicationEntity))
# Names of our own dataclass, not of a caller.
COLUMNS: Final[LiteralString] = ", ".join(f"a.{name}" for name in _FIELDS)
_CHANGEABLE: Final = frozenset(_FIELDS) - {"id", "ae_title"}
_SELECT: LiteralString = f"SELECT {COLUMNS} FROM dicom_application_entities a"


def from_row(row: tuple[Any, ...]) -> ApplicationEntity:
    """The entity of a row of COLUMNS."""
    values = dict(zip(_FIELDS, row, strict=True))
    for name in ("source_networks", "certificate_fingerprints"):
        values[name] = tuple(values[name])
    return ApplicationEntity(**values)


def networks(texts: list[str]) -> tuple[Network, ...]:
    """Parse CIDR notation. Raises InvalidApplicationEntity, with what was probably meant."""
    found = []
    for text in texts:
        try:
            found.append(ip_network(text, strict=True))
        except ValueError as error:
            try:
                hint = f"; the network is {ip_network(text, strict=False)}"
            except ValueError:
                hint = "; a network is written as 10.1.2.0/24 or fd00:1::/64"
            raise InvalidApplicationEntity(f"source network {text!r}: {error}{hint}") from error
    return tuple(found)


# -- the service --------------------------------------------------------------------------------


def list_all(
    database: Database, tenant: Tenant, *, after: str | None = None, limit: int | None = None
) -> list[ApplicationEntity]:
    """Every registration of the tenant, by AE title; those after one if wanted."""
    with database.connection(tenant.id) as connection:
        rows = connection.execute(
            _SELECT + " WHERE a.tenant_id = %(tenant)s"
            " AND (%(after)s::text IS NULL OR a.ae_title > %(after)s)"
            " ORDER BY a.ae_title LIMIT %(limit)s",
            {"tenant": tenant.id, "after": after, "limit": limit},
        ).fetchall()
    return [from_row(row) for row in rows]


def find(database: Database, tenant: Tenant, ae_title: str) -> ApplicationEntity | None:
    """One registration, or None."""
    with database.connection(tenant.id) as connection:
        return _fetch(connection, tenant.id, ae_title)


def find_by_id(database: Database, tenant: Tenant, entity_id: UUID) -> ApplicationEntity | None:
    """The same by its id, which never changes and fits into every URL."""
    with database.connection(tenant.id) as connection:
        row = connection.execute(
            _SELECT + " WHERE a.tenant_id = %s AND a.id = %s", (tenant.id, entity_id)
        ).fetchone()
    return from_row(row) if row else None


def create(
    database: Database, tenant: Tenant, values: Mapping[str, Any], by: Caller | None = None
) -> ApplicationEntity:
    """Register an entity. `by` None is the operator of this machine.

    Raises InvalidApplicationEntity and ApplicationEntityExists.
    """
    entity = _built(None, values)
    bound = _bound(entity)
    names = ", ".join(bound)
    places = ", ".join(f"%({name})s" for name in bound)
    try:
        with database.connection(tenant.id) as connection:
            row = connection.execute(
                f"INSERT INTO dicom_application_entities (tenant_id, {names})"
                f" VALUES (%(tenant_id)s, {places}) RETURNING id",
                {"tenant_id": tenant.id, **bound},
            ).fetchone()
            assert row is not None
            _audit(connection, tenant, CREATED, row[0], entity.ae_title, sorted(values), by)
    except psycopg.errors.UniqueViolation as error:
        raise ApplicationEntityExists(
            f"{entity.ae_title!r} is registered with {tenant.slug!r} already; "
            "change it by `interop ae update`"
        ) from error
    return _built(entity, {"id": row[0]})


def update(
    database: Database,
    tenant: Tenant,
    ae_title: str,
    changes: Mapping[str, Any],
    by: Caller | None = None,
    precondition: Callable[[ApplicationEntity], None] = lambda found: None,
) -> ApplicationEntity:
    """Change an entity; every process sees it within five seconds.

    Associations that are open go on. `precondition` may refuse what is there, by raising, before
    anybody else can change it. Raises InvalidApplicationEntity, UnknownApplicationEntity.
    """
    if unknown := sorted(set(changes) - _CHANGEABLE):
        raise InvalidApplicationEntity(
            f"{', '.join(unknown)} cannot be changed; what can be: {', '.join(sorted(_CHANGEABLE))}"
        )
    with database.connection(tenant.id) as connection:
        found = _fetch(connection, tenant.id, ae_title, for_update=True)
        if found is None:
            raise UnknownApplicationEntity(
                f"{ae_title!r} is not registered with {tenant.slug!r}; register it: interop ae "
                f"create --tenant {tenant.slug} --ae-title {ae_title}"
            )
        precondition(found)
        entity = _built(found, changes)
        bound = _bound(entity)
        changed = [name for name in bound if getattr(found, name) != getattr(entity, name)]
        if not changed:
            return entity
        assignments = ", ".join(f"{name} = %({name})s" for name in changed)
        connection.execute(
            f"UPDATE dicom_application_entities SET {assignments}"
            " WHERE tenant_id = %(tenant_id)s AND id = %(id)s",
            {**bound, "tenant_id": tenant.id, "id": found.id},
        )
        event = DISABLED if "active" in changed and not entity.active else UPDATED
        _audit(connection, tenant, event, found.id, ae_title, changed, by)
    return entity


def disable(
    database: Database, tenant: Tenant, ae_title: str, by: Caller | None = None
) -> ApplicationEntity:
    """Admit the entity no more and send nothing to it. Raises UnknownApplicationEntity."""
    return update(database, tenant, ae_title, {"active": False}, by)


def described(entity: ApplicationEntity) -> dict[str, Any]:
    """The registration as plain data for JSON."""
    values = asdict(entity)
    values["source_networks"] = [str(network) for network in entity.source_networks]
    values["certificate_fingerprints"] = list(entity.certificate_fingerprints)
    for name in ("valid_from", "valid_until"):
        values[name] = values[name].isoformat() if values[name] else None
    values["id"] = str(entity.id)
    return values


def _built(base: ApplicationEntity | None, changes: Mapping[str, Any]) -> ApplicationEntity:
    values = {name: getattr(base, name) for name in _FIELDS} if base else {}
    values |= changes
    values["certificate_fingerprints"] = tuple(
        dict.fromkeys(_fingerprint(text) for text in values.get("certificate_fingerprints", ()))
    )
    if values.get("certificate_subject") is not None:
        try:
            values["certificate_subject"] = canonical_subject(values["certificate_subject"])
        except ValueError as error:
            raise InvalidApplicationEntity(str(error)) from error
    try:
        return ApplicationEntity(**values)
    except TypeError as error:
        raise InvalidApplicationEntity(str(error)) from error


def _fingerprint(text: str) -> str:
    try:
        return normal_fingerprint(text)
    except ValueError as error:
        raise InvalidApplicationEntity(str(error)) from error


def _bound(entity: ApplicationEntity) -> dict[str, Any]:
    values = {name: getattr(entity, name) for name in _FIELDS if name != "id"}
    values["source_networks"] = list(entity.source_networks)
    values["certificate_fingerprints"] = list(entity.certificate_fingerprints)
    return values


def _fetch(
    connection: Connection, tenant_id: UUID, ae_title: str, *, for_update: bool = False
) -> ApplicationEntity | None:
    row = connection.execute(
        _SELECT
        + " WHERE a.tenant_id = %s AND a.ae_title = %s"
        + (" FOR UPDATE" if for_update else ""),
        (tenant_id, ae_title),
    ).fetchone()
    return from_row(row) if row else None


def _audit(
    connection: Connection,
    tenant: Tenant,
    event_type: str,
    entity_id: UUID | None,
    ae_title: str,
    changed: list[str],
    by: Caller | None,
) -> None:
    metadata = {"ae_title": ae_title, "changed": changed}
    what = (event_type, RESOURCE_TYPE, str(entity_id))
    row = (
        system_audit(tenant.id, *what, metadata=metadata)
        if by is None
        else audit_parameters(by, *what, metadata=metadata)
    )
    connection.execute(INSERT_AUDIT, row)


# -- is it the peer that it calls itself? -------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Peer:
    """What a requestor says (AE titles) and what it cannot choose (address, certificate)."""

    called_ae_title: str
    calling_ae_title: str
    remote_address: str
    is_tls: bool = False
    # Of a certificate that was verified against the CA bundle.
    certificate_fingerprint: str | None = None
    certificate_subject: str | None = None


def refusal(entity: ApplicationEntity, peer: Peer, now: datetime | None = None) -> str | None:
    """Why the peer may not associate as `entity`; None when it may.

    A peer that shows a certificate is who the certificate says, so the certificate must be
    registered: one of the same CA would otherwise open every AE title that somebody can guess.
    """
    title = f"calling AE title {entity.ae_title!r}"
    now = now or datetime.now(UTC)
    if not entity.active:
        return f"{title} is registered but not active"
    if entity.valid_from and now < entity.valid_from:
        return f"{title} is registered from {entity.valid_from:%Y-%m-%d %H:%M} UTC on"
    if entity.valid_until and now >= entity.valid_until:
        return f"{title} was registered until {entity.valid_until:%Y-%m-%d %H:%M} UTC"
    if not (entity.may_send or entity.may_query):
        return f"{title} is registered but may neither send nor query"
    if (entity.require_tls or entity.is_pinned) and not peer.is_tls:
        return f"{title} is registered for TLS only"
    if peer.certificate_fingerprint is not None and not _is_certificate_of(entity, peer):
        return (
            f"{title} is not registered with the certificate sha256:{peer.certificate_fingerprint}"
        )
    if entity.is_pinned and peer.certificate_fingerprint is None:
        return f"{title} is registered with a certificate, and the peer showed none"
    if not _is_source_of(entity, peer.remote_address):
        return f"{title} is registered for another host or network"
    return None


def _is_certificate_of(entity: ApplicationEntity, peer: Peer) -> bool:
    if peer.certificate_fingerprint in entity.certificate_fingerprints:
        return True
    return entity.certificate_subject is not None and (
        entity.certificate_subject == peer.certificate_subject
    )


def _is_source_of(entity: ApplicationEntity, remote_address: str) -> bool:
    """Networks, where there are some; else the address at which the entity listens."""
    remote = _normal(remote_address)
    if entity.source_networks:
        return any(remote in network for network in entity.source_networks)
    return entity.host is None or _is_address_of(remote, entity.host)


def _is_address_of(remote: IPv4Address | IPv6Address, host: str) -> bool:
    """True when `remote` is `host` or one of the addresses of that name."""
    try:
        return remote == _normal(host)
    except ValueError:
        pass
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError:
        return False
    return any(remote == _normal(str(entry[4][0])) for entry in found)


def _normal(address: str) -> IPv4Address | IPv6Address:
    parsed = ip_address(address.partition("%")[0])
    mapped = getattr(parsed, "ipv4_mapped", None)
    return mapped or parsed
