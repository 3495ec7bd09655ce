"""Growing delays after failed sign-ins, by account name, by source address, by second factor.

An attempt is counted before the password is looked at and given back when it succeeds, so a
thousand attempts at once count as a thousand. The key is what was typed, not what exists: an
unknown account is slowed down like a known one (security.md E9).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import datetime
from math import ceil
from typing import LiteralString

from interop.errors import TooManyRequests
from storage.database import Connection

MAX_DELAY_SECONDS = 900


@dataclass(frozen=True, slots=True)
class Allowance:
    """How many failures cost nothing, and after how many quiet seconds all are forgotten."""

    free: int
    forget_seconds: int


ALLOWANCES = {
    "ACCOUNT": Allowance(free=5, forget_seconds=24 * 3600),
    # A clinic signs in from one address in the morning; its typing errors must not lock it out.
    "ADDRESS": Allowance(free=30, forget_seconds=3600),
    "FACTOR": Allowance(free=5, forget_seconds=24 * 3600),
}


@dataclass(frozen=True, slots=True)
class Claim:
    """One counted attempt, to be given back if it succeeds."""

    scope: str
    key_hash: str
    blocked_until: datetime


# The free failures delay nothing; then 1, 2, 4 ... seconds. Refused attempts are not counted, so
# that hammering at a locked account does not lock its owner out for longer.
_CLAIM: LiteralString = """
INSERT INTO sign_in_throttles AS t (scope, key_hash, failures, last_failure_at, blocked_until)
VALUES (%(scope)s, %(key)s, 1, now(), now())
ON CONFLICT (scope, key_hash) DO UPDATE SET
    failures = CASE WHEN t.last_failure_at < now() - make_interval(secs => %(forget)s)
        THEN 1 ELSE t.failures + 1 END,
    last_failure_at = now(),
    blocked_until = CASE
        WHEN t.last_failure_at < now() - make_interval(secs => %(forget)s)
            OR t.failures < %(free)s THEN now()
        ELSE now() + make_interval(secs => least(
            %(max)s, power(2, least(t.failures - %(free)s, 30))))
    END
WHERE t.blocked_until <= now()
RETURNING blocked_until
"""


def claim(connection: Connection, attempts: dict[str, str]) -> list[Claim]:
    """Count one attempt under every (scope, key). Raises TooManyRequests when one is delayed.

    Nothing is counted then, if the caller lets the error end its transaction.
    """
    claims = []
    # In one order always, so that two attempts on the same keys cannot wait for each other.
    for scope, key in sorted(attempts.items()):
        values = {
            "scope": scope,
            "key": hash_key(scope, key),
            "free": ALLOWANCES[scope].free,
            "forget": ALLOWANCES[scope].forget_seconds,
            "max": MAX_DELAY_SECONDS,
        }
        row = connection.execute(_CLAIM, values).fetchone()
        if row is None:
            raise _delayed(connection, values["scope"], values["key"])
        claims.append(Claim(scope, str(values["key"]), row[0]))
    return claims


def forgive(connection: Connection, claims: list[Claim]) -> None:
    """The attempt succeeded: its account begins anew, its address gets the one attempt back.

    An address keeps its other failures, or who knows one password could try all others.
    """
    unclaim(connection, [counted for counted in claims if counted.scope == "ADDRESS"])
    for counted in claims:
        if counted.scope != "ADDRESS":
            connection.execute(
                "DELETE FROM sign_in_throttles WHERE scope = %s AND key_hash = %s",
                (counted.scope, counted.key_hash),
            )


def unclaim(connection: Connection, claims: list[Claim]) -> None:
    """Give attempts back that were not judged."""
    for counted in claims:
        connection.execute(
            "UPDATE sign_in_throttles SET failures = greatest(failures - 1, 0), blocked_until ="
            " CASE WHEN blocked_until = %s THEN now() ELSE blocked_until END"
            " WHERE scope = %s AND key_hash = %s",
            (counted.blocked_until, counted.scope, counted.key_hash),
        )


def hash_key(scope: str, key: str) -> str:
    """What the table keeps of an account name or address."""
    return hashlib.sha256(f"{scope}\x00{key}".encode()).hexdigest()


def _delayed(connection: Connection, scope: object, key: object) -> TooManyRequests:
    row = connection.execute(
        "SELECT extract(epoch FROM blocked_until - now()) FROM sign_in_throttles"
        " WHERE scope = %s AND key_hash = %s",
        (scope, key),
    ).fetchone()
    seconds = max(1, ceil(row[0])) if row else 1
    return TooManyRequests(
        f"too many failed attempts; try again in {seconds} seconds",
        headers={"Retry-After": str(seconds)},
    )
