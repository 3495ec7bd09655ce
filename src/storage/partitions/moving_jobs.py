"""Jobs of a tenant that moves from one database to another: they wait in each database's own queue.

They go in the last step, while nobody defers any. Jobs that run in the platform's queue at this
moment end there, for a job finds its tenant wherever it is; those of a database that will be
dropped begin again, as after a crash.
"""

from __future__ import annotations

from typing import Any
from uuid import UUID

from storage.partitions.moving_cargo import Owner

_COLUMNS = "queue_name, task_name, priority, lock, queueing_lock, args, scheduled_at, attempts"
_TAKE = f"""
SELECT id, {_COLUMNS.replace("args", "args::text")} FROM procrastinate_jobs
WHERE args ->> 'tenant_id' = %s AND status::text = ANY (%s)
ORDER BY id FOR UPDATE
"""
_PUT = f"""
INSERT INTO procrastinate_jobs ({_COLUMNS}) VALUES (%s, %s, %s, %s, %s, %s, %s, %s)
ON CONFLICT DO NOTHING
"""


def take(source: Owner, tenant_id: UUID, *, even_running: bool) -> list[tuple[Any, ...]]:
    """The jobs that go, locked: no worker takes one up before the transaction ends."""
    states = ["todo", "doing"] if even_running else ["todo"]
    return source.execute(_TAKE, (str(tenant_id), states)).fetchall()


def put(destination: Owner, jobs: list[tuple[Any, ...]]) -> None:
    """Queue them again, in their order."""
    with destination.cursor() as cursor:
        cursor.executemany(_PUT, [job[1:] for job in jobs])


def discard(connection: Owner, tenant_id: UUID, ids: list[int] | None = None) -> int:
    """Remove jobs of the tenant that wait: those named, or all."""
    return connection.execute(
        "DELETE FROM procrastinate_jobs WHERE args ->> 'tenant_id' = %s AND status = 'todo'"
        " AND (%s::bigint[] IS NULL OR id = ANY (%s))",
        (str(tenant_id), ids, ids),
    ).rowcount
