"""What waits and has no job any more: one that failed ten times of a fault of ours, say.

The rows are the truth, so whoever looks at them can wake what sleeps.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Final, LiteralString
from uuid import UUID

from interop.dicom.routing import DELIVER_TASK, deliver_later, destination_key
from interop.dimse.commitment_records import (
    OVERDUE_TASK,
    QUEUE,
    REPORT_TASK,
    VERIFY_TASK,
)
from storage.database import Connection
from storage.jobs import defer

FORGOTTEN_AFTER: Final = timedelta(minutes=10)
_TASKS: Final = {"ACCEPTED": VERIFY_TASK, "VERIFIED": REPORT_TASK, "REQUESTED": OVERDUE_TASK}
_NO_JOB: LiteralString = (
    "NOT EXISTS (SELECT FROM procrastinate_jobs AS j WHERE j.queue_name = %(queue)s"
    " AND j.status IN ('todo', 'doing')"
)
_DELIVERIES: LiteralString = (
    "SELECT DISTINCT d.application_entity_id, d.web_destination_id FROM dicom_deliveries AS d"
    " WHERE d.tenant_id = %(tenant_id)s AND d.status IN ('PENDING', 'RETRYING')"
    " AND d.next_attempt_at < now() - %(patience)s"
    " AND coalesce(d.claimed_until, '-infinity') < now()"
    f" AND {_NO_JOB} AND j.task_name = %(task)s AND j.args ->> 'destination_id'"
    " = coalesce(d.application_entity_id, d.web_destination_id)::text)"
)
# What was asked of a peer waits a day for its report.
_COMMITMENTS: LiteralString = (
    "SELECT c.id, c.status FROM storage_commitments AS c WHERE c.tenant_id = %(tenant_id)s"
    " AND c.next_attempt_at < now() - %(patience)s AND (c.status IN ('ACCEPTED', 'VERIFIED')"
    " OR c.status = 'REQUESTED' AND c.created_at < now() - interval '1 day')"
    f" AND {_NO_JOB} AND j.args ->> 'commitment_id' = c.id::text)"
)


def reschedule(connection: Connection, tenant_id: UUID) -> int:
    """Queue jobs for deliveries and commitments that have none; return how many."""
    values = {
        "tenant_id": tenant_id,
        "patience": FORGOTTEN_AFTER,
        "queue": QUEUE,
        "task": DELIVER_TASK,
    }
    destinations = connection.execute(_DELIVERIES, values).fetchall()
    for row in destinations:
        kind, id_ = destination_key(*row)
        deliver_later(connection, tenant_id, kind, id_, None, f"forgotten:{kind}:{id_}")
    commitments = connection.execute(_COMMITMENTS, values).fetchall()
    for id_, status in commitments:
        args = {"tenant_id": str(tenant_id), "commitment_id": str(id_)}
        lock = f"forgotten:commitment:{id_}"
        defer(connection, _TASKS[status], args, queue=QUEUE, queueing_lock=lock)
    return len(destinations) + len(commitments)
