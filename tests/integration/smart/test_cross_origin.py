"""Apps in a browser: what their pages may read, and that nobody learns of a tenant by asking."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from playwright.sync_api import Page

from interop.access.cross_origin import ANSWER_HEADERS, REQUEST_HEADERS
from interop.settings import Settings
from interop.smart.origins import origin_of
from storage.tenancy import Tenant
from tests.integration.access.conftest import comparable
from tests.integration.smart.conftest import CALLBACK, App, Person, SmartServer, pkce
from tests.integration.smart.test_real_peer import CHROMIUM, WebApp, browser  # noqa: F401

ORIGIN = "https://app.example.org"
STRANGER = {"Origin": "https://stranger.example.org"}
ALLOW = "access-control-allow-origin"


def readable_by(answer: httpx.Response) -> str | None:
    assert "access-control-allow-credentials" not in answer.headers
    found: str | None = answer.headers.get(ALLOW)
    return found


def preflight(smart: SmartServer, path: str, origin: str, method: str = "GET") -> httpx.Response:
    return smart.http.options(
        smart.url + path,
        headers={
            "Origin": origin,
            "Access-Control-Request-Method": method,
            "Access-Control-Request-Headers": "authorization,if-match",
        },
    )


def test_a_browser_app_reads_every_answer_of_its_flow(
    smart: SmartServer, dentist: Person, public_app: App
) -> None:
    patient, _ = smart.patient("Browser")
    assert public_app.client.redirect_uris == (CALLBACK,)
    answer, verifier = smart.launch(
        dentist,
        public_app,
        scope="launch/patient patient/Patient.rs patient/ImagingStudy.rs",
        patient=patient,
    )
    smart.http.headers["Origin"] = ORIGIN

    try:
        exchanged = smart.exchange(public_app, answer["code"], verifier)
        token = exchanged.json()["access_token"]
        read = smart.read(token, f"Patient/{patient}")
        images = smart.http.get(
            f"{smart.base}/dicom-web/studies", headers={"Authorization": f"Bearer {token}"}
        )
        refused = smart.read(token, "Condition")
        revoked = smart.http.post(
            f"{smart.base}/oauth2/revoke",
            data={"token": token, "client_id": public_app.client.client_id},
        )
    finally:
        del smart.http.headers["Origin"]

    codes = [one.status_code for one in (exchanged, read, images, refused, revoked)]
    assert codes == [200, 200, 200, 403, 200]
    for one in (exchanged, read, images, refused, revoked):
        assert readable_by(one) == ORIGIN, one.request.url
        assert "Origin" in one.headers["vary"]
    assert set(read.headers["access-control-expose-headers"].split(", ")) == set(ANSWER_HEADERS)
    assert "ETag" in ANSWER_HEADERS and read.headers["etag"]


def test_what_a_token_opens_is_not_for_pages_of_strangers(
    smart: SmartServer, public_app: App
) -> None:
    answer = smart.http.get(f"{smart.fhir}/Patient", headers={**smart.operator(), **STRANGER})

    assert answer.status_code == 200
    assert readable_by(answer) is None
    assert "Origin" in answer.headers["vary"]


@pytest.mark.parametrize(
    "origin", ["null", f"{ORIGIN}:443", f"{ORIGIN}.evil.example", "http://app.example.org"]
)
def test_an_origin_is_compared_as_a_whole(smart: SmartServer, public_app: App, origin: str) -> None:
    answer = smart.http.get(f"{smart.fhir}/Patient", headers={**smart.operator(), "Origin": origin})

    assert readable_by(answer) is None


def test_the_apps_of_one_tenant_are_not_those_of_another(
    smart: SmartServer, public_app: App, other_tenant: Tenant
) -> None:
    other = SmartServer(smart.url, smart.app, smart.owner_url, other_tenant)

    answer = other.http.get(f"{other.fhir}/Patient", headers={**other.operator(), "Origin": ORIGIN})
    # Nor does the name of the first tenant in the address make them so.
    crossing = other.http.get(
        f"{smart.fhir}/Patient", headers={**other.operator(), "Origin": ORIGIN}
    )

    assert answer.status_code == 200 and crossing.status_code == 404
    assert readable_by(answer) is None and readable_by(crossing) is None
    other.http.close()


PATHS = (
    "/fhir/R4/Patient",
    "/fhir/R4/Patient/1/_history/1",
    "/dicom-web/studies/1.2.3",
    "/imaging-objects/1",
    "/oauth2/token",
    "/oauth2/introspect",
    "/oauth2/revoke",
    "/oauth2/jwks",
    "/.well-known/openid-configuration",
    "/fhir/R4/.well-known/smart-configuration",
)


@pytest.mark.parametrize("path", PATHS)
def test_a_preflight_says_nothing_of_tenants_or_their_apps(
    smart: SmartServer, public_app: App, other_tenant: Tenant, path: str
) -> None:
    events = "SELECT count(*) FROM audit_events"
    before = smart.execute(events)

    answers = [
        preflight(smart, f"/t/{slug}{path}", origin)
        for slug in (smart.tenant.slug, other_tenant.slug, "nobody", "N O")
        for origin in (ORIGIN, STRANGER["Origin"], "null")
    ]

    assert {answer.status_code for answer in answers} == {200}
    assert len({str(comparable(answer)) for answer in answers}) == 1
    assert readable_by(answers[0]) == "*"
    assert set(REQUEST_HEADERS) <= set(
        answers[0].headers["access-control-allow-headers"].split(", ")
    )
    assert smart.execute(events) == before


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_who_proves_nothing_learns_nothing_of_tenants_or_their_apps(
    smart: SmartServer, public_app: App, other_tenant: Tenant, path: str, method: str
) -> None:
    def seen(slug: str, origin: str) -> str:
        answer = smart.http.request(
            method, f"{smart.url}/t/{slug}{path}", headers={"Origin": origin}
        )
        assert readable_by(answer) == "*"
        # The name itself is said back, at whatever length it has.
        answer.headers.pop("content-length")
        return str(comparable(answer)).replace(slug, "SLUG")

    slugs = (smart.tenant.slug, other_tenant.slug, "nobody")
    assert len({seen(slug, o) for slug in slugs for o in (ORIGIN, STRANGER["Origin"])}) == 1


@pytest.mark.parametrize("path", ["/sign-in", "/account", "/oauth2/authorize", "/oauth2/apps"])
def test_pages_with_sessions_are_read_by_no_other_page(smart: SmartServer, path: str) -> None:
    url = f"/t/{smart.tenant.slug}{path}"

    answer = smart.http.get(smart.url + url, headers={"Origin": ORIGIN})
    asked = preflight(smart, url, ORIGIN, "POST")

    assert readable_by(answer) is None
    assert readable_by(asked) is None


def test_a_request_that_comes_too_soon_can_be_read_to_wait(
    smart: SmartServer, dentist: Person
) -> None:
    app = smart.register(authentication="NONE")
    smart.execute("UPDATE api_clients SET rate_limit_per_minute = 1 WHERE id = %s", app.client.id)
    body = smart.tokens(dentist, app, scope="user/Patient.rs")
    headers = {"Authorization": f"Bearer {body['access_token']}", "Origin": ORIGIN}

    answers = [smart.http.get(f"{smart.fhir}/Patient/x", headers=headers) for _ in range(5)]

    last = answers[-1]
    assert last.status_code == 429
    assert readable_by(last) == ORIGIN
    exposed = last.headers["access-control-expose-headers"].lower()
    assert {"retry-after", "ratelimit"} <= set(exposed.split(", ")) & set(last.headers)


def test_an_origin_of_the_setting_reads_for_every_tenant(
    make_server: Callable[..., SmartServer], tenant: Tenant
) -> None:
    viewer = "https://viewer.example.org:8443"
    server = make_server(tenant, cors_origins=f"{viewer}, http://localhost:3000")

    for origin, expected in (
        (viewer, viewer),
        ("http://localhost:3000",) * 2,
        (f"{viewer}0", None),
    ):
        answer = server.http.get(
            f"{server.fhir}/Patient", headers={**server.operator(), "Origin": origin}
        )
        assert readable_by(answer) == expected


@pytest.mark.parametrize(
    "value", ["*", "null", "https://a.example/", "https://A.example", "https://a.example:443", "a"]
)
def test_the_setting_takes_only_what_browsers_send(value: str) -> None:
    with pytest.raises(ValueError, match="not an origin"):
        Settings(cors_origins=value)


@pytest.mark.parametrize(
    ("url", "origin"),
    [
        ("https://App.example.org/callback?x=1", "https://app.example.org"),
        ("https://app.example.org:443/", "https://app.example.org"),
        ("https://app.example.org:8443/a", "https://app.example.org:8443"),
        ("http://127.0.0.1:5000/cb", "http://127.0.0.1:5000"),
        ("http://[::1]:5000/cb", "http://[::1]:5000"),
        ("com.example.app:/callback", None),
        ("https://app.example.org:x/", None),
    ],
)
def test_the_origin_of_a_redirect_uri(url: str, origin: str | None) -> None:
    assert origin_of(url) == origin


def test_a_disabled_client_leaves_no_origin(smart: SmartServer) -> None:
    origin = "https://gone.example.org"
    app = smart.register(redirect_uris=(f"{origin}/cb",))
    smart.app.state.origins._seen.clear()
    headers = {**smart.operator(), "Origin": origin}
    while_active = smart.http.get(f"{smart.fhir}/Patient", headers=headers)
    smart.execute("UPDATE api_clients SET status = 'DISABLED' WHERE id = %s", app.client.id)
    # What half a minute does.
    smart.app.state.origins._seen.clear()

    after = smart.http.get(f"{smart.fhir}/Patient", headers=headers)

    assert readable_by(while_active) == origin
    assert readable_by(after) is None


# -- a real browser -------------------------------------------------------------------------

IN_THE_PAGE = """async ({ tokenUrl, form, resource, stranger }) => {
  const exchanged = await fetch(tokenUrl, {
    method: "POST", body: new URLSearchParams(form),
  });
  const { access_token } = await exchanged.json();
  const headers = { Authorization: "Bearer " + access_token };
  const read = await fetch(resource, { headers });
  const refused = await fetch(resource, { headers: { Authorization: "Bearer no" } });
  return {
    family: (await read.json()).name[0].family, etag: read.headers.get("ETag"),
    refused: refused.status, token: access_token,
  };
}"""
AS_A_STRANGER = """async ({ resource, token }) => {
  try { await fetch(resource, { headers: { Authorization: "Bearer " + token } }); }
  catch (error) { return String(error); }
  return "read";
}"""


@pytest.fixture
def pages(browser: Any) -> Iterator[Callable[[WebApp], Page]]:  # noqa: F811
    context = browser.new_context()

    def visit(app: WebApp) -> Page:
        page: Page = context.new_page()
        page.goto(app.callback)
        return page

    yield visit
    context.close()


@pytest.mark.skipif(CHROMIUM is None, reason="Debian's package chromium is not installed")
def test_chromium_lets_the_apps_page_read_and_a_strangers_page_not(
    smart: SmartServer, dentist: Person, pages: Callable[[WebApp], Page]
) -> None:
    own, stranger = WebApp(), WebApp()
    app = smart.register(authentication="NONE", redirect_uris=(own.callback,))
    patient, _ = smart.patient("Chromium")
    smart.app.state.origins._seen.clear()
    _, challenge = pair = pkce()
    shown = smart.visit(
        dentist, smart.ask(app, challenge, scope="launch/patient patient/Patient.r")
    )
    shown = smart.submit(dentist, shown, {"patient": patient})
    shown = smart.submit(dentist, shown, {"decision": "allow"})
    code = httpx.URL(shown.headers["location"]).params["code"]
    form = {
        "grant_type": "authorization_code",
        "code": code,
        "redirect_uri": own.callback,
        "code_verifier": pair[0],
        "client_id": app.client.client_id,
    }
    resource = f"{smart.fhir}/Patient/{patient}"

    result = pages(own).evaluate(
        IN_THE_PAGE, {"tokenUrl": f"{smart.base}/oauth2/token", "form": form, "resource": resource}
    )
    kept_out = pages(stranger).evaluate(
        AS_A_STRANGER, {"resource": resource, "token": result["token"]}
    )

    assert (result["family"], result["etag"], result["refused"]) == ("Chromium", 'W/"1"', 401)
    assert "TypeError" in kept_out
    own.close()
    stranger.close()
