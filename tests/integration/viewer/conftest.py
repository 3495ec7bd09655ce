"""A whole server with a viewer, people who sign in, and studies to look at."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, sync_playwright

from interop.identity.passwords import hash_password
from interop.viewer.package import APP_CONFIG, INTEGRITY, MANIFEST, PAGE, ViewerFolder
from storage.tenancy import Tenant
from tests.integration.smart.conftest import SmartServer, make_server  # noqa: F401

ROOT = Path(__file__).parents[3]
# Where `make viewer` puts it, unless said otherwise.
FETCHED = Path(os.environ.get("INTEROP_VIEWER_DIR") or ROOT / "data/viewer")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
# WebGL without a graphics card: the volumes are drawn by it.
ARGUMENTS = (
    "--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader",
    "--ignore-gpu-blocklist",
)  # fmt: skip
PASSWORD = "a long enough passphrase 7"


@pytest.fixture(scope="module")
def made_up(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A viewer of one page."""
    folder = tmp_path_factory.mktemp("viewer")
    (folder / PAGE).write_text(f'<script src="{APP_CONFIG}"></script>', encoding="utf-8")
    manifest = {
        "build": "1-abc", "integrity": INTEGRITY, "inline_scripts": ["sha256-AAAA"], "files": {},
    }  # fmt: skip
    (folder / MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def smart(
    make_server: Callable[..., SmartServer],  # noqa: F811
    tenant: Tenant,
    made_up: Path,
) -> SmartServer:
    """The server, with a made-up viewer."""
    return make_server(tenant, viewer_dir=made_up)


@pytest.fixture(scope="module")
def real(make_server: Callable[..., SmartServer], tenant: Tenant) -> SmartServer:  # noqa: F811
    """The server, with OHIF."""
    if ViewerFolder(FETCHED).current() is None:
        pytest.skip(f"no viewer in {FETCHED}: run 'make viewer', or set INTEROP_VIEWER_DIR")
    return make_server(tenant, viewer_dir=FETCHED)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("Debian's package chromium is not installed")
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=list(ARGUMENTS))
        yield opened
        opened.close()


def email_of(server: SmartServer, *roles: str, **more: Any) -> str:
    """Somebody who signs in with PASSWORD."""
    person = server.person(*roles, **more)
    address = f"{person.user_id}@example.org"
    server.execute(
        "INSERT INTO user_auth_identities (user_id, provider, subject, password_hash,"
        " password_algorithm) VALUES (%s, 'PASSWORD', %s, %s, 'ARGON2ID')",
        person.user_id,
        address,
        hash_password(PASSWORD),
    )
    return address
