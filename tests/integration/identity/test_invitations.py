"""Invitations: made by a member or the operator, accepted at the page of a live server."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import psycopg
import pytest

from interop.errors import BadRequest, Conflict, Forbidden, NotFound
from interop.identity import invitations, roles, users
from interop.identity.actors import Actor
from storage.database import Database
from storage.tenancy import Tenant
from tests.conftest import MigratedDatabase, create_tenant
from tests.integration.identity.conftest import NUMBERS, PASSWORD, Browser, accounts_of

NewUser = Callable[..., tuple[UUID, str]]
Invite = Callable[..., tuple[invitations.Invitation, str]]


@pytest.fixture
def invite(database: Database) -> Invite:
    def make(
        tenant: Tenant, email: str = "", *grants: roles.Grant, actor: Actor | None = None
    ) -> tuple[invitations.Invitation, str]:
        with database.connection(tenant.id) as connection:
            return invitations.invite(
                connection, tenant.id, actor or Actor.operator(),
                email=email or f"guest{next(NUMBERS)}@clinic.example", full_name="Guest Person",
                user_type="HYGIENIST", grants=grants, lifetime=timedelta(days=1),
            )  # fmt: skip

    return make


def accept(browser: Browser, token: str, password: str, repeated: str | None = None) -> Any:
    page = browser.get(f"sign-in/invitation?token={token}")
    assert page.status_code == 200, page.text
    return browser.submit(
        page, "sign-in/invitation", password=password, repeated=repeated or password
    )


def limit_users(database: Database, tenant: Tenant, most: int) -> None:
    with database.connection(tenant.id) as connection:
        connection.execute(
            "INSERT INTO tenant_quotas (tenant_id, max_users) VALUES (%(id)s, %(most)s)"
            " ON CONFLICT (tenant_id) DO UPDATE SET max_users = %(most)s",
            {"id": tenant.id, "most": most},
        )


def member(actor_id: UUID) -> Actor:
    return Actor("USER", actor_id, None, "a request")


def test_whoever_holds_the_link_chooses_a_password_and_becomes_a_member(
    browser: Browser,
    tenant: Tenant,
    invite: Invite,
    database: Database,
    audited: Callable[[], list[tuple[Any, ...]]],
) -> None:
    until = datetime(2100, 1, 1, tzinfo=UTC)
    invitation, token = invite(tenant, "", roles.Grant("CLINICIAN", "SELF", valid_until=until))
    before = len(audited())

    accepted = accept(browser, token, PASSWORD)
    signed_in = browser.sign_in(invitation.email)

    assert accepted.headers["location"] == "/t/demo/sign-in"
    assert signed_in.status_code == 303
    user_id = UUID(browser.me()["user_id"])
    with database.connection(tenant.id) as connection:
        (held,) = roles.assignments(connection, tenant.id, user_id)
        found = [m for m in users.list_members(connection, tenant.id) if m.user_id == user_id]
    assert held.grant == roles.Grant("CLINICIAN", "SELF", valid_until=until)
    assert (found[0].user_type, found[0].full_name) == ("HYGIENIST", "Guest Person")
    assert [(row[0], row[2].get("action")) for row in audited()[before:]] == [
        ("CONFIG_CHANGED", "invitation.accept"), ("LOGIN_SUCCESS", None),
    ]  # fmt: skip


def test_a_link_works_once(
    browser: Browser, browser_of: Callable[..., Browser], tenant: Tenant, invite: Invite
) -> None:
    _, token = invite(tenant)
    late = browser_of(tenant)
    open_page = late.get(f"sign-in/invitation?token={token}")
    accept(browser, token, PASSWORD)

    used = late.submit(open_page, "sign-in/invitation", password=PASSWORD, repeated=PASSWORD)
    shown = late.get(f"sign-in/invitation?token={token}")

    assert (used.status_code, shown.status_code) == (401, 404)


def test_d17_two_who_accept_at_once_do_not_share_the_last_seat(
    browser_of: Callable[..., Browser],
    database: MigratedDatabase,
    new_user: NewUser,
    invite: Invite,
) -> None:
    clinic = create_tenant(database, "full", "FULL")
    new_user(clinic)
    limit_users(database, clinic, 2)
    made = [invite(clinic) for _ in range(2)]
    browsers = [browser_of(clinic) for _ in made]
    pages = [
        browser.get(f"sign-in/invitation?token={token}")
        for browser, (_, token) in zip(browsers, made, strict=True)
    ]

    with ThreadPoolExecutor(2) as pool:
        answers = list(
            pool.map(
                lambda browser, page: browser.submit(
                    page, "sign-in/invitation", password=PASSWORD, repeated=PASSWORD
                ),
                browsers,
                pages,
            )
        )

    assert sorted(answer.status_code for answer in answers) == [303, 409]
    late = next(n for n, answer in enumerate(answers) if answer.status_code == 409)
    assert "may have 2 users" in answers[late].text
    with database.connection(clinic.id) as connection:
        members = connection.execute(
            "SELECT count(*) FROM user_tenants WHERE tenant_id = %s", (clinic.id,)
        ).fetchone()
        accounts = connection.execute(
            "SELECT count(*) FROM users WHERE email = ANY (%s)",
            ([invitation.email for invitation, _ in made],),
        ).fetchone()
        refusals = connection.execute(
            "SELECT metadata ->> 'reason' FROM audit_events WHERE tenant_id = %s"
            " AND outcome = 'FAILURE'",
            (clinic.id,),
        ).fetchall()
    assert (members, accounts, refusals) == ((2,), (1,), [("NOT_ACCEPTED",)])
    # The link is as good as it was, for when there is room.
    limit_users(database, clinic, 3)
    assert accept(browsers[late], made[late][1], PASSWORD).status_code == 303


def test_d17_who_has_an_account_needs_a_seat_as_well(
    browser: Browser,
    browser_of: Callable[..., Browser],
    database: MigratedDatabase,
    tenant: Tenant,
    new_user: NewUser,
    invite: Invite,
) -> None:
    clinic = create_tenant(database, "small", "SMALL")
    limit_users(database, clinic, 0)
    _, email = new_user(tenant)
    _, token = invite(clinic, email)

    answer = accept(browser_of(clinic), token, PASSWORD)

    assert answer.status_code == 409
    assert browser.sign_in(email).status_code == 303
    assert browser_of(clinic).sign_in(email).status_code == 401


def test_d17_a_patient_takes_no_seat_until_they_are_made_something_else(
    database: MigratedDatabase,
) -> None:
    clinic = create_tenant(database, "seats", "SEATS")
    limit_users(database, clinic, 0)
    operator = Actor.operator()
    with database.connection(clinic.id) as connection:
        user_id = users.create_user(
            connection, clinic.id, operator, email="patient@seats.example", full_name="P",
            user_type="PATIENT", password_hash=None,
        )  # fmt: skip
        users.disable(connection, clinic.id, operator, user_id)
        users.enable(connection, clinic.id, operator, user_id)

    with (
        pytest.raises(Conflict, match="may have 0 users"),
        database.connection(clinic.id) as connection,
    ):
        users.set_user_type(connection, clinic.id, operator, user_id, "DENTIST")


@pytest.mark.parametrize("how", ["expired", "revoked", "renewed", "unknown", "of another tenant"])
def test_a_link_that_has_ended_is_like_one_that_never_was(
    browser: Browser,
    tenant: Tenant,
    other_tenant: Tenant,
    invite: Invite,
    database: Database,
    how: str,
) -> None:
    invitation, token = invite(other_tenant if how == "of another tenant" else tenant)
    if how == "expired":
        with database.connection(tenant.id) as connection:
            connection.execute(
                "UPDATE invitations SET expires_at = now() WHERE tenant_id = %s AND id = %s",
                (tenant.id, invitation.id),
            )
    if how == "revoked":
        with database.connection(tenant.id) as connection:
            invitations.revoke(connection, tenant.id, Actor.operator(), invitation.id)
    if how == "renewed":
        invite(tenant, invitation.email)
    if how == "unknown":
        token = "x" * 43

    page = browser.get(f"sign-in/invitation?token={token}")

    assert page.status_code == 404
    assert "has ended" in page.text
    assert invitation.email not in page.text


def test_an_inviter_cannot_take_an_account_over(
    browser: Browser,
    browser_of: Callable[..., Browser],
    new_user: NewUser,
    tenant: Tenant,
    other_tenant: Tenant,
    invite: Invite,
) -> None:
    """The link is the inviter's to pass on; used by themselves it opens nothing."""
    user_id, email = new_user(other_tenant)
    _, token = invite(tenant, email)

    stolen = accept(browser, token, "chosen by the inviter")
    still = browser_of(other_tenant).sign_in(email)
    proved = accept(browser, token, PASSWORD)

    assert stolen.status_code == 401
    assert still.status_code == 303
    assert proved.status_code == 303
    assert browser.sign_in(email).status_code == 303
    assert browser.me()["user_id"] == str(user_id)


