"""Extended query tags: attributes that a tenant makes searchable, beside those that have columns.

A tag is BUILDING while a job indexes what is stored, and matched only when it is READY. From its
registration on what arrives has its rows from the transaction that stores it: registering touches
the tenant's settings, whose revision every ingest transaction compares (decision 0009), so a tenant
without tags pays nothing. The job begins when whoever wrote before has ended.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, LiteralString
from uuid import UUID

import orjson

from interop.dicom.query.attributes import (
    KIND_OF_VR,
    Level,
    attribute_of,
    name_of,
    path_of,
    vr_of,
)
from interop.dicom.query.matching import readable_json
from interop.dicom.query.tag_values import NotIndexed, QueryTag, needed, values_of
from interop.dicom.received import Received
from interop.errors import BadRequest, Conflict, NotFound, Unavailable
from storage.database import Connection, Database
from storage.jobs import defer
from storage.tenants.changes import Actor, record_change, take_turns

logger = logging.getLogger(__name__)

TASK = "index_query_tags"
QUEUE = "search"
ATTEMPTS = 12
RESOURCE_TYPE = "DicomQueryTag"
MOST_TAGS = 128
# Objects of one transaction of the job.
BATCH = 200
DELETED_AT_ONCE = 5_000
# How long the job waits for transactions that began before the tag was registered.
WAIT_SECONDS = 600.0

_COLUMNS: LiteralString = "id, path, private_creator, vr, level, status, total, done"
_TOUCH_SETTINGS: LiteralString = (
    "UPDATE tenant_settings SET updated_at = now() WHERE tenant_id = %s"
)
_WRITE_VALUES: LiteralString = (
    "INSERT INTO dicom_query_tag_values (tenant_id, object_id, tag_id, value, study_id, series_id)"
    " SELECT %(tenant_id)s, r.object_id, r.tag_id, r.value, r.study_id, r.series_id"
    " FROM json_to_recordset(%(values)s) AS r(object_id uuid, tag_id uuid, value text,"
    " study_id uuid, series_id uuid) ON CONFLICT DO NOTHING"
)
_WRITE_ERRORS: LiteralString = (
    "INSERT INTO dicom_query_tag_errors (tenant_id, object_id, tag_id, message)"
    " SELECT %(tenant_id)s, r.object_id, r.tag_id, r.message"
    " FROM json_to_recordset(%(errors)s) AS r(object_id uuid, tag_id uuid, message text)"
    " ON CONFLICT DO NOTHING"
)
_NEXT: LiteralString = (
    "SELECT o.id, o.study_id, o.series_id, (SELECT json_object_agg(m.key, m.value)::text"
    " FROM json_each({json}::json) AS m"
    " WHERE m.key = ANY(%(tags)s) OR left(m.key, 4) = ANY(%(groups)s))"
    " FROM imaging_objects AS o WHERE o.tenant_id = %(tenant_id)s AND o.dicom_json IS NOT NULL"
    " AND o.series_id IS NOT NULL AND (%(after)s::uuid IS NULL OR o.id > %(after)s)"
    " ORDER BY o.id LIMIT %(limit)s FOR KEY SHARE OF o"
)


@dataclass(frozen=True, slots=True)
class Registered:
    """A tag with the state of its index."""

    id: UUID
    path: str
    private_creator: str | None
    vr: str
    level: str
    status: str
    total: int
    done: int
    errors: int

    @property
    def keyword(self) -> str:
        return name_of(tuple(self.path.split(".")))

    @property
    def tag(self) -> QueryTag:
        return QueryTag(self.id, tuple(self.path.split(".")), self.private_creator, self.vr)


# -- registration -----------------------------------------------------------------------------


def register(
    connection: Connection,
    tenant_id: UUID,
    path: str,
    level: Level,
    actor: Actor,
    *,
    vr: str | None = None,
    private_creator: str | None = None,
) -> Registered:
    """Make an attribute searchable. Raises BadRequest and Conflict.

    `path` is a keyword, a tag or a path of such; a private tag needs its creator and VR.
    """
    take_turns(connection, tenant_id)
    steps = path_of(path)
    vr = _checked(steps, level, vr, private_creator)
    known = list_all(connection, tenant_id)
    if len(known) >= MOST_TAGS:
        raise Conflict(f"there are {MOST_TAGS} query tags, the most; remove one first")
    if any(one.path == ".".join(steps) for one in known):
        raise Conflict(f"{name_of(steps)} is a query tag already; remove it to change it")
    connection.execute(
        "INSERT INTO dicom_query_tags (tenant_id, path, private_creator, vr, level)"
        " VALUES (%s, %s, %s, %s, %s)",
        (tenant_id, ".".join(steps), private_creator, vr, level.name),
    )
    made = find(connection, tenant_id, path)
    _announce(connection, tenant_id, made, "registered", actor)
    return made


def _checked(
    steps: tuple[str, ...], level: Level, vr: str | None, private_creator: str | None
) -> str:
    """The VR by which values are compared. Raises BadRequest, Conflict."""
    name = name_of(steps)
    if len(steps) == 1 and attribute_of(steps) is not None:
        raise Conflict(f"{name} is searchable already")
    is_private = any(int(step[:4], 16) % 2 for step in steps)
    if is_private != (private_creator is not None):
        raise BadRequest(
            f"{name} is private: name its private_creator"
            if is_private
            else f"{name} is not private and has no private_creator"
        )
    for step in steps[:-1]:
        if int(step[:4], 16) % 2 == 0 and vr_of(step) != "SQ":
            raise BadRequest(f"{name}: {name_of((step,))} is no sequence")
    standard = vr_of(steps[-1])
    if standard and vr is not None and vr != standard:
        raise BadRequest(f"{name} has VR {standard}, not {vr}")
    chosen = standard or vr
    if not chosen:
        raise BadRequest(f"{name} is not in PS3.6: name its vr, one of {', '.join(KIND_OF_VR)}")
    if chosen not in KIND_OF_VR:
        raise BadRequest(
            f"{name}: values of VR {chosen} cannot be compared; one of {', '.join(KIND_OF_VR)}"
        )
    if level is Level.PATIENT:
        raise BadRequest("level must be STUDY, SERIES or INSTANCE")
    return chosen


def remove(connection: Connection, tenant_id: UUID, path: str, actor: Actor) -> Registered:
    """Take a tag out of force at once; a job removes its rows. Raises NotFound."""
    take_turns(connection, tenant_id)
    found = find(connection, tenant_id, path)
    if found.status != "DROPPING":
        connection.execute(
            "UPDATE dicom_query_tags SET status = 'DROPPING' WHERE tenant_id = %s AND id = %s",
            (tenant_id, found.id),
        )
        _announce(connection, tenant_id, found, "removed", actor)
    return find(connection, tenant_id, path)


def _announce(
    connection: Connection, tenant_id: UUID, tag: Registered, what: str, actor: Actor
) -> None:
    """Let whoever stores next know of the change, and have the job see to the rows."""
    connection.execute(_TOUCH_SETTINGS, (tenant_id,))
    name = f"{TASK}:{tenant_id}"
    arguments = {"tenant_id": str(tenant_id)}
    defer(connection, TASK, arguments, queue=QUEUE, queueing_lock=name, lock=name)
    changes = {what: tag.path, "vr": tag.vr, "level": tag.level}
    record_change(connection, tenant_id, RESOURCE_TYPE, str(tag.id), changes, actor)


def list_all(connection: Connection, tenant_id: UUID) -> list[Registered]:
    """All tags by path, with the number of objects that could not be indexed."""
    rows = connection.execute(
        f"SELECT {_COLUMNS}, (SELECT count(*) FROM dicom_query_tag_errors AS f"
        " WHERE f.tenant_id = t.tenant_id AND f.tag_id = t.id)"
        " FROM dicom_query_tags AS t WHERE tenant_id = %s ORDER BY path",
        (tenant_id,),
    ).fetchall()
    return [Registered(*row) for row in rows]


def find(connection: Connection, tenant_id: UUID, path: str) -> Registered:
    """The tag of a path, by keywords or tags. Raises NotFound."""
    try:
        wanted = ".".join(path_of(path))
    except BadRequest:
        raise NotFound() from None
    for one in list_all(connection, tenant_id):
        if one.path == wanted:
            return one
    raise NotFound()


def errors_of(
    connection: Connection, tenant_id: UUID, tag_id: UUID, after: UUID | None, limit: int
) -> list[dict[str, Any]]:
    """Objects whose value could not be indexed, and why, in the order of their ids."""
    rows = connection.execute(
        "SELECT f.object_id, s.study_uid, e.series_uid, o.sop_instance_uid, f.message, f.created_at"
        " FROM dicom_query_tag_errors AS f"
        " JOIN imaging_objects AS o ON o.tenant_id = f.tenant_id AND o.id = f.object_id"
        " JOIN imaging_studies AS s ON s.tenant_id = o.tenant_id AND s.id = o.study_id"
        " JOIN imaging_series AS e ON e.tenant_id = o.tenant_id AND e.id = o.series_id"
        " WHERE f.tenant_id = %s AND f.tag_id = %s AND (%s::uuid IS NULL OR f.object_id > %s)"
        " ORDER BY f.object_id LIMIT %s",
        (tenant_id, tag_id, after, after, limit),
    ).fetchall()
    names = (
        "object_id",
        "study_instance_uid",
        "series_instance_uid",
        "sop_instance_uid",
        "message",
        "created_at",
    )
    return [dict(zip(names, row, strict=True)) for row in rows]


# -- rows of objects --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Arrival:
    """An object that is being stored, with the ids of its rows."""

    object_id: UUID
    study_id: UUID
    series_id: UUID
    received: Received


def index_arrivals(
    connection: Connection, tenant_id: UUID, tags: Sequence[QueryTag], arrivals: Sequence[Arrival]
) -> None:
    """Write the rows of objects that this transaction stores."""
    objects = [
        (one.object_id, one.study_id, one.series_id, needed(tags, one.received.instance.members))
        for one in arrivals
    ]
    _write(connection, tenant_id, tags, objects)


def _write(
    connection: Connection,
    tenant_id: UUID,
    tags: Sequence[QueryTag],
    objects: Sequence[tuple[UUID, UUID, UUID, dict[str, Any]]],
) -> None:
    values: list[dict[str, Any]] = []
    errors: list[dict[str, Any]] = []
    for object_id, study_id, series_id, data_set in objects:
        for tag in tags:
            row = {"object_id": object_id, "tag_id": tag.id}
            try:
                found = values_of(tag, data_set)
            except NotIndexed as error:
                errors.append({**row, "message": str(error)})
                continue
            ids = {"study_id": study_id, "series_id": series_id}
            values += [{**row, **ids, "value": value} for value in found]
    if values:
        text = orjson.dumps(values).decode()
        connection.execute(_WRITE_VALUES, {"tenant_id": tenant_id, "values": text})
    if errors:
        text = orjson.dumps(errors).decode()
        connection.execute(_WRITE_ERRORS, {"tenant_id": tenant_id, "errors": text})


# -- the job ----------------------------------------------------------------------------------


def index_stored(database: Database, tenant_id: UUID) -> int:
    """Index what is stored for tags that are being built, and remove the rows of those that go.

    Small transactions, each of which notes where it has come to: a job that dies is followed by
    one that goes on there. Returns how many objects were looked at.
    """
    indexed = 0
    while True:
        with database.connection(tenant_id) as connection:
            tags = list_all(connection, tenant_id)
        going = [tag for tag in tags if tag.status == "DROPPING"]
        coming = [tag for tag in tags if tag.status == "BUILDING"]
        if not going and not coming:
            return indexed
        _wait_for_writers(database, tenant_id)
        for registered in going:
            _remove_rows(database, tenant_id, registered)
        for registered in coming:
            indexed += _build(database, tenant_id, registered)


def _wait_for_writers(database: Database, tenant_id: UUID) -> None:
    """Wait for transactions that may have begun to store before a tag was known, or gone."""
    with database.connection(tenant_id) as connection:
        row = connection.execute("SELECT pg_snapshot_xmax(pg_current_snapshot())::text").fetchone()
    assert row is not None
    limit = time.monotonic() + WAIT_SECONDS
    while True:
        with database.connection(tenant_id) as connection:
            ended = connection.execute(
                "SELECT pg_snapshot_xmin(pg_current_snapshot()) >= %s::xid8", row
            ).fetchone()
        if ended is not None and ended[0]:
            return
        if time.monotonic() > limit:
            raise Unavailable("a transaction has been writing for too long; the job comes again")
        time.sleep(0.1)


def _build(database: Database, tenant_id: UUID, registered: Registered) -> int:
    with database.connection(tenant_id) as connection:
        connection.execute(
            "UPDATE dicom_query_tags AS t SET total = (SELECT count(*) FROM imaging_objects AS o"
            " WHERE o.tenant_id = %s AND o.dicom_json IS NOT NULL AND o.series_id IS NOT NULL)"
            " WHERE t.tenant_id = %s AND t.id = %s AND t.position IS NULL",
            (tenant_id, tenant_id, registered.id),
        )
    indexed = 0
    while count := _build_batch(database, tenant_id, registered):
        indexed += count
    logger.info("query_tag_indexed", extra={"tag_id": str(registered.id), "objects": indexed})
    return indexed


def _build_batch(database: Database, tenant_id: UUID, registered: Registered) -> int:
    """Index the next objects; 0 when there are no more, or the tag is removed meanwhile."""
    tag = registered.tag
    with database.connection(tenant_id) as connection:
        state = connection.execute(
            "SELECT position FROM dicom_query_tags WHERE tenant_id = %s AND id = %s"
            " AND status = 'BUILDING' FOR NO KEY UPDATE",
            (tenant_id, tag.id),
        ).fetchone()
        if state is None:
            return 0
        found = connection.execute(
            _NEXT.format(json=readable_json("o.dicom_json")).encode(),
            {
                "tenant_id": tenant_id,
                "tags": [tag.path[0], "00080201"],
                "groups": [tag.path[0][:4]] if tag.is_private else [],
                "after": state[0],
                "limit": BATCH,
            },
        ).fetchall()
        objects = [(*row[:3], orjson.loads(row[3] or "{}")) for row in found]
        _write(connection, tenant_id, (tag,), objects)
        if found:
            connection.execute(
                "UPDATE dicom_query_tags SET position = %s, done = done + %s,"
                " total = greatest(total, done + %s) WHERE tenant_id = %s AND id = %s",
                (found[-1][0], len(found), len(found), tenant_id, tag.id),
            )
        else:
            connection.execute(
                "UPDATE dicom_query_tags SET status = 'READY', total = done"
                " WHERE tenant_id = %s AND id = %s",
                (tenant_id, tag.id),
            )
    return len(found)


def _remove_rows(database: Database, tenant_id: UUID, registered: Registered) -> None:
    removed = 1
    while removed:
        with database.connection(tenant_id) as connection:
            removed = connection.execute(
                "DELETE FROM dicom_query_tag_values WHERE (tenant_id, object_id, tag_id, value) IN"
                " (SELECT tenant_id, object_id, tag_id, value FROM dicom_query_tag_values"
                " WHERE tenant_id = %s AND tag_id = %s LIMIT %s)",
                (tenant_id, registered.id, DELETED_AT_ONCE),
            ).rowcount
    with database.connection(tenant_id) as connection:
        connection.execute(
            "DELETE FROM dicom_query_tags WHERE tenant_id = %s AND id = %s AND status = 'DROPPING'",
            (tenant_id, registered.id),
        )
    logger.info("query_tag_removed", extra={"tag_id": str(registered.id)})
