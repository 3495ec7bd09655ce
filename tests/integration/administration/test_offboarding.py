"""Offboarding over /api/v1: asked twice, stopped by the law, and seen to its end (D15)."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest

from interop.administration import offboarding_routes
from interop.deletion_certificate import signer, verify
from storage.database import Database
from storage.tenants import deletion
from tests.conftest import MigratedDatabase, create_tenant
from tests.integration.access.conftest import FHIR_JSON, Door
from tests.integration.administration.conftest import Office, assert_problem

NewOffice = Callable[[], Office]


@pytest.fixture
def new_office(door: Door, database: MigratedDatabase) -> NewOffice:
    """The administration of an organization of its own, with one patient."""

    def make() -> Office:
        word = uuid4().hex[:10]
        made = Office(door, create_tenant(database, f"o{word}", word.upper()))
        patient = {"resourceType": "Patient", "name": [{"family": "Leaver"}]}
        stored = door.system(made.tenant).post("/Patient", json=patient, headers=FHIR_JSON)
        assert stored.status_code == 201, stored.text
        return made

    return make


def prepared(office: Office) -> dict[str, str]:
    """The body that confirms."""
    answer = office.operator.post("/offboarding")
    assert answer.status_code == 200, answer.text
    return {"slug": office.tenant.slug, "confirmation": answer.json()["confirmation"]}


def confirm(office: Office, body: dict[str, str]) -> Any:
    return office.operator.post("/offboarding/confirm", json=body)


def status_of(office: Office) -> str:
    rows = office.door.execute("SELECT status FROM tenants WHERE id = %s", office.tenant.id)
    return str(rows[0][0])


def hold(office: Office, released: bool = False) -> UUID:
    ((made,),) = office.door.execute(
        "INSERT INTO legal_holds (tenant_id, entity_type, entity_id, reason, reference,"
        " placed_at, released_at) VALUES (%s, 'PATIENT', gen_random_uuid(), 'a lawsuit', 'AZ 7',"
        " now() - interval '1 day', CASE WHEN %s THEN now() END) RETURNING id",
        office.tenant.id,
        released,
    )
    return UUID(str(made))


def test_the_first_request_says_what_would_go_and_changes_nothing(new_office: NewOffice) -> None:
    office = new_office()

    before = office.operator.get("/offboarding")
    answer = office.operator.post("/offboarding")
    after = office.operator.get("/offboarding")

    assert before.json() == after.json()
    assert before.json()["state"] == "NOT_REQUESTED"
    said = answer.json()
    assert (said["users"], said["patients"], said["imaging_studies"]) == (0, 1, 0)
    assert status_of(office) == "ACTIVE"


@pytest.mark.parametrize(
    "wrong", ["slug", "confirmation", "another tenant's", "late", "not base64"]
)
def test_only_what_was_just_given_here_confirms(
    new_office: NewOffice, office: Office, wrong: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    leaver = new_office()
    if wrong == "late":
        monkeypatch.setattr(offboarding_routes, "LIFETIME", timedelta(seconds=-1))
    body = prepared(leaver)
    if wrong == "slug":
        body["slug"] = office.tenant.slug
    if wrong == "confirmation":
        body["confirmation"] = body["confirmation"][:-8] + "AAAAAAA="
    if wrong == "another tenant's":
        body["confirmation"] = prepared(office)["confirmation"]
    if wrong == "not base64":
        body["confirmation"] = "é"

    said = assert_problem(confirm(leaver, body), 409)

    assert wrong.partition(" ")[0] in said or "confirmation" in said
    assert status_of(leaver) == "ACTIVE"


def test_d15_a_legal_hold_stops_both_steps_and_is_named(new_office: NewOffice) -> None:
    office = new_office()
    hold(office, released=True)
    body = prepared(office)
    held = hold(office)

    answers = [office.operator.post("/offboarding"), confirm(office, body)]

    for answer in answers:
        assert_problem(answer, 409)
        (named,) = answer.json()["holds"]
        assert (named["id"], named["reason"], named["reference"]) == (
            str(held), "a lawsuit", "AZ 7",
        )  # fmt: skip
    assert office.operator.get("/offboarding").json()["holds"][0]["id"] == str(held)
    assert status_of(office) == "ACTIVE"


def test_who_has_tenants_below_is_not_deletable(
    new_office: NewOffice, database: MigratedDatabase
) -> None:
    office, child = new_office(), new_office()
    office.door.execute(
        "UPDATE tenants SET parent_tenant_id = %s WHERE id = %s", office.tenant.id, child.tenant.id
    )

    said = assert_problem(confirm(office, prepared(office)), 409)

    assert child.tenant.slug in said
    assert status_of(office) == "ACTIVE"


def test_an_organization_is_offboarded_to_its_certificate(
    new_office: NewOffice, door: Door, database: MigratedDatabase
) -> None:
    office = new_office()
    reader = door.system(office.tenant)
    body = prepared(office)

    requested = confirm(office, body)
    again = confirm(office, body)

    assert requested.status_code == again.status_code == 202, requested.text
    assert requested.json()["state"] == "REQUESTED"
    assert status_of(office) == "CLOSED"
    # It answers like a tenant that never was, but for this.
    assert reader.get("/Patient").status_code == 404
    assert office.operator.get("/settings").status_code == 404
    assert office.operator.post("/resume", json={"reason": "r"}).status_code == 404
    assert office.operator.get("/offboarding").json()["state"] == "REQUESTED"
    # A hold that comes now stops what is under way, and is shown.
    held = hold(office)
    assert office.operator.get("/offboarding").json()["holds"][0]["id"] == str(held)
    door.execute("UPDATE legal_holds SET released_at = now() WHERE id = %s", held)

    door.execute(
        "UPDATE tenant_deletions SET not_before = now() WHERE tenant_id = %s", office.tenant.id
    )
    owner = Database(database.owner_url)
    owner.vault = door.services.database.vault
    keys = door.services.tokens.keys
    deletion.run(owner, door.services.objects, office.tenant.id, signer(keys))
    owner.close()

    done = office.operator.get("/offboarding").json()
    assert done["state"] == "DONE"
    assert done["deleted_rows"]["patients"] == 1
    assert str(office.tenant.id) in str(verify(keys, done["certificate"]))


def test_each_step_is_audited(new_office: NewOffice) -> None:
    office = new_office()
    body: dict[str, str] = {}

    assert office.rows_of(lambda: body.update(prepared(office)), 1) == 1
    # Two changes, each with its row: it is closed, and its deletion is requested.
    assert office.rows_of(lambda: confirm(office, body), 2) == 2
    assert office.newest()[2]["changes"] == {"deletion": "requested"}
    assert office.rows_of(lambda: confirm(office, body), 1) == 1
    assert office.rows_of(lambda: office.operator.get("/offboarding"), 1) == 1


def test_a_closed_organization_is_shown_to_nobody_but_the_operator(new_office: NewOffice) -> None:
    office, stranger = new_office(), new_office()
    administrator = office.user({"manage_settings"})
    confirm(office, prepared(office))

    assert administrator.get("/offboarding").status_code == 403
    assert office.stranger(stranger.tenant).get("/offboarding").status_code == 404
    assert office.anybody.get("/offboarding").status_code == 401
