"""Sign-in with a real OpenID Connect provider, which runs as a process of its own over TLS."""

from __future__ import annotations

import ipaddress
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import httpx
import psycopg
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from benchmarks.live_server import free_port
from interop.identity import invitations, providers, roles
from interop.identity.actors import Actor
from interop.settings import Settings
from storage.database import Database
from storage.tenancy import Tenant
from tests.integration.identity.conftest import Browser, serve

NewUser = Callable[..., tuple[UUID, str]]
Audited = Callable[[], list[tuple[Any, ...]]]
SECRET = "a secret shared with the provider"


def write_certificate(folder: Path) -> tuple[Path, Path]:
    """A certificate of 127.0.0.1 that is its own authority, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "provider of the tests")])
    now = datetime.now(UTC)
    address = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(address, critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    paths = folder / "provider.pem", folder / "provider.key"
    paths[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    paths[1].write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return paths


@pytest.fixture(scope="module")
def issuer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimpleNamespace]:
    """The provider's `url` and the `ca` that its certificate leads to."""
    certificate, key = write_certificate(tmp_path_factory.mktemp("provider"))
    port = free_port()
    script = Path(__file__).with_name("openid_provider.py")
    process = subprocess.Popen(
        [sys.executable, str(script), str(port), str(certificate), str(key), "interop", SECRET]
    )
    context = ssl.create_default_context(cafile=certificate)
    url = f"https://127.0.0.1:{port}"
    deadline = time.monotonic() + 60
    while True:
        try:
            httpx.get(f"{url}/keys", verify=context).raise_for_status()
            break
        except httpx.TransportError:
            assert process.poll() is None and time.monotonic() < deadline, "no provider"
            time.sleep(0.1)
    yield SimpleNamespace(url=url, ca=certificate, context=context, process=process)
    process.terminate()
    process.wait(20)


