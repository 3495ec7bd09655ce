"""E9 of security.md: guessing is slowed down, and tells nothing about who has an account."""

from __future__ import annotations

import re
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import UUID

import httpx
import pytest

from interop.identity import throttle, users
from interop.identity.actors import Actor
from storage.database import Database
from storage.tenancy import Tenant
from tests.integration.identity.conftest import ADDRESSES, PASSWORD, Browser, accounts_of, parsed
from tests.integration.identity.test_sign_in import enrol

NewUser = Callable[..., tuple[UUID, str]]


def plain(page: httpx.Response, email: str) -> str:
    """A page without what differs each time it is shown."""
    text = re.sub(r'nonce="[^"]+"|name="form_token" value="[^"]+"', "", page.text)
    return re.sub(r"in \d+ seconds", "in N seconds", text).replace(email, "EMAIL")


def forget(database: Database) -> None:
    """As if all delays had passed."""
    with accounts_of(database) as connection:
        connection.execute("DELETE FROM sign_in_throttles")


@pytest.fixture
def outsider(new_user: NewUser, other_tenant: Tenant) -> str:
    """Somebody with an account, in another tenant."""
    return new_user(other_tenant)[1]


@pytest.fixture
def disabled(new_user: NewUser, tenant: Tenant, database: Database) -> str:
    user_id, email = new_user(tenant)
    with database.connection(tenant.id) as connection:
        users.disable(connection, tenant.id, Actor.operator(), user_id)
    return email


def test_e9_a_refusal_says_the_same_whoever_it_is(
    browser: Browser, new_user: NewUser, tenant: Tenant, outsider: str, disabled: str
) -> None:
    _, known = new_user(tenant)
    tries = {
        "wrong password": (known, "wrong horse battery"),
        "unknown user": ("nobody@clinic.example", PASSWORD),
        "member elsewhere": (outsider, PASSWORD),
        "disabled": (disabled, PASSWORD),
        "no address at all": ("nobody", PASSWORD),
    }

    answers = {name: browser.sign_in(*given) for name, given in tries.items()}

    assert {answer.status_code for answer in answers.values()} == {401}
    pages = {plain(answers[name], given[0]) for name, given in tries.items()}
    assert len(pages) == 1
    assert "the e-mail address or the password is not right" in pages.pop().lower()
    headers = [
        {k: v for k, v in a.headers.items() if k not in ("date", "content-security-policy")}
        for a in answers.values()
    ]
    for entry in headers:
        entry.pop("content-length")  # the address itself is shown again
    assert all(entry == headers[0] for entry in headers)


def test_e9_a_refusal_takes_as_long_whoever_it_is(
    browser: Browser, new_user: NewUser, tenant: Tenant, outsider: str, database: Database
) -> None:
    _, known = new_user(tenant)
    given = {known: "wrong horse battery", "nobody@clinic.example": PASSWORD, outsider: PASSWORD}
    seconds: dict[str, list[float]] = {email: [] for email in given}

    for _ in range(4):
        for email, password in given.items():
            page = browser.get("sign-in")
            started = time.perf_counter()
            browser.submit(page, "sign-in", email=email, password=password)
            seconds[email].append(time.perf_counter() - started)

    fastest = [min(times) for times in seconds.values()]
    # Each computes one hash of 64 MiB; leaving it out would be thirty times faster.
    assert min(fastest) > 0.3 * max(fastest), fastest


def guess(origin: str, email: str, number: int) -> httpx.Response:
    """One attempt from an address of its own, as a net of many machines makes it."""
    browser = Browser(origin, "demo", next(ADDRESSES))
    with browser.http:
        return browser.sign_in(email, f"guess number {number}")


@pytest.mark.parametrize("account", ["known", "unknown"])
def test_e9_a_thousand_guesses_become_a_handful(
    browser: Browser,
    new_user: NewUser,
    tenant: Tenant,
    database: Database,
    account: str,
) -> None:
    email = new_user(tenant)[1] if account == "known" else "no.such.person@clinic.example"

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda n: guess(browser.origin, email, n), range(500)))

    judged = [answer for answer in answers if answer.status_code == 401]
    delayed = [answer for answer in answers if answer.status_code == 429]
    busy = [answer for answer in answers if answer.status_code == 503]
    assert len(judged) + len(delayed) + len(busy) == 500
    assert len(judged) <= 5 + 6  # five free, then after 1, 2, 4, 8 ... seconds
    assert len(delayed) > 480
    assert all(int(answer.headers["retry-after"]) >= 1 for answer in delayed)
    assert len({plain(answer, email) for answer in delayed}) == 1
    with accounts_of(database) as connection:
        row = connection.execute(
            "SELECT failures FROM sign_in_throttles WHERE key_hash = %s",
            (throttle.hash_key("ACCOUNT", email),),
        ).fetchone()
    assert row == (len(judged),)


