"""WADO-URI (PS3.18 9): one instance by the parameters of a URL, as DICOM, an image or a document.

Everything goes the way of WADO-RS, policy and audit too; here only the parameters are read.
"""

from __future__ import annotations

from collections.abc import Mapping

from starlette.requests import Request
from starlette.responses import Response

from interop.access import Caller
from interop.dicom.report_html import is_report
from interop.dicomweb import rendered, retrieve
from interop.dicomweb.media_types import (
    DEFAULT,
    DICOM,
    Accepted,
    DicomChoice,
    MediaType,
    accepted,
)
from interop.dicomweb.paths import is_uid, root_of
from interop.dicomweb.reading import admitted, reading, services_of
from interop.dicomweb.rendered_documents import ENCAPSULATED_PDF
from interop.dicomweb.rendering import (
    DEFAULT_QUALITY,
    HTML,
    JPEG,
    MAX_VIEWPORT,
    PDF,
    Rendering,
    Viewport,
    Window,
    finite,
    parse_annotation,
    parse_quality,
    require_renderable,
)
from interop.dicomweb.targets import Target
from interop.errors import BadRequest, NotFound, UnsupportedParameter

_UIDS = {"studyUID": "study", "seriesUID": "series", "objectUID": "instance"}
_DICOM_ONLY = frozenset(("transferSyntax",))
_IMAGE_ONLY = frozenset(
    ("annotation", "rows", "columns", "region", "windowCenter", "windowWidth", "frameNumber",
     "imageQuality")
)  # fmt: skip
# Named by PS3.18 9.1 and not done here; who asks for them must not get something else.
_REFUSED = {
    "anonymize": "objects are not de-identified here",
    "presentationUID": "presentation states are not applied here",
    "presentationSeriesUID": "presentation states are not applied here",
}
_KNOWN = {"requestType", "contentType", "charset", *_UIDS, *_DICOM_ONLY, *_IMAGE_ONLY, *_REFUSED}
_KIND = "coalesce(o.number_of_frames, 0), o.sop_class_uid"


async def retrieve_object(request: Request) -> Response:
    """The instance that the URL names."""
    query = request.query_params
    for parameter, name in _UIDS.items():
        request.path_params[name] = query.get(parameter, "")
    caller = await admitted(request, "r")
    _require_known(query)
    target = _target(request)
    types = await _content_types(request, caller, target)
    if types[0].part_type == DICOM:
        _refuse(query, _IMAGE_ONLY, DICOM)
        return await _dicom(request, caller, target)
    require_renderable(types)
    _refuse(query, _DICOM_ONLY, "an image")
    frame = _whole(query, "frameNumber", 999_999_999)
    wanted = rendered.Wanted(target, types, _rendering(query), [frame] if frame else None)
    return await rendered.rendered_response(request, caller, wanted)


def _require_known(query: Mapping[str, str]) -> None:
    """Raise BadRequest for what is not a request of WADO-URI, or asks for what is not done."""
    if query.get("requestType") != "WADO":
        raise BadRequest("requestType=WADO is required (PS3.18 9.1.2.1)")
    for name in query:
        if name not in _KNOWN:
            raise UnsupportedParameter(
                f"unknown parameter {name[:80]!r}; expected {', '.join(sorted(_KNOWN))}"
            )
        if name in _REFUSED:
            raise UnsupportedParameter(f"{name}: {_REFUSED[name]}")


def _refuse(query: Mapping[str, str], names: frozenset[str], content_type: str) -> None:
    present = sorted(names & set(query))
    if present:
        raise BadRequest(f"{', '.join(present)} cannot be combined with {content_type}")


def _target(request: Request) -> Target:
    """The instance by its three UIDs. Raises BadRequest where one is missing or no UID."""
    values = request.path_params
    for parameter, name in _UIDS.items():
        if not is_uid(values[name]):
            raise BadRequest(f"{parameter}={values[name][:80]!r} must be a UID")
    return Target(values["study"], values["series"], values["instance"], root_of(request))


