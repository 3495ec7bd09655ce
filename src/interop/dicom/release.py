"""An object that an operator releases from quarantine takes the place of what it was refused for.

Inside the transaction that stores it: the object that is stored under its SOP Instance UID with
other bytes goes to quarantine in its stead, whole, so that the decision can be taken back; and
where it was refused because its study belongs to another PatientID, it is stored into that study
all the same, because the operator says that it is the same person.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import LiteralString
from uuid import UUID

from interop.dicom import removal
from interop.dicom.failures import DUPLICATE_SOP_INSTANCE
from interop.dicom.imaging_rows import Snapshot
from interop.dicom.received import Received
from storage.database import Connection

_STORED: LiteralString = (
    "SELECT o.id, s.study_uid FROM imaging_objects AS o JOIN imaging_studies AS s"
    " ON s.tenant_id = o.tenant_id AND s.id = o.study_id"
    " WHERE o.tenant_id = %s AND o.sop_instance_uid = %s"
)
_TO_QUARANTINE: LiteralString = (
    "INSERT INTO quarantined_objects (tenant_id, sop_instance_uid, study_instance_uid,"
    " storage_uri, hash, byte_size, reason_code, reason, source)"
    " SELECT o.tenant_id, o.sop_instance_uid, %(study_uid)s, o.storage_uri, o.hash, o.byte_size,"
    " %(reason_code)s, %(reason)s, 'QUARANTINE' FROM imaging_objects AS o"
    " WHERE o.tenant_id = %(tenant_id)s AND o.id = %(object)s"
)
_FINISH: tuple[LiteralString, ...] = (
    "INSERT INTO removed_objects (tenant_id, storage_uri, byte_size, reason)"
    " SELECT tenant_id, storage_uri, byte_size, lower(%(state)s) || ' from quarantine'"
    " FROM quarantined_objects WHERE tenant_id = %(tenant_id)s AND id = %(id)s"
    " AND storage_uri IS NOT NULL",
    "UPDATE quarantined_objects SET state = %(state)s, storage_uri = NULL, byte_size = 0"
    " WHERE tenant_id = %(tenant_id)s AND id = %(id)s",
    "UPDATE imaging_studies AS s SET demographics_conflict = ("
    "SELECT jsonb_agg(entry) FROM jsonb_array_elements(s.demographics_conflict) AS entry"
    " WHERE entry ->> 'kind' <> 'OTHER_PATIENT')"
    " FROM quarantined_objects AS q WHERE q.tenant_id = %(tenant_id)s AND q.id = %(id)s"
    " AND s.tenant_id = %(tenant_id)s AND s.study_uid = q.study_instance_uid"
    " AND jsonb_typeof(s.demographics_conflict) = 'array'"
    " AND NOT EXISTS (SELECT FROM quarantined_objects AS other"
    " WHERE other.tenant_id = %(tenant_id)s AND other.state = 'PENDING'"
    " AND other.study_instance_uid = q.study_instance_uid AND other.reason_code = 'A910')",
)


def make_room(
    connection: Connection, tenant_id: UUID, objects: Sequence[Received], known: Snapshot
) -> frozenset[str]:
    """Put what is stored under the UIDs of released objects into quarantine. Returns those UIDs."""
    replaced = []
    for received in objects:
        before = known.objects.get(received.sop_instance_uid)
        if received.released_id is None or before is None:
            continue
        sent = (received.spooled.dataset_hash, received.instance.transfer_syntax_uid)
        if sent == (before.dataset_hash, before.transfer_syntax_uid):
            continue
        if _set_aside(connection, tenant_id, received):
            replaced.append(received.sop_instance_uid)
    return frozenset(replaced)


def _set_aside(connection: Connection, tenant_id: UUID, received: Received) -> bool:
    row = connection.execute(_STORED, (tenant_id, received.sop_instance_uid)).fetchone()
    study = removal.lock_study(connection, tenant_id, row[1]) if row else None
    if row is None or study is None:
        return False
    connection.execute(
        _TO_QUARANTINE,
        {
            "tenant_id": tenant_id,
            "object": row[0],
            "study_uid": row[1],
            "reason_code": f"{DUPLICATE_SOP_INSTANCE.reason:04X}",
            "reason": "An operator released another object with this SOP Instance UID in its"
            " place; these are the bytes that were stored before.",
        },
    )
    # The ingest marks the resources of what it writes itself; here the triggers must.
    connection.execute("SELECT set_config('app.lens', 'off', true)")
    made = removal.with_what_the_ai_made(connection, tenant_id, study, [row[0]])
    if made[1:]:
        removal.remove(connection, tenant_id, study, made[1:], reason="of an image replaced since")
    keeps_study = study.study_instance_uid == received.study_instance_uid
    removal.remove(
        connection, tenant_id, study, [row[0]], is_replaced=True, keeps_study=keeps_study
    )
    connection.execute("SELECT set_config('app.lens', 'on', true)")
    return True


def finish(
    connection: Connection, tenant_id: UUID, quarantined_id: UUID, state: str = "RELEASED"
) -> None:
    """End an object's stay in quarantine: its bytes there are superfluous.

    A study of which nothing waits there any more for its patient is in doubt no more.
    """
    values = {"tenant_id": tenant_id, "id": quarantined_id, "state": state}
    for statement in _FINISH:
        connection.execute(statement, values)
