"""The worker in the databases that tenants have for themselves.

Jobs, notifications and copies of the platform's tables are each database's own. Every one of them
has a thread with one connection, which hears what happens there; a job runner joins it while there
are jobs. So an idle place costs a connection, and one that does not answer holds up nobody else.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from uuid import UUID

import psycopg
from psycopg.conninfo import make_conninfo

from ai.completeness import reschedule_forgotten
from interop.audit.duty import SEAL_SECONDS, AuditDuty, owner_database
from interop.dicom import upkeep
from interop.fhir.rendering import render_stale
from interop.routing import forgotten as routing_forgotten
from interop.services import Services
from interop.smart.pruning import prune
from storage import imaging_changes
from storage.database import Database
from storage.jobs import NEW_JOB_CHANNEL, JobRunner, has_work
from storage.partitions.mirror import mirror
from storage.partitions.provisioning import current
from storage.places import Home
from storage.tenancy import Tenant

logger = logging.getLogger(__name__)

LOOK_SECONDS = 2.0
RENDER_BATCH = 200
RENDER_SECONDS = 30.0  # told or not
MIRROR_SECONDS = 10.0
FORGOTTEN_SECONDS = 300.0
PRUNE_SECONDS = 3600.0
# A job runner that found nothing to do for so long leaves, and its connections with it.
RUNNER_IDLE_SECONDS = 30.0
JOBS_AT_ONCE = 2
LONGEST_PAUSE = 30.0
STOP_SECONDS = 10.0
# A server that is gone without a word is noticed, and not waited for until TCP gives up.
_KEEPALIVES = {
    "keepalives_idle": 15,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 20_000,
}

Prepare = Callable[[JobRunner], None]


def tenants_here(services: Services, *, only_active: bool = True) -> list[Tenant]:
    """The tenants in the platform's own database, in its tables or in schemas."""
    apart = services.database.router.apart()
    found = services.tenants.all_active() if only_active else services.tenants.everyone()
    return [
        tenant
        for tenant in found
        if (home := apart.get(tenant.id)) is None or not (home.is_other_database or home.is_moving)
    ]


def render(services: Services, tenant_id: UUID) -> None:
    """Render what rows outside the lenses made stale, all of it."""
    tenant = services.tenants.by_id(tenant_id)
    if tenant is None:
        return
    # What a resource says of our own addresses must not depend on who renders it.
    own_base = f"{services.settings.effective_public_url}/t/{tenant.slug}/fhir/R4"
    while (
        render_stale(services.database, tenant_id, limit=RENDER_BATCH, own_base=own_base)
        == RENDER_BATCH
    ):
        pass


class PlaceKeeper:
    """Has a `Place` served for each database of a tenant, as the registry says at the time."""

    def __init__(self, services: Services, prepare: Prepare) -> None:
        self._services = services
        self._prepare = prepare
        self._places: dict[tuple[UUID, Home], Place] = {}
        self._leaving: list[Place] = []

    def run(self, stop: threading.Event) -> None:
        """Work until `stop`. Raises where the registry cannot be read; call it again then."""
        while not stop.is_set():
            self.look()
            stop.wait(LOOK_SECONDS)

    def look(self) -> None:
        """Take up places that are new, and leave those that are not there any more."""
        apart = self._services.database.router.apart()
        wanted = {(id_, home) for id_, home in apart.items() if home.is_other_database}
        for known in self._places.keys() - wanted:
            place = self._places.pop(known)
            place.leave()
            self._leaving.append(place)
        for new in wanted - self._places.keys():
            self._places[new] = place = Place(self._services, new[0], self._prepare)
            place.start()
        self._leaving = [place for place in self._leaving if place.is_alive()]

    def close(self) -> None:
        """Leave all places, and wait for what is under way there."""
        leaving = [*self._places.values(), *self._leaving]
        for place in leaving:
            place.leave()
        deadline = time.monotonic() + STOP_SECONDS
        for place in leaving:
            place.join(max(0.0, deadline - time.monotonic()))


@dataclass
class _Step:
    """Something that is done every so many seconds."""

    name: str
    seconds: float
    run: Callable[[], None]
    next_at: float = 0.0