def test_an_account_without_a_way_to_sign_in_is_not_given_one_by_an_invitation(
    browser: Browser, tenant: Tenant, invite: Invite, database: Database
) -> None:
    email = f"known{next(NUMBERS)}@clinic.example"
    with accounts_of(database) as connection:
        users.insert_user(connection, email, "Known From Elsewhere")
    _, token = invite(tenant, email)

    assert accept(browser, token, PASSWORD).status_code == 401


def test_guessing_the_password_of_an_invited_account_is_slowed_down(
    browser: Browser, new_user: NewUser, tenant: Tenant, other_tenant: Tenant, invite: Invite
) -> None:
    _, email = new_user(other_tenant)
    _, token = invite(tenant, email)

    statuses = [accept(browser, token, f"guess number {n} of it").status_code for n in range(8)]

    assert statuses[:6] == [401] * 6
    assert 429 in statuses[6:]


def test_inviting_tells_nothing_about_other_tenants(
    tenant: Tenant, new_user: NewUser, other_tenant: Tenant, invite: Invite, database: Database
) -> None:
    _, known = new_user(other_tenant)

    first, _ = invite(tenant, known)
    second, _ = invite(tenant)

    with database.connection(tenant.id) as connection:
        members = [one.email for one in users.list_members(connection, tenant.id)]
        listed = invitations.list_open(connection, tenant.id)
        with pytest.raises(NotFound):
            users.find_member(connection, tenant.id, known)
    assert known not in members
    names = {one.email: one.full_name for one in listed}
    assert names[first.email] == names[second.email] == "Guest Person"


