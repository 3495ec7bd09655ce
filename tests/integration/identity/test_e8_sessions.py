"""E8 of security.md: fixation, cross-site forms, sign-out, role change, idle, revocation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import UUID

import pytest

from interop.identity import roles, sessions, users
from interop.identity.actors import Actor
from storage.database import Database
from storage.tenancy import Tenant
from tests.integration.identity.conftest import PASSWORD, Browser, accounts_of, parsed
from tests.integration.identity.test_sign_in import enrol

NewUser = Callable[..., tuple[UUID, str]]


def test_e8_fixation_a_planted_token_never_becomes_a_session(
    browser: Browser, new_user: NewUser, tenant: Tenant
) -> None:
    _, email = new_user(tenant)
    planted = sessions.new_token()
    browser.http.cookies.set("interop_session", planted, domain="127.0.0.1", path="/t/demo")

    answer = browser.sign_in(email)

    assert answer.status_code == 303
    assert browser.session_token not in (None, planted)
    browser.http.cookies.clear()
    browser.http.cookies.set("interop_session", planted)
    assert browser.me() is None


def test_e8_signing_in_again_ends_the_session_that_the_browser_had(
    browser: Browser, browser_of: Callable[..., Browser], new_user: NewUser, tenant: Tenant
) -> None:
    """Whoever copied the token of an attacker's account into a victim's browser gains nothing."""
    mine, theirs = new_user(tenant), new_user(tenant)
    browser.sign_in(mine[1])
    before = browser.session_token
    assert before is not None

    browser.sign_in(theirs[1])

    copy = browser_of(tenant)
    copy.http.cookies.set("interop_session", before)
    assert copy.me() is None
    assert browser.me()["user_id"] == str(theirs[0])


def test_e8_the_token_changes_with_the_worth_of_the_session(
    browser: Browser, browser_of: Callable[..., Browser], new_user: NewUser, tenant: Tenant
) -> None:
    _, email = new_user(tenant)
    browser.sign_in(email)
    seen = [browser.session_token]

    enrol(browser)
    seen.append(browser.session_token)
    browser.account("account/totp/disable", password=PASSWORD)
    seen.append(browser.session_token)

    assert len(set(seen)) == 3
    assert browser.me()["amr"] == ["pwd"]
    for token in seen[:2]:
        assert token is not None
        copy = browser_of(tenant)
        copy.http.cookies.set("interop_session", token)
        assert copy.me() is None


@pytest.mark.parametrize(
    "origin", [None, "null", "https://evil.example", "http://127.0.0.1:1", "http://demo.evil"]
)
@pytest.mark.parametrize("action", ["sign-in", "sign-out", "account/sessions/end"])
def test_e8_csrf_a_form_from_another_site_does_nothing(
    browser: Browser, new_user: NewUser, tenant: Tenant, action: str, origin: str | None
) -> None:
    """Even with a token that the attacker cannot have."""
    _, email = new_user(tenant)
    browser.sign_in(email)
    before = browser.session_token
    page = browser.get("sign-in" if action == "sign-in" else "account")
    hidden = next(v for a, v in parsed(page.text).forms if a == f"/t/demo/{action}")

    answer = browser.http.post(
        f"/t/demo/{action}",
        data={**hidden, "email": email, "password": PASSWORD},
        headers={"Origin": origin} if origin else {},
    )

    assert answer.status_code == 403
    assert browser.session_token == before
    assert browser.me() is not None


@pytest.mark.parametrize("stolen", ["none", "another form", "another browser", "changed"])
def test_e8_csrf_a_form_without_its_own_token_does_nothing(
    browser: Browser,
    browser_of: Callable[..., Browser],
    new_user: NewUser,
    tenant: Tenant,
    stolen: str,
) -> None:
    browser.sign_in(new_user(tenant)[1])
    attacker = browser_of(tenant)
    attacker.sign_in(new_user(tenant)[1])
    forms = dict(parsed(browser.get("account").text).forms)
    theirs = dict(parsed(attacker.get("account").text).forms)
    own = forms["/t/demo/sign-out"]["form_token"]
    token = {
        "none": None,
        "another form": forms["/t/demo/account/totp/begin"]["form_token"],
        "another browser": theirs["/t/demo/sign-out"]["form_token"],
        "changed": ("A" if own[0] != "A" else "B") + own[1:],
    }[stolen]

    answer = browser.http.post(
        "/t/demo/sign-out",
        data={"form_token": token} if token else {"other": "field"},
        headers={"Origin": browser.origin},
    )

    assert answer.status_code == 403
    assert browser.me() is not None


def test_e8_csrf_a_form_dies_with_the_session_in_which_it_was_shown(
    browser: Browser, new_user: NewUser, tenant: Tenant
) -> None:
    _, email = new_user(tenant)
    browser.sign_in(email)
    old = browser.get("account")
    browser.sign_in(email)

    answer = browser.submit(old, "account/totp/begin", password=PASSWORD)

    assert answer.status_code == 403


def test_e8_every_refused_form_is_written_down_once(
    browser: Browser, tenant: Tenant, audited: Callable[[], list[tuple[Any, ...]]]
) -> None:
    browser.http.post("/t/demo/sign-in", data={"email": "a", "password": "b"})

    assert [(row[0], row[2]) for row in audited()] == [("LOGIN_FAILED", {"reason": "CROSS_SITE"})]


def test_e8_sign_out_ends_the_session_on_the_server(
    browser: Browser,
    browser_of: Callable[..., Browser],
    new_user: NewUser,
    tenant: Tenant,
    audited: Callable[[], list[tuple[Any, ...]]],
) -> None:
    browser.sign_in(new_user(tenant)[1])
    token, before = browser.session_token, len(audited())
    assert token is not None

    answer = browser.submit(browser.get("sign-out"), "sign-out")

    assert answer.headers["location"] == "/t/demo/sign-in"
    assert browser.session_token is None
    copy = browser_of(tenant)
    copy.http.cookies.set("interop_session", token)
    assert copy.me() is None
    assert [row[0] for row in audited()[before:]] == ["LOGOUT"]


def _assign(database: Database, tenant: Tenant, user_id: UUID) -> None:
    with database.connection(tenant.id) as connection:
        roles.assign(connection, tenant.id, Actor.operator(), user_id, roles.Grant("CLINICIAN"))


def _revoke(database: Database, tenant: Tenant, user_id: UUID) -> None:
    with database.connection(tenant.id) as connection:
        (held,) = roles.assignments(connection, tenant.id, user_id)
        roles.revoke(connection, tenant.id, Actor.operator(), user_id, held.id)


def _retype(database: Database, tenant: Tenant, user_id: UUID) -> None:
    with database.connection(tenant.id) as connection:
        users.set_user_type(connection, tenant.id, Actor.operator(), user_id, "FRONT_DESK")


def _disable(database: Database, tenant: Tenant, user_id: UUID) -> None:
    with database.connection(tenant.id) as connection:
        users.disable(connection, tenant.id, Actor.operator(), user_id)


def _disable_everywhere(database: Database, tenant: Tenant, user_id: UUID) -> None:
    with accounts_of(database) as connection:
        connection.execute("UPDATE users SET status = 'DISABLED' WHERE id = %s", (user_id,))


def _leave(database: Database, tenant: Tenant, user_id: UUID) -> None:
    """A feed of practitioners says that the person is gone."""
    with database.connection(tenant.id) as connection:
        connection.execute(
            "UPDATE user_tenants SET status = 'INACTIVE' WHERE tenant_id = %s AND user_id = %s",
            (tenant.id, user_id),
        )


def _forbid(database: Database, tenant: Tenant, user_id: UUID) -> None:
    """Only the row changes; no session is revoked with it."""
    with database.connection(tenant.id) as connection:
        connection.execute(
            "UPDATE user_tenants SET may_sign_in = false WHERE tenant_id = %s AND user_id = %s",
            (tenant.id, user_id),
        )


@pytest.mark.parametrize(
    "change", [_assign, _revoke, _retype, _disable, _disable_everywhere, _leave, _forbid]
)
def test_e8_a_change_of_what_a_user_may_ends_their_sessions_at_once(
    browser: Browser,
    new_user: NewUser,
    tenant: Tenant,
    database: Database,
    change: Callable[[Database, Tenant, UUID], None],
) -> None:
    user_id, email = new_user(tenant, "READ_ONLY_AUDITOR")
    browser.sign_in(email)
    assert browser.me() is not None

    change(database, tenant, user_id)

    assert browser.me() is None


def test_e8_whom_an_administrator_disabled_no_feed_enables(
    browser: Browser, new_user: NewUser, tenant: Tenant, database: Database
) -> None:
    user_id, email = new_user(tenant)
    _disable(database, tenant, user_id)
    with database.connection(tenant.id) as connection:
        connection.execute(
            "UPDATE user_tenants SET status = 'ACTIVE' WHERE tenant_id = %s AND user_id = %s",
            (tenant.id, user_id),
        )

    assert browser.sign_in(email).status_code == 401

    with database.connection(tenant.id) as connection:
        users.enable(connection, tenant.id, Actor.operator(), user_id)
    assert browser.sign_in(email).status_code == 303


def age(database: Database, tenant: Tenant, user_id: UUID, column: str, seconds: int) -> None:
    """Move a time of the user's sessions into the past."""
    with database.connection(tenant.id) as connection:
        connection.execute(
            f"UPDATE sessions SET created_at = created_at - interval '30 days',"
            f" {column} = now() - make_interval(secs => %s) WHERE tenant_id = %s AND user_id = %s",
            (seconds, tenant.id, user_id),
        )


