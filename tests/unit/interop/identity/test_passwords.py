"""What is accepted as a password, and that hashing never takes more than its share."""

from __future__ import annotations

import threading
import time
import unicodedata

import pytest

from interop.errors import Unavailable
from interop.identity import passwords
from interop.identity.passwords import PasswordRefused, require_acceptable

PASSWORD = "correct horse battery staple"


def test_a_hash_is_argon2id_with_64_mib_in_one_lane_and_salted() -> None:
    first, second = passwords.hash_password(PASSWORD), passwords.hash_password(PASSWORD)

    assert first.startswith("$argon2id$v=19$m=65536,t=3,p=1$")
    assert first != second
    assert passwords.verify_password(first, PASSWORD)
    assert not passwords.verify_password(first, PASSWORD + " ")
    assert not passwords.needs_rehash(first)


def test_the_same_keys_on_another_system_are_the_same_password() -> None:
    composed, decomposed = (
        unicodedata.normalize(form, "zw\u00f6lf gro\u00dfe K\u00e4fer") for form in ("NFC", "NFD")
    )
    assert composed != decomposed

    assert passwords.verify_password(passwords.hash_password(composed), decomposed)


def test_nobody_has_every_password() -> None:
    assert not passwords.verify_password(None, PASSWORD)
    assert not passwords.verify_password("not a hash", PASSWORD)


def test_checking_the_password_of_nobody_takes_as_long() -> None:
    stored = passwords.hash_password(PASSWORD)

    def seconds(candidate: str | None) -> float:
        # CPU and not the clock: other work on the machine is no difference of the two.
        started = time.thread_time()
        passwords.verify_password(candidate, "wrong horse battery")
        return time.thread_time() - started

    known, unknown = (min(seconds(one) for _ in range(3)) for one in (stored, None))

    assert 0.5 < known / unknown < 2


@pytest.mark.parametrize(
    "password",
    [
        "",
        "elevenchars",
        "a" * 64,
        "abababababababab",
        "x" * 257,
        "robin.okafor@clinic.example",
        "ROBIN.OKAFOR@clinic.example1",
        "robinokafor123",
        "Robin Okafor 1",
        "okaforokafor",
    ],
)
def test_what_is_short_or_made_of_the_users_own_data_is_refused(password: str) -> None:
    with pytest.raises(PasswordRefused, match="the password m"):
        require_acceptable(password, "robin.okafor@clinic.example", "Robin Okafor")


@pytest.mark.parametrize(
    "password",
    [
        PASSWORD,
        "abcdefghijkl",
        "x!9" * 4 + "?",
        "okafor likes nine purple elephants",
        "пароль длинный",
    ],
)
def test_length_is_what_counts(password: str) -> None:
    require_acceptable(password, "robin.okafor@clinic.example", "Robin Okafor")


def test_two_hash_at_a_time_a_few_wait_and_the_others_are_sent_away(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    at_once, running, peak = threading.Lock(), 0, 0
    real = passwords._hasher.hash

    def counted(password: str) -> str:
        nonlocal running, peak
        with at_once:
            running += 1
            peak = max(peak, running)
        try:
            return real(password)
        finally:
            with at_once:
                running -= 1

    class Counting:
        hash = staticmethod(counted)

    monkeypatch.setattr(passwords, "_hasher", Counting())
    refused: list[Unavailable] = []

    def attempt() -> None:
        try:
            passwords.hash_password(PASSWORD)
        except Unavailable as error:
            refused.append(error)

    threads = [threading.Thread(target=attempt) for _ in range(24)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert peak == passwords.CONCURRENT_HASHES
    assert len(refused) >= 24 - passwords.CONCURRENT_HASHES - passwords.MAX_WAITING
    assert refused[0].headers["Retry-After"] == "5"
    monkeypatch.undo()
    assert passwords.hash_password(PASSWORD)  # every place in the line was given back
