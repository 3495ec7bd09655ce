"""Time-based codes: the vectors of RFC 6238, the window, and one use per step."""

from __future__ import annotations

import base64
import threading
from uuid import UUID

import pyotp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from interop.errors import BadRequest, Conflict
from interop.identity import totp, users
from storage.database import Database

# RFC 6238, appendix B, SHA-1; its eight digits end in our six.
RFC_SECRET = base64.b32encode(b"12345678901234567890").decode()


@pytest.mark.parametrize(
    ("at", "code"),
    [
        (59, "94287082"),
        (1111111109, "07081804"),
        (1111111111, "14050471"),
        (1234567890, "89005924"),
        (2000000000, "69279037"),
        (20000000000, "65353130"),
    ],
)
def test_the_vectors_of_rfc_6238(at: int, code: str) -> None:
    assert totp.matching_step(RFC_SECRET, code[-6:], at) == at // 30
    assert totp.matching_step(RFC_SECRET, f"{code[2:5]} {code[5:]}", at) == at // 30


@given(now=st.integers(30, 2**33), offset=st.integers(-5, 5))
def test_a_code_is_good_one_step_early_and_late_and_no_more(now: int, offset: int) -> None:
    step = max(0, now // 30 + offset)
    found = totp.matching_step(RFC_SECRET, pyotp.HOTP(RFC_SECRET).at(step), now)

    if abs(step - now // 30) <= 1:
        assert found is not None
    elif found is not None:  # one in a million: two steps with one code
        assert pyotp.HOTP(RFC_SECRET).at(found) == pyotp.HOTP(RFC_SECRET).at(step)


@given(text=st.text(max_size=12))
def test_anything_may_be_typed(text: str) -> None:
    found = totp.matching_step(RFC_SECRET, text, 1_000_000)

    if found is not None:
        assert pyotp.HOTP(RFC_SECRET).at(found) == "".join(text.split())


NUMBERS = iter(range(1000))


@pytest.fixture
def user_id(database: Database) -> UUID:
    email = f"u{next(NUMBERS)}@clinic.example"
    with database.platform_connection() as connection:
        made = users.insert_user(connection, email, "Some One")
        users.insert_password(connection, made, email, "a hash")
    return made


def enrol(database: Database, user_id: UUID) -> tuple[str, list[str]]:
    with database.platform_connection() as connection:
        secret = totp.begin_enrolment(connection, user_id, "Demo").secret
        code = pyotp.TOTP(secret).now()
        return secret, totp.confirm_enrolment(connection, user_id, code)


def test_the_code_that_confirmed_does_not_also_sign_in(database: Database, user_id: UUID) -> None:
    secret, _ = enrol(database, user_id)

    with database.platform_connection() as connection:
        assert totp.use_code(connection, user_id, pyotp.TOTP(secret).now()) is None


def test_of_many_uses_of_one_code_at_once_one_succeeds(database: Database, user_id: UUID) -> None:
    secret, codes = enrol(database, user_id)
    with database.platform_connection() as connection:
        connection.execute(
            "UPDATE user_auth_identities SET mfa_last_step = 0 WHERE user_id = %s", (user_id,)
        )
    for code in (pyotp.TOTP(secret).now(), codes[3]):
        results: list[str | None] = []

        def use(one: str = code, into: list[str | None] = results) -> None:
            with database.platform_connection() as connection:
                into.append(totp.use_code(connection, user_id, one))

        threads = [threading.Thread(target=use) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        assert len([found for found in results if found]) == 1


def test_an_enrolment_is_not_begun_over_one_that_is_on(database: Database, user_id: UUID) -> None:
    enrol(database, user_id)

    with database.platform_connection() as connection, pytest.raises(Conflict, match="on already"):
        totp.begin_enrolment(connection, user_id, "Demo")


def test_nothing_is_confirmed_that_was_not_begun(database: Database, user_id: UUID) -> None:
    with database.platform_connection() as connection:
        with pytest.raises(Conflict, match="begun"):
            totp.confirm_enrolment(connection, user_id, "123456")
        totp.begin_enrolment(connection, user_id, "Demo")
        with pytest.raises(BadRequest, match="not right"):
            totp.confirm_enrolment(connection, user_id, "12345")
        assert not totp.is_enabled(connection, user_id)


def test_switched_off_neither_code_nor_recovery_code_is_good(
    database: Database, user_id: UUID
) -> None:
    _, codes = enrol(database, user_id)

    with database.platform_connection() as connection:
        assert totp.disable(connection, user_id)
        assert totp.use_code(connection, user_id, codes[0]) is None
        assert not totp.disable(connection, user_id)


def test_recovery_codes_are_ten_and_hard_to_guess(database: Database, user_id: UUID) -> None:
    _, codes = enrol(database, user_id)

    assert len(set(codes)) == 10
    assert all(len(code.replace("-", "")) == 16 for code in codes)
