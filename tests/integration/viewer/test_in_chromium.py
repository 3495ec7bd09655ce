"""OHIF itself in headless Chromium, from `make viewer`: lists, opens, scrolls, cuts volumes.

Each page fails its test at a request to anywhere else, an error in the console, a refusal by the
Content-Security-Policy or an answer that is an error. Screenshots lie in the test's folder.
"""

from __future__ import annotations

import io
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, BrowserContext, Page, Request, Response

from tests.integration.smart.conftest import SmartServer
from tests.integration.viewer.conftest import PASSWORD, email_of
from tests.integration.viewer.studies import SLICES, cone_beam, enhanced_and_letter, store

pytestmark = pytest.mark.timeout(240)

# Before any script of the page: what it draws and what it is refused becomes visible to us, and
# OHIF believes that its guided tour was seen.
WATCH = """
window.drawn = 0;
addEventListener("CORNERSTONE_IMAGE_RENDERED", () => { window.drawn += 1; }, true);
addEventListener("securitypolicyviolation", (event) => {
  console.error(`refused by policy: ${event.violatedDirective} ${event.blockedURI}`);
});
localStorage?.setItem("shownTours", JSON.stringify(["basicViewerTour"]));
"""
KEPT = """JSON.stringify([
  location.href, { ...localStorage }, { ...sessionStorage }, document.cookie, history.state, name,
])"""


class Looker:
    """A person at a browser, and what their browser did."""

    def __init__(self, context: BrowserContext, server: SmartServer, folder: Path) -> None:
        self.server = server
        self.folder = folder
        self.page = context.new_page()
        self.complaints: list[str] = []
        self.requests: list[Request] = []
        self.page.on("request", self._request)
        self.page.on("response", self._response)
        self.page.on("console", self._console)
        self.page.on("pageerror", lambda error: self.complaints.append(f"thrown: {error}"))

    def _request(self, request: Request) -> None:
        self.requests.append(request)
        # PDFs are shown by a part of Chromium.
        own = (f"{self.server.url}/", "data:", "blob:", "chrome-extension:", "chrome:")
        if not request.url.startswith(own):
            self.complaints.append(f"foreign: {request.url}")

    def _response(self, response: Response) -> None:
        if response.status >= 400:
            self.complaints.append(f"{response.status} {response.url}")

    def _console(self, message: Any) -> None:
        if message.type == "error":
            self.complaints.append(f"console: {message.text}")

    def open(self, path: str) -> None:
        """Go to an address of the tenant."""
        self.page.goto(f"{self.server.base}/{path}")

    def until(self, expression: str, seconds: float = 90) -> Any:
        """Wait for a value that is true. Evaluated by the debugger: the page may not `eval`."""
        deadline = time.monotonic() + seconds
        while not (value := self.page.evaluate(expression)):
            assert time.monotonic() < deadline, f"not so: {expression}; {self.complaints}"
            self.page.wait_for_timeout(100)
        return value

    def shot(self, name: str) -> None:
        self.page.screenshot(path=self.folder / f"{name}.png")

    def pictures(self) -> list[np.ndarray[Any, Any]]:
        """What each viewport shows, as gray values."""
        found = []
        for canvas in self.page.locator("canvas.cornerstone-canvas").all():
            picture = Image.open(io.BytesIO(canvas.screenshot())).convert("L")
            found.append(np.asarray(picture).astype(int))
        return found

    def asked(self, words: str) -> list[str]:
        return [request.url for request in self.requests if words in request.url]


def sign_in(page: Page, email: str) -> None:
    page.get_by_label("E-mail").fill(email)
    page.locator("input[type=password]").fill(PASSWORD)
    page.locator("input[type=password]").press("Enter")


@pytest.fixture(scope="module")
def email(real: SmartServer) -> str:
    return email_of(real, "CLINICIAN")


@pytest.fixture(scope="module")
def study(real: SmartServer) -> str:
    return store(real, cone_beam("Conebeam"))


@pytest.fixture(scope="module")
def documents(real: SmartServer) -> str:
    return store(real, enhanced_and_letter("Letter"))


