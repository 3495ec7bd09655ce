"""QIDO-RS, the search transaction (PS3.18 10.6, 8.3.4), answered from columns and stored JSON.

Newest study first, in the order of an index, so that a page needs no sort and nothing is ever
counted: one row more than the page is read to know whether there are more. No match is 200 with an
empty list, as PS3.18 says since 2024 (docs/decisions/0005-dicomweb.md).
"""

from __future__ import annotations

from dataclasses import replace

from anyio import to_thread
from starlette.requests import Request
from starlette.responses import Response

from interop.dicomweb.attributes import BY_PATH, Level, tag_of
from interop.dicomweb.matching import Parameters, predicates, readable_json
from interop.dicomweb.media_types import accepted, require_json
from interop.dicomweb.paths import is_uid, root_of
from interop.dicomweb.query import AnyOf, Condition, Query, parse_query
from interop.dicomweb.reading import PageQuery, Row, admitted, search, services_of
from interop.dicomweb.responses import json_response, warning_headers
from interop.dicomweb.results import INSTANCE_JSON, INSTANCE_TAGS, Shape, result, results
from interop.dicomweb.visibility import condition, permitted

EVENT = "IMAGING_SEARCHED"
MORE_WARNING = "There are additional results that can be requested with offset={next}"
# Of stored JSON that one page of instances may read; the first instance is always there.
PAGE_BYTES = 16 << 20
# JSON of an instance above this size is cut down to the wanted attributes by the database.
WHOLE_JSON_BYTES = 16 << 10
UNREAD_DISCOUNT = 16
# More results than this are put together in a thread.
INLINE_INSTANCES = 100

_TABLES = {
    Level.STUDY: "imaging_studies s",
    Level.SERIES: (
        "imaging_studies s JOIN imaging_series e ON e.tenant_id = %(tenant_id)s"
        " AND e.study_id = s.id"
    ),
    Level.INSTANCE: (
        "imaging_studies s JOIN imaging_series e ON e.tenant_id = %(tenant_id)s"
        " AND e.study_id = s.id JOIN imaging_objects o ON o.tenant_id = %(tenant_id)s"
        " AND o.series_id = e.id AND o.sop_instance_uid IS NOT NULL"
    ),
}
# The order of the index (tenant_id, study_date, study_time, study_uid), read backwards.
_NEWEST_FIRST = "s.study_date DESC, s.study_time DESC, s.study_uid DESC"
_ORDER = {
    Level.STUDY: _NEWEST_FIRST,
    Level.SERIES: f"{_NEWEST_FIRST}, e.series_number, e.series_uid",
    Level.INSTANCE: (
        f"{_NEWEST_FIRST}, e.series_number, e.series_uid, o.instance_number, o.sop_instance_uid"
    ),
}
# Keys that few rows share, each with an index or below one that has.
_IDENTIFYING = frozenset(
    ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "PatientID", "AccessionNumber")
)
_STUDY_UID = BY_PATH[(tag_of("StudyInstanceUID"),)]
_SERIES_UID = BY_PATH[(tag_of("SeriesInstanceUID"),)]


async def search_studies(request: Request) -> Response:
    return await _search(request, Level.STUDY)


async def search_series(request: Request) -> Response:
    return await _search(request, Level.SERIES)


async def search_instances(request: Request) -> Response:
    return await _search(request, Level.INSTANCE)


async def _search(request: Request, level: Level) -> Response:
    caller = await admitted(request, "s")
    media_type = require_json(
        accepted(request.headers.get("accept"), request.query_params.get("accept"))
    )
    query = parse_query(level, request.query_params.multi_items())
    top, scope = _scope(request)
    shape = Shape(top, level)
    parameters = Parameters()
    asked = replace(query, conditions=(*scope, *query.conditions))
    visible = condition(permitted(caller, "s"), parameters)
    page_query = statement(shape, asked, parameters, visible)
    # Which keys were asked, never their values: those are names and birth dates.
    details = {
        "level": level.resource,
        "keys": [asked_for.attribute.keyword for asked_for in query.conditions],
    }
    rows = await search(
        services_of(request),
        caller,
        EVENT,
        details,
        page_query,
        parameters.values,
        keeps_plan=visible is None and has_one_plan(asked),
    )
    warnings = list(query.warnings)
    page = first_page(rows, shape, query)
    if len(rows) > len(page):
        warnings.append(MORE_WARNING.format(next=query.offset + len(page)))
    base = root_of(request)
    if level is Level.INSTANCE and len(page) > INLINE_INSTANCES:
        body = await to_thread.run_sync(_body, base, shape, page, query)
    else:
        body = _body(base, shape, page, query)
    return json_response(body, media_type, warning_headers(warnings, "dicom-web"))


