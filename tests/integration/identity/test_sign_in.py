"""Signing in and out at the pages of a live server, with passwords and codes."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any
from uuid import UUID

import psycopg
import pyotp
import pytest

from interop.identity import totp
from storage.database import Database
from storage.tenancy import Tenant
from tests.integration.identity.conftest import PASSWORD, Browser, accounts_of, parsed

NewUser = Callable[..., tuple[UUID, str]]
Audited = Callable[[], list[tuple[Any, ...]]]


def test_the_right_password_opens_a_session_and_goes_where_one_came_from(
    browser: Browser, new_user: NewUser, tenant: Tenant, audited: Audited
) -> None:
    user_id, email = new_user(tenant)
    before = len(audited())

    answer = browser.sign_in(email, onward="/t/demo/me?x=1")

    assert (answer.status_code, answer.headers["location"]) == (303, "/t/demo/me?x=1")
    assert browser.me() == {"user_id": str(user_id), "amr": ["pwd"]}
    rows = audited()[before:]
    assert [row[:2] for row in rows] == [("LOGIN_SUCCESS", "SUCCESS")]
    assert rows[0][3] == user_id


def test_the_address_is_found_in_any_spelling(
    browser: Browser, new_user: NewUser, tenant: Tenant
) -> None:
    _, email = new_user(tenant)

    assert browser.sign_in(f"  {email.upper()} ").status_code == 303


def test_the_session_cookie_is_out_of_reach_of_scripts_and_other_tenants(
    browser: Browser, new_user: NewUser, tenant: Tenant
) -> None:
    _, email = new_user(tenant)

    cookie = browser.sign_in(email).headers["set-cookie"]

    assert cookie.startswith("interop_session=")
    for attribute in ("HttpOnly", "SameSite=lax", "Path=/t/demo"):
        assert attribute in cookie


def test_a_session_of_one_tenant_is_none_in_another(
    browser_of: Callable[..., Browser],
    new_user: NewUser,
    tenant: Tenant,
    other_tenant: Tenant,
) -> None:
    _, email = new_user(tenant)
    here, there = browser_of(tenant), browser_of(other_tenant)
    here.sign_in(email)
    assert here.session_token is not None

    there.http.cookies.set("interop_session", here.session_token)

    assert there.me() is None
    assert there.sign_in(email).status_code == 401


@pytest.mark.parametrize("path", ["sign-in", "sign-out", "account/password"])
def test_every_page_is_plain_labelled_and_closed(
    browser: Browser, new_user: NewUser, tenant: Tenant, path: str
) -> None:
    browser.sign_in(new_user(tenant)[1])

    page = browser.get(path)
    found = parsed(page.text)

    policy = page.headers["content-security-policy"]
    nonce = re.search(r"'nonce-([^']+)'", policy)
    assert nonce and f'<style nonce="{nonce[1]}">' in page.text
    assert policy.startswith("default-src 'none'") and "frame-ancestors 'none'" in policy
    assert "script" not in found.tags
    assert page.headers["cache-control"] == "no-store"
    visible = [one["name"] for one in found.inputs if one.get("type") != "hidden"]
    assert set(visible) <= found.labelled
    assert '<html lang="en">' in page.text


def test_what_was_typed_comes_back_as_text(browser: Browser, tenant: Tenant) -> None:
    hostile = '"><script>alert(1)</script>@x.example'

    page = browser.sign_in(hostile, onward='/t/demo/"><script>')

    assert page.status_code == 401
    assert "<script" not in page.text
    assert "script" not in parsed(page.text).tags


@pytest.mark.parametrize(
    "elsewhere",
    [
        "https://evil.example/",
        "//evil.example/t/demo/",
        "/t/other/account",
        "/t/demo/../other/account",
        "/t/demo/%2e%2e/other/",
        "/t/demo/..%5c..%5cother",
        "/t/demo//evil.example",
        "javascript:alert(1)",
        "\\\\evil.example",
        "/t/demo\n/x",
    ],
)
def test_a_sign_in_leads_nowhere_but_into_its_tenant(
    browser: Browser, new_user: NewUser, tenant: Tenant, elsewhere: str
) -> None:
    _, email = new_user(tenant)

    page = browser.http.get("/t/demo/sign-in", params={"continue": elsewhere})
    answer = browser.submit(page, "sign-in", email=email, password=PASSWORD)

    assert answer.headers["location"] == "/t/demo/account"


def test_an_app_that_asked_is_gone_back_to_by_a_page_and_not_by_the_form(
    browser: Browser, new_user: NewUser, tenant: Tenant
) -> None:
    """A redirect would be part of the form, whose policy admits this server only."""
    answer = browser.sign_in(new_user(tenant)[1], onward="/t/demo/oauth2/authorize?client_id=a")

    assert answer.status_code == 200
    assert 'content="0; url=/t/demo/oauth2/authorize?client_id=a"' in answer.text


def test_a_page_for_members_sends_others_to_sign_in_and_back(browser: Browser) -> None:
    answer = browser.get("account")

    assert answer.status_code == 303
    assert answer.headers["location"] == "/t/demo/sign-in?continue=%2Ft%2Fdemo%2Faccount"


def test_an_unknown_tenant_has_no_pages(browser: Browser) -> None:
    assert browser.get("/t/nowhere/sign-in").status_code == 404


def enrol(browser: Browser) -> tuple[str, list[str]]:
    """Switch two-step sign-in on; returns the secret and the recovery codes."""
    page = browser.account("account/totp/begin", password=PASSWORD)
    secret = re.search(r"secret=([A-Z2-7]+)", page.text)
    assert secret is not None, page.text
    code = pyotp.TOTP(secret[1]).now()
    done = browser.submit(page, "account/totp/confirm", code=code)
    assert done.status_code == 200, done.text
    return secret[1], re.findall(r"<li><code>([A-Z2-7-]+)</code>", done.text)


def rewind(database: Database, user_id: UUID) -> None:
    """Forget which time step was used, as if half a minute had passed."""
    with accounts_of(database) as connection:
        connection.execute(
            "UPDATE user_auth_identities SET mfa_last_step = mfa_last_step - 2 WHERE user_id = %s",
            (user_id,),
        )


def test_with_a_second_factor_the_password_is_half_of_a_sign_in(
    browser: Browser,
    browser_of: Callable[..., Browser],
    new_user: NewUser,
    tenant: Tenant,
    database: Database,
    audited: Audited,
) -> None:
    user_id, email = new_user(tenant)
    browser.sign_in(email)
    secret, codes = enrol(browser)
    rewind(database, user_id)
    elsewhere, before = browser_of(tenant), len(audited())

    half = elsewhere.sign_in(email, onward="/t/demo/me")
    after_half = elsewhere.me()
    whole = elsewhere.submit(
        elsewhere.get("sign-in/totp"), "sign-in/totp", code=pyotp.TOTP(secret).now()
    )

    assert half.headers["location"] == "/t/demo/sign-in/totp"
    assert after_half is None
    assert whole.headers["location"] == "/t/demo/me"
    assert elsewhere.me()["amr"] == ["pwd", "otp", "mfa"]
    assert [row[0] for row in audited()[before:]] == ["LOGIN_CHALLENGED", "LOGIN_SUCCESS"]
    assert len(codes) == totp.RECOVERY_CODES


def test_a_code_signs_in_once(
    browser: Browser,
    browser_of: Callable[..., Browser],
    new_user: NewUser,
    tenant: Tenant,
    database: Database,
) -> None:
    user_id, email = new_user(tenant)
    browser.sign_in(email)
    secret, _ = enrol(browser)
    rewind(database, user_id)
    code = pyotp.TOTP(secret).now()
    first, second = browser_of(tenant), browser_of(tenant)

    for one in (first, second):
        one.sign_in(email)
    used = first.submit(first.get("sign-in/totp"), "sign-in/totp", code=code)
    again = second.submit(second.get("sign-in/totp"), "sign-in/totp", code=code)

    assert used.status_code == 303
    assert again.status_code == 401
    assert second.me() is None


def test_a_recovery_code_signs_in_once(
    browser: Browser, browser_of: Callable[..., Browser], new_user: NewUser, tenant: Tenant
) -> None:
    _, email = new_user(tenant)
    browser.sign_in(email)
    _, codes = enrol(browser)
    answers = []

    for spelling in (codes[0].lower(), codes[0], codes[1].replace("-", " ")):
        one = browser_of(tenant)
        one.sign_in(email)
        answers.append(one.submit(one.get("sign-in/totp"), "sign-in/totp", code=spelling))

    assert [answer.status_code for answer in answers] == [303, 401, 303]


def test_the_second_step_needs_the_first_in_the_same_browser(
    browser: Browser, browser_of: Callable[..., Browser], new_user: NewUser, tenant: Tenant
) -> None:
    _, email = new_user(tenant)
    browser.sign_in(email)
    enrol(browser)
    waiting, stranger = browser_of(tenant), browser_of(tenant)
    waiting.sign_in(email)

    page = stranger.get("sign-in/totp")

    assert "This sign-in has ended" in page.text
    assert [action for action, _ in parsed(page.text).forms] == ["/t/demo/sign-in"]


def test_a_second_factor_counts_only_after_a_code_of_it_was_shown(
    browser: Browser, browser_of: Callable[..., Browser], new_user: NewUser, tenant: Tenant
) -> None:
    _, email = new_user(tenant)
    browser.sign_in(email)

    page = browser.account("account/totp/begin", password=PASSWORD)
    wrong = browser.submit(page, "account/totp/confirm", code="000000")

    assert wrong.status_code == 400
    assert browser_of(tenant).sign_in(email).headers["location"] == "/t/demo/account"


def test_the_second_factor_is_changed_only_with_the_password(
    browser: Browser, new_user: NewUser, tenant: Tenant, audited: Audited
) -> None:
    _, email = new_user(tenant)
    browser.sign_in(email)

    refused = browser.account("account/totp/begin", password="not the password")

    assert refused.status_code == 401
    assert "secret=" not in refused.text
    assert audited()[-1][:2] == ("LOGIN_FAILED", "FAILURE")


def test_the_secret_of_the_second_factor_lies_sealed(
    browser: Browser, new_user: NewUser, tenant: Tenant, place_url: str
) -> None:
    user_id, email = new_user(tenant)
    browser.sign_in(email)
    secret, codes = enrol(browser)

    with psycopg.connect(place_url) as connection:
        row = connection.execute(
            "SELECT i::text FROM user_auth_identities AS i WHERE user_id = %s", (user_id,)
        ).fetchone()

    assert row is not None
    assert secret not in row[0]
    assert not any(code.replace("-", "") in row[0].replace("-", "") for code in codes)


def test_a_changed_password_is_the_only_one_and_ends_other_sessions(
    browser: Browser, browser_of: Callable[..., Browser], new_user: NewUser, tenant: Tenant
) -> None:
    _, email = new_user(tenant)
    other, fresh = browser_of(tenant), browser_of(tenant)
    browser.sign_in(email)
    other.sign_in(email)
    new = "nine purple elephants"

    changed = browser.submit(
        browser.get("account/password"), "account/password",
        password=PASSWORD, new=new, repeated=new,
    )  # fmt: skip

    assert changed.status_code == 303
    assert browser.me() is not None
    assert other.me() is None
    assert fresh.sign_in(email).status_code == 401
    assert fresh.sign_in(email, new).status_code == 303


@pytest.mark.parametrize("new", ["short", "person robin okafor", "aaaaaaaaaaaaaa"])
def test_a_password_that_is_easily_guessed_is_refused(
    browser: Browser, new_user: NewUser, tenant: Tenant, new: str
) -> None:
    _, email = new_user(tenant)
    browser.sign_in(email)

    refused = browser.submit(
        browser.get("account/password"), "account/password",
        password=PASSWORD, new=new, repeated=new,
    )  # fmt: skip

    assert refused.status_code == 422
    assert "password must" in refused.text


def test_a_hash_of_older_parameters_is_replaced_at_the_next_sign_in(
    browser: Browser, new_user: NewUser, tenant: Tenant, database: Database
) -> None:
    import argon2

    user_id, email = new_user(tenant)
    weak = argon2.PasswordHasher(time_cost=1, memory_cost=8192, parallelism=1).hash(PASSWORD)
    with accounts_of(database) as connection:
        connection.execute(
            "UPDATE user_auth_identities SET password_hash = %s WHERE user_id = %s", (weak, user_id)
        )

    first = browser.sign_in(email)

    with accounts_of(database) as connection:
        row = connection.execute(
            "SELECT password_hash FROM user_auth_identities WHERE user_id = %s", (user_id,)
        ).fetchone()
    assert first.status_code == 303
    assert row is not None and row[0].startswith("$argon2id$v=19$m=65536,t=3,p=1$")
    assert browser.sign_in(email).status_code == 303


def test_sessions_are_listed_with_their_device_and_ended_one_by_one(
    browser: Browser, browser_of: Callable[..., Browser], new_user: NewUser, tenant: Tenant
) -> None:
    _, email = new_user(tenant)
    other = browser_of(tenant)
    other.sign_in(email)
    browser.sign_in(email)

    page = browser.get("account")
    endings = [values["session"] for action, values in parsed(page.text).forms
               if action.endswith("sessions/end") and values["session"] != "all"]  # fmt: skip
    listed = re.findall(r"Firefox on Linux( \(this browser\))?<br>([0-9.]+)", page.text)
    mine = [mark for mark, _ in listed].index(" (this browser)")
    hidden = next(v for a, v in parsed(page.text).forms if v.get("session") == endings[1 - mine])
    ended = browser.http.post(
        "/t/demo/account/sessions/end", data=hidden, headers={"Origin": browser.origin}
    )

    assert {address for _, address in listed} == {browser.address, other.address}
    assert ended.status_code == 303
    assert other.me() is None
    assert browser.me() is not None


def test_a_session_of_somebody_else_cannot_be_ended(
    browser: Browser,
    browser_of: Callable[..., Browser],
    new_user: NewUser,
    tenant: Tenant,
    database: Database,
) -> None:
    victim = browser_of(tenant)
    victim_id, email = new_user(tenant)
    victim.sign_in(email)
    browser.sign_in(new_user(tenant)[1])
    with database.connection(tenant.id) as connection:
        row = connection.execute(
            "SELECT id FROM sessions WHERE tenant_id = %s AND user_id = %s", (tenant.id, victim_id)
        ).fetchone()
    assert row is not None

    answer = browser.account("account/sessions/end", session=str(row[0]))

    assert answer.status_code == 404
    assert victim.me() is not None
