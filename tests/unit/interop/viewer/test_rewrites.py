"""What `make viewer` changes in OHIF's package, on made-up packages of the same make."""

from __future__ import annotations

import base64
import hashlib
import importlib
import io
import json
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest

from interop.doctor import examine
from interop.settings import Settings
from interop.viewer.package import APP_CONFIG, MANIFEST, PAGE, ViewerFolder, read

ROOT = Path(__file__).parents[4]
BASE = "/viewer/3-abc/"


def tool(name: str) -> Any:
    """A script of tools/, which import each other by their bare names."""
    if str(ROOT / "tools") not in sys.path:
        sys.path.append(str(ROOT / "tools"))
    return importlib.import_module(name)


rewrites = tool("viewer_rewrites")

LINKS = "".join(
    [
        '<link rel="manifest" href="/manifest.json">',
        '<link rel="icon shortcut" href="/assets/favicon.ico">',
        '<link rel="icon" sizes="16x16" href="/assets/favicon-16x16.png">',
        '<link rel="icon" sizes="32x32" href="/assets/favicon-32x32.png">',
        '<link rel="icon" sizes="228x228" href="/assets/coast-228x228.png">',
        *(f'<link rel="apple-touch-icon" href="/assets/{n}.png">' for n in range(21)),
        '<link rel="yandex-tableau-widget" href="/assets/yandex.json">',
        '<meta name="msapplication-TileImage" content="/assets/tile.png">',
        '<meta name="msapplication-config" content="/assets/browserconfig.xml">',
    ]
)
PAGE_TEXT = (
    f'<html><head><script>console.time("x"),window.PUBLIC_URL="/"</script>{LINKS}'
    '<script rel="preload" src="/app-config.js"></script>'
    '<script type="module" src="/init-service-worker.js"></script>'
    '<script>function f(n){return import(n)}window.PUBLIC_URL="/"</script>'
    '<script defer src="/app.bundle.1.js"></script><link href="/app.bundle.css" rel="stylesheet">'
    "</head><body></body></html>"
)
RUNTIME = 'before\n__webpack_require__.p = "/";\nafter'


def package(**changed: str | None) -> dict[str, bytes]:
    """The files of a package that can be rewritten, with changes; None leaves one out."""
    texts: dict[str, str | None] = {
        PAGE: PAGE_TEXT,
        "app.bundle.css": "a{src:url(/f.woff2)}" * 5 + "b{background:url(data:x)}",
        "app.bundle.1.js": RUNTIME,
        **{f"{n}.worker.js": RUNTIME for n in range(7)},
        "2.bundle.js": "no runtime",
        "1.css": "a{color:red}",
        **changed,
    }
    return {name: text.encode() for name, text in texts.items() if text is not None}


def test_everything_is_asked_for_below_the_base() -> None:
    files = rewrites.rewritten(package(), BASE)

    page = files[PAGE].decode()
    assert f'<script src="{APP_CONFIG}"></script>' in page
    assert page.count(f'window.PUBLIC_URL="{BASE}"') == 2
    assert f'src="{BASE}app.bundle.1.js"' in page and f'href="{BASE}app.bundle.css"' in page
    assert 'href="/' not in page.replace(BASE, "") and "service-worker" not in page
    assert files["app.bundle.css"].decode().count(f"url({BASE}f.woff2)") == 5
    assert b"url(data:x)" in files["app.bundle.css"]
    runtimes = [name for name, data in files.items() if f'.p = "{BASE}";'.encode() in data]
    assert len(runtimes) == 8
    assert files["2.bundle.js"] == b"no runtime"


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({PAGE: None}, "has no index.html"),
        ({"app.bundle.css": None}, "has no app.bundle.css"),
        ({PAGE: PAGE_TEXT.replace("PUBLIC_URL", "OTHER", 1)}, "PUBLIC_URL"),
        ({PAGE: PAGE_TEXT.replace("/app-config.js", "/other.js")}, "app-config"),
        ({"app.bundle.css": "a{}"}, "was found 0 times and not 5"),
        ({"app.bundle.1.js": RUNTIME * 2}, "was found 2 times and not 1"),
        ({"app.bundle.1.js": RUNTIME.replace('"/"', "other")}, "was found 0 times and not 1"),
        ({"0.worker.js": "no runtime"}, "7 scripts with a public path, not 8"),
        ({"9.worker.js": RUNTIME}, "9 scripts with a public path, not 8"),
        ({"1.css": "a{src:url(/x.png)}"}, "1.css: asks for a file at the root"),
        ({"1.css": "a{src:url('/x.png')}"}, "1.css: asks for a file at the root"),
    ],
)
def test_a_package_of_another_make_is_refused(changed: dict[str, str | None], said: str) -> None:
    with pytest.raises(rewrites.CannotRewrite, match=said.replace("(", r"\(")):
        rewrites.rewritten(package(**changed), BASE)


