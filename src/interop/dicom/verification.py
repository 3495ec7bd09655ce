"""Whether an object that somebody relies on is really kept: its row, its class and its very bytes.

What Storage Commitment promises (PS3.4 J.3.2) is checked here down to the checksum: the bytes are
read back from the object store and hashed again, because a row alone says only what once was.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

from interop.dicom.failures import CLASS_INSTANCE_CONFLICT, NO_SUCH_INSTANCE, PROCESSING_FAILURE
from storage.audit import INSERT_AUDIT, system_audit
from storage.database import Connection, Database
from storage.objects import ObjectStore
from storage.objects.store import ObjectNotFound, ObjectStoreError, ObjectStoreUnavailable

logger = logging.getLogger(__name__)

_READ_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Kept:
    """What the index says of one object."""

    id: UUID
    sop_class_uid: str
    storage_uri: str
    sha256: str
    byte_size: int


def kept_objects(
    connection: Connection, tenant_id: UUID, sop_instance_uids: Sequence[str]
) -> dict[str, Kept]:
    """The objects of the tenant that have these SOP Instance UIDs."""
    rows = connection.execute(
        "SELECT sop_instance_uid, id, sop_class_uid, storage_uri, hash, byte_size"
        " FROM imaging_objects WHERE tenant_id = %s AND sop_instance_uid = ANY (%s)",
        (tenant_id, list(sop_instance_uids)),
    ).fetchall()
    return {row[0]: Kept(*row[1:]) for row in rows}


def failure_reason(
    objects: ObjectStore, kept: Mapping[str, Kept], sop_class_uid: str, sop_instance_uid: str
) -> int | None:
    """Why the instance cannot be relied on (PS3.3 C.14.1.1); None when it can.

    Raises ObjectStoreUnavailable, which says nothing of the object.
    """
    found = kept.get(sop_instance_uid)
    if found is None:
        return NO_SUCH_INSTANCE
    if found.sop_class_uid != sop_class_uid:
        return CLASS_INSTANCE_CONFLICT
    return None if is_whole(objects, found) else PROCESSING_FAILURE.reason


def is_whole(objects: ObjectStore, kept: Kept) -> bool:
    """Whether the stored bytes are those that were acknowledged."""
    digest = hashlib.sha256()
    size = 0
    try:
        for chunk in objects.open_range(kept.storage_uri, chunk=_READ_BYTES):
            digest.update(chunk)
            size += len(chunk)
    except ObjectStoreUnavailable:
        raise
    except ObjectNotFound:
        return False
    except (ObjectStoreError, OSError) as error:
        # A disk that cannot read the object cannot keep it.
        logger.error("object_not_readable", extra={"error": type(error).__name__})
        return False
    return size == kept.byte_size and digest.hexdigest() == kept.sha256


def record_damage(database: Database, tenant_id: UUID, sop_instance_uid: str, kept: Kept) -> None:
    """Tell the operator and the audit trail that stored bytes are gone or are others."""
    logger.error("object_damaged", extra={"storage_uri": kept.storage_uri})
    with database.connection(tenant_id) as connection:
        connection.execute(
            INSERT_AUDIT,
            system_audit(
                tenant_id,
                "DICOM_INSTANCE_DAMAGED",
                "ImagingObject",
                str(kept.id),
                outcome="FAILURE",
                metadata={"sop_instance_uid": sop_instance_uid, "storage_uri": kept.storage_uri},
            ),
        )