def test_e9_the_delay_grows_and_its_page_is_one_for_all(
    browser_of: Callable[..., Browser], new_user: NewUser, tenant: Tenant, database: Database
) -> None:
    _, known = new_user(tenant)
    shown: dict[str, list[str]] = {known: [], "stranger@clinic.example": []}
    waits: dict[str, list[int]] = {email: [] for email in shown}

    for email in shown:
        for attempt in range(9):
            answer = browser_of(tenant).sign_in(email, "wrong horse battery")
            if attempt >= 5:
                refused = browser_of(tenant).sign_in(email, "wrong horse battery")
                assert refused.status_code == 429
                waits[email].append(int(refused.headers["retry-after"]))
                shown[email].append(plain(refused, email))
            with accounts_of(database) as connection:
                connection.execute("UPDATE sign_in_throttles SET blocked_until = now()")
            assert answer.status_code == 401

    assert waits[known] == [1, 2, 4, 8]
    assert waits["stranger@clinic.example"] == waits[known]
    assert shown[known] == shown["stranger@clinic.example"]


def test_e9_the_right_password_waits_too(
    browser_of: Callable[..., Browser], new_user: NewUser, tenant: Tenant, database: Database
) -> None:
    """Else the delay would say which guess was the right one."""
    _, email = new_user(tenant)
    for _ in range(6):
        browser_of(tenant).sign_in(email, "wrong horse battery")

    early = browser_of(tenant).sign_in(email)
    forget(database)
    later = browser_of(tenant).sign_in(email)

    assert early.status_code == 429
    assert later.status_code == 303


def test_e9_one_address_that_tries_many_accounts_is_delayed(
    browser: Browser, browser_of: Callable[..., Browser], new_user: NewUser, tenant: Tenant,
    database: Database,
) -> None:  # fmt: skip
    _, email = new_user(tenant)
    key = throttle.hash_key("ADDRESS", browser.address)
    with accounts_of(database) as connection:
        connection.execute(
            "INSERT INTO sign_in_throttles (scope, key_hash, failures) VALUES ('ADDRESS', %s, 33)",
            (key,),
        )

    wrong = browser.sign_in("victim@clinic.example", "wrong horse battery")
    from_there = browser.sign_in(email)
    from_elsewhere = browser_of(tenant).sign_in(email)

    assert wrong.status_code == 401
    assert from_there.status_code == 429
    assert int(from_there.headers["retry-after"]) == 8
    assert from_elsewhere.status_code == 303


def test_e9_who_knows_one_password_cannot_pay_for_guesses_with_it(
    browser: Browser, new_user: NewUser, tenant: Tenant, database: Database
) -> None:
    _, own = new_user(tenant)

    def failures() -> Any:
        with accounts_of(database) as connection:
            return connection.execute(
                "SELECT failures FROM sign_in_throttles WHERE scope = 'ADDRESS' AND key_hash = %s",
                (throttle.hash_key("ADDRESS", browser.address),),
            ).fetchone()

    browser.sign_in("victim@clinic.example", "first guess of many")
    browser.sign_in(own)

    assert failures() == (1,)


def test_e9_codes_are_guessed_no_faster_than_passwords(
    browser: Browser, browser_of: Callable[..., Browser], new_user: NewUser, tenant: Tenant
) -> None:
    _, email = new_user(tenant)
    browser.sign_in(email)
    enrol(browser)
    statuses = []

    for _ in range(2):
        attacker = browser_of(tenant)
        attacker.sign_in(email)
        for number in range(5):
            page = attacker.get("sign-in/totp")
            if "/t/demo/sign-in/totp" not in dict(parsed(page.text).forms):
                break
            answer = attacker.submit(page, "sign-in/totp", code=f"{number:06}")
            statuses.append(answer.status_code)

    assert statuses[:6] == [401] * 6
    assert set(statuses[6:]) == {429}


def test_e9_every_attempt_is_written_down_once(
    browser: Browser,
    new_user: NewUser,
    tenant: Tenant,
    audited: Callable[[], list[tuple[Any, ...]]],
) -> None:
    user_id, email = new_user(tenant)
    before = len(audited())

    for _ in range(7):
        browser.sign_in(email, "wrong horse battery")
    browser.sign_in("nobody.at.all@clinic.example", "wrong horse battery")

    rows = audited()[before:]
    assert {row[:2] for row in rows} == {("LOGIN_FAILED", "FAILURE")}
    assert [row[2]["reason"] for row in rows] == [
        *["WRONG_PASSWORD"] * 6, "TOO_SOON", "WRONG_PASSWORD",
    ]  # fmt: skip
    assert not any("clinic.example" in str(row) for row in rows)
    assert rows[6][3] == user_id


def test_e9_a_flood_waits_in_a_short_line(
    browser: Browser, tenant: Tenant, database: Database
) -> None:
    """Two hashes at a time, a few waiting, the others sent away: memory stays as it is."""
    import psutil

    process = psutil.Process()
    before = process.memory_info().rss

    def attempt(number: int) -> tuple[int, int]:
        other = Browser(browser.origin, "demo", next(ADDRESSES))
        with other.http:
            answer = other.sign_in(f"person{number}@flood.example", "guess guess guess")
        return answer.status_code, process.memory_info().rss

    with ThreadPoolExecutor(24) as pool:
        answers = list(pool.map(attempt, range(60)))

    statuses = [status for status, _ in answers]
    assert set(statuses) <= {401, 503}
    assert statuses.count(401) >= 2
    assert max(rss for _, rss in answers) - before < 300 << 20
    assert statistics.median(rss for _, rss in answers) - before < 260 << 20
