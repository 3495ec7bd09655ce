"""Delays after failures, against a plain model of what they should be."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from uuid import uuid4

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from interop.errors import TooManyRequests
from interop.identity import throttle
from storage.database import Database


def attempt(database: Database, keys: dict[str, str], succeeds: bool = False) -> int:
    """The seconds to wait, 0 when the attempt was let through."""
    try:
        with database.platform_connection() as connection:
            claims = throttle.claim(connection, keys)
            if succeeds:
                throttle.forgive(connection, claims)
    except TooManyRequests as error:
        return int(error.headers["Retry-After"])
    return 0


def pass_time(database: Database, key: str, seconds: float) -> None:
    """Move what is known of an account into the past."""
    with database.platform_connection() as connection:
        connection.execute(
            "UPDATE sign_in_throttles SET last_failure_at = last_failure_at - %(time)s,"
            " blocked_until = blocked_until - %(time)s"
            " WHERE scope = 'ACCOUNT' AND key_hash = %(key)s",
            {"time": timedelta(seconds=seconds), "key": throttle.hash_key("ACCOUNT", key)},
        )


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("wait"), st.sampled_from([0.3, 1.5, 3, 10, 100, 1000, 90_000])),
        st.tuples(st.sampled_from(["wrong", "right"]), st.just(0.0)),
        st.tuples(st.just("wrong"), st.just(0.0)),
    ),
    max_size=25,
)


@settings(max_examples=25, deadline=None)
@given(steps=STEPS)
def test_an_account_is_delayed_as_the_plain_model_says(
    database: Database, steps: list[tuple[str, float]]
) -> None:
    key, failures, wait, quiet = uuid4().hex, 0, 0.0, 0.0
    for kind, seconds in steps:
        if kind == "wait":
            pass_time(database, key, seconds)
            wait, quiet = max(0.0, wait - seconds), quiet + seconds
            continue

        delayed = attempt(database, {"ACCOUNT": key}, succeeds=kind == "right")

        assert (delayed > 0) == (wait > 0)
        if delayed:
            assert abs(delayed - wait) <= 1.5
            continue
        failures = 1 if quiet >= 86_400 else failures + 1
        if kind == "right":
            failures, wait = 0, 0.0
        else:
            wait = 0.0 if failures <= 5 else min(900.0, 2.0 ** (failures - 6))
        quiet = 0.0


def test_of_many_attempts_at_once_only_the_free_ones_are_let_through(database: Database) -> None:
    key = uuid4().hex
    with ThreadPoolExecutor(8) as pool:
        waits = list(pool.map(lambda _: attempt(database, {"ACCOUNT": key}), range(60)))

    # Five are free; the sixth is let through too, and everybody waits after it.
    assert waits.count(0) == 6


def test_a_delayed_attempt_counts_nowhere(database: Database) -> None:
    account, address = uuid4().hex, uuid4().hex
    for _ in range(6):
        attempt(database, {"ACCOUNT": account})

    for _ in range(40):
        assert attempt(database, {"ACCOUNT": account, "ADDRESS": address}) > 0

    with database.platform_connection() as connection:
        rows = connection.execute(
            "SELECT scope, failures FROM sign_in_throttles WHERE key_hash = ANY(%s)",
            ([throttle.hash_key("ACCOUNT", account), throttle.hash_key("ADDRESS", address)],),
        ).fetchall()
    assert rows == [("ACCOUNT", 6)]


def test_the_longest_delay_is_a_quarter_of_an_hour(database: Database) -> None:
    key = uuid4().hex
    for _ in range(40):
        attempt(database, {"ACCOUNT": key})
        pass_time(database, key, 901)
    attempt(database, {"ACCOUNT": key})

    assert 899 <= attempt(database, {"ACCOUNT": key}) <= throttle.MAX_DELAY_SECONDS


@pytest.mark.parametrize("give_back", [throttle.unclaim, throttle.forgive])
def test_an_address_gets_only_its_own_attempt_back(
    database: Database, give_back: Callable[..., None]
) -> None:
    key = uuid4().hex
    for _ in range(30):
        attempt(database, {"ADDRESS": key})

    with database.platform_connection() as connection:
        claims = throttle.claim(connection, {"ADDRESS": key})
        give_back(connection, claims)

    assert attempt(database, {"ADDRESS": key}) == 0
    assert attempt(database, {"ADDRESS": key}) == 1
