"""The viewer's page and token: for whom, for what, for how long."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest

from interop.identity.sessions import COOKIE
from storage.tenancy import Tenant
from tests.integration.smart.conftest import Person, SmartServer, forms_of
from tests.integration.viewer.conftest import PASSWORD, email_of

UID = "1.2.826.0.1.3680043.8.498.1"


@pytest.fixture(scope="module")
def dentist(smart: SmartServer) -> Person:
    return smart.person("CLINICIAN")


@pytest.fixture
def visitor(smart: SmartServer) -> Iterator[httpx.Client]:
    """A browser without cookies that follows no redirect by itself."""
    with httpx.Client(base_url=smart.url, timeout=60) as client:
        yield client


def ask(
    smart: SmartServer, cookie: str | None, *, slug: str | None = None, **headers: str | None
) -> httpx.Response:
    given = {"Origin": smart.url, "Cookie": f"{COOKIE}={cookie}" if cookie else None, **headers}
    return httpx.post(
        f"{smart.url}/t/{slug or smart.tenant.slug}/viewer/token?active=true",
        headers={name: value for name, value in given.items() if value is not None},
    )


def get(smart: SmartServer, token: str, path: str) -> httpx.Response:
    return httpx.get(f"{smart.base}/{path}", headers={"Authorization": f"Bearer {token}"})


# -- the token --------------------------------------------------------------------------------


def test_a_session_is_exchanged_for_a_token_that_only_reads_images(
    smart: SmartServer, dentist: Person
) -> None:
    answer = ask(smart, dentist.cookie)

    body = answer.json()
    assert answer.status_code == 200, answer.text
    assert answer.headers["cache-control"] == "no-store"
    assert (body["expires_in"], body["user"]) == (600, str(dentist.user_id))
    token = body["access_token"]
    assert get(smart, token, "dicom-web/studies").status_code == 200
    assert get(smart, token, "fhir/R4/ImagingStudy").status_code == 200
    assert get(smart, token, "fhir/R4/Patient").status_code == 403
    stored = httpx.post(
        f"{smart.base}/dicom-web/studies",
        headers={"Authorization": f"Bearer {token}", "Content-Type": "application/dicom"},
        content=b"x",
    )
    assert stored.status_code == 403


def test_it_is_a_little_shorter_lived_than_other_tokens_may_be(
    make_server: Callable[..., SmartServer], tenant: Tenant, dentist: Person
) -> None:
    hasty = make_server(tenant, token_seconds=60)

    assert ask(hasty, dentist.cookie).json()["expires_in"] == 60


@pytest.mark.parametrize(
    ("changed", "status"),
    [
        ({"Cookie": None}, 401),
        ({"Cookie": f"{COOKIE}=other"}, 401),
        ({"Origin": None}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "https://evil.example"}, 403),
    ],
)
def test_nobody_else_gets_one(
    smart: SmartServer, dentist: Person, changed: dict[str, str | None], status: int
) -> None:
    failures = "SELECT count(*) FROM audit_events WHERE tenant_id = %s AND outcome = 'FAILURE'"
    before = smart.execute(failures, smart.tenant.id)[0][0]

    answer = ask(smart, dentist.cookie, **changed)

    assert answer.status_code == status
    assert "access_token" not in answer.text
    assert smart.execute(failures, smart.tenant.id)[0][0] == before + 1


def test_it_is_not_given_to_a_link(smart: SmartServer, dentist: Person) -> None:
    answer = httpx.get(
        f"{smart.base}/viewer/token", headers={"Cookie": f"{COOKIE}={dentist.cookie}"}
    )

    assert "access_token" not in answer.text


def test_another_tenant_and_none_are_the_same(
    smart: SmartServer, other_tenant: Tenant, dentist: Person
) -> None:
    other = ask(smart, dentist.cookie, slug=other_tenant.slug)
    none = ask(smart, dentist.cookie, slug="nobody")

    assert (other.status_code, other.content) == (none.status_code, none.content)
    assert other.status_code == 401


def test_who_may_not_see_images_is_told_so(smart: SmartServer) -> None:
    person = smart.person("DATA_SCIENTIST")

    answer = ask(smart, person.cookie)

    assert answer.status_code == 403
    assert "roles do not permit" in answer.json()["message"]


def test_it_ends_with_its_session(smart: SmartServer) -> None:
    person = smart.person("CLINICIAN")
    token = ask(smart, person.cookie).json()["access_token"]
    assert get(smart, token, "dicom-web/studies").status_code == 200

    smart.execute("UPDATE sessions SET revoked_at = now() WHERE id = %s", person.session_id)
    # What less than a minute does.
    smart.services.authenticator._seen.clear()

    assert get(smart, token, "dicom-web/studies").status_code == 401
    assert ask(smart, person.cookie).status_code == 401


@pytest.mark.parametrize("active", ["true", "false"])
def test_a_page_that_nobody_touches_keeps_no_session_alive(smart: SmartServer, active: str) -> None:
    person = smart.person("CLINICIAN")
    smart.execute(
        "UPDATE sessions SET last_activity_at = now() - interval '10 minutes' WHERE id = %s",
        person.session_id,
    )

    answer = httpx.post(
        f"{smart.base}/viewer/token?active={active}",
        headers={"Origin": smart.url, "Cookie": f"{COOKIE}={person.cookie}"},
    )

    idle = "SELECT last_activity_at < now() - interval '5 minutes' FROM sessions WHERE id = %s"
    assert answer.status_code == 200
    assert smart.execute(idle, person.session_id)[0][0] is (active == "false")


def test_handing_over_is_audited_without_the_token(smart: SmartServer, dentist: Person) -> None:
    token = ask(smart, dentist.cookie).json()["access_token"]

    rows = smart.execute(
        "SELECT outcome, user_id, row_to_json(a)::text FROM audit_events AS a WHERE tenant_id = %s"
        " AND event_type = 'TOKEN_ISSUED' AND user_id = %s",
        smart.tenant.id,
        dentist.user_id,
    )

    assert rows and all(row[0] == "SUCCESS" for row in rows)
    assert not any(token in row[2] or token.split(".")[2] in row[2] for row in rows)


# -- the page ---------------------------------------------------------------------------------


def test_a_link_to_a_study_survives_signing_in(smart: SmartServer, visitor: httpx.Client) -> None:
    email = email_of(smart, "CLINICIAN")
    link = visitor.get(f"/t/{smart.tenant.slug}/viewer?StudyInstanceUIDs={UID}")
    study = link.headers["location"]
    assert study == f"/t/{smart.tenant.slug}/viewer/viewer?StudyInstanceUIDs={UID}"
    asked = visitor.get(study)
    assert parse_qs(urlsplit(asked.headers["location"]).query)["continue"] == [study]

    shown = visitor.get(asked.headers["location"])
    action, fields = forms_of(shown.text)[0]
    signed = visitor.post(
        action,
        data={**fields, "email": email, "password": PASSWORD},
        headers={"Origin": smart.url},
    )

    assert (signed.status_code, signed.headers["location"]) == (303, study)
    assert visitor.get(study).status_code == 200


def test_the_page_is_for_its_tenant_and_says_what_may_run(
    smart: SmartServer, dentist: Person
) -> None:
    path = f"/t/{smart.tenant.slug}/viewer/"
    answer = httpx.get(smart.url + path, headers={"Cookie": f"{COOKIE}={dentist.cookie}"})

    headers = answer.headers
    assert answer.text == f'<script src="{path}app-config.js"></script>'
    assert headers["cache-control"] == "no-store"
    assert headers["cross-origin-opener-policy"] == "same-origin"
    assert headers["cross-origin-embedder-policy"] == "require-corp"
    assert headers["x-frame-options"] == "DENY"
    assert headers["referrer-policy"] == "same-origin"
    policy = dict(
        part.strip().split(" ", 1) for part in headers["content-security-policy"].split(";")
    )
    assert policy["default-src"] == policy["base-uri"] == policy["form-action"] == "'none'"
    assert policy["frame-ancestors"] == "'none'"
    assert policy["script-src"] == "'self' 'sha256-AAAA' 'wasm-unsafe-eval'"
    sources = {source for value in policy.values() for source in value.split()}
    assert not [s for s in sources if s in ("*", "http:", "https:", "'unsafe-eval'") or "." in s]


def test_the_script_knows_its_tenant_and_nobody_else(smart: SmartServer) -> None:
    answer = httpx.get(f"{smart.base}/viewer/app-config.js")

    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/javascript; charset=utf-8"
    assert answer.headers["cache-control"] == "no-store"
    assert f'"/t/{smart.tenant.slug}/dicom-web"' in answer.text
    assert "http" not in answer.text.partition("\n")[0]


@pytest.mark.parametrize("path", ["viewer/x.js", "viewer/a/b.wasm", "viewer/token.json"])
def test_what_looks_like_a_file_is_not_the_page(
    smart: SmartServer, dentist: Person, path: str
) -> None:
    answer = httpx.get(f"{smart.base}/{path}", headers={"Cookie": f"{COOKIE}={dentist.cookie}"})

    assert answer.status_code == 404


def test_a_second_window_signs_in_and_says_so(
    smart: SmartServer, dentist: Person, visitor: httpx.Client
) -> None:
    path = f"/t/{smart.tenant.slug}/viewer/signed-in"

    before = visitor.get(path)
    after = visitor.get(path, headers={"Cookie": f"{COOKIE}={dentist.cookie}"})

    assert parse_qs(urlsplit(before.headers["location"]).query)["continue"] == [path]
    assert after.status_code == 200 and "close this window" in after.text


@pytest.mark.parametrize("path", ["viewer/", "viewer/viewer", "viewer/app-config.js"])
def test_an_unknown_tenant_has_no_viewer(smart: SmartServer, path: str) -> None:
    assert httpx.get(f"{smart.url}/t/nobody/{path}").status_code == 404


def test_a_server_without_a_viewer_says_how_to_add_it(
    make_server: Callable[..., SmartServer], tenant: Tenant, tmp_path: Any
) -> None:
    bare = make_server(tenant, viewer_dir=tmp_path / "none")

    for path in ("/viewer", f"/t/{tenant.slug}/viewer/", f"/t/{tenant.slug}/viewer/viewer"):
        answer = httpx.get(bare.url + path)
        assert answer.status_code == 404
        assert "make viewer" in answer.text
