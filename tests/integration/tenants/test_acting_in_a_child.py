"""D13 of security.md at the HTTP door: from a parent into a child, by grant and by name only."""

from __future__ import annotations

import time
from collections.abc import Callable
from uuid import UUID

import httpx
import pytest

from interop.access import Scopes
from interop.access import http as access_http
from interop.smart.tokens import Subject
from storage import tenant_tree
from storage.database import Database
from storage.tenancy import Tenant

from .conftest import FHIR_JSON, Live

MakeTenant = Callable[..., Tenant]
# Of the parent and of those below it.
EACH = pytest.mark.strategies(
    ("ROW_LEVEL", "ROW_LEVEL"), ("SCHEMA", "DATABASE"), ("DATABASE", "SCHEMA")
)
CANARY = "Zanzibarcanary"
PATIENT = {"resourceType": "Patient", "id": "p", "name": [{"family": CANARY}]}


class Group:
    """A parent with two practices, a patient in each, and a member of the parent."""

    def __init__(self, live: Live, database: Database, make_tenant: MakeTenant) -> None:
        self.live, self.database = live, database
        self.parent = make_tenant()
        self.child, self.sibling = (make_tenant(self.parent) for _ in range(2))
        for tenant in (self.parent, self.child, self.sibling):
            with live.client(tenant) as client:
                answer = client.put("/fhir/R4/Patient/p", json=PATIENT, headers=FHIR_JSON)
                assert answer.status_code == 201
        self.user = self.member(self.parent)

    def member(self, tenant: Tenant) -> UUID:
        with self.database.connection(tenant.id) as connection:
            row = connection.execute(
                "INSERT INTO users (full_name) VALUES ('Manager') RETURNING id"
            ).fetchone()
            assert row is not None
            connection.execute(
                "INSERT INTO user_tenants (tenant_id, user_id, user_type) VALUES (%s, %s, 'ADMIN')",
                (tenant.id, row[0]),
            )
            connection.execute(
                "INSERT INTO user_roles (tenant_id, user_id, role_id)"
                " SELECT %s, %s, id FROM roles WHERE code = 'TENANT_ADMIN'",
                (tenant.id, row[0]),
            )
        return UUID(str(row[0]))

    def client(self, home: Tenant, user: UUID) -> httpx.Client:
        """What a user holds after signing in at home."""
        token = self.live.services.tokens.issue(
            home, None, "Manager", Scopes.parse("user/*.cruds"), Subject(user_id=user)
        )
        return self.with_token(token)

    def with_token(self, token: str) -> httpx.Client:
        return httpx.Client(
            base_url=self.live.url, headers={"Authorization": f"Bearer {token}"}, timeout=60
        )

    def grant(self, level: str) -> UUID:
        return tenant_tree.grant(
            self.database, self.parent.id, self.child.id, level, user_id=self.user
        )

    def acting(self, level: str) -> httpx.Client:
        """The user in the child, by a grant."""
        self.grant(level)
        with self.client(self.parent, self.user) as client:
            answer = client.post(f"/t/{self.parent.slug}/act-in/{self.child.slug}")
        assert answer.status_code == 200, answer.text
        assert answer.json()["tenant"] == self.child.slug
        return self.with_token(answer.json()["access_token"])


@pytest.fixture
def group(live: Live, database: Database, make_tenant: MakeTenant) -> Group:
    return Group(live, database, make_tenant)


def patient(tenant: Tenant) -> str:
    return f"/t/{tenant.slug}/fhir/R4/Patient/p"


def same(first: httpx.Response, second: httpx.Response) -> bool:
    own = ("date", "x-request-id")
    return (first.status_code, first.content) == (second.status_code, second.content) and {
        k: v for k, v in first.headers.items() if k not in own
    } == {k: v for k, v in second.headers.items() if k not in own}


@EACH
def test_d13_a_parent_without_grant_reads_nothing_of_its_child(group: Group) -> None:
    with group.client(group.parent, group.user) as client:
        own = client.get(patient(group.parent))
        theirs = client.get(patient(group.child))
        nobodys = client.get(f"/t/{'x' * len(group.child.slug)}/fhir/R4/Patient/p")
        refused = client.post(f"/t/{group.parent.slug}/act-in/{group.child.slug}")
        unknown = client.post(f"/t/{group.parent.slug}/act-in/nobody")

    assert own.status_code == 200
    assert theirs.status_code == 404 and same(theirs, nobodys)
    assert refused.status_code == 404 and same(refused, unknown)
    assert CANARY not in theirs.text + refused.text


