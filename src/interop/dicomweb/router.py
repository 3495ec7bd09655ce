"""The resources of DICOMweb under `/t/{tenant}/dicom-web` (PS3.18 Table 10.1-1).

One route takes every path below the root, and a table finds the handler by the path's words: a
search through forty patterns would cost a small read a tenth of its time.
"""

from __future__ import annotations

from typing import NamedTuple

from starlette.convertors import Convertor, register_url_convertor
from starlette.requests import Request
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from interop.dicomweb import (
    bulkdata,
    changes,
    deletion,
    files,
    frames,
    metadata,
    qido,
    rendered,
    retrieve,
    stow,
    wado_uri,
)
from interop.dicomweb.errors import Handler, translated
from interop.dicomweb.refusals import not_found, only

ROOT = "/t/{tenant}/dicom-web"
WADO_URI = "/t/{tenant}/wado"
STUDY = "/studies/{study}"
SERIES = f"{STUDY}/series/{{series}}"
INSTANCE = f"{SERIES}/instances/{{instance}}"
FRAMES = f"{INSTANCE}/frames/{{frames}}"
METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"]

GET: dict[str, Handler] = {
    # QIDO-RS, PS3.18 10.6
    "/studies": qido.search_studies,
    "/series": qido.search_series,
    "/instances": qido.search_instances,
    # What has changed, as Microsoft's dicom-server has it
    "/changefeed": changes.list_changes,
    "/changefeed/{which}": changes.latest_change,
    f"{STUDY}/series": qido.search_series,
    f"{STUDY}/instances": qido.search_instances,
    f"{SERIES}/instances": qido.search_instances,
    # WADO-RS, PS3.18 10.4
    STUDY: retrieve.retrieve_instances,
    SERIES: retrieve.retrieve_instances,
    INSTANCE: retrieve.retrieve_instances,
    f"{STUDY}/metadata": metadata.retrieve_study_metadata,
    f"{SERIES}/metadata": metadata.retrieve_metadata,
    f"{INSTANCE}/metadata": metadata.retrieve_metadata,
    FRAMES: frames.retrieve_frames,
    f"{INSTANCE}/bulkdata/{{path:path}}": bulkdata.retrieve_bulk_data,
    f"{STUDY}/rendered": rendered.retrieve_rendered,
    f"{SERIES}/rendered": rendered.retrieve_rendered,
    f"{INSTANCE}/rendered": rendered.retrieve_rendered,
    f"{FRAMES}/rendered": rendered.retrieve_rendered,
    f"{STUDY}/thumbnail": rendered.retrieve_thumbnail,
    f"{SERIES}/thumbnail": rendered.retrieve_thumbnail,
    f"{INSTANCE}/thumbnail": rendered.retrieve_thumbnail,
    f"{FRAMES}/thumbnail": rendered.retrieve_thumbnail,
}
# STOW-RS, PS3.18 10.5
POST: dict[str, Handler] = {"/studies": stow.store_instances, STUDY: stow.store_instances}
# An extension that most servers share.
DELETE: dict[str, Handler] = dict.fromkeys((STUDY, SERIES, INSTANCE), deletion.delete_instances)


class Resource(NamedTuple):
    """The names of the values in a path, and the handlers by method."""

    names: tuple[str, ...]
    handlers: dict[str, Handler]


Shape = tuple[int, tuple[str, ...]]


class Resources:
    """Finds the handler of a path. Words and values alternate in every path of DICOMweb."""

    def __init__(self) -> None:
        self._resources: dict[Shape, Resource] = {}
        self._nothing = translated(not_found)
        for path in GET | POST | DELETE:
            shape, segments = _shape(path.lstrip("/"))
            names = tuple(segment.strip("{}").partition(":")[0] for segment in segments[1::2])
            self._resources[shape] = Resource(names, _handlers(path))

    def find(self, method: str, path: str) -> tuple[Handler, dict[str, str]]:
        """What answers a method at a path below the root, and the values in the path."""
        shape, segments = _shape(path)
        resource = self._resources.get(shape)
        if resource is None:
            return self._nothing, {}
        values = dict(zip(resource.names, segments[1::2], strict=True))
        # Only the path of an element may be empty: it is judged where the instance is known.
        if not all(value or name == "path" for name, value in values.items()):
            return self._nothing, {}
        return resource.handlers[method], values

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        found: dict[str, str] = scope["path_params"]
        handler, values = self.find(scope["method"], found.pop("rest"))
        found.update(values)
        response = await handler(Request(scope, receive, send))
        await response(scope, receive, send)


def _shape(path: str) -> tuple[Shape, list[str]]:
    """How many segments a path has and its words; and all its segments."""
    segments = path.split("/")
    if segments[6:7] == ["bulkdata"]:
        # What follows is the path of an element inside the instance: one value.
        segments[7:] = ["/".join(segments[7:])] if len(segments) > 7 else []
    return (len(segments), tuple(segments[0::2])), segments


def _handlers(path: str) -> dict[str, Handler]:
    """The handler of every method; those that the resource has not get an answer too."""
    handlers: dict[str, Handler] = {}
    allowed: list[str] = []
    if path in GET:
        allowed += ["GET", "HEAD"]
        handlers["GET"] = handlers["HEAD"] = translated(GET[path])
    if path in POST:
        allowed.append("POST")
        handlers["POST"] = translated(POST[path])
    if path in DELETE:
        allowed.append("DELETE")
        handlers["DELETE"] = translated(DELETE[path])
    refused = translated(only(allowed))
    return {method: handlers.get(method, refused) for method in METHODS}


class _Anything(Convertor[str]):
    """Everything below the root, line breaks too: each path gets an answer of this protocol."""

    regex = r"[\s\S]*"

    def convert(self, value: str) -> str:
        return value

    def to_string(self, value: str) -> str:
        return value


register_url_convertor("dicomweb_path", _Anything())


def routes() -> list[Route]:
    """The one route of all resources, those of files, and that of WADO-URI (PS3.18 9)."""
    return [
        Route(f"{ROOT}/{{rest:dicomweb_path}}", Resources(), methods=METHODS),
        *files.routes(),
        Route(WADO_URI, translated(wado_uri.retrieve_object)),
    ]
