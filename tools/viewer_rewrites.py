"""What of OHIF's package is kept, and the changes that let it be served below /viewer.

The package is built for the root of a site. Every change must be possible exactly as often as is
written here: a package that is built in another way is refused and not half changed.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass

from interop.viewer.package import APP_CONFIG, PAGE

Files = dict[str, bytes]

# Not needed, or not to be served: source maps; what segments by a model of a public hub; the
# microscopy viewer; the service worker; configurations of demonstration servers and of sites
# that host the package; icons of start screens; libraries for browsers of ten years ago.
LEFT_OUT = re.compile(
    r".*\.map|ort/.*|dicom-microscopy-viewer/.*|sw\.js|init-service-worker\.js|google\.js"
    r"|app-config\.js|oidc-client\.min\.js|silent-refresh\.html|_headers|_redirects|serve\.json"
    r"|customizations/.*|manifest\.json|es6-shim\.min\.js|polyfill\.min\.js"
    r"|assets/(?!images/|favicon).*"
)
STYLES = "app.bundle.css"


class CannotRewrite(Exception):
    """The package is not built as this version of it is."""


@dataclass(frozen=True, slots=True)
class Change:
    """A replacement, and how often it must be possible in a file; `{base}` is the address."""

    pattern: str
    replacement: str
    times: int


OF_PAGE = (
    Change(r'<link rel="manifest"[^>]*>', "", 1),
    Change(r'<script [^>]*src="/init-service-worker\.js"></script>', "", 1),
    Change(r'<link rel="apple-touch-(?:icon|startup-image)"[^>]*>', "", 21),
    Change(r'<link rel="yandex-tableau-widget"[^>]*>', "", 1),
    Change(r'<link rel="icon"[^>]*228x228[^>]*>', "", 1),
    Change(r'<meta name="msapplication-(?:TileImage|config)"[^>]*>', "", 2),
    Change(
        r'<script [^>]*src="/app-config\.js"></script>', f'<script src="{APP_CONFIG}"></script>', 1
    ),
    Change(r'window\.PUBLIC_URL="/"', 'window.PUBLIC_URL="{base}"', 2),
    Change(r'(href|src)="/', r'\1="{base}', 5),
)
OF_STYLES = Change(r"url\(/", "url({base}", 5)
# The application and each of its workers load what they need from here.
OF_RUNTIME = Change(r'__webpack_require__\.p = "/";', '__webpack_require__.p = "{base}";', 1)
RUNTIMES = 8


def kept(files: Mapping[str, bytes]) -> Files:
    """What is needed of the files of the package."""
    return {name: data for name, data in files.items() if not LEFT_OUT.fullmatch(name)}


def rewritten(files: Mapping[str, bytes], base: str) -> Files:
    """The files as they are served below `base`. Raises CannotRewrite."""
    changed = dict(files)
    for name in (PAGE, STYLES):
        if name not in files:
            raise CannotRewrite(f"the package has no {name}")
    for change in OF_PAGE:
        changed[PAGE] = _apply(change, PAGE, changed[PAGE], base)
    changed[STYLES] = _apply(OF_STYLES, STYLES, changed[STYLES], base)
    runtimes = [name for name, data in files.items() if _is_runtime(name, data)]
    if len(runtimes) != RUNTIMES:
        raise CannotRewrite(f"{len(runtimes)} scripts with a public path, not {RUNTIMES}")
    for name in runtimes:
        changed[name] = _apply(OF_RUNTIME, name, changed[name], base)
    _require_no_root(changed)
    return changed


def inline_scripts(page: bytes) -> tuple[str, ...]:
    """The digests by which a Content-Security-Policy admits the scripts in the page."""
    found = re.findall(rb"<script>(.*?)</script>", page, re.DOTALL)
    digests = (base64.b64encode(hashlib.sha256(text).digest()).decode() for text in found)
    return tuple(f"sha256-{digest}" for digest in digests)


def _is_runtime(name: str, data: bytes) -> bool:
    return name.endswith(".js") and b"__webpack_require__.p = " in data


def _apply(change: Change, name: str, data: bytes, base: str) -> bytes:
    replacement = change.replacement.replace("{base}", base).encode()
    result, times = re.subn(change.pattern.encode(), replacement, data)
    if times != change.times:
        raise CannotRewrite(
            f"{name}: {change.pattern} was found {times} times and not {change.times}"
        )
    return result


def _require_no_root(files: Files) -> None:
    """A style sheet that asks the root of the site for something would get nothing."""
    for name, data in files.items():
        if name.endswith(".css") and re.search(rb"url\(['\"]?/(?!viewer/)", data):
            raise CannotRewrite(f"{name}: asks for a file at the root of the site")