def test_a_member_is_not_invited_again_unless_disabled(
    browser: Browser, tenant: Tenant, new_user: NewUser, invite: Invite, database: Database
) -> None:
    user_id, email = new_user(tenant, "TENANT_ADMIN")
    with pytest.raises(Conflict, match="member"):
        invite(tenant, email)
    with database.connection(tenant.id) as connection:
        users.disable(connection, tenant.id, Actor.operator(), user_id)

    _, token = invite(tenant, email, roles.Grant("READ_ONLY_AUDITOR"))
    accept(browser, token, PASSWORD)

    assert browser.sign_in(email).status_code == 303
    with database.connection(tenant.id) as connection:
        held = roles.assignments(connection, tenant.id, user_id)
    assert [one.grant.role for one in held] == ["READ_ONLY_AUDITOR"]


@pytest.mark.parametrize("password", ["short", "guest person", "aaaaaaaaaaaaaaaa"])
def test_a_password_that_is_easily_guessed_accepts_nothing(
    browser: Browser, tenant: Tenant, invite: Invite, password: str
) -> None:
    _, token = invite(tenant)

    assert accept(browser, token, password).status_code == 422
    assert accept(browser, token, PASSWORD, "another password").status_code == 400
    assert accept(browser, token, PASSWORD).status_code == 303


def test_nobody_gives_more_than_they_have(
    tenant: Tenant, new_user: NewUser, invite: Invite, database: Database
) -> None:
    auditor, _ = new_user(tenant, "READ_ONLY_AUDITOR")
    administrator, _ = new_user(tenant, "TENANT_ADMIN")
    target, _ = new_user(tenant)

    with pytest.raises(Forbidden, match="edit_patient"):
        invite(tenant, "", roles.Grant("CLINICIAN"), actor=member(auditor))
    with database.connection(tenant.id) as connection, pytest.raises(Forbidden):
        roles.assign(connection, tenant.id, member(auditor), auditor, roles.Grant("TENANT_ADMIN"))
    invite(tenant, "", roles.Grant("CLINICIAN"), actor=member(administrator))
    with database.connection(tenant.id) as connection:
        roles.assign(connection, tenant.id, member(administrator), target, roles.Grant("CLINICIAN"))


@pytest.mark.parametrize("held", ["SELF", "expired", "not yet"])
def test_what_is_held_in_part_is_not_given(
    tenant: Tenant, new_user: NewUser, database: Database, held: str
) -> None:
    now = datetime.now(UTC)
    grant = {
        "SELF": roles.Grant("TENANT_ADMIN", "SELF"),
        "expired": roles.Grant("TENANT_ADMIN", valid_until=now - timedelta(hours=1)),
        "not yet": roles.Grant("TENANT_ADMIN", valid_from=now + timedelta(hours=1)),
    }[held]
    actor_id, _ = new_user(tenant)
    with database.connection(tenant.id) as connection:
        roles.assign(connection, tenant.id, Actor.operator(), actor_id, grant)

    with database.connection(tenant.id) as connection, pytest.raises(Forbidden):
        roles.assign(connection, tenant.id, member(actor_id), actor_id, roles.Grant("TENANT_ADMIN"))


