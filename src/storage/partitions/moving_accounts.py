"""The accounts of a tenant's members, where it moves from one database to another.

An account that the destination has already, because the person belongs to another tenant there,
stays as it is: password and second factor are those of the destination. What would collide with
somebody else's account is found before anything is held up.
"""

from __future__ import annotations

from uuid import UUID

from psycopg import errors

from storage.partitions.moving_cargo import NAMES_ACCOUNT, TENANT, Owner, statement

_MINE = " UNION ".join(
    f"SELECT {column} AS id FROM {table} WHERE tenant_id = {TENANT} AND {column} IS NOT NULL"
    for table, column in NAMES_ACCOUNT.items()
)
_SHOWN = 5


class AccountsCollide(Exception):
    """Accounts of the tenant's members collide with others at the destination."""


def known_there(source: Owner, destination: Owner) -> list[UUID]:
    """The accounts of members that the destination has already."""
    mine = [row[0] for row in source.execute(statement(_MINE)).fetchall()]
    found = destination.execute("SELECT id FROM users WHERE id = ANY (%s)", (mine,)).fetchall()
    return [row[0] for row in found]


def require_no_collision(source: Owner, destination: Owner) -> None:
    """Raises AccountsCollide where an address or a sign-in is somebody else's there."""
    users = source.execute(
        statement(f"SELECT id, email FROM users WHERE id IN ({_MINE}) AND email IS NOT NULL")
    ).fetchall()
    taken = destination.execute(
        "SELECT mine.email, other.id FROM unnest(%s::uuid[], %s::text[]) AS mine(id, email)"
        " JOIN users AS other ON other.email = mine.email AND other.id <> mine.id",
        ([row[0] for row in users], [row[1] for row in users]),
    ).fetchall()
    if taken:
        raise AccountsCollide(
            f"{len(taken)} e-mail addresses of members belong to other accounts there: "
            + ", ".join(f"{email} (user {id_})" for email, id_ in taken[:_SHOWN])
            + ". Change the address of one of the two, then move again"
        )
    ways = source.execute(
        statement(
            "SELECT user_id, provider, issuer, subject FROM user_auth_identities"
            f" WHERE user_id IN ({_MINE})"
        )
    ).fetchall()
    claimed = destination.execute(
        "SELECT mine.provider, mine.id, other.user_id"
        " FROM unnest(%s::uuid[], %s::text[], %s::text[], %s::text[])"
        " AS mine(id, provider, issuer, subject)"
        " JOIN user_auth_identities AS other ON other.provider = mine.provider"
        " AND other.issuer IS NOT DISTINCT FROM mine.issuer AND other.subject = mine.subject"
        " AND other.user_id <> mine.id",
        tuple([row[n] for row in ways] for n in range(4)),
    ).fetchall()
    if claimed:
        raise AccountsCollide(
            f"{len(claimed)} sign-ins of members belong to other accounts there: "
            + ", ".join(f"{way} of user {mine} (user {id_})" for way, mine, id_ in claimed[:_SHOWN])
            + ". Remove one of the two, then move again"
        )


def remove(connection: Owner, accounts: list[UUID]) -> int:
    """Remove accounts whose people belong to no tenant of this database any more."""
    removed = 0
    for account in accounts:
        try:
            removed += connection.execute("DELETE FROM users WHERE id = %s", (account,)).rowcount
        except errors.ForeignKeyViolation:
            # A membership in another tenant, in whatever schema of this database.
            continue
    return removed


def members(connection: Owner) -> list[UUID]:
    """The accounts that rows of the tenant name."""
    return [row[0] for row in connection.execute(statement(_MINE)).fetchall()]