@pytest.fixture(scope="module")
def context(real: SmartServer, browser: Browser, email: str) -> Iterator[BrowserContext]:
    """One browser, signed in, for all tests: OHIF's seventeen megabytes are fetched once."""
    made = browser.new_context(viewport={"width": 1280, "height": 800})
    made.add_init_script(WATCH)
    page = made.new_page()
    page.goto(f"{real.base}/sign-in")
    sign_in(page, email)
    page.wait_for_url("**/account")
    page.close()
    yield made
    made.close()


@pytest.fixture
def looker(real: SmartServer, context: BrowserContext, tmp_path: Path) -> Iterator[Looker]:
    made = Looker(context, real, tmp_path)
    yield made
    made.page.close()
    assert made.complaints == []


def test_the_list_is_what_the_server_finds(
    looker: Looker, real: SmartServer, study: str, documents: str
) -> None:
    looker.open("viewer")

    looker.until("document.body.innerText.includes('1-2 of 2')")
    looker.shot("list")
    text = looker.page.evaluate("document.body.innerText")
    found = httpx.get(f"{real.base}/dicom-web/studies", headers=real.operator()).json()
    assert len(found) == 2
    for row in found:
        family, given = row["00100010"]["Value"][0]["Alphabetic"].split("^")
        assert f"{family}, {given}" in text
        assert f"Study of {family}" in text
    assert real.tenant.name in text and "for investigational use only" in text
    # As it is typed: any part of the name.
    with looker.page.expect_response(lambda answer: "PatientName=*ette*" in answer.url) as asked:
        looker.page.locator("input").first.fill("ette")
    assert [row["00100020"]["Value"] for row in asked.value.json()] == [["ID-Letter"]]
    looker.until("document.body.innerText.includes('1-1 of 1')")


def test_a_link_opens_a_study_that_can_be_scrolled(looker: Looker, study: str) -> None:
    looker.open(f"viewer?StudyInstanceUIDs={study}")

    looker.until("window.drawn > 0")
    looker.until("document.body.innerText.includes('(1/24)')")
    first = looker.pictures()[0]
    assert first.std() > 20, "nothing to be seen"
    looker.page.mouse.move(640, 400)
    for _ in range(10):
        looker.page.mouse.wheel(0, 100)
        looker.page.wait_for_timeout(30)
    looker.until("document.body.innerText.includes('(11/24)')")
    looker.page.wait_for_timeout(300)
    looker.shot("scrolled")
    scrolled = looker.pictures()[0]
    # The ball is larger here.
    assert (scrolled > 60).sum() > 1.2 * (first > 60).sum()
    assert len(looker.asked(f"{study}/series?")) >= 1
    assert looker.asked("/thumbnail")


def test_a_volume_is_cut_in_three_planes(looker: Looker, study: str) -> None:
    looker.open(f"viewer/viewer?StudyInstanceUIDs={study}&hangingProtocolId=mpr")

    looker.until("document.querySelectorAll('canvas.cornerstone-canvas').length === 3")
    looker.until("window.drawn >= 3")
    deadline = time.monotonic() + 60
    while (
        len(set(looker.asked("/frames/1"))) < SLICES
        or min(picture.std() for picture in looker.pictures()) < 15
    ):
        assert time.monotonic() < deadline, "the planes stay empty"
        looker.page.wait_for_timeout(200)
    looker.shot("planes")
    axial, sagittal, coronal = looker.pictures()
    # A ball from three sides; there are fewer slices than rows.
    assert abs(int((sagittal > 60).sum()) - int((coronal > 60).sum())) < 0.1 * sagittal.size
    assert (axial > 60).sum() > 0


def test_a_volume_in_one_object_and_a_letter(looker: Looker, documents: str) -> None:
    looker.open(f"viewer?StudyInstanceUIDs={documents}")

    thumbnail = looker.page.locator("[data-cy='study-browser-thumbnail']").first
    thumbnail.wait_for(timeout=60_000)
    thumbnail.dblclick()
    looker.until("window.drawn > 0")
    looker.page.wait_for_timeout(500)
    looker.shot("enhanced")
    assert looker.pictures()[0].std() > 20
    looker.page.locator("[data-cy='study-browser-thumbnail-no-image']").first.dblclick()
    looker.until(
        "document.querySelector('object[type=\"application/pdf\"]')?.data.startsWith('blob:')"
    )
    looker.shot("letter")


