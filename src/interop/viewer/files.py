"""The files of the viewer, the same for everybody: named by their content, kept for a year."""

from __future__ import annotations

import mimetypes
import re
from html import escape
from urllib.parse import quote, urlencode

from starlette.requests import Request
from starlette.responses import FileResponse, PlainTextResponse, RedirectResponse, Response

from interop.identity import pages
from interop.viewer.headers import IMMUTABLE, ISOLATION, NO_STORE, WORKER_POLICY
from interop.viewer.package import CODINGS, HOW_TO_ADD, Viewer, ViewerFile

# Not left to the system's table: a browser runs nothing that comes under another type.
MEDIA_TYPES = {
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".wasm": "application/wasm",
    ".woff2": "font/woff2",
    ".svg": "image/svg+xml",
    ".ico": "image/x-icon",
    ".png": "image/png",
}
_ORGANIZATION = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")


async def serve_file(request: Request) -> Response:
    """GET /viewer/{build}/{name}: a file that `viewer.json` names, and nothing else."""
    viewer: Viewer | None = request.app.state.viewer.current()
    name = request.path_params["name"]
    file = None
    if viewer is not None and viewer.build == request.path_params["build"]:
        file = viewer.files.get(name)
    if viewer is None or file is None:
        return PlainTextResponse("not found\n", 404, {**ISOLATION, "Cache-Control": NO_STORE})
    coding = _coding(request.headers.get("accept-encoding", ""), file)
    etag = f'"{file.codings[coding] if coding else file.sha256}"'
    suffix = "." + name.rpartition(".")[2]
    headers = {
        **ISOLATION,
        "Cache-Control": IMMUTABLE,
        "Content-Type": MEDIA_TYPES.get(suffix) or _guessed(name),
        "ETag": etag,
        "Vary": "Accept-Encoding",
    }
    if suffix == ".js":
        headers["Content-Security-Policy"] = WORKER_POLICY
    if coding:
        headers["Content-Encoding"] = coding
    if etag in request.headers.get("if-none-match", ""):
        return Response(None, 304, headers)
    return FileResponse(viewer.folder / (name + CODINGS.get(coding, "")), headers=headers)


async def serve_entrance(request: Request) -> Response:
    """GET /viewer: asks for the organization, whose session opens its viewer."""
    given = dict(request.query_params)
    organization = given.pop("organization", "").strip().lower()
    if request.app.state.viewer.current() is None:
        return absent()
    if _ORGANIZATION.fullmatch(organization):
        query = f"?{urlencode(given)}" if given else ""
        return RedirectResponse(f"/t/{quote(organization)}/viewer{query}", 303)
    kept = "".join(
        f'<input type="hidden" name="{escape(name)}" value="{escape(value)}">'
        for name, value in given.items()
    )
    return pages.document(
        "Viewer",
        '<form method="get" action="/viewer"><label for="organization">Organization</label>'
        '<input id="organization" name="organization" autocomplete="organization" required'
        f' pattern="[A-Za-z0-9\\-]+" autofocus>{kept}'
        '<button type="submit" class="main">Open</button></form>',
    )


def absent() -> Response:
    """What everybody sees where no viewer was put."""
    text = f"There is no viewer on this server yet. To add it, {HOW_TO_ADD}."
    return pages.document("Viewer", pages.paragraph(text), 404)


def _coding(accept_encoding: str, file: ViewerFile) -> str:
    """The smallest coding that is kept and admitted (RFC 9110 12.5.3), `""` for none."""
    admitted = {}
    for part in accept_encoding.lower().split(","):
        name, _, parameters = part.partition(";")
        quality = parameters.replace(" ", "").removeprefix("q=")
        admitted[name.strip()] = not re.fullmatch(r"0(\.0*)?", quality)
    return next(
        (coding for coding in CODINGS if coding in file.codings and admitted.get(coding)), ""
    )


def _guessed(name: str) -> str:
    return mimetypes.guess_type(name)[0] or "application/octet-stream"
