"""The tree of tenants, and D13 of security.md: a parent sees a child by an explicit grant only."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import psycopg
import pytest

from storage import tenant_tree
from storage.database import Database
from storage.tenancy import Tenant
from storage.tenant_tree import NotInTree, UnknownGrant

MakeTenant = Callable[..., Tenant]
MakeMember = Callable[..., UUID]


def level(database: Database, user: UUID, home: Tenant, target: Tenant) -> str | None:
    with database.connection(home.id) as connection:
        return tenant_tree.access_level(connection, user, home.id, target.id)


def slugs_below(database: Database, tenant: Tenant) -> set[str]:
    with database.platform_connection() as connection:
        return {node.slug for node in tenant_tree.descendants(connection, tenant.id)}


def test_ancestors_and_descendants_come_with_their_distance(
    database: Database, make_tenant: MakeTenant
) -> None:
    top = make_tenant()
    middle = make_tenant(top)
    low = make_tenant(middle)

    with database.platform_connection() as connection:
        above = tenant_tree.ancestors(connection, low.id)
        below = tenant_tree.descendants(connection, top.id)

    assert [(n.slug, n.depth) for n in above] == [(middle.slug, 1), (top.slug, 2)]
    assert [(n.slug, n.depth) for n in below] == [(middle.slug, 1), (low.slug, 2)]


def test_a_moved_tenant_takes_its_subtree_along(
    database: Database, make_tenant: MakeTenant
) -> None:
    old, new = make_tenant(), make_tenant()
    middle = make_tenant(old)
    low = make_tenant(middle)

    tenant_tree.place_below(database, middle.id, new.id)

    assert slugs_below(database, old) == set()
    assert slugs_below(database, new) == {middle.slug, low.slug}

    tenant_tree.place_below(database, middle.id, None)

    assert slugs_below(database, new) == set()
    assert slugs_below(database, middle) == {low.slug}


@pytest.mark.parametrize("distance", [0, 1, 2])
def test_a_tenant_cannot_be_placed_below_itself(
    database: Database, make_tenant: MakeTenant, distance: int
) -> None:
    chain = [make_tenant()]
    for _ in range(2):
        chain.append(make_tenant(chain[-1]))

    with pytest.raises(NotInTree, match="below itself"):
        tenant_tree.place_below(database, chain[0].id, chain[distance].id)

    assert slugs_below(database, chain[0]) == {chain[1].slug, chain[2].slug}


def test_two_moves_at_once_cannot_make_a_circle(
    database: Database, make_tenant: MakeTenant
) -> None:
    one, other = make_tenant(), make_tenant()
    refused: list[Exception] = []
    ready = threading.Barrier(2)

    def move(which: Tenant, below: Tenant) -> None:
        ready.wait()
        try:
            tenant_tree.place_below(database, which.id, below.id)
        except NotInTree as error:
            refused.append(error)

    threads = [threading.Thread(target=move, args=pair) for pair in ((one, other), (other, one))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(refused) == 1
    assert (slugs_below(database, one), slugs_below(database, other)) in (
        ({other.slug}, set()),
        (set(), {one.slug}),
    )


def test_nobody_writes_the_closure_by_hand(database: Database, make_tenant: MakeTenant) -> None:
    top, low = make_tenant(), make_tenant()

    for statement in (
        "INSERT INTO tenant_closure VALUES (%s, %s, 1)",
        "DELETE FROM tenant_closure WHERE ancestor_id = %s OR descendant_id = %s",
    ):
        with (
            pytest.raises(psycopg.errors.InsufficientPrivilege, match="follows tenants"),
            database.platform_connection() as connection,
        ):
            connection.execute(statement, (top.id, low.id))


# -- D13 ------------------------------------------------------------------------------------


def test_d13_a_parent_without_grant_does_not_read_its_child(
    database: Database, make_tenant: MakeTenant, make_member: MakeMember
) -> None:
    parent = make_tenant()
    child = make_tenant(parent)
    user = make_member(parent)

    with database.connection(parent.id) as connection:
        readable = tenant_tree.readable_tenants(connection, user, parent.id)

    assert [(one.slug, one.level) for one in readable] == [(parent.slug, "MEMBER")]
    assert level(database, user, parent, child) is None


def test_d13_a_grant_opens_its_subtree_and_nothing_beside_it(
    database: Database, make_tenant: MakeTenant, make_member: MakeMember
) -> None:
    parent = make_tenant()
    region, beside = make_tenant(parent), make_tenant(parent)
    practice = make_tenant(region)
    user, colleague = make_member(parent), make_member(parent)

    tenant_tree.grant(database, parent.id, region.id, "READ", user_id=user)

    with database.connection(parent.id) as connection:
        readable = tenant_tree.readable_tenants(connection, user, parent.id)
        others = tenant_tree.readable_tenants(connection, colleague, parent.id)
    assert {(one.slug, one.level) for one in readable} == {
        (parent.slug, "MEMBER"),
        (region.slug, "READ"),
        (practice.slug, "READ"),
    }
    assert [one.slug for one in others] == [parent.slug]
    assert level(database, user, parent, beside) is None


def test_d13_a_child_reads_neither_parent_nor_sibling(
    database: Database, make_tenant: MakeTenant, make_member: MakeMember
) -> None:
    parent = make_tenant()
    child, sibling = make_tenant(parent), make_tenant(parent)
    user = make_member(child)
    # Even the parent's own grants, to its own people, give nothing to the child's.
    tenant_tree.grant(database, parent.id, child.id, "MANAGE", user_id=make_member(parent))

    assert level(database, user, child, parent) is None
    assert level(database, user, child, sibling) is None
    for target in (parent, sibling, child):
        with pytest.raises(NotInTree):
            tenant_tree.grant(database, child.id, target.id, "READ", user_id=user)


@pytest.mark.parametrize("target", ["parent", "sibling", "stranger"])
def test_d13_the_database_itself_refuses_a_grant_up_or_sideways(
    database: Database, make_tenant: MakeTenant, make_member: MakeMember, target: str
) -> None:
    parent = make_tenant()
    child, sibling = make_tenant(parent), make_tenant(parent)
    root = {"parent": parent, "sibling": sibling, "stranger": make_tenant()}[target]

    with (
        pytest.raises(psycopg.errors.ForeignKeyViolation, match="no tenant below"),
        database.connection(child.id) as connection,
    ):
        connection.execute(
            "INSERT INTO tenant_grants (tenant_id, root_tenant_id, user_id) VALUES (%s, %s, %s)",
            (child.id, root.id, make_member(child)),
        )


def test_d13_a_revoked_grant_opens_nothing_from_that_moment(
    database: Database, make_tenant: MakeTenant, make_member: MakeMember
) -> None:
    parent = make_tenant()
    child = make_tenant(parent)
    user = make_member(parent)
    grant_id = tenant_tree.grant(database, parent.id, child.id, "MANAGE", user_id=user)
    assert level(database, user, parent, child) == "MANAGE"

    tenant_tree.revoke(database, parent.id, grant_id)

    assert level(database, user, parent, child) is None
    with pytest.raises(UnknownGrant):
        tenant_tree.revoke(database, parent.id, grant_id)


def test_d13_a_grant_counts_in_its_period_only(
    database: Database, make_tenant: MakeTenant, make_member: MakeMember
) -> None:
    parent = make_tenant()
    child = make_tenant(parent)
    user = make_member(parent)
    now = datetime.now(UTC)
    day = timedelta(days=1)
    tenant_tree.grant(
        database, parent.id, child.id, "READ", user_id=user,
        valid_from=now + day, valid_until=now + 2 * day,
    )  # fmt: skip

    with database.connection(parent.id) as connection:
        found = [
            tenant_tree.access_level(connection, user, parent.id, child.id, now + days * day)
            for days in (0, 1.5, 2)
        ]

    assert found == [None, "READ", None]


@pytest.mark.parametrize(
    "ending",
    [
        "UPDATE user_tenants SET status = 'INACTIVE' WHERE user_id = %(user)s",
        "UPDATE users SET status = 'DISABLED' WHERE id = %(user)s",
        "UPDATE tenants SET parent_tenant_id = NULL WHERE id = %(child)s",
        "UPDATE tenants SET status = 'SUSPENDED' WHERE id = %(parent)s",
        "UPDATE tenants SET status = 'CLOSED' WHERE id = %(child)s",
    ],
    ids=["membership", "user", "child-left", "parent-suspended", "child-closed"],
)
def test_d13_a_grant_ends_with_what_it_stands_on(
    database: Database, make_tenant: MakeTenant, make_member: MakeMember, ending: str
) -> None:
    parent = make_tenant()
    child = make_tenant(parent)
    user = make_member(parent)
    tenant_tree.grant(database, parent.id, child.id, "READ", user_id=user)

    with database.connection(parent.id) as connection:
        connection.execute(ending, {"user": user, "child": child.id, "parent": parent.id})

    assert level(database, user, parent, child) is None


@pytest.mark.parametrize(
    ("scope", "until", "expected"),
    [
        ("ALL_LOCATIONS", None, "READ"),
        ("ALL_LOCATIONS", "2000-01-01", None),
        ("SELF", None, None),
    ],
)
def test_d13_a_grant_to_a_role_counts_for_who_holds_it_everywhere(
    database: Database,
    make_tenant: MakeTenant,
    make_member: MakeMember,
    scope: str,
    until: str | None,
    expected: str | None,
) -> None:
    parent = make_tenant()
    child = make_tenant(parent)
    user = make_member(parent)
    with database.connection(parent.id) as connection:
        role = connection.execute("SELECT id FROM roles WHERE code = 'CLINICIAN'").fetchone()
        assert role is not None
        connection.execute(
            "INSERT INTO user_roles (tenant_id, user_id, role_id, resource_scope, valid_until)"
            " VALUES (%s, %s, %s, %s, %s)",
            (parent.id, user, role[0], scope, until),
        )
    tenant_tree.grant(database, parent.id, child.id, "READ", role_id=role[0])

    assert level(database, user, parent, child) == expected


def test_d13_the_child_learns_who_may_look_into_it(
    database: Database, make_tenant: MakeTenant, make_member: MakeMember
) -> None:
    parent = make_tenant()
    child = make_tenant(parent)
    grant_id = tenant_tree.grant(database, parent.id, child.id, "READ", user_id=make_member(parent))
    tenant_tree.revoke(database, parent.id, grant_id)

    for tenant in (parent, child):
        with database.connection(tenant.id) as connection:
            found = connection.execute(
                "SELECT count(*) FROM audit_events WHERE tenant_id = %s"
                " AND event_type = 'CONFIG_CHANGED' AND resource_type = 'TENANT_GRANT'",
                (tenant.id,),
            ).fetchone()
        assert found == (2,)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"level": "OWN", "user_id": uuid4()}, "READ, MANAGE"),
        ({"level": "READ"}, "either a user or a role"),
        ({"level": "READ", "user_id": uuid4()}, "no member"),
    ],
)
def test_a_grant_that_cannot_be_says_why(
    database: Database, make_tenant: MakeTenant, options: dict[str, object], message: str
) -> None:
    parent = make_tenant()
    child = make_tenant(parent)

    with pytest.raises(ValueError, match=message):
        tenant_tree.grant(database, parent.id, child.id, **options)  # type: ignore[arg-type]
