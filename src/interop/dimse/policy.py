"""Who may associate (PS3.8 9.3.4; security.md A9; limits of reliability.md).

The called AE title selects the tenant. Listener, client certificate, calling AE title and source
address must together be one registered application entity of that tenant, or the association is
rejected. AE titles are names, not proof: what proves is the certificate and, less so, the network.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter, OrderedDict
from dataclasses import dataclass
from typing import Final, Literal, LiteralString, TypeVar

import psycopg
from psycopg_pool import PoolTimeout

from interop.access import Caller, Decision, decide
from interop.access.devices import device
from interop.dimse.budgets import Budget, Budgets
from interop.dimse.places import Place, SharedPlaces
from interop.dimse.refusals import RefusalLog
from interop.dimse.registry import (
    COLUMNS,
    ApplicationEntity,
    InvalidApplicationEntity,
    Peer,
    from_row,
    refusal,
)
from storage.database import Database
from storage.quotas import TenantLimits
from storage.tenancy import Tenant, TenantDirectory

# What the registry lets an entity do, as the letter of SMART that the one policy decides by.
Right = Literal["may_send", "may_query"]
_LETTERS: Final[dict[Right, Literal["c", "s"]]] = {"may_send": "c", "may_query": "s"}

_Key = TypeVar("_Key")

logger = logging.getLogger(__name__)

_CACHE_SECONDS = 5.0
_CACHE_ENTRIES = 4096
# A source refused this often within a minute is refused from memory, without a query or a row.
_REFUSALS_REMEMBERED = 10
_REFUSAL_WINDOW_SECONDS = 60.0
# Who was admitted this recently is looked up also while others at its address flood.
_WELCOME_SECONDS = 600.0

_REGISTERED: LiteralString = (
    f"SELECT s.allow_any_calling_ae, {COLUMNS}"
    " FROM tenant_settings s"
    " LEFT JOIN dicom_application_entities a"
    " ON a.tenant_id = s.tenant_id AND a.ae_title = %(calling)s"
    " WHERE s.tenant_id = %(tenant_id)s"
)


@dataclass(frozen=True, slots=True)
class AssociationLimits:
    """How many associations one process carries at a time.

    The limits of a tenant's quota and of a registered entity replace the last two.
    """

    per_process: int = 250
    per_tenant: int = 50
    per_peer: int = 20


@dataclass(frozen=True, slots=True)
class Admission:
    """An association that may go on. `entity` is None where the tenant admits anybody."""

    tenant: Tenant
    peer: Peer
    entity: ApplicationEntity | None
    budget: Budget | None = None
    places: tuple[Place, ...] = ()

    @property
    def called_ae_title(self) -> str:
        return self.peer.called_ae_title

    @property
    def calling_ae_title(self) -> str:
        return self.peer.calling_ae_title

    @property
    def remote_address(self) -> str:
        return self.peer.remote_address

    @property
    def caller(self) -> Caller:
        """For whom the one policy decides.

        Who is not registered may send where the tenant admits anybody, and sees nothing: an AE
        title is no proof of anything.
        """
        return device(
            self.tenant,
            self.calling_ae_title,
            self.remote_address,
            may_send=self.entity is None or self.entity.may_send,
            may_query=self.entity is not None and self.entity.may_query,
            required_consent=self.entity.required_consent if self.entity is not None else None,
        )

    def may(self, right: Right) -> bool:
        """Whether the one policy lets the peer send, or query and retrieve, at all."""
        return self.decided(right).is_allowed

    def decided(self, right: Right) -> Decision:
        """The policy's answer, with the filter to apply to what is shown."""
        return decide(self.caller, _LETTERS[right], "ImagingStudy")


@dataclass(frozen=True, slots=True)
class Rejection:
    """Result, Source and Reason/Diag of an A-ASSOCIATE-RJ (PS3.8 Table 9-21), and why."""

    result: int
    source: int
    reason: int
    message: str

    @property
    def code(self) -> str:
        return f"{self.result}/{self.source}/{self.reason}"


class Rejected(Exception):
    """The association is not accepted. `is_repeated`: answered from memory, not worth a row."""

    def __init__(
        self, rejection: Rejection, tenant: Tenant | None = None, *, is_repeated: bool = False
    ) -> None:
        super().__init__(rejection.message)
        self.rejection = rejection
        self.tenant = tenant
        self.is_repeated = is_repeated