@pytest.fixture(scope="module")
def live(
    database: Database, issuer: SimpleNamespace, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[SimpleNamespace]:
    settings = Settings(
        data_dir=tmp_path_factory.mktemp("data"),
        database_url=database.url,
        http_port=free_port(),
        trusted_proxies="127.0.0.0/8",
        egress_private_networks="127.0.0.0/8",
        egress_ca_file=issuer.ca,
    )
    yield from serve(database, settings)


@pytest.fixture(scope="module")
def configure(live: SimpleNamespace, issuer: SimpleNamespace) -> Callable[..., UUID]:
    """Sets a provider up in a tenant."""

    def save(tenant: Tenant, name: str = "hospital", **changes: Any) -> UUID:
        given: dict[str, Any] = {
            "display_name": "City Hospital",
            "issuer": issuer.url,
            "client_id": "interop",
            "secret": SECRET,
            **changes,
        }
        with live.services.database.connection(tenant.id) as connection:
            return providers.save(
                connection, tenant.id, Actor.operator(), name=name,
                **given,
            )  # fmt: skip

    return save


@pytest.fixture(autouse=True)
def hospital(configure: Callable[..., UUID], tenant: Tenant) -> UUID:
    return configure(tenant)


@pytest.fixture
def at_provider(issuer: SimpleNamespace) -> Callable[..., str]:
    """Signs in at the provider under an account; returns where it sends the browser back to."""

    def sign_in(location: str, account: str) -> str:
        with httpx.Client(verify=issuer.context) as client:
            assert "account" in client.get(location).text
            answer = client.post(location, data={"account": account})
        assert answer.status_code == 303, answer.text
        return answer.headers["location"]

    return sign_in


@pytest.fixture
def go(at_provider: Callable[..., str]) -> Callable[..., httpx.Response]:
    """The whole way of a browser: button, provider, callback."""

    def run(browser: Browser, account: str, onward: str = "/t/demo/me") -> httpx.Response:
        out = browser.get(f"sign-in/oidc/hospital?continue={onward}")
        assert out.status_code == 303, out.text
        return browser.http.get(at_provider(out.headers["location"], account))

    return run


def invite(database: Database, tenant: Tenant, email: str, *held: str) -> str:
    with database.connection(tenant.id) as connection:
        _, token = invitations.invite(
            connection, tenant.id, Actor.operator(), email=email, full_name="As Invited",
            user_type="DENTIST", grants=[roles.Grant(code) for code in held],
            lifetime=timedelta(days=1),
        )  # fmt: skip
    return token


def test_an_invited_person_becomes_a_member_and_is_known_from_then_on(
    browser: Browser,
    browser_of: Callable[..., Browser],
    go: Callable[..., httpx.Response],
    tenant: Tenant,
    database: Database,
    audited: Audited,
) -> None:
    invite(database, tenant, "alice@clinic.example", "CLINICIAN")
    before = len(audited())

    first = go(browser, "alice")
    again = browser_of(tenant)
    second = go(again, "alice")

    assert (first.status_code, first.headers.get("location")) == (303, "/t/demo/me")
    assert second.status_code == 303
    assert browser.me() == {"user_id": again.me()["user_id"], "amr": ["fed"]}
    rows = audited()[before:]
    assert [(row[0], row[2].get("how")) for row in rows] == [
        ("LOGIN_SUCCESS", "INVITED"), ("LOGIN_SUCCESS", "KNOWN"),
    ]  # fmt: skip
    with database.connection(tenant.id) as connection:
        held = roles.assignments(connection, tenant.id, UUID(browser.me()["user_id"]))
    assert [one.grant.role for one in held] == ["CLINICIAN"]


def test_the_sign_in_page_offers_the_provider(browser: Browser) -> None:
    page = browser.get("sign-in?continue=/t/demo/me")

    assert "Sign in with City Hospital" in page.text
    assert "/t/demo/sign-in/oidc/hospital?continue=%2Ft%2Fdemo%2Fme" in page.text


def test_the_request_has_pkce_state_and_nonce_and_no_secret(browser: Browser) -> None:
    location = httpx.URL(browser.get("sign-in/oidc/hospital").headers["location"])
    asked = location.params

    assert asked["response_type"] == "code"
    assert asked["code_challenge_method"] == "S256"
    assert asked["scope"] == "openid email profile"
    assert asked["redirect_uri"].endswith("/t/demo/sign-in/oidc/hospital/callback")
    assert all(len(asked[name]) >= 43 for name in ("state", "nonce", "code_challenge"))
    assert SECRET not in str(location)


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("no-nonce", "NOT_CONFIRMED"),
        ("wrong-nonce", "NOT_CONFIRMED"),
        ("wrong-issuer", "NOT_CONFIRMED"),
        ("wrong-audience", "NOT_CONFIRMED"),
        ("expired", "NOT_CONFIRMED"),
        ("foreign-key", "NOT_CONFIRMED"),
        ("symmetric", "NOT_CONFIRMED"),
        ("unsigned", "NOT_CONFIRMED"),
        ("critical", "NOT_CONFIRMED"),
        ("wrong-issuer-answer", "WRONG_ISSUER"),
        ("refuses", "PROVIDER_REFUSED"),
    ],
)
def test_what_the_provider_does_not_confirm_is_refused(
    browser: Browser,
    go: Callable[..., httpx.Response],
    tenant: Tenant,
    database: Database,
    audited: Audited,
    fault: str,
    reason: str,
) -> None:
    """Of somebody who would be let in, were it not for this one fault."""
    invite(database, tenant, f"{fault}-guest@clinic.example")
    before = len(audited())

    answer = go(browser, f"{fault}+{fault}-guest")

    assert answer.status_code == 401
    assert browser.me() is None
    assert [(row[0], row[2]["reason"]) for row in audited()[before:]] == [("LOGIN_FAILED", reason)]


