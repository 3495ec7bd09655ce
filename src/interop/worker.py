"""The worker role: runs jobs, renders stale FHIR resources, sweeps unreferenced objects.

Composition root of the AI: reading pixels and storing objects are lent to `ai.pipeline` as
functions, so that ai imports nothing of interop. What is done here is done for the tenants in the
platform's database; those that have one for themselves are served by interop.place_keeper.
"""

from __future__ import annotations

import importlib.util
import logging
import signal
import threading
import time
from collections.abc import Callable
from contextlib import closing
from datetime import timedelta
from typing import TYPE_CHECKING
from uuid import UUID

import psycopg

from ai.completeness import reschedule_forgotten
from interop.audit.duty import SEAL_SECONDS, AuditDuty
from interop.dicom import query_tags, upkeep
from interop.fhir.asynchronous import AsyncRequests
from interop.fhir.router import routes as fhir_routes
from interop.fhir.search import reindexing
from interop.move_duty import end_dead_moves
from interop.place_keeper import PlaceKeeper, Prepare, render, tenants_here
from interop.routing import forgotten as routing_forgotten
from interop.routing import tasks as dicom_tasks
from interop.services import Services, open_services
from interop.settings import Settings
from interop.smart.pruning import prune
from storage import async_requests, imaging_changes, search_parameters
from storage.encryption import rotation
from storage.jobs import JobRunner
from storage.sweep import sweep

if TYPE_CHECKING:
    from ai.pipeline import Pipeline

logger = logging.getLogger(__name__)

# A tenant whose rendering failed as a whole is tried again after this, told or not.
RETRY_SECONDS = 30.0
SWEEP_SECONDS = 3600.0
FORGOTTEN_SECONDS = 300.0
# Listing two days of keys each hour is cheap; `interop sweep` lists everything.
SWEEP_WITHIN = timedelta(hours=48)


def run(settings: Settings) -> None:
    """Work until SIGTERM."""
    services = open_services(settings)
    # It looks into every schema every few seconds.
    services.database.lends_to_schemas = True
    services.spool.clean()
    stop = threading.Event()
    requests = AsyncRequests(services, fhir_routes)

    def prepare(runner: JobRunner) -> None:
        _register_keys(runner, services)
        _register_search(runner, services)
        _register_async_requests(runner, requests)
        dicom_tasks.register(runner, services)

    with closing(requests):
        _run(services, prepare, stop)


def _run(services: Services, prepare: Prepare, stop: threading.Event) -> None:
    if ai_is_installed():
        from interop.ai_ports import open_pipeline

        with open_pipeline(services) as pipeline:

            def prepare_all(runner: JobRunner) -> None:
                prepare(runner)
                _register(runner, pipeline)

            _work(services, prepare_all, stop)
    else:
        logger.warning(
            "ai_extra_missing",
            extra={"detail": "studies are stored; AI jobs wait until dental-interop[ai] is there"},
        )
        _work(services, prepare, stop)


def ai_is_installed() -> bool:
    """True when the `ai` extra is there; without it the server serves and jobs wait."""
    return all(importlib.util.find_spec(name) for name in ("onnxruntime", "highdicom", "scipy"))


def _register(runner: JobRunner, pipeline: Pipeline) -> None:
    from ai.completeness import QUEUE, TASK
    from ai.pipeline import MAX_ATTEMPTS, RUN_TASK

    @runner.task(TASK, queue=QUEUE)
    def check_study(tenant_id: str, study_id: str) -> None:
        pipeline.check_study(UUID(tenant_id), UUID(study_id))

    @runner.task(RUN_TASK, queue=QUEUE, attempts=MAX_ATTEMPTS + 2)
    def run_inference(tenant_id: str, job_id: str) -> None:
        pipeline.run_inference(UUID(tenant_id), UUID(job_id))


def _register_keys(runner: JobRunner, services: Services) -> None:
    # Long and rare: what is interrupted goes on where it was, so it may be tried often.
    @runner.task(rotation.TASK, queue=rotation.QUEUE, attempts=rotation.ATTEMPTS)
    def reseal(tenant_id: str | None) -> None:
        owner = UUID(tenant_id) if tenant_id else None
        changed = rotation.reseal(services.database, owner)
        logger.info("resealed", extra={"tenant_id": tenant_id, "values": changed})


def _register_async_requests(runner: JobRunner, requests: AsyncRequests) -> None:
    @runner.task(async_requests.TASK, queue=async_requests.QUEUE, attempts=async_requests.ATTEMPTS)
    def fhir_async_request(tenant_id: str, request_id: str) -> None:
        requests.run(UUID(tenant_id), UUID(request_id))

    @runner.task(async_requests.FORGET_TASK, queue=async_requests.QUEUE)
    def forget_fhir_async_request(tenant_id: str, request_id: str) -> None:
        requests.forget(UUID(tenant_id), UUID(request_id))


