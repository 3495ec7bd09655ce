"""QIDO-RS, the search transaction (PS3.18 10.6, 8.3.4), answered from columns and stored JSON.

Newest study first, in the order of an index, so that a page needs no sort and nothing is ever
counted: one row more than the page is read to know whether there are more. Where there are, a
Warning says so, and a Link goes on after the last row whatever arrives meanwhile. No match is 200
with an empty list, as PS3.18 says since 2024 (docs/decisions/0005-dicomweb.md).
"""

from __future__ import annotations

from urllib.parse import urlencode

from anyio import to_thread
from starlette.requests import Request
from starlette.responses import Response

from interop.dicom.query.attributes import BY_PATH, Level, tag_of
from interop.dicom.query.conditions import NO_TAGS, AnyOf, Condition, Tags
from interop.dicom.query.matching import Parameters, readable_json
from interop.dicom.query.results import INSTANCE_TAGS, Shape
from interop.dicom.query.statements import are_identifying, columns_of, position_of, source
from interop.dicom.query.tags import ready_tags
from interop.dicomweb.media_types import DICOM_XML, accepted, json_or_xml
from interop.dicomweb.paths import is_uid, root_of
from interop.dicomweb.query import CONTINUATION, Query, read_parameters, understood
from interop.dicomweb.reading import PageQuery, Row, permitted, search, services_of
from interop.dicomweb.responses import warning_headers
from interop.dicomweb.results import result
from interop.dicomweb.search_formats import search_body, search_response
from interop.dicomweb.visibility import condition

EVENT = "IMAGING_SEARCHED"
MORE_WARNING = "There are additional results that can be requested with offset={next}"
MORE_AFTER_WARNING = "There are additional results that can be requested with the next link"
# Of stored JSON that one page of instances may read; the first instance is always there.
PAGE_BYTES = 16 << 20
# JSON of an instance above this size is cut down to the wanted attributes by the database.
WHOLE_JSON_BYTES = 16 << 10
UNREAD_DISCOUNT = 16
# More results than this are put together in a thread.
INLINE_INSTANCES = 100

_STUDY_UID = BY_PATH[(tag_of("StudyInstanceUID"),)]
_SERIES_UID = BY_PATH[(tag_of("SeriesInstanceUID"),)]


async def search_studies(request: Request) -> Response:
    return await _search(request, Level.STUDY)


async def search_series(request: Request) -> Response:
    return await _search(request, Level.SERIES)


async def search_instances(request: Request) -> Response:
    return await _search(request, Level.INSTANCE)


async def _search(request: Request, level: Level) -> Response:
    caller, filter_ = await permitted(request, "s")
    media_type = json_or_xml(
        accepted(request.headers.get("accept"), request.query_params.get("accept")),
        "search results are served",
    )
    asked = read_parameters(level, request.query_params.multi_items())
    tags = NO_TAGS
    if asked.names_unknown:
        tags = await ready_tags(services_of(request).database, caller.tenant.id)
    query = understood(asked, tags)
    top, scope = _scope(request)
    shape = shape_of(top, query, tags)
    parameters = Parameters()
    visible = condition(filter_, parameters)
    page_query = statement(shape, query, scope, parameters, visible)
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
        keeps_plan=visible is None and has_one_plan(shape, query),
    )
    page = first_page(rows, shape, query)
    headers = _paging(request, shape, query, page, is_last=len(rows) <= len(page))
    base = root_of(request)
    is_large = level is Level.INSTANCE and len(page) > INLINE_INSTANCES
    if is_large or (media_type == DICOM_XML and page):
        body = await to_thread.run_sync(_body, media_type, base, shape, page, query)
    else:
        body = _body(media_type, base, shape, page, query)
    return search_response(*body, headers)


def shape_of(top: Level, query: Query, tags: Tags) -> Shape:
    """Which levels results have, and which attributes of their first instances."""
    if query.level is Level.INSTANCE:
        # It has them itself.
        return Shape(top, query.level)
    more = [
        query.wanted.more(level, frozenset(t.tag for t in tags.values() if t.level is level))
        if level <= query.level
        else frozenset[str]()
        for level in (Level.STUDY, Level.SERIES)
    ]
    return Shape(top, query.level, *more)


