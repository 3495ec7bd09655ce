"""The query tags of a tenant that may be matched: those whose rows are complete.

They are registered in `interop.dicom.query_tags`; here they are attributes like any other.
"""

from __future__ import annotations

from uuid import UUID

from interop.dicom.query.attributes import KIND_OF_VR, Attribute, Level
from interop.dicom.query.conditions import Tags
from storage.database import Connection, Database
from storage.statements import Statement

_BEGIN = "SELECT enter_tenant(%(tenant_id)s)"
_READY = (
    "SELECT id, path, vr, level FROM dicom_query_tags"
    " WHERE tenant_id = %(tenant_id)s AND status = 'READY'"
)


async def ready_tags(database: Database, tenant_id: UUID) -> Tags:
    """The tags that are ready, by their path."""
    parameters = {"tenant_id": tenant_id}
    _, rows = await database.run(
        tenant_id,
        Statement(_BEGIN, parameters, keeps_plan=True),
        Statement(_READY, parameters, keeps_plan=True),
    )
    return _tags(rows)


def read_ready_tags(connection: Connection, tenant_id: UUID) -> Tags:
    """The same on a connection that is bound to the tenant (C-FIND)."""
    return _tags(connection.execute(_READY, {"tenant_id": tenant_id}).fetchall())


def _tags(rows: list[tuple[UUID, str, str, str]]) -> Tags:
    return {
        tuple(path.split(".")): Attribute(
            path, Level[level], KIND_OF_VR[vr], "q.value", tag_id=tag_id
        )
        for tag_id, path, vr, level in rows
    }
