"""The change feed: what was stored, replaced and deleted, in one order without gaps.

`GET /changefeed?after=&limit=&includemetadata=` and `GET /changefeed/latest`, with the JSON of
Microsoft's dicom-server, so that its clients work. A reader remembers the last Sequence that it
has seen and asks for what is after it; it never misses a change (migrations/imaging_changes.sql).
What a caller may not see is left out, so a caller of less than the whole organization sees gaps.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response

from interop.access import Caller
from interop.dicom.query.matching import Parameters
from interop.dicom.query.visibility import condition
from interop.dicom.walker import BULK_PREFIX
from interop.dicomweb import visibility
from interop.dicomweb.paths import root_of
from interop.dicomweb.reading import PageQuery, admitted, reading, search, services_of
from interop.dicomweb.responses import json_response
from interop.errors import BadRequest, Gone, NotFound, ServerError
from storage.imaging_changes import MOST_NUMBERED
from storage.statements import Statement

EVENT = "IMAGING_CHANGES_LISTED"
DEFAULT_LIMIT, MOST, MOST_WITH_METADATA = 100, 1000, 50
_LARGEST = 2**63 - 1

_ENTER = "SELECT enter_tenant(%(tenant_id)s)"
_NUMBER = "SELECT number_imaging_changes(%(tenant_id)s, %(most)s)"
_PRUNED = "SELECT f.pruned_through FROM imaging_change_feeds AS f WHERE f.tenant_id = %(tenant_id)s"
_COLUMNS = (
    "sequence", "action", "study", "series", "instance", "changed_at", "state", "metadata"
)  # fmt: skip
_ENTRIES = """
SELECT c.sequence, initcap(c.action), c.study_instance_uid, c.series_instance_uid,
    c.sop_instance_uid, to_char(c.changed_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'),
    CASE WHEN o.id IS NULL THEN 'Deleted' WHEN o.id = c.imaging_object_id THEN 'Current'
        ELSE 'Replaced' END,
    {metadata}, c.patient_id
FROM (SELECT s.* FROM imaging_changes AS s WHERE s.tenant_id = %(tenant_id)s AND {wanted}
    ORDER BY s.sequence {order} LIMIT %(limit)s) AS c
LEFT JOIN imaging_objects AS o ON o.tenant_id = %(tenant_id)s
    AND o.sop_instance_uid = c.sop_instance_uid
ORDER BY c.sequence
"""
_METADATA = "CASE WHEN o.id = c.imaging_object_id THEN o.dicom_json END"


async def list_changes(request: Request) -> Response:
    """The changes after a Sequence, the oldest first."""
    caller = await admitted(request, "s")
    after, limit, has_metadata = await _options(request, caller)
    pruned = await _number(request, caller)
    if after is not None and after < pruned:
        async with reading(services_of(request), caller, EVENT):
            raise Gone(
                f"changes up to {pruned} are no longer kept; read the studies by QIDO-RS and go on"
                " after /changefeed/latest"
            )
    start = pruned if after is None else after
    rows = await _entries(
        request, caller, "s.sequence > %(after)s", "ASC", after=start, limit=limit,
        has_metadata=has_metadata,
    )  # fmt: skip
    entries = [_entry(row, root_of(request), has_metadata) for row in rows]
    headers = {}
    if rows:
        query = f"after={rows[-1][0]}&limit={limit}"
        query += "&includemetadata=true" if has_metadata else ""
        headers["Link"] = f'<{root_of(request)}/changefeed?{query}>; rel="next"'
    return json_response(_array(entries), "application/json", headers)


async def latest_change(request: Request) -> Response:
    """The last change; an empty object where there is none."""
    if request.path_params["which"] != "latest":
        caller = await admitted(request, "s")
        async with reading(services_of(request), caller, EVENT):
            raise NotFound
    caller = await admitted(request, "s")
    await _number(request, caller)
    rows = await _entries(
        request, caller, "s.sequence IS NOT NULL", "DESC", after=0, limit=1, has_metadata=False
    )
    body = _entry(rows[0], root_of(request), False) if rows else b"{}"
    return json_response(body, "application/json")


async def _options(request: Request, caller: Caller) -> tuple[int | None, int, bool]:
    """`after`, `limit` and `includemetadata`. A mistake is audited and raised as BadRequest."""
    try:
        return options(request.query_params.multi_items())
    except ServerError as error:
        async with reading(services_of(request), caller, EVENT):
            raise error


def options(given: Sequence[tuple[str, str]]) -> tuple[int | None, int, bool]:
    """What the query string asks for. Raises BadRequest for what is not understood."""
    after: int | None = None
    limit: int | None = None
    has_metadata = False
    for name, value in given:
        if name in ("after", "offset"):
            after = _number_in(name, value, 0, _LARGEST)
        elif name == "limit":
            limit = _number_in(name, value, 1, MOST)
        elif name == "includemetadata" and value.lower() in ("true", "false"):
            has_metadata = value.lower() == "true"
        elif name not in ("accept", "charset"):
            raise BadRequest(
                f"parameter {name[:64]!r}: after=<Sequence>, limit=1 to {MOST} and"
                " includemetadata=true or false are accepted"
            )
    most = MOST_WITH_METADATA if has_metadata else MOST
    return after, min(limit or DEFAULT_LIMIT, most), has_metadata


def _number_in(name: str, value: str, low: int, high: int) -> int:
    if not (value.isascii() and value.isdigit() and len(value) < 20):
        raise BadRequest(f"{name}: a whole number from {low} to {high} is accepted")
    number = int(value)
    if not low <= number <= high:
        raise BadRequest(f"{name}: a whole number from {low} to {high} is accepted")
    return number


async def _number(request: Request, caller: Caller) -> int:
    """Number what has been committed by now; returns up to where old changes are forgotten."""
    tenant_id = caller.tenant.id
    values = {"tenant_id": tenant_id, "most": MOST_NUMBERED}
    *_, pruned = await services_of(request).database.run(
        tenant_id,
        Statement(_ENTER, values, keeps_plan=True),
        Statement(_NUMBER, values, keeps_plan=True),
        Statement(_PRUNED, values, keeps_plan=True),
    )
    return int(pruned[0][0]) if pruned else 0


async def _entries(
    request: Request,
    caller: Caller,
    wanted: str,
    order: str,
    *,
    after: int,
    limit: int,
    has_metadata: bool,
) -> list[tuple[Any, ...]]:
    parameters = Parameters(after=after, limit=limit)
    visible = condition(visibility.permitted(caller, "s"), parameters)
    sql = _ENTRIES.format(
        metadata=_METADATA if has_metadata else "NULL::text",
        wanted=" AND ".join(filter(None, (wanted, visible))),
        order=order,
    )
    details = {"after": after, "limit": limit}
    query = PageQuery(sql, _COLUMNS, "")
    return await search(services_of(request), caller, EVENT, details, query, parameters.values)


def _entry(row: Sequence[Any], root: str, has_metadata: bool) -> bytes:
    sequence, action, study, series, instance, changed_at, state, metadata = row
    entry: dict[str, Any] = {
        "Sequence": sequence,
        "StudyInstanceUid": study,
        "SeriesInstanceUid": series,
        "SopInstanceUid": instance,
        "Action": action,
        "Timestamp": changed_at,
        "State": state,
    }
    if has_metadata and metadata is not None:
        base = f"{root}/studies/{study}/series/{series}/instances/{instance}/bulkdata/"
        entry["Metadata"] = orjson.Fragment(metadata.replace(BULK_PREFIX, base))
    return orjson.dumps(entry)


def _array(entries: list[bytes]) -> bytes:
    return b"[" + b",".join(entries) + b"]"