def _body(base: str, shape: Shape, rows: list[Row], query: Query) -> bytes:
    return results(result(base, shape, row, query) for row in rows)


def first_page(rows: list[Row], shape: Shape, query: Query) -> list[Row]:
    """The rows that the page holds: up to the limit, and up to the first without its JSON."""
    page = rows[: query.limit]
    if shape.level is Level.INSTANCE:
        for count, row in enumerate(page):
            if row[INSTANCE_JSON] is None:
                return page[:count]
    return page


def _scope(request: Request) -> tuple[Level, list[Condition]]:
    """What the path fixes: the first level that is left open, and conditions for those above."""
    fixed = [
        (attribute, request.path_params[name])
        for attribute, name in ((_STUDY_UID, "study"), (_SERIES_UID, "series"))
        if name in request.path_params
    ]
    conditions = [
        # What is no UID can be the UID of nothing.
        Condition(attribute, AnyOf((uid,) if is_uid(uid) else ()))
        for attribute, uid in fixed
    ]
    return Level(len(fixed)), conditions


def has_one_plan(query: Query) -> bool:
    """Whether the best plan is the same for all values: the newest of all, or what a key names."""
    return not query.offset and all(
        condition.attribute.keyword in _IDENTIFYING
        and isinstance(condition.matcher, AnyOf)
        and len(condition.matcher.values) == 1
        for condition in query.conditions
    )


def statement(
    shape: Shape, query: Query, parameters: Parameters, visible: str | None = None
) -> PageQuery:
    """The query of a search; reads one row more than the page holds.

    Only studies that meet the condition `visible` are looked at, before the page is cut.
    """
    tests = ["s.tenant_id = %(tenant_id)s", *predicates(query.conditions, parameters)]
    if visible is not None:
        tests.append(visible)
    # A number of ours in the text: the plan depends on it.
    paging = f"LIMIT {query.limit + 1}"
    if query.offset:
        paging += f" OFFSET {parameters.bind(query.offset)}"
    source = (
        f"FROM {_TABLES[shape.level]} WHERE {' AND '.join(tests)}"
        f" ORDER BY {_ORDER[shape.level]} {paging}"
    )
    names = [f"c{n}" for n in range(shape.columns.count(",") + 1)]
    rows, shown = f"SELECT {shape.columns}, s.patient_id {source}", f"LIMIT {query.limit}"
    if shape.level is Level.INSTANCE:
        rows = _bounded(shape, names, source, query, parameters)
        shown = f"WHERE {names[INSTANCE_JSON]} IS NOT NULL {shown}"
    return PageQuery(rows, names, shown)


def _bounded(
    shape: Shape, names: list[str], source: str, query: Query, parameters: Parameters
) -> str:
    """Instances until PAGE_BYTES of their JSON were read; the rows after those have none.

    The JSON of an instance can be as large as a header, tens of megabytes, and a page has thousands
    of instances. Large JSON is cut down to what is wanted before it leaves the database; reading it
    there costs less than here, and counts less. The size of a stored text is known unread.
    """
    stored = names[INSTANCE_JSON]
    size, weight = "octet_length(o.dicom_json)", "octet_length(o.dicom_json)"
    wanted = f"coalesce({stored}, '{{}}')"
    if not query.include_all:
        most = parameters.bind(WHOLE_JSON_BYTES)
        tags = parameters.bind(sorted(INSTANCE_TAGS | query.include))
        weight = f"greatest(least({size}, {most}), {size} / {UNREAD_DISCOUNT})"
        wanted = (
            f"CASE WHEN octet_length({stored}) > {most} THEN (SELECT"
            f" coalesce(json_object_agg(key, value)::text, '{{}}')"
            f" FROM json_each({readable_json(stored)}::json) WHERE key = ANY({tags}))"
            f" ELSE {wanted} END"
        )
    budget = parameters.bind(PAGE_BYTES)
    # Rows pass the window in the order of the inner query: nothing stands between the two.
    read = list(names)
    read[INSTANCE_JSON] = (
        f"CASE WHEN coalesce(sum(weight) OVER before, 0) < {budget} THEN {wanted} END"
    )
    return (
        f"SELECT {', '.join(read)}, patient FROM (SELECT {shape.columns}, s.patient_id, {weight}"
        f" {source}) AS page({', '.join(names)}, patient, weight)"
        " WINDOW before AS (ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)"
    )
