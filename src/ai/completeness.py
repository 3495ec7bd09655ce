"""When a study has arrived: DICOM senders cannot say so, so silence decides.

A study is complete when nothing came for its quiet window. A late instance opens the next
generation, which is decided anew; the idempotency key keeps unchanged inputs from running twice.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from storage.database import Connection
from storage.jobs import defer

TASK = "check_study"
QUEUE = "ai"
# Seconds. A CBCT is hundreds of files over a slow link; a film or photo is one or a few.
DEFAULT_WINDOW = 5.0
WINDOWS = {"CBCT": 20.0}
FORGOTTEN_AFTER = timedelta(minutes=10)


@dataclass(frozen=True, slots=True)
class Complete:
    """The study's new generation is complete; route it."""

    study_id: UUID
    study_uid: str
    patient_id: UUID
    generation: int
    is_disputed: bool


@dataclass(frozen=True, slots=True)
class Wait:
    """Instances still arrive; look again at `until`."""

    until: datetime


def window_seconds(modality: str, tenant_seconds: int | None, default: float | None) -> float:
    """The quiet window: the tenant's, else the installation's, else the modality's."""
    if tenant_seconds is not None:
        return float(tenant_seconds)
    return default if default is not None else WINDOWS.get(modality, DEFAULT_WINDOW)


def check(
    connection: Connection, tenant_id: UUID, study_id: UUID, default_window: float | None
) -> Complete | Wait | None:
    """Decide under a lock on the study's activity; None when there is nothing to decide.

    A `Complete` marks the generation as decided in this transaction. The lock is the one that
    ingest takes, so an instance is either counted here or opens the next generation.
    """
    row = connection.execute(
        "SELECT a.generation, a.completed_generation, a.last_received_at, now(), s.modality,"
        " s.study_uid, s.patient_id, s.demographics_conflict IS NOT NULL, t.quiet_window_seconds"
        " FROM study_activity a"
        " JOIN imaging_studies s ON s.tenant_id = a.tenant_id AND s.id = a.study_id"
        " LEFT JOIN tenant_settings t ON t.tenant_id = a.tenant_id"
        " WHERE a.tenant_id = %s AND a.study_id = %s FOR UPDATE OF a",
        (tenant_id, study_id),
    ).fetchone()
    if row is None:
        return None
    generation, _, received, now, modality, study_uid, patient_id, disputed, tenant_seconds = row
    due = received + timedelta(seconds=window_seconds(modality, tenant_seconds, default_window))
    if due > now:
        return Wait(due)
    connection.execute(
        "UPDATE study_activity SET generation = generation + 1,"
        " completed_generation = generation + 1, check_scheduled = false"
        " WHERE tenant_id = %s AND study_id = %s",
        (tenant_id, study_id),
    )
    return Complete(study_id, study_uid, patient_id, generation + 1, disputed)


def reschedule_forgotten(connection: Connection, tenant_id: UUID) -> int:
    """Queue again the checks whose job ended without deciding; return how many.

    While a check is due, ingest queues no other one, so a job that failed for good would leave
    its study undecided for ever.
    """
    forgotten = connection.execute(
        "SELECT a.study_id FROM study_activity a WHERE a.tenant_id = %(tenant_id)s"
        " AND a.check_scheduled AND a.last_received_at < now() - %(patience)s"
        " AND NOT EXISTS (SELECT FROM procrastinate_jobs j WHERE j.task_name = %(task)s"
        " AND j.status IN ('todo', 'doing') AND j.args ->> 'study_id' = a.study_id::text)",
        {"tenant_id": tenant_id, "patience": FORGOTTEN_AFTER, "task": TASK},
    ).fetchall()
    for (study_id,) in forgotten:
        defer(
            connection,
            TASK,
            {"tenant_id": str(tenant_id), "study_id": str(study_id)},
            queue=QUEUE,
            queueing_lock=f"{TASK}:{study_id}",
        )
    return len(forgotten)