def test_d13_the_grant_alone_does_not_open_the_child_to_the_parents_token(group: Group) -> None:
    """A token names exactly one tenant, and so does every write."""
    group.grant("MANAGE")

    with group.client(group.parent, group.user) as client:
        assert client.get(patient(group.child)).status_code == 404
        written = client.put(patient(group.child), json=PATIENT, headers=FHIR_JSON)
        assert written.status_code == 404


@EACH
@pytest.mark.parametrize(("level", "written"), [("READ", 403), ("MANAGE", 200)])
def test_d13_a_grant_opens_the_child_and_no_other(group: Group, level: str, written: int) -> None:
    with group.acting(level) as client:
        assert CANARY in client.get(patient(group.child)).text
        changed = client.put(
            patient(group.child), json={**PATIENT, "gender": "other"}, headers=FHIR_JSON
        )
        assert changed.status_code == written, changed.text
        for tenant in (group.parent, group.sibling):
            assert client.get(patient(tenant)).status_code == 404
            put = client.put(patient(tenant), json=PATIENT, headers=FHIR_JSON)
            assert put.status_code == 404
    # What was written is the child's and nobody else's.
    genders = []
    for tenant in (group.parent, group.child, group.sibling):
        with group.live.client(tenant) as own:
            genders.append(own.get("/fhir/R4/Patient/p").json().get("gender"))
    assert genders == [None, "other" if level == "MANAGE" else None, None]


def test_d13_a_child_gets_into_neither_parent_nor_sibling(group: Group) -> None:
    user = group.member(group.child)

    with group.client(group.child, user) as client:
        for tenant in (group.parent, group.sibling):
            assert client.post(f"/t/{group.child.slug}/act-in/{tenant.slug}").status_code == 404
            assert client.get(patient(tenant)).status_code == 404


def test_d13_a_token_by_grant_leads_no_further(group: Group) -> None:
    """From the child one does not go on to another tenant."""
    with group.acting("MANAGE") as client:
        for target in (group.sibling, group.parent, group.child):
            answer = client.post(f"/t/{group.child.slug}/act-in/{target.slug}")
            assert answer.status_code in (403, 404)


@pytest.mark.strategies(("ROW_LEVEL", "ROW_LEVEL"), ("DATABASE", "SCHEMA"))
@pytest.mark.parametrize("ending", ["grant", "membership", "role", "tree"])
def test_d13_what_ends_in_mid_session_is_denied_within_a_minute(
    group: Group, database: Database, monkeypatch: pytest.MonkeyPatch, ending: str
) -> None:
    assert access_http.REMEMBER_SECONDS < 60
    monkeypatch.setattr(access_http, "REMEMBER_SECONDS", 0.2)
    with group.acting("READ") as client:
        assert client.get(patient(group.child)).status_code == 200

        statements = {
            "membership": "UPDATE user_tenants SET status = 'INACTIVE'",
            "role": "UPDATE user_roles SET valid_until = now()",
        }
        with database.connection(group.parent.id) as connection:
            if ending == "grant":
                (one,) = tenant_tree.grants(connection, group.parent.id)
            elif ending in statements:
                connection.execute(
                    f"{statements[ending]} WHERE tenant_id = %s AND user_id = %s",
                    (group.parent.id, group.user),
                )
        if ending == "grant":
            tenant_tree.revoke(database, group.parent.id, one.id)
        elif ending == "tree":
            tenant_tree.place_below(database, group.child.id, None)
        time.sleep(0.3)

        answer = client.get(patient(group.child))
        assert answer.status_code in (401, 403, 404)
        assert CANARY not in answer.text


@EACH
def test_d13_both_tenants_see_in_their_audit_trail_who_acted(
    group: Group, database: Database
) -> None:
    with group.acting("READ"):
        pass

    for tenant in (group.parent, group.child):
        with database.connection(tenant.id) as connection:
            rows = connection.execute(
                "SELECT user_id, metadata ->> 'acts_in' FROM audit_events"
                " WHERE tenant_id = %s AND event_type = 'TOKEN_ISSUED'",
                (tenant.id,),
            ).fetchall()
        assert rows == [(group.user, str(group.child.id))]


def test_a_client_or_the_operator_acts_in_its_own_tenant_only(group: Group) -> None:
    group.grant("MANAGE")

    with group.live.client(group.parent) as client:
        answer = client.post(f"/act-in/{group.child.slug}")

    assert answer.status_code == 403
