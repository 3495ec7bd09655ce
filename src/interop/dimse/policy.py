"""Who may associate (PS3.8 9.3.4; security.md A9; limits of reliability.md).

The called AE title selects the tenant, the calling AE title must be registered there. AE titles
are names, not proof: where it matters, the address is registered too, or TLS is used.
"""

from __future__ import annotations

import ipaddress
import logging
import socket
import threading
import time
from collections import Counter, OrderedDict
from dataclasses import dataclass
from typing import TypeVar

import psycopg
from psycopg_pool import PoolTimeout

from storage.database import Database
from storage.tenancy import Tenant, TenantDirectory

_Key = TypeVar("_Key")

logger = logging.getLogger(__name__)

_CACHE_SECONDS = 5.0
_CACHE_ENTRIES = 4096
# A source refused this often within a minute is refused from memory, without a query or a row.
_REFUSALS_REMEMBERED = 10
_REFUSAL_WINDOW_SECONDS = 60.0

_REGISTERED = (
    "SELECT s.allow_any_calling_ae, a.id IS NOT NULL, a.may_send, a.active, a.host"
    " FROM tenant_settings s"
    " LEFT JOIN dicom_application_entities a"
    " ON a.tenant_id = s.tenant_id AND a.ae_title = %(calling)s"
    " WHERE s.tenant_id = %(tenant_id)s"
)


@dataclass(frozen=True, slots=True)
class AssociationLimits:
    """How many associations one process carries at a time."""

    per_process: int = 250
    per_tenant: int = 50
    per_peer: int = 20


@dataclass(frozen=True, slots=True)
class Admission:
    """An association that may go on."""

    tenant: Tenant
    called_ae_title: str
    calling_ae_title: str
    remote_address: str


@dataclass(frozen=True, slots=True)
class Rejection:
    """Result, Source and Reason/Diag of an A-ASSOCIATE-RJ (PS3.8 Table 9-21), and why."""

    result: int
    source: int
    reason: int
    message: str


class Rejected(Exception):
    """The association is not accepted. `is_repeated`: answered from memory, not worth a row."""

    def __init__(
        self, rejection: Rejection, tenant: Tenant | None = None, *, is_repeated: bool = False
    ) -> None:
        super().__init__(rejection.message)
        self.rejection = rejection
        self.tenant = tenant
        self.is_repeated = is_repeated


# Transient, service provider (presentation), temporary congestion.
_CONGESTED = Rejection(2, 3, 1, "the registry of application entities cannot be read")


@dataclass(slots=True)
class _Verdict:
    rejection: Rejection | None = None
    expires: float = 0.0
    refusals: int = 0
    window_ends: float = 0.0