def test_a_stranger_whom_nobody_invited_is_refused(
    browser: Browser, go: Callable[..., httpx.Response], audited: Audited
) -> None:
    assert go(browser, "stranger").status_code == 401
    assert audited()[-1][2] == {"reason": "NOT_A_MEMBER"}


@pytest.mark.parametrize("account", ["unverified+carol", "verified-as-text+carol"])
def test_an_address_that_the_provider_has_not_verified_uses_no_invitation(
    browser: Browser,
    go: Callable[..., httpx.Response],
    tenant: Tenant,
    database: Database,
    account: str,
) -> None:
    invite(database, tenant, "carol@clinic.example")

    assert go(browser, account).status_code == 401
    assert go(browser, "carol" + str(time.time_ns())).status_code == 401


def test_an_address_alone_does_not_claim_an_account(
    browser: Browser,
    go: Callable[..., httpx.Response],
    new_user: NewUser,
    tenant: Tenant,
) -> None:
    _, email = new_user(tenant)

    assert go(browser, email.partition("@")[0]).status_code == 401
    assert browser.me() is None


def test_nor_does_an_invitation_claim_an_account_that_has_a_password(
    browser: Browser,
    go: Callable[..., httpx.Response],
    new_user: NewUser,
    tenant: Tenant,
    other_tenant: Tenant,
    database: Database,
) -> None:
    _, email = new_user(other_tenant)
    invite(database, tenant, email)

    assert go(browser, email.partition("@")[0]).status_code == 401


def test_where_the_provider_may_link_a_verified_address_claims_a_members_account(
    browser: Browser,
    browser_of: Callable[..., Browser],
    go: Callable[..., httpx.Response],
    new_user: NewUser,
    configure: Callable[..., UUID],
    tenant: Tenant,
    other_tenant: Tenant,
) -> None:
    user_id, email = new_user(tenant)
    _, outsider = new_user(other_tenant)
    configure(tenant, may_link_by_email=True)
    account = email.partition("@")[0]

    unverified = go(browser, f"unverified+{account}")
    linked = go(browser, account)
    elsewhere = go(browser_of(tenant), outsider.partition("@")[0])

    assert unverified.status_code == 401
    assert linked.status_code == 303
    assert browser.me()["user_id"] == str(user_id)
    assert elsewhere.status_code == 401


def test_only_the_domains_that_are_allowed_sign_in(
    browser: Browser,
    go: Callable[..., httpx.Response],
    configure: Callable[..., UUID],
    tenant: Tenant,
    database: Database,
) -> None:
    invite(database, tenant, "dora@clinic.example")
    configure(tenant, allowed_email_domains=["hospital.example"])
    refused = go(browser, "dora")
    configure(tenant, allowed_email_domains=["Clinic.Example"])

    assert refused.status_code == 401
    assert go(browser, "dora").status_code == 303


def test_a_second_factor_at_the_provider_is_told(
    browser: Browser, go: Callable[..., httpx.Response], tenant: Tenant, database: Database
) -> None:
    invite(database, tenant, "erin@clinic.example")

    go(browser, "mfa+erin")

    assert browser.me()["amr"] == ["fed", "mfa"]


def test_an_answer_works_only_in_the_browser_that_asked_and_once(
    browser: Browser,
    browser_of: Callable[..., Browser],
    at_provider: Callable[..., str],
    go: Callable[..., httpx.Response],
    tenant: Tenant,
    database: Database,
) -> None:
    """Sign-in forced upon another browser (RFC 6749 10.12), and a replayed answer."""
    invite(database, tenant, "fred@clinic.example")
    out = browser.get("sign-in/oidc/hospital")
    back = at_provider(out.headers["location"], "fred")
    victim = browser_of(tenant)
    busy = browser_of(tenant)
    busy.get("sign-in/oidc/hospital")

    assert victim.http.get(back).status_code == 401
    assert busy.http.get(back).status_code == 401
    assert browser.http.get(back).status_code == 303
    assert browser.http.get(back).status_code == 401
    assert victim.me() is None and busy.me() is None


