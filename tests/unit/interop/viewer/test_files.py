"""How the files of the viewer are answered: by their digests, in what the browser takes."""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.applications import Starlette
from starlette.routing import Route
from starlette.testclient import TestClient

from interop.viewer.files import serve_entrance, serve_file
from interop.viewer.headers import WORKER_POLICY
from interop.viewer.package import Viewer, ViewerFile, ViewerFolder

BUILD = "1-abc"
TEXT = b"let x = 1;" * 100
FILES = {
    "a.js": TEXT,
    "decode.wasm": b"\0asm",
    "font.woff2": b"wOF2",
    "assets/images/CT.png": b"\x89PNG",
    "app.css": b"a{}",
}


class Held(ViewerFolder):
    """A folder whose viewer is known."""

    def __init__(self, viewer: Viewer | None) -> None:
        self.viewer = viewer

    def current(self) -> Viewer | None:
        return self.viewer


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, data in FILES.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    (tmp_path / "a.js.gz").write_bytes(gzip.compress(TEXT))
    (tmp_path / "a.js.br").write_bytes(b"as brotli")
    (tmp_path / "index.html").write_text("the page")
    return tmp_path


@pytest.fixture
def client(folder: Path) -> Iterator[TestClient]:
    files = {name: ViewerFile(digest(data)) for name, data in FILES.items()}
    packed = {"br": digest(b"as brotli"), "gzip": digest((folder / "a.js.gz").read_bytes())}
    files["a.js"] = ViewerFile(digest(TEXT), packed)
    app = Starlette(
        routes=[
            Route("/viewer", serve_entrance),
            Route("/viewer/{build}/{name:path}", serve_file),
        ]
    )
    app.state.viewer = Held(Viewer(folder, BUILD, "sha512-x", (), files))
    with TestClient(app, follow_redirects=False) as opened:
        yield opened


@pytest.mark.parametrize(
    ("name", "media_type"),
    [
        ("a.js", "text/javascript; charset=utf-8"),
        ("decode.wasm", "application/wasm"),
        ("font.woff2", "font/woff2"),
        ("app.css", "text/css; charset=utf-8"),
        ("assets/images/CT.png", "image/png"),
    ],
)
def test_a_file_comes_with_its_type_and_for_a_year(
    client: TestClient, name: str, media_type: str
) -> None:
    answer = client.get(f"/viewer/{BUILD}/{name}", headers={"Accept-Encoding": "identity"})
    head = client.head(f"/viewer/{BUILD}/{name}", headers={"Accept-Encoding": "identity"})

    assert answer.status_code == head.status_code == 200
    assert answer.content == FILES[name] and head.content == b""
    assert head.headers["content-length"] == str(len(FILES[name]))
    for one in (answer, head):
        assert one.headers["content-type"] == media_type
        assert one.headers["cache-control"] == "public, max-age=31536000, immutable"
        assert one.headers["etag"] == f'"{digest(FILES[name])}"'
        assert one.headers["x-content-type-options"] == "nosniff"
        assert one.headers["cross-origin-resource-policy"] == "same-origin"
        assert one.headers["cross-origin-embedder-policy"] == "require-corp"
        assert one.headers["vary"] == "Accept-Encoding"
    policy = answer.headers.get("content-security-policy")
    assert policy == (WORKER_POLICY if name.endswith(".js") else None)


@pytest.mark.parametrize(
    ("accepted", "coding"),
    [
        ("gzip, deflate, br, zstd", "br"),
        ("gzip", "gzip"),
        ("br;q=0, gzip", "gzip"),
        ("br;q=0.0,gzip;q=0", None),
        ("deflate", None),
        ("br;q=0.1", "br"),
    ],
)
def test_a_file_comes_in_the_smallest_coding_that_is_admitted(
    client: TestClient, accepted: str, coding: str | None
) -> None:
    with client.stream(
        "GET", f"/viewer/{BUILD}/a.js", headers={"Accept-Encoding": accepted}
    ) as answer:
        raw = b"".join(answer.iter_raw())

    kept = {"br": b"as brotli", "gzip": gzip.compress(TEXT), None: TEXT}[coding]
    assert answer.headers.get("content-encoding") == coding
    assert len(raw) == len(kept)
    assert answer.headers["etag"] == f'"{digest(raw)}"'


def test_a_file_that_the_browser_has_is_not_sent_again(client: TestClient) -> None:
    url = f"/viewer/{BUILD}/a.js"
    first = client.get(url)

    again = client.get(url, headers={"If-None-Match": first.headers["etag"]})

    assert again.status_code == 304 and again.content == b""
    assert again.headers["etag"] == first.headers["etag"]


@pytest.mark.parametrize(
    "path",
    [
        f"/viewer/{BUILD}/index.html",  # it has a place of its own
        f"/viewer/{BUILD}/viewer.json",
        f"/viewer/{BUILD}/a.js.gz",
        f"/viewer/{BUILD}/",
        f"/viewer/{BUILD}/../../etc/passwd",
        f"/viewer/{BUILD}/%2e%2e/%2e%2e/etc/passwd",
        f"/viewer/{BUILD}/..%2f..%2fetc%2fpasswd",
        f"/viewer/{BUILD}//etc/passwd",
        f"/viewer/{BUILD}/assets",
        f"/viewer/{BUILD}/a.js%00.png",
        "/viewer/0-old/a.js",
    ],
)
def test_nothing_else_is_served(client: TestClient, path: str) -> None:
    answer = client.get(path)

    assert answer.status_code == 404
    assert answer.headers.get("cache-control", "no-store") == "no-store"


def test_the_entrance_asks_for_the_organization_and_keeps_the_study(client: TestClient) -> None:
    asked = client.get("/viewer?StudyInstanceUIDs=1.2.3")
    hostile = client.get('/viewer?StudyInstanceUIDs="><script>')
    given = client.get("/viewer?StudyInstanceUIDs=1.2.3&organization=Demo")

    assert asked.status_code == 200
    assert 'name="StudyInstanceUIDs" value="1.2.3"' in asked.text
    assert "><script>" not in hostile.text
    assert given.status_code == 303
    assert given.headers["location"] == "/t/demo/viewer?StudyInstanceUIDs=1.2.3"


@pytest.mark.parametrize("name", ["//evil.example", "a/b", "..", "a b", "%"])
def test_the_entrance_leads_nowhere_else(client: TestClient, name: str) -> None:
    answer = client.get("/viewer", params={"organization": name})

    assert answer.status_code == 200
    assert "location" not in answer.headers


def test_without_a_viewer_the_entrance_says_how_to_add_it(client: TestClient) -> None:
    client.app.state.viewer.viewer = None  # type: ignore[attr-defined]

    answer = client.get("/viewer")

    assert answer.status_code == 404
    assert "make viewer" in answer.text
