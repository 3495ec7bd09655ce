"""fhirclient, the SMART project's own Python client, launched by a person in a real browser.

The app is a small web server; the person signs in with a password in headless Chromium, chooses a
patient and agrees; fhirclient exchanges the code and reads. Nothing of the flow is ours but the
server under test.
"""

from __future__ import annotations

import http.server
import shutil
import threading
import urllib.parse
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import pytest
from fhirclient.client import FHIRClient
from playwright.sync_api import Browser, Page, Request, expect, sync_playwright

from interop.identity.passwords import hash_password
from tests.integration.smart.conftest import App, SmartServer
from tests.integration.smart.test_launch_and_registration import start

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
PASSWORD = "a long enough passphrase 7"
pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="Debian's package chromium is not installed"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]


class Callback(http.server.BaseHTTPRequestHandler):
    """The app's own page, to which the person comes back."""

    visited: list[str]

    def do_GET(self) -> None:
        self.visited.append(self.path)
        self.send_response(200)
        self.send_header("Content-Type", "text/plain")
        self.end_headers()
        self.wfile.write(b"the app")

    def log_message(self, *_: Any) -> None:
        pass


class WebApp:
    """An app with a web server on the loopback."""

    def __init__(self) -> None:
        self.visited: list[str] = []
        handler = type("Handler", (Callback,), {"visited": self.visited})
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    @property
    def callback(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}/callback"

    def returned(self) -> str:
        """The address at which the person came back."""
        paths = [path for path in self.visited if path.startswith("/callback")]
        return urllib.parse.urljoin(self.callback, paths[-1])

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"]
        )
        yield opened
        opened.close()


@pytest.fixture
def page(browser: Browser, smart: SmartServer) -> Iterator[Page]:
    """A fresh browser profile that fails the test at a foreign request or a script's complaint."""
    context = browser.new_context()
    opened = context.new_page()
    foreign: list[str] = []
    complaints: list[str] = []

    def note(request: Request) -> None:
        if not request.url.startswith(("http://127.0.0.1:", "data:")):
            foreign.append(request.url)

    opened.on("request", note)
    opened.on("console", lambda message: complaints.append(message.text))
    opened.on("dialog", lambda dialog: foreign.append(f"dialog {dialog.message}"))
    yield opened
    context.close()
    assert foreign == []
    assert [text for text in complaints if "Content Security Policy" in text] == []


@pytest.fixture
def web_server() -> Iterator[WebApp]:
    made = WebApp()
    yield made
    made.close()


@pytest.fixture(scope="module")
def email(smart: SmartServer) -> str:
    """A dentist who signs in with a password."""
    person = smart.person("CLINICIAN")
    address = f"{person.user_id}@example.org"
    smart.execute(
        "INSERT INTO user_auth_identities (user_id, provider, subject, password_hash,"
        " password_algorithm) VALUES (%s, 'PASSWORD', %s, %s, 'ARGON2ID')",
        person.user_id,
        address,
        hash_password(PASSWORD),
    )
    return address


def client_of(smart: SmartServer, app: App, **more: Any) -> FHIRClient:
    settings = {
        "app_id": app.client.client_id,
        "app_secret": app.secret,
        "api_base": smart.fhir,
        "redirect_uri": app.client.redirect_uris[0],
        "scope": "openid fhirUser offline_access patient/*.rs",
        **more,
    }
    return FHIRClient(settings=settings, save_func=lambda state: None)


def sign_in(page: Page, email: str) -> None:
    page.get_by_label("E-mail").fill(email)
    page.locator("input[type=password]").fill(PASSWORD)
    page.locator("input[type=password]").press("Enter")


@pytest.mark.parametrize("authentication", ["NONE", "CLIENT_SECRET"])
def test_a_standalone_launch_in_a_browser(
    smart: SmartServer, page: Page, web_server: WebApp, email: str, authentication: str
) -> None:
    family = f"Browser{uuid4().hex[:6]}"
    chosen, _ = smart.patient(family)
    app = smart.register(redirect_uris=(web_server.callback,), authentication=authentication)
    client = client_of(smart, app)

    page.goto(client.authorize_url)
    sign_in(page, email)
    page.get_by_role("searchbox").fill(family)
    page.get_by_role("button", name="Search").click()
    page.get_by_role("button", name=family).click()
    # Waits for the page: sign-in goes on to it by itself.
    expect(page.locator("main")).to_contain_text("Read all records of this one patient")
    page.get_by_role("button", name="Allow").click()
    page.wait_for_url(f"{web_server.callback}?*")
    client.handle_callback(web_server.returned())

    assert client.patient_id == chosen
    assert client.patient.name[0].family == family
    assert client.reauthorize()
    assert client.server.request_json(f"Patient/{chosen}")["id"] == chosen


def test_an_ehr_launch_in_a_browser(
    smart: SmartServer, page: Page, web_server: WebApp, email: str
) -> None:
    chosen, _ = smart.patient("Launched")
    app = smart.register(redirect_uris=(web_server.callback,))
    launch = start(smart, smart.operator(), patient=chosen).json()["launch"]
    client = client_of(smart, app, launch_token=launch)

    page.goto(client.authorize_url)
    sign_in(page, email)
    expect(page.locator("main")).to_contain_text("Launched")
    page.get_by_role("button", name="Allow").click()
    page.wait_for_url(f"{web_server.callback}?*")
    client.handle_callback(web_server.returned())

    assert client.patient_id == chosen


def test_a_remembered_app_opens_straight_after_sign_in(
    smart: SmartServer, browser: Browser, web_server: WebApp, email: str
) -> None:
    """Browsers hold a form's policy against where its answer redirects, the whole chain along."""
    chosen, _ = smart.patient("Remembered")
    app = smart.register(redirect_uris=(web_server.callback,))
    for is_known in (False, True):
        launch = start(smart, smart.operator(), patient=chosen).json()["launch"]
        client = client_of(smart, app, launch_token=launch)
        context = browser.new_context()
        page = context.new_page()
        page.goto(client.authorize_url)
        sign_in(page, email)
        if not is_known:
            page.get_by_role("button", name="Allow").click()
        page.wait_for_url(f"{web_server.callback}?*", timeout=8000)
        client.handle_callback(web_server.returned())
        assert client.patient_id == chosen
        context.close()


def test_saying_no_in_a_browser_reaches_the_app(
    smart: SmartServer, page: Page, web_server: WebApp, email: str
) -> None:
    chosen, _ = smart.patient("Denied")
    app = smart.register(redirect_uris=(web_server.callback,))
    launch = start(smart, smart.operator(), patient=chosen).json()["launch"]
    client = client_of(smart, app, launch_token=launch)

    page.goto(client.authorize_url)
    sign_in(page, email)
    page.get_by_role("button", name="Deny").click()
    page.wait_for_url(f"{web_server.callback}?*")

    with pytest.raises(Exception, match="did not agree"):
        client.handle_callback(web_server.returned())


def test_fhirclient_as_a_backend_service(smart: SmartServer) -> None:
    from tests.integration.smart.test_security_identity import Service

    service = Service(smart)
    client = FHIRClient(
        settings={
            "app_id": service.client_id,
            "api_base": smart.fhir,
            "scope": "system/Patient.rs",
            "jwt_token": service.assertion(),
        },
        save_func=lambda state: None,
    )
    client.wants_patient = False
    client.prepare()
    client.server.authorize()

    assert client.server.request_json("Patient")["resourceType"] == "Bundle"