# Transient, service provider (presentation): temporary congestion; local limit exceeded.
_CONGESTED: Final = Rejection(2, 3, 1, "the registry of application entities cannot be read")
_FLOODING: Final = Rejection(2, 3, 2, "too many refused associations from this source")


@dataclass(slots=True)
class _Verdict:
    tenant: Tenant | None = None
    rejection: Rejection | None = None
    entity: ApplicationEntity | None = None
    expires: float = 0.0
    admitted_at: float = float("-inf")
    refusals: int = 0
    window_ends: float = 0.0


class AssociationPolicy:
    """Decides about association requests and counts the accepted ones. Thread-safe.

    With `places`, the limits of quotas and of entities hold for all processes that share them;
    without, and those of AssociationLimits always, for this process.
    """

    def __init__(
        self,
        database: Database,
        tenants: TenantDirectory,
        limits: AssociationLimits,
        refusals: RefusalLog,
        places: SharedPlaces | None = None,
    ) -> None:
        self._database = database
        self._tenants = tenants
        self._limits = limits
        self._refusals = refusals
        self._places = places
        self._quotas = TenantLimits(database)
        self._budgets = Budgets()
        self._lock = threading.Lock()
        self._total = 0
        self._counts: Counter[tuple[str, ...]] = Counter()
        self._verdicts: OrderedDict[Peer, _Verdict] = OrderedDict()

    def admit(self, peer: Peer) -> Admission:
        """Return the admission, which must be given back by `release`. Raises Rejected."""
        verdict, is_repeated = self._judge(peer)
        tenant, rejection = verdict.tenant, verdict.rejection
        if rejection is not None or tenant is None:
            raise Rejected(rejection or _CONGESTED, tenant, is_repeated=is_repeated)
        try:
            quota = self._quotas.associations(tenant.id)
        except (psycopg.Error, PoolTimeout) as error:
            raise Rejected(_CONGESTED, tenant) from error
        places = self._count_in(tenant, peer, verdict.entity, quota)
        budget = self._budgets.of(tenant.id, verdict.entity)
        return Admission(tenant, peer, verdict.entity, budget, places)

    def release(self, admission: Admission) -> None:
        """Give the association's place back."""
        with self._lock:
            self._total -= 1
            for key in _keys(admission.tenant, admission.peer):
                _take_one(self._counts, key)
        self._give_back(admission.places)

    @property
    def association_count(self) -> int:
        return self._total

    # -- limits -----------------------------------------------------------------------------

    def _count_in(
        self, tenant: Tenant, peer: Peer, entity: ApplicationEntity | None, quota: int | None
    ) -> tuple[Place, ...]:
        of_tenant, of_entity, of_source = _keys(tenant, peer)
        own = entity.max_associations if entity is not None else None
        bounds = [
            (of_tenant, self._limits.per_tenant if quota is None else quota, "this tenant"),
            (of_entity, own, f"calling AE title {peer.calling_ae_title!r}"),
            (of_source, self._limits.per_peer if own is None else None, "this peer"),
        ]
        with self._lock:
            over = None
            if self._total >= self._limits.per_process:
                over = f"{self._limits.per_process} associations in this process"
            for key, bound, whose in bounds:
                if bound is not None and self._counts[key] >= bound:
                    over = over or f"{bound} associations of {whose}"
            if over is None:
                self._total += 1
                self._counts.update((of_tenant, of_entity, of_source))
        if over is not None:
            raise _limited(over, tenant)
        shared = [(of_tenant, quota, bounds[0][2]), (of_entity, own, bounds[1][2])]
        return self._take_places(tenant, peer, shared)

    def _take_places(
        self, tenant: Tenant, peer: Peer, bounds: list[tuple[tuple[str, ...], int | None, str]]
    ) -> tuple[Place, ...]:
        """Places in what the processes of this machine share. Counts back when there is none."""
        taken: list[Place] = []
        for key, bound, whose in bounds:
            if self._places is None or bound is None:
                continue
            try:
                place = self._places.take("\n".join(key), bound)
            except OSError as error:
                # A disk fault must not close the door: this process still counts its own.
                logger.error("places_not_usable", extra={"error": str(error)})
                continue
            if place is None:
                self.release(Admission(tenant, peer, None, None, tuple(taken)))
                raise _limited(f"{bound} associations of {whose} on this machine", tenant)
            taken.append(place)
        return tuple(taken)

    def _give_back(self, places: tuple[Place, ...]) -> None:
        for place in places:
            assert self._places is not None
            self._places.give_back(place)

    # -- verdicts ---------------------------------------------------------------------------

    def _judge(self, peer: Peer) -> tuple[_Verdict, bool]:
        """The verdict on this peer, and whether it was refused too often to be written down."""
        now = time.monotonic()
        with self._lock:
            known = self._verdicts.get(peer)
            if known is not None and known.expires > now:
                return known, known.rejection is not None
        is_welcome = known is not None and now - known.admitted_at < _WELCOME_SECONDS
        if not is_welcome and self._refusals.is_flooding(peer.remote_address):
            return _Verdict(rejection=_FLOODING), True
        found = self._look_up(peer)
        if found.rejection is _CONGESTED:
            return found, False
        if found.rejection is not None:
            self._refusals.count_lookup(peer.remote_address)
        return found, self._remember(peer, found, now)

    def _remember(self, peer: Peer, found: _Verdict, now: float) -> bool:
        """Keep a verdict; return whether this peer was refused too often to be written down."""
        with self._lock:
            former = self._verdicts.pop(peer, None) or _Verdict()
            self._verdicts[peer] = found
            if len(self._verdicts) > _CACHE_ENTRIES:
                self._verdicts.popitem(last=False)
            found.expires = now + _CACHE_SECONDS
            found.admitted_at = former.admitted_at
            if found.rejection is None:
                found.admitted_at = now
                return False
            found.refusals, found.window_ends = former.refusals, former.window_ends
            if now > found.window_ends:
                found.refusals, found.window_ends = 0, now + _REFUSAL_WINDOW_SECONDS
            found.refusals += 1
            # Looked up again at once unless it floods: an AE registered a moment ago gets in.
            if found.refusals < _REFUSALS_REMEMBERED:
                found.expires = 0.0
            return found.refusals > _REFUSALS_REMEMBERED

    def _look_up(self, peer: Peer) -> _Verdict:
        called = peer.called_ae_title
        try:
            # PostgreSQL's text has no NUL, so nothing that holds one is registered.
            tenant = self._tenants.by_ae_title(called) if called and "\0" not in called else None
            if tenant is None or not tenant.is_active:
                return _Verdict(
                    rejection=Rejection(1, 1, 7, f"called AE title {called!r} is not a tenant's")
                )
            with self._database.connection(tenant.id) as connection:
                calling = peer.calling_ae_title.replace("\0", "\\")  # in no AE title (PS3.5 6.2)
                row = connection.execute(
                    _REGISTERED, {"tenant_id": tenant.id, "calling": calling}
                ).fetchone()
        except (psycopg.Error, PoolTimeout) as error:
            logger.error("association_lookup_failed", extra={"error": type(error).__name__})
            return _Verdict(rejection=_CONGESTED)
        if row is None or row[1] is None:
            # Whoever shows a certificate is to be known by it.
            if row is not None and row[0] and peer.certificate_fingerprint is None:
                return _Verdict(tenant)
            title = f"calling AE title {peer.calling_ae_title!r}"
            return _refused(tenant, f"{title} is not registered; see `interop ae create`")
        try:
            entity = from_row(row[1:])
        except InvalidApplicationEntity as error:
            return _refused(tenant, f"the registration cannot be used: {error}")
        reason = refusal(entity, peer)
        return _refused(tenant, reason) if reason else _Verdict(tenant, entity=entity)


def _refused(tenant: Tenant, reason: str) -> _Verdict:
    # Rejected-permanent, service user, calling AE title not recognized.
    return _Verdict(tenant, Rejection(1, 1, 3, reason))


def _limited(over: str, tenant: Tenant) -> Rejected:
    # Transient, service provider (presentation), local limit exceeded.
    return Rejected(Rejection(2, 3, 2, f"the limit of {over} is reached"), tenant)


def _keys(tenant: Tenant, peer: Peer) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
    """What the associations of a tenant, of an entity and of an entity's address are counted by."""
    slug, title = tenant.slug, peer.calling_ae_title
    return (slug,), (slug, title), (slug, title, peer.remote_address)


def _take_one(counter: Counter[_Key], key: _Key) -> None:
    counter[key] -= 1
    if counter[key] <= 0:
        del counter[key]