def test_an_answer_with_another_state_is_refused_and_ends_the_sign_in(
    browser: Browser, at_provider: Callable[..., str], tenant: Tenant, database: Database
) -> None:
    invite(database, tenant, "gina@clinic.example")
    out = browser.get("sign-in/oidc/hospital")
    back = httpx.URL(at_provider(out.headers["location"], "gina"))

    answer = browser.http.get(back.copy_set_param("state", "another"))
    cookie_is_kept = browser.http.cookies.get("interop_sign_in") is not None
    corrected = browser.http.get(back)

    assert (answer.status_code, cookie_is_kept) == (401, True)
    assert corrected.status_code == 401
    assert browser.me() is None


def test_a_disabled_member_stays_out(
    browser: Browser,
    browser_of: Callable[..., Browser],
    go: Callable[..., httpx.Response],
    tenant: Tenant,
    database: Database,
) -> None:
    from interop.identity import users

    invite(database, tenant, "hugo@clinic.example")
    go(browser, "hugo")
    with database.connection(tenant.id) as connection:
        user_id = UUID(browser.me()["user_id"])
        users.disable(connection, tenant.id, Actor.operator(), user_id)

    assert browser.me() is None
    assert go(browser_of(tenant), "hugo").status_code == 401


def test_the_session_token_is_new_after_a_provider_too(
    browser: Browser, go: Callable[..., httpx.Response], tenant: Tenant, database: Database
) -> None:
    invite(database, tenant, "ivan@clinic.example")
    browser.http.cookies.set("interop_session", "planted", domain="127.0.0.1", path="/t/demo")

    go(browser, "ivan")

    assert browser.session_token not in (None, "planted")


def test_a_provider_that_is_silent_or_another_is_not_gone_to(
    browser: Browser, configure: Callable[..., UUID], tenant: Tenant, issuer: SimpleNamespace
) -> None:
    configure(tenant, "silent", issuer=f"https://127.0.0.1:{free_port()}")
    configure(tenant, "misspelt", issuer=f"{issuer.url}/")

    assert browser.get("sign-in/oidc/silent").status_code == 503
    assert browser.get("sign-in/oidc/misspelt").status_code == 503
    assert browser.get("sign-in/oidc/unknown").status_code == 404


def test_a_provider_of_another_tenant_is_not_there(
    browser_of: Callable[..., Browser], other_tenant: Tenant
) -> None:
    elsewhere = browser_of(other_tenant)

    assert elsewhere.get("sign-in/oidc/hospital").status_code == 404
    assert "City Hospital" not in elsewhere.get("sign-in").text


def test_a_provider_that_is_off_is_not_there(
    browser: Browser, configure: Callable[..., UUID], tenant: Tenant, database: Database
) -> None:
    configure(tenant, "closed", display_name="Closed Hospital")
    with database.connection(tenant.id) as connection:
        providers.disable(connection, tenant.id, Actor.operator(), "closed")

    assert browser.get("sign-in/oidc/closed").status_code == 404
    assert "Closed Hospital" not in browser.get("sign-in").text


def test_the_client_secret_lies_sealed(place_url: str, hospital: UUID) -> None:
    with psycopg.connect(place_url) as connection:
        row = connection.execute(
            "SELECT p::text FROM identity_providers AS p WHERE id = %s", (hospital,)
        ).fetchone()

    assert row is not None and SECRET not in row[0]


@pytest.mark.parametrize(
    "issuer_url",
    ["http://provider.example", "https://user:pw@provider.example", "ftp://x", "https://x."],
)
def test_f1_an_issuer_is_called_over_https_only(
    configure: Callable[..., UUID], tenant: Tenant, issuer_url: str
) -> None:
    from interop.errors import BadRequest

    with pytest.raises(BadRequest, match="issuer"):
        configure(tenant, "odd", issuer=issuer_url)