async def _content_types(request: Request, caller: Caller, target: Target) -> Accepted:
    """contentType, else Accept, else what PS3.18 9.1.2.2.1 has for the kind of the object."""
    named, header = request.query_params.get("contentType"), request.headers.get("accept")
    types = accepted(header, named)
    if named or not all(media_type.part_type == "*/*" for media_type in types):
        return types
    services = services_of(request)
    async with services.database.async_connection(caller.tenant.id) as connection:
        values = {**target.parameters, "tenant_id": caller.tenant.id}
        cursor = await connection.execute(target.query(_KIND).encode(), values)
        row = await cursor.fetchone()
    if row is None:
        async with reading(services, caller, retrieve.EVENT):
            raise NotFound()
    frames, sop_class = row
    kind = DICOM
    if frames == 1 or (frames and "frameNumber" in request.query_params):
        kind = JPEG
    elif is_report(sop_class) or sop_class == ENCAPSULATED_PDF:
        kind = HTML if is_report(sop_class) else PDF
    return (MediaType(kind),)


async def _dicom(request: Request, caller: Caller, target: Target) -> Response:
    """The instance in the transfer syntax that is named, else uncompressed."""
    syntax = request.query_params.get("transferSyntax", DEFAULT)
    if syntax != DEFAULT and not is_uid(syntax):
        raise BadRequest(f"transferSyntax={syntax[:80]!r} must be the UID of a transfer syntax")
    choice = DicomChoice(multipart=False, preferences=((syntax,),))
    services = services_of(request)
    planned, _ = await retrieve.planned_instances(services, caller, target, choice)
    return await retrieve.single_response(request, services, caller.tenant.id, *planned[0])


def _rendering(query: Mapping[str, str]) -> Rendering:
    """How the image is shown (PS3.18 9.1.2.2). Raises BadRequest."""
    quality, annotation = query.get("imageQuality"), query.get("annotation")
    return Rendering(
        viewport=_viewport(query),
        window=_window(query),
        quality=parse_quality(quality) if quality is not None else DEFAULT_QUALITY,
        annotation=parse_annotation(annotation) if annotation is not None else (),
    )


def _whole(query: Mapping[str, str], name: str, most: int) -> int | None:
    value = query.get(name)
    if value is None:
        return None
    if not value.isascii() or not value.isdigit() or not 1 <= int(value[:10]) <= most:
        raise BadRequest(f"{name}={value[:40]!r} must be a whole number from 1 to {most}")
    return int(value)


def _viewport(query: Mapping[str, str]) -> Viewport | None:
    """rows and columns are the most that the image may have; region is in parts of the whole."""
    rows, columns = (_whole(query, name, MAX_VIEWPORT) for name in ("rows", "columns"))
    region = query.get("region")
    if rows is None and columns is None and region is None:
        return None
    return Viewport(
        columns or MAX_VIEWPORT,
        rows or MAX_VIEWPORT,
        _region(region) if region is not None else None,
        is_relative=region is not None,
        enlarges=False,
    )


def _region(value: str) -> tuple[float, float, float, float]:
    """`xmin,ymin,xmax,ymax`, each from 0 to 1, as x, y, width and height."""
    try:
        left, top, right, bottom = (finite(part) for part in value.split(","))
    except ValueError:
        left = top = right = bottom = 0.0
    if not (0 <= left < right <= 1 and 0 <= top < bottom <= 1):
        raise BadRequest(
            f"region={value[:80]!r}: expected xmin,ymin,xmax,ymax from 0.0 to 1.0, the first two"
            " below the last two"
        )
    return left, top, right - left, bottom - top


def _window(query: Mapping[str, str]) -> Window | None:
    center, width = query.get("windowCenter"), query.get("windowWidth")
    if center is None and width is None:
        return None
    try:
        window = Window(finite(center or ""), finite(width or ""), "LINEAR")
    except ValueError:
        window = Window(0.0, 0.0, "LINEAR")
    if window.width < 1:
        raise BadRequest(
            "windowCenter and windowWidth come together: two decimal numbers, the width 1 or more"
        )
    return window