def test_what_is_not_served_is_left_out() -> None:
    unwanted = [
        "app.bundle.1.js.map", "ort/ort.js", "ort/esm/package.json", "google.js", "sw.js",
        "dicom-microscopy-viewer/x.min.js", "init-service-worker.js", "app-config.js",
        "oidc-client.min.js", "silent-refresh.html", "_headers", "customizations/a/b.jsonc",
        "assets/apple-touch-icon.png", "manifest.json",
    ]  # fmt: skip
    wanted = [PAGE, "app.bundle.css", "1.wasm", "assets/images/CT.png", "assets/favicon.ico"]

    kept = rewrites.kept(dict.fromkeys([*unwanted, *wanted], b""))

    assert list(kept) == wanted


def test_inline_scripts_are_named_by_their_digests() -> None:
    page = b'<script>one()</script><script src="/x.js"></script><script>two()</script>'

    found = rewrites.inline_scripts(page)

    digests = (hashlib.sha256(text).digest() for text in (b"one()", b"two()"))
    assert found == tuple(f"sha256-{base64.b64encode(one).decode()}" for one in digests)


# -- the whole way, from an archive -----------------------------------------------------------


def archive_of(files: dict[str, bytes], path: Path) -> str:
    """Write an archive as npm packs it; returns its digest."""
    with tarfile.open(path, "w:gz") as tar:
        for name, data in {"LICENSE": b"MIT", **{f"dist/{k}": v for k, v in files.items()}}.items():
            member = tarfile.TarInfo(f"package/{name}")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    digest = hashlib.sha512(path.read_bytes()).digest()
    return f"sha512-{base64.b64encode(digest).decode()}"


@pytest.fixture
def fetch(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """The tool, which takes the made-up archive for the real one."""
    found = tool("fetch_viewer")
    integrity = archive_of(package(), tmp_path / "ohif.tgz")
    monkeypatch.setattr(found, "INTEGRITY", integrity)
    monkeypatch.setattr("interop.viewer.package.INTEGRITY", integrity)
    return found


def test_an_archive_becomes_a_viewer(fetch: Any, tmp_path: Path) -> None:
    made = fetch.install(tmp_path / "viewer", tmp_path / "ohif.tgz")

    viewer = read(tmp_path / "viewer")
    assert viewer is not None and viewer.build == made.build
    assert viewer.problem() is None
    assert PAGE not in viewer.files and MANIFEST not in viewer.files
    assert "c.js" in viewer.page("c.js") and APP_CONFIG not in viewer.page("c.js")
    assert f'"{viewer.base}"' in viewer.page("")
    assert (tmp_path / "viewer/LICENSE").read_bytes() == b"MIT"
    again = fetch.install(tmp_path / "other", tmp_path / "ohif.tgz")
    assert again.manifest() == made.manifest()


def test_another_viewer_takes_the_place_of_the_first(fetch: Any, tmp_path: Path) -> None:
    target = tmp_path / "viewer"
    folder = ViewerFolder(target)
    assert folder.current() is None
    target.mkdir()
    (target / MANIFEST).write_text("{}")
    assert folder.current() is None
    fetch.install(target, tmp_path / "ohif.tgz")

    found = folder.current()

    assert found is not None and found.problem() is None
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("viewer-")] == []


@pytest.mark.parametrize("damage", ["change", "remove"])
def test_a_damaged_file_is_a_problem(fetch: Any, tmp_path: Path, damage: str) -> None:
    fetch.install(tmp_path / "viewer", tmp_path / "ohif.tgz")
    path = tmp_path / "viewer/2.bundle.js"
    if damage == "change":
        path.write_text("other")
    else:
        path.unlink()

    viewer = read(tmp_path / "viewer")

    assert viewer is not None
    assert viewer.problem() == "2.bundle.js is missing or was changed"


def test_an_archive_with_another_digest_is_not_opened(fetch: Any, tmp_path: Path) -> None:
    archive = tmp_path / "ohif.tgz"
    archive.write_bytes(archive.read_bytes() + b"\0")

    with pytest.raises(fetch.CannotFetch, match="do not use it"):
        fetch.install(tmp_path / "viewer", archive)

    assert not (tmp_path / "viewer").exists()


def test_a_manifest_of_another_package_is_a_problem(fetch: Any, tmp_path: Path) -> None:
    fetch.install(tmp_path / "viewer", tmp_path / "ohif.tgz")
    path = tmp_path / "viewer" / MANIFEST
    manifest = json.loads(path.read_text())
    path.write_text(json.dumps({**manifest, "integrity": "sha512-x"}))

    viewer = read(tmp_path / "viewer")

    assert viewer is not None
    assert "another package" in str(viewer.problem())


def test_doctor_says_whether_it_is_there_and_whole(fetch: Any, tmp_path: Path) -> None:
    def said() -> tuple[bool, bool, str]:
        nowhere = "postgresql://127.0.0.1:1/none"
        settings = Settings(data_dir=tmp_path, database_url=nowhere, viewer_dir=tmp_path / "viewer")
        found = next(check for check in examine(settings) if check.name == "viewer")
        return found.ok, found.required, found.detail

    absent = said()
    fetch.install(tmp_path / "viewer", tmp_path / "ohif.tgz")
    whole = said()
    (tmp_path / "viewer/1.css").write_text("other")
    damaged = said()

    assert absent[:2] == (False, False) and "make viewer" in absent[2]
    assert whole[0] is True
    assert damaged[:2] == (False, True) and "1.css is missing or was changed" in damaged[2]
