"""The tasks of the queue `dicom`, as the worker registers them.

What they need is imported when the first of them runs: pynetdicom is large, and a worker of an
installation that sends nothing on should not carry it.
"""

from __future__ import annotations

from collections.abc import Callable
from uuid import UUID

from interop.dicom.routing import DELIVER_TASK
from interop.dimse.commitment_records import (
    ASK_TASK,
    OVERDUE_TASK,
    QUEUE,
    REPORT_TASK,
    VERIFY_TASK,
)
from interop.services import Services
from storage.jobs import JobRunner
from storage.tenancy import Tenant

_ATTEMPTS = 10  # of faults of our own: a peer that is away is no exception


def register(runner: JobRunner, services: Services) -> None:
    """Give the runner every task of the queue."""

    def tenant_of(tenant_id: str) -> Tenant | None:
        found = services.tenants.by_id(UUID(tenant_id))
        return found if found is not None and found.is_active else None

    def commitment_task(step: str) -> Callable[[str, str], None]:
        def run(tenant_id: str, commitment_id: str) -> None:
            from interop.dimse import commitment_jobs

            if (tenant := tenant_of(tenant_id)) is not None:
                getattr(commitment_jobs, step)(services, tenant, UUID(commitment_id))

        return run

    @runner.task(DELIVER_TASK, queue=QUEUE, attempts=_ATTEMPTS)
    def deliver_images(tenant_id: str, kind: str, destination_id: str) -> None:
        from interop.routing.delivering import deliver

        if (tenant := tenant_of(tenant_id)) is not None:
            deliver(services, tenant, kind, UUID(destination_id))

    for name, step in (
        (VERIFY_TASK, "verify"),
        (REPORT_TASK, "report"),
        (ASK_TASK, "ask"),
        (OVERDUE_TASK, "give_up_waiting"),
    ):
        runner.task(name, queue=QUEUE, attempts=_ATTEMPTS)(commitment_task(step))