def test_a_tenants_own_role_is_made_changed_and_removed(
    tenant: Tenant, other_tenant: Tenant, new_user: NewUser, database: Database
) -> None:
    operator = Actor.operator()
    user_id, _ = new_user(tenant)
    with database.connection(tenant.id) as connection:
        roles.create_role(
            connection, tenant.id, operator, "FRONT_OFFICE", "Front office", ["view_patient"]
        )
        roles.set_permissions(
            connection, tenant.id, operator, "FRONT_OFFICE", ["view_patient", "manage_billing"]
        )
        roles.assign(connection, tenant.id, operator, user_id, roles.Grant("FRONT_OFFICE"))
        made = roles.role(connection, tenant.id, "FRONT_OFFICE")
        with pytest.raises(Conflict, match="hold"):
            roles.delete_role(connection, tenant.id, operator, "FRONT_OFFICE")
        (held,) = roles.assignments(connection, tenant.id, user_id)
        roles.revoke(connection, tenant.id, operator, user_id, held.id)
    with database.connection(other_tenant.id) as connection, pytest.raises(NotFound):
        roles.role(connection, other_tenant.id, "FRONT_OFFICE")
    with database.connection(tenant.id) as connection:
        roles.delete_role(connection, tenant.id, operator, "FRONT_OFFICE")
        with pytest.raises(NotFound):
            roles.role(connection, tenant.id, "FRONT_OFFICE")

    assert made.permissions == ("manage_billing", "view_patient")
    assert not made.is_platform


def test_a_role_of_the_platform_is_not_a_tenants_to_change(
    tenant: Tenant, database: Database
) -> None:
    with database.connection(tenant.id) as connection:
        with pytest.raises(Conflict, match="platform"):
            roles.set_permissions(connection, tenant.id, Actor.operator(), "CLINICIAN", [])
        with pytest.raises(BadRequest, match="view_patient"):
            roles.create_role(connection, tenant.id, Actor.operator(), "ODD", "Odd", ["fly"])
        with pytest.raises(Conflict):
            roles.create_role(connection, tenant.id, Actor.operator(), "CLINICIAN", "Mine", [])


@pytest.mark.parametrize(
    "grant",
    [
        roles.Grant("CLINICIAN", "EVERYWHERE"),
        roles.Grant("CLINICIAN", "LOCATION"),
        roles.Grant("CLINICIAN", "TEAM"),
        roles.Grant("CLINICIAN", "SELF", location_id=UUID(int=1)),
        roles.Grant("CLINICIAN", "LOCATION", location_id=UUID(int=1)),
        roles.Grant(
            "CLINICIAN",
            valid_from=datetime(2027, 1, 2, tzinfo=UTC),
            valid_until=datetime(2027, 1, 1, tzinfo=UTC),
        ),
    ],
)
def test_terms_that_mean_nothing_are_refused(
    tenant: Tenant, new_user: NewUser, database: Database, grant: roles.Grant
) -> None:
    user_id, _ = new_user(tenant)

    with database.connection(tenant.id) as connection, pytest.raises(BadRequest):
        roles.assign(connection, tenant.id, Actor.operator(), user_id, grant)


def test_administration_is_written_down_by_ids_alone(
    tenant: Tenant, invite: Invite, new_user: NewUser, place_url: str
) -> None:
    user_id, email = new_user(tenant, "CLINICIAN")
    invitation, token = invite(tenant)

    with psycopg.connect(place_url) as connection:
        rows = connection.execute(
            "SELECT metadata ->> 'action', a::text FROM audit_events AS a"
            " WHERE resource_id = ANY(%s) ORDER BY timestamp",
            ([str(user_id), str(invitation.id)],),
        ).fetchall()

    assert [row[0] for row in rows] == ["user.create", "invitation.create"]
    for row in rows:
        for word in (email, "Okafor", "Guest", invitation.email, token):
            assert word not in row[1]


def test_only_the_operator_creates_accounts_and_resets_passwords(
    tenant: Tenant, new_user: NewUser, database: Database
) -> None:
    administrator, _ = new_user(tenant, "TENANT_ADMIN")
    user_id, _ = new_user(tenant)
    actor = member(administrator)

    with database.connection(tenant.id) as connection:
        with pytest.raises(Forbidden):
            users.create_user(
                connection, tenant.id, actor, email="a@b.example", full_name="A", user_type="ADMIN",
                password_hash=None,
            )  # fmt: skip
        with pytest.raises(Forbidden):
            users.reset_password(connection, tenant.id, actor, user_id, "hash")
        with pytest.raises(Forbidden):
            users.disable(connection, tenant.id, actor, user_id, everywhere=True)


def test_a_user_of_another_tenant_is_nobody_here(
    tenant: Tenant, other_tenant: Tenant, new_user: NewUser, database: Database
) -> None:
    stranger, _ = new_user(other_tenant)
    operator = Actor.operator()

    with database.connection(tenant.id) as connection:
        for change in (users.disable, users.enable):
            with pytest.raises(NotFound):
                change(connection, tenant.id, operator, stranger)
        with pytest.raises(NotFound):
            users.set_user_type(connection, tenant.id, operator, stranger, "ADMIN")