class Place(threading.Thread):
    """Serves one tenant that has a database for itself, until told to leave."""

    def __init__(self, services: Services, tenant_id: UUID, prepare: Prepare) -> None:
        super().__init__(name=f"place-{tenant_id}", daemon=True)
        self._services = services
        self._tenant_id = tenant_id
        self._prepare = prepare
        self._stop_told = threading.Event()
        self._audit = AuditDuty(services)
        self._jobs: Jobs | None = None
        self._render = _Step("render", RENDER_SECONDS, lambda: render(services, tenant_id))
        self._steps = [
            _Step("mirror", MIRROR_SECONDS, self._mirror),
            self._render,
            _Step("audit", SEAL_SECONDS, lambda: self._audit.turn(self._tenant())),
            _Step("forgotten", FORGOTTEN_SECONDS, self._reschedule_forgotten),
            _Step("prune", PRUNE_SECONDS, self._prune),
            _Step("images", upkeep.SECONDS, lambda: upkeep.keep(services, self._tenant())),
        ]

    def leave(self) -> None:
        """Have the thread end soon."""
        self._stop_told.set()

    def run(self) -> None:
        pause = 1.0
        while not self._stop_told.is_set():
            came = time.monotonic()
            try:
                self._serve()
            except Exception as error:
                # Its own text may name hosts and logins; whoever looks asks `interop doctor`.
                logger.warning(
                    "place_interrupted",
                    extra={"tenant_id": str(self._tenant_id), "error": type(error).__name__},
                )
            if time.monotonic() - came > 2 * LONGEST_PAUSE:
                pause = 1.0
            self._stop_told.wait(pause)
            pause = min(pause * 2, LONGEST_PAUSE)
        if self._jobs is not None:
            self._jobs.end()

    def _serve(self) -> None:
        place = self._services.database.router.place_of(self._tenant_id)
        if self._jobs is None:
            self._jobs = Jobs(place, self._prepare, f"jobs-{self._tenant_id}")
        conninfo = make_conninfo(place.conninfo, **_KEEPALIVES)
        with psycopg.connect(conninfo, autocommit=True) as listener:
            listener.execute("LISTEN fhir_stale")
            listener.execute(f"LISTEN {NEW_JOB_CHANNEL}")
            while not self._stop_told.is_set():
                self._jobs.look(listener)
                self._due()
                if self._is_told_of_stale(listener):
                    self._render.next_at = 0.0

    @staticmethod
    def _is_told_of_stale(listener: psycopg.Connection[tuple[object, ...]]) -> bool:
        heard = {one.channel for one in listener.notifies(timeout=1.0, stop_after=1)}
        return "fhir_stale" in heard

    def _due(self) -> None:
        for step in self._steps:
            if time.monotonic() < step.next_at or self._stop_told.is_set():
                continue
            step.next_at = time.monotonic() + step.seconds
            try:
                step.run()
            except Exception:
                extra = {"duty": step.name, "tenant_id": str(self._tenant_id)}
                logger.exception("place_duty_failed", extra=extra)

    # -- duties -----------------------------------------------------------------------------

    def _tenant(self, *, only_active: bool = False) -> list[Tenant]:
        found = self._services.tenants.all_active() if only_active else None
        found = self._services.tenants.everyone() if found is None else found
        return [tenant for tenant in found if tenant.id == self._tenant_id]

    def _mirror(self) -> None:
        with owner_database(self._services) as owner:
            if owner is None:
                return
            place = current(owner, self._tenant_id)
            with psycopg.connect(owner.url) as platform, place.connect(owner) as copy:
                changed = mirror(platform, copy, self._tenant_id)
        if changed:
            extra = {"tenant_id": str(self._tenant_id), "rows": changed}
            logger.info("place_mirrored", extra=extra)

    def _reschedule_forgotten(self) -> None:
        for tenant in self._tenant(only_active=True):
            with self._services.database.connection(tenant.id) as connection:
                count = reschedule_forgotten(connection, tenant.id)
                count += routing_forgotten.reschedule(connection, tenant.id)
            if count:
                logger.warning("forgotten_rescheduled", extra={"count": count})

    def _prune(self) -> None:
        for tenant in self._tenant(only_active=True):
            prune(self._services.database, tenant.id)
            imaging_changes.prune(self._services.database, tenant.id)


class Jobs:
    """A job runner in one place, there while there are jobs."""

    def __init__(self, place: Database, prepare: Prepare, name: str) -> None:
        self._place = place
        self._prepare = prepare
        self._name = name
        self._queues = self._made().queues
        self._runner: JobRunner | None = None
        self._thread: threading.Thread | None = None
        self._busy_at = 0.0

    def _made(self) -> JobRunner:
        runner = JobRunner(self._place, concurrency=JOBS_AT_ONCE)
        self._prepare(runner)
        return runner

    def look(self, connection: psycopg.Connection[tuple[object, ...]]) -> None:
        """Start the runner where a job waits, and let it go when there was none for a while."""
        if has_work(connection, self._queues):
            self._busy_at = time.monotonic()
            if self._thread is None or not self._thread.is_alive():
                self._runner = self._made()
                self._thread = threading.Thread(
                    target=self._runner.run, name=self._name, daemon=True
                )
                self._thread.start()
        elif self._runner and time.monotonic() - self._busy_at > RUNNER_IDLE_SECONDS:
            self._runner.stop()
            self._runner = None

    def end(self) -> None:
        """Take no more jobs, and wait for those that run."""
        if self._runner is not None:
            self._runner.stop()
        if self._thread is not None:
            self._thread.join(STOP_SECONDS)
