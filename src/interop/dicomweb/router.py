"""The routes of DICOMweb under `/t/{tenant}/dicom-web` (PS3.18 Table 10.1-1)."""

from __future__ import annotations

from starlette.routing import Route

from interop.dicomweb import bulkdata, frames, metadata, qido, rendered, retrieve, stow
from interop.dicomweb.errors import Handler, translated
from interop.dicomweb.refusals import not_found, only

ROOT = "/t/{tenant}/dicom-web"
STUDY = "/studies/{study}"
SERIES = f"{STUDY}/series/{{series}}"
INSTANCE = f"{SERIES}/instances/{{instance}}"
FRAMES = f"{INSTANCE}/frames/{{frames}}"

GET: dict[str, Handler] = {
    # QIDO-RS, PS3.18 10.6
    "/studies": qido.search_studies,
    "/series": qido.search_series,
    "/instances": qido.search_instances,
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


def routes() -> list[Route]:
    """Every resource with its methods; other methods and paths get answers of this protocol too."""
    every = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"]
    found: list[Route] = []
    for path in GET | POST:
        allowed = ["GET", "HEAD"] if path in GET else []
        if path in GET:
            found.append(Route(ROOT + path, translated(GET[path]), methods=["GET"]))
        if path in POST:
            found.append(Route(ROOT + path, translated(POST[path]), methods=["POST"]))
            allowed.append("POST")
        rest = [method for method in every if method not in allowed]
        found.append(Route(ROOT + path, translated(only(allowed)), methods=rest))
    found.append(Route(ROOT + "/{rest:path}", translated(not_found), methods=every))
    return found