@pytest.mark.parametrize(
    ("column", "seconds", "lives"),
    [
        ("last_activity_at", 1790, True),
        ("last_activity_at", 1810, False),
        ("expires_at", -10, True),
        ("expires_at", 1, False),
    ],
)
def test_e8_a_session_ends_idle_and_at_its_absolute_limit(
    browser: Browser,
    new_user: NewUser,
    tenant: Tenant,
    database: Database,
    column: str,
    seconds: int,
    lives: bool,
) -> None:
    user_id, email = new_user(tenant)
    browser.sign_in(email)

    age(database, tenant, user_id, column, seconds)

    assert (browser.me() is not None) == lives


def test_e8_activity_is_written_once_a_minute(
    browser: Browser, new_user: NewUser, tenant: Tenant, database: Database
) -> None:
    user_id, email = new_user(tenant)
    browser.sign_in(email)

    def activity() -> Any:
        with database.connection(tenant.id) as connection:
            return connection.execute(
                "SELECT last_activity_at, xmin FROM sessions WHERE tenant_id = %s AND user_id = %s",
                (tenant.id, user_id),
            ).fetchone()

    first = activity()
    browser.me()
    assert activity() == first

    age(database, tenant, user_id, "last_activity_at", 61)
    aged = activity()
    browser.me()
    written = activity()
    assert written[0] > aged[0]
    browser.me()
    assert activity() == written