def _register_search(runner: JobRunner, services: Services) -> None:
    @runner.task(
        search_parameters.TASK, queue=search_parameters.QUEUE, attempts=search_parameters.ATTEMPTS
    )
    def reindex(tenant_id: str) -> None:
        tenant = services.tenants.by_id(UUID(tenant_id))
        if tenant is not None:
            own_base = f"{services.settings.effective_public_url}/t/{tenant.slug}/fhir/R4"
            count = reindexing.reindex(services.database, tenant.id, own_base)
            logger.info("reindexed", extra={"tenant_id": tenant_id, "resources": count})

    @runner.task(query_tags.TASK, queue=query_tags.QUEUE, attempts=query_tags.ATTEMPTS)
    def index_query_tags(tenant_id: str) -> None:
        count = query_tags.index_stored(services.database, UUID(tenant_id))
        logger.info("query_tags_indexed", extra={"tenant_id": tenant_id, "objects": count})


def _work(services: Services, prepare: Prepare, stop: threading.Event) -> None:
    runner = JobRunner(services.database)
    prepare(runner)
    keeper = PlaceKeeper(services, prepare)
    background = [
        threading.Thread(target=_repeat, args=(stop, name, step), name=name, daemon=True)
        for name, step in (
            ("render", lambda: _render_when_told(services, stop)),
            ("sweep", lambda: _sweep_hourly(services, stop)),
            ("forgotten", lambda: _reschedule_forgotten(services, stop)),
            ("audit", lambda: _keep_sealed(services, stop)),
            ("places", lambda: keeper.run(stop)),
            ("moves", lambda: end_dead_moves(services, stop)),
            ("images", lambda: _keep_images(services, stop)),
        )
    ]
    for thread in background:
        thread.start()

    def on_signal(*_: object) -> None:
        stop.set()
        runner.stop()

    signal.signal(signal.SIGTERM, on_signal)
    signal.signal(signal.SIGINT, on_signal)
    try:
        runner.run()
    finally:
        stop.set()
        for thread in background:
            thread.join(timeout=5)
        keeper.close()
        services.close()


def _repeat(stop: threading.Event, name: str, step: Callable[[], None]) -> None:
    """Run `step` again after a failure: a database restart must not end a background duty."""
    while not stop.is_set():
        try:
            step()
        except Exception:
            logger.exception("background_failed", extra={"duty": name})
            stop.wait(2.0)


def _render_when_told(services: Services, stop: threading.Event) -> None:
    """Render what rows outside the lenses made stale, within a second of the notification."""
    with psycopg.connect(services.database.conninfo, autocommit=True) as listener:
        listener.execute("LISTEN fhir_stale")
        failed = _render_each(services, {tenant.id for tenant in tenants_here(services)})
        retry_at = time.monotonic() + RETRY_SECONDS
        while not stop.is_set():
            told = {UUID(n.payload) for n in listener.notifies(timeout=1.0, stop_after=64)}
            if time.monotonic() >= retry_at:
                told, failed = told | failed, set()
                retry_at = time.monotonic() + RETRY_SECONDS
            failed |= _render_each(services, told)


def _render_each(services: Services, tenant_ids: set[UUID]) -> set[UUID]:
    """Render each tenant by itself, so that none holds up the others. Returns those that failed."""
    failed: set[UUID] = set()
    for tenant_id in sorted(tenant_ids):
        try:
            render(services, tenant_id)
        except Exception:
            logger.exception("tenant_not_rendered", extra={"tenant_id": str(tenant_id)})
            failed.add(tenant_id)
    return failed


def _keep_sealed(services: Services, stop: threading.Event) -> None:
    duty = AuditDuty(services)
    while not stop.wait(SEAL_SECONDS):
        duty.turn(tenants_here(services, only_active=False))


def _keep_images(services: Services, stop: threading.Event) -> None:
    while not stop.wait(upkeep.SECONDS):
        upkeep.keep(services, tenants_here(services, only_active=False))


def _reschedule_forgotten(services: Services, stop: threading.Event) -> None:
    """Without the ai extra the checks wait in the queue, so none of them is forgotten."""
    while not stop.wait(FORGOTTEN_SECONDS):
        for tenant in tenants_here(services):
            try:
                with services.database.connection(tenant.id) as connection:
                    count = reschedule_forgotten(connection, tenant.id)
                    count += routing_forgotten.reschedule(connection, tenant.id)
            except Exception:
                # One tenant must not hold up the others; the next turn tries it again.
                logger.exception("checks_not_rescheduled", extra={"tenant_id": str(tenant.id)})
                continue
            if count:
                logger.warning("forgotten_rescheduled", extra={"count": count})


def _sweep_hourly(services: Services, stop: threading.Event) -> None:
    while not stop.wait(SWEEP_SECONDS):
        report = sweep(services.database, services.objects, within=SWEEP_WITHIN)
        logger.info("swept", extra={"report": str(report)})
        for tenant in tenants_here(services):
            try:
                prune(services.database, tenant.id)
                imaging_changes.prune(services.database, tenant.id)
            except Exception:
                logger.exception("not_pruned", extra={"tenant_id": str(tenant.id)})