class AssociationPolicy:
    """Decides about association requests and counts the accepted ones. Thread-safe."""

    def __init__(
        self, database: Database, tenants: TenantDirectory, limits: AssociationLimits
    ) -> None:
        self._database = database
        self._tenants = tenants
        self._limits = limits
        self._lock = threading.Lock()
        self._total = 0
        self._by_tenant: Counter[str] = Counter()
        self._by_peer: Counter[tuple[str, str, str]] = Counter()
        self._verdicts: OrderedDict[tuple[str, str, str], _Verdict] = OrderedDict()

    def admit(self, called: str, calling: str, remote_address: str) -> Admission:
        """Return the admission, which must be given back by `release`. Raises Rejected."""
        try:
            tenant = self._tenants.by_ae_title(called) if called else None
        except (psycopg.Error, PoolTimeout) as error:
            raise Rejected(_CONGESTED) from error
        if tenant is None or not tenant.is_active:
            unknown = Rejection(1, 1, 7, f"called AE title {called!r} is not a tenant's")
            is_repeated = self._remember(("", calling, remote_address), unknown)
            raise Rejected(unknown, is_repeated=is_repeated)
        rejection, is_repeated = self._judge(tenant, calling, remote_address)
        if rejection is not None:
            raise Rejected(rejection, tenant, is_repeated=is_repeated)
        admission = Admission(tenant, called, calling, remote_address)
        self._count_in(admission)
        return admission

    def release(self, admission: Admission) -> None:
        """Give the association's place back."""
        tenant, peer = _keys(admission)
        with self._lock:
            self._total -= 1
            _take_one(self._by_tenant, tenant)
            _take_one(self._by_peer, peer)

    @property
    def association_count(self) -> int:
        return self._total

    def _count_in(self, admission: Admission) -> None:
        tenant, peer = _keys(admission)
        with self._lock:
            over = None
            if self._total >= self._limits.per_process:
                over = f"{self._limits.per_process} associations in this process"
            elif self._by_tenant[tenant] >= self._limits.per_tenant:
                over = f"{self._limits.per_tenant} associations of this tenant"
            elif self._by_peer[peer] >= self._limits.per_peer:
                over = f"{self._limits.per_peer} associations of this peer"
            if over is None:
                self._total += 1
                self._by_tenant[tenant] += 1
                self._by_peer[peer] += 1
                return
        # Transient, service provider (presentation), local limit exceeded.
        raise Rejected(Rejection(2, 3, 2, f"the limit of {over} is reached"), admission.tenant)

    def _judge(
        self, tenant: Tenant, calling: str, remote_address: str
    ) -> tuple[Rejection | None, bool]:
        """The verdict on this source, and whether it is one from memory."""
        key = (tenant.slug, calling, remote_address)
        now = time.monotonic()
        with self._lock:
            known = self._verdicts.get(key)
            if known is not None and known.expires > now:
                return known.rejection, True
        rejection = self._look_up(tenant, calling, remote_address)
        return rejection, self._remember(key, rejection)

    def _remember(self, key: tuple[str, str, str], rejection: Rejection | None) -> bool:
        """Keep a verdict; return whether this source was refused too often to be written down."""
        now = time.monotonic()
        with self._lock:
            verdict = self._verdicts.pop(key, None) or _Verdict()
            self._verdicts[key] = verdict
            if len(self._verdicts) > _CACHE_ENTRIES:
                self._verdicts.popitem(last=False)
            verdict.rejection = rejection
            verdict.expires = now + _CACHE_SECONDS
            if rejection is None:
                return False
            if now > verdict.window_ends:
                verdict.refusals, verdict.window_ends = 0, now + _REFUSAL_WINDOW_SECONDS
            verdict.refusals += 1
            # Looked up again at once unless it floods: an AE registered a moment ago gets in.
            if verdict.refusals < _REFUSALS_REMEMBERED:
                verdict.expires = 0.0
            return verdict.refusals > _REFUSALS_REMEMBERED

    def _look_up(self, tenant: Tenant, calling: str, remote_address: str) -> Rejection | None:
        try:
            with self._database.connection(tenant.id) as connection:
                row = connection.execute(
                    _REGISTERED, {"tenant_id": tenant.id, "calling": calling}
                ).fetchone()
        except (psycopg.Error, PoolTimeout) as error:
            logger.error("association_lookup_failed", extra={"error": type(error).__name__})
            return _CONGESTED
        any_calling, known, may_send, active, host = row or (False, False, False, False, None)
        reason = None
        if known and not (may_send and active):
            reason = f"calling AE title {calling!r} is registered but may not send"
        elif known and host and not _is_address_of(remote_address, host):
            reason = f"calling AE title {calling!r} is registered for another host"
        elif not known and not any_calling:
            reason = f"calling AE title {calling!r} is not registered; see `interop ae create`"
        return Rejection(1, 1, 3, reason) if reason else None


def _keys(admission: Admission) -> tuple[str, tuple[str, str, str]]:
    slug = admission.tenant.slug
    return slug, (slug, admission.calling_ae_title, admission.remote_address)


def _take_one(counter: Counter[_Key], key: _Key) -> None:
    counter[key] -= 1
    if counter[key] <= 0:
        del counter[key]


def _is_address_of(remote_address: str, host: str) -> bool:
    """True when `remote_address` is `host` or one of the addresses of that name."""
    remote = _normal(remote_address)
    try:
        return remote == _normal(host)
    except ValueError:
        pass
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError:
        logger.warning("registered_host_unresolvable", extra={"host": host})
        return False
    return any(remote == _normal(str(entry[4][0])) for entry in found)


def _normal(address: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    parsed = ipaddress.ip_address(address.partition("%")[0])
    mapped = getattr(parsed, "ipv4_mapped", None)
    return mapped or parsed