def _paging(
    request: Request, shape: Shape, query: Query, page: list[Row], *, is_last: bool
) -> dict[str, str]:
    """What says that there are more, and where (PS3.18 8.3.4.4, RFC 8288)."""
    warnings = list(query.warnings)
    headers: dict[str, str] = {}
    if not is_last:
        if query.after is None:
            warnings.append(MORE_WARNING.format(next=query.offset + len(page)))
        else:
            warnings.append(MORE_AFTER_WARNING)
        if page:
            headers["Link"] = f'<{_next(request, shape, page[-1])}>; rel="next"'
    return {**headers, **warning_headers(warnings, "dicom-web")}


def _next(request: Request, shape: Shape, last: Row) -> str:
    root = root_of(request)
    path = request.url.path.partition("/dicom-web")[2]
    kept = [
        (name, value)
        for name, value in request.query_params.multi_items()
        if name not in ("offset", CONTINUATION)
    ]
    token = position_of(shape, last).token()
    return f"{root}{path}?{urlencode([*kept, (CONTINUATION, token)])}"


def _body(
    media_type: str, base: str, shape: Shape, rows: list[Row], query: Query
) -> tuple[bytes, str]:
    wanted = query.wanted
    return search_body(media_type, (result(base, shape, row, wanted) for row in rows))


def first_page(rows: list[Row], shape: Shape, query: Query) -> list[Row]:
    """The rows that the page holds: up to the limit, and up to the first without its JSON."""
    page = rows[: query.limit]
    if shape.level is Level.INSTANCE:
        for count, row in enumerate(page):
            if row[shape.instance_json] is None:
                return page[:count]
    return page


def _scope(request: Request) -> tuple[Level, tuple[Condition, ...]]:
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
    return Level(len(fixed)), tuple(conditions)


def has_one_plan(shape: Shape, query: Query) -> bool:
    """Whether the best plan is the same for all values: the newest of all, or what a key names.

    Nor is it kept for each choice of included attributes.
    """
    return (
        not query.offset
        and not shape.more_of_study
        and not shape.more_of_series
        and query.after is None
        and are_identifying(query.conditions)
    )


def statement(
    shape: Shape,
    query: Query,
    scope: tuple[Condition, ...],
    parameters: Parameters,
    visible: str | None = None,
) -> PageQuery:
    """The query of a search below `scope`; reads one row more than the page holds.

    Only studies that meet the condition `visible` are looked at, before the page is cut.
    """
    rows_of = source(
        shape,
        (*scope, *query.tests),
        parameters,
        visible=visible,
        limit=query.limit + 1,
        offset=query.offset,
        after=query.after,
    )
    columns = columns_of(shape)
    width = shape.width + shape.level + 2
    names = [f"c{n}" for n in range(width)]
    rows, shown = f"SELECT {columns}, s.patient_id {rows_of}", f"LIMIT {query.limit}"
    if shape.level is Level.INSTANCE:
        rows = _bounded(shape, columns, names, rows_of, query, parameters)
        shown = f"WHERE {names[shape.instance_json]} IS NOT NULL {shown}"
    return PageQuery(rows, names, shown)


def _bounded(
    shape: Shape,
    columns: str,
    names: list[str],
    rows_of: str,
    query: Query,
    parameters: Parameters,
) -> str:
    """Instances until PAGE_BYTES of their JSON were read; the rows after those have none.

    The JSON of an instance can be as large as a header, tens of megabytes, and a page has thousands
    of instances. Large JSON is cut down to what is wanted before it leaves the database; reading it
    there costs less than here, and counts less. The size of a stored text is known unread.
    """
    stored = names[shape.instance_json]
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
    read[shape.instance_json] = (
        f"CASE WHEN coalesce(sum(weight) OVER before, 0) < {budget} THEN {wanted} END"
    )
    return (
        f"SELECT {', '.join(read)}, patient FROM (SELECT {columns}, s.patient_id, {weight}"
        f" {rows_of}) AS page({', '.join(names)}, patient, weight)"
        " WINDOW before AS (ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)"
    )