def test_the_token_is_nowhere_but_in_headers(looker: Looker, study: str) -> None:
    looker.open(f"viewer?StudyInstanceUIDs={study}&token=not-ours")
    looker.until("window.drawn > 0")

    bearers = {
        header.removeprefix("Bearer ")
        for request in looker.requests
        if (header := request.headers.get("authorization"))
    }
    assert len(bearers) == 1
    (token,) = bearers
    assert token.count(".") == 2
    signature = token.rpartition(".")[2]
    kept = looker.page.evaluate(KEPT)
    assert signature not in kept and "not-ours" not in kept
    for request in looker.requests:
        assert signature not in request.url
        assert signature not in request.headers.get("referer", "")
    assert not [r for r in looker.requests if r.headers.get("authorization") and "/viewer" in r.url]

    # Six minutes later it is renewed without a word; the server learns whether anybody is there.
    for is_touched in (False, True):
        if is_touched:
            looker.page.mouse.move(600, 300)
            looker.page.mouse.move(640, 400)
        asked = len(looker.asked("/viewer/token"))
        looker.page.evaluate("{ const now = Date.now; Date.now = () => now() + 360000; }")
        with looker.page.expect_response("**/viewer/token?*") as renewed:
            looker.page.evaluate("dispatchEvent(new Event('focus'))")
        assert renewed.value.url.endswith(f"active={str(is_touched).lower()}")
        assert renewed.value.json()["access_token"] != token
        assert len(looker.asked("/viewer/token")) == asked + 1
        looker.until("!document.querySelector('dialog[open]')")


def test_a_session_that_ends_hides_the_view_and_signing_in_again_brings_it_back(
    context: BrowserContext, real: SmartServer, email: str, study: str, tmp_path: Path
) -> None:
    looker = Looker(context, real, tmp_path)
    looker.open(f"viewer?StudyInstanceUIDs={study}")
    looker.until("window.drawn > 0")
    looker.until("document.body.innerText.includes('(1/24)')")
    before = looker.page.url
    assert looker.complaints == []
    real.execute("UPDATE sessions SET revoked_at = now() WHERE tenant_id = %s", real.tenant.id)

    # Ten minutes later the token is renewed, and is not.
    looker.page.evaluate("{ const now = Date.now; Date.now = () => now() + 600000; }")
    looker.page.evaluate("dispatchEvent(new Event('focus'))")
    looker.until("document.querySelector('dialog[open]')?.innerText.includes('session has ended')")
    looker.shot("ended")
    covered = Image.open(tmp_path / "ended.png").convert("L")
    assert np.asarray(covered).std() < 12, "something of the study is still to be seen"
    with context.expect_page() as opened:
        looker.page.get_by_role("link", name="Sign in again").click()
    second = opened.value
    sign_in(second, email)
    second.get_by_text("close this window").wait_for()
    second.close()
    looker.page.evaluate("dispatchEvent(new Event('focus'))")

    looker.until("!document.querySelector('dialog[open]')")
    looker.shot("again")
    assert looker.page.url == before
    assert looker.pictures()[0].std() > 20
    looker.page.mouse.move(640, 400)
    looker.page.mouse.wheel(0, 100)
    looker.until("document.body.innerText.includes('(2/24)')")
    looker.page.close()
    # The one answer that was refused.
    assert all("401" in text for text in looker.complaints), looker.complaints


def test_signing_out_leaves_nothing_open(looker: Looker, email: str, study: str) -> None:
    looker.open("viewer")
    looker.until("document.body.innerText.includes('Sign out')")

    looker.page.get_by_role("link", name="Sign out").click()
    looker.page.get_by_role("button", name="Sign out").click()
    looker.page.get_by_label("E-mail").wait_for()
    looker.page.go_back()
    looker.open(f"viewer?StudyInstanceUIDs={study}")

    # And signing in leads to the study.
    assert "/sign-in?continue=" in looker.page.url
    sign_in(looker.page, email)
    looker.until("window.drawn > 0")
    assert study in looker.page.url