def test_e8_renewing_does_not_move_the_absolute_limit(
    browser: Browser, new_user: NewUser, tenant: Tenant, database: Database
) -> None:
    user_id, email = new_user(tenant)
    browser.sign_in(email)

    def limit() -> Any:
        with database.connection(tenant.id) as connection:
            return connection.execute(
                "SELECT expires_at FROM sessions WHERE tenant_id = %s AND user_id = %s"
                " AND revoked_at IS NULL",
                (tenant.id, user_id),
            ).fetchall()

    before = limit()
    enrol(browser)

    assert limit() == before


def test_e8_a_password_changed_in_one_tenant_ends_sessions_in_all(
    browser: Browser,
    browser_of: Callable[..., Browser],
    new_user: NewUser,
    tenant: Tenant,
    other_tenant: Tenant,
    database: Database,
) -> None:
    user_id, email = new_user(tenant)
    with database.connection(other_tenant.id) as connection:
        users.insert_member(connection, other_tenant.id, user_id, "DENTIST")
    there = browser_of(other_tenant)
    there.sign_in(email)
    browser.sign_in(email)
    assert there.me() is not None
    new = "seven quiet lighthouses"

    browser.submit(
        browser.get("account/password"), "account/password",
        password=PASSWORD, new=new, repeated=new,
    )  # fmt: skip

    assert there.me() is None
