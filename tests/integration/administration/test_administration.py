"""What an administrator does over /api/v1, and what of it stays."""

from __future__ import annotations

import hashlib
from base64 import b64encode
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from uuid import UUID

import httpx
import pytest

from interop.administration import sections
from interop.administration.documentation import STYLE
from interop.administration.quota_routes import Quotas
from interop.administration.tenant_routes import Branding, Settings
from interop.errors import PreconditionFailed
from storage.tenancy import Tenant
from storage.tenants import configuration
from tests.integration.access.conftest import Door
from tests.integration.administration.conftest import ALL, Office, assert_problem


@pytest.mark.parametrize(
    ("model", "section"), [(Settings, "settings"), (Branding, "branding"), (Quotas, "quota")]
)
def test_the_models_have_exactly_the_fields_of_the_tables(
    model: type[Settings | Branding | Quotas], section: str
) -> None:
    assert set(model.model_fields) == set(configuration.fields(section))


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("PATCH", "/settings", {"currency": "CHF"}),
        ("PATCH", "/branding", {"display_name": "Clinic"}),
        ("PUT", "/quotas", {"max_users": 1000}),
        ("PUT", "/features/AI_DIAGNOSTICS", {"is_enabled": True}),
    ],
)
def test_c12_of_two_administrators_the_second_must_look_again(
    office: Office, method: str, path: str, body: dict[str, object]
) -> None:
    seen = office.operator.get(path).headers["etag"]

    def change(**headers: str) -> httpx.Response:
        return office.operator.request(method, path, json=body, headers=headers)

    assert_problem(change(), 428)
    first = change(**{"If-Match": seen})
    assert first.status_code == 200, first.text
    assert_problem(change(**{"If-Match": seen}), 412)
    assert first.headers["etag"] == office.operator.get(path).headers["etag"] != seen
    # Nothing changes, and that is one row too.
    again = {"If-Match": first.headers["etag"]}
    assert office.rows_of(lambda: change(**again), 1) == 1
    assert office.newest()[:2] == ("CONFIG_CHANGED", "SUCCESS")


@pytest.mark.parametrize(
    ("section", "path", "body", "field"),
    [
        ("settings", "/settings", {"locale": "fr-CH"}, "locale"),
        ("branding", "/branding", {"display_name": "By HTTP"}, "display_name"),
        ("quota", "/quotas", {"max_locations": 7}, "max_locations"),
    ],
)
def test_c12_a_change_on_the_command_line_is_not_overwritten_unseen(
    office: Office, section: str, path: str, body: dict[str, object], field: str
) -> None:
    """The command has compared and written, and commits while the request waits."""
    database, tenant = office.door.services.database, office.tenant
    answer = office.operator.get(path)
    seen = answer.headers["etag"]
    typed: dict[str, object] = {"locale": "it-CH", "display_name": "Typed", "max_locations": 3}
    method = "PUT" if section == "quota" else "PATCH"

    with ThreadPoolExecutor(1) as pool:
        with database.connection(tenant.id) as connection:
            before = configuration.read(connection, tenant.id, section)
            # Both doors name the same version.
            assert f'"{sections.version_of(section, before)}"' == seen
            configuration.change(connection, tenant.id, section, {field: typed[field]})
            late = pool.submit(
                office.operator.request, method, path, json=body, headers={"If-Match": seen}
            )
            with pytest.raises(TimeoutError):
                late.result(timeout=0.5)
        assert_problem(late.result(timeout=20), 412)

    with database.connection(tenant.id) as connection:
        found = configuration.read(connection, tenant.id, section)
    assert found[field] == typed[field]


def test_two_commands_with_the_same_version_change_once(office: Office) -> None:
    database, tenant = office.door.services.database, office.tenant
    with database.connection(tenant.id) as connection:
        values = configuration.read(connection, tenant.id, "branding")
    seen = sections.version_of("branding", values)
    together = Barrier(2)

    def command(name: str) -> bool:
        together.wait()
        try:
            with database.connection(tenant.id) as connection:
                sections.change(connection, tenant.id, "branding", {"display_name": name}, seen)
        except PreconditionFailed:
            return False
        return True

    with ThreadPoolExecutor(2) as pool:
        assert sorted(pool.map(command, ["one", "two"])) == [False, True]


def test_a_wrong_value_is_named_with_its_place_and_what_is_accepted(office: Office) -> None:
    match = {"If-Match": "*"}

    wrong = office.operator.patch(
        "/settings", json={"quiet_window_seconds": -1, "nonsense": 1}, headers=match
    )
    zone = office.operator.patch("/settings", json={"time_zone": "Mars/One"}, headers=match)
    twice = office.operator.patch(
        "/settings", content='{"locale": "en", "locale": "de"}',
        headers={**match, "Content-Type": "application/json"},
    )  # fmt: skip

    assert_problem(wrong, 400)
    faults = {one["where"]: one for one in wrong.json()["errors"]}
    assert faults["body.quiet_window_seconds"]["accepted"] == "ge 0"
    assert "body.nonsense" in faults
    assert "IANA" in assert_problem(zone, 400)
    assert "locale" in assert_problem(twice, 400)
    assert_problem(office.operator.patch("/settings", content="locale=en", headers=match), 415)
    huge = {"Content-Type": "application/json", **match}
    content = '{"locale": "' + "x" * 300_000 + '"}'
    assert_problem(office.operator.patch("/settings", content=content, headers=huge), 413)


def test_a_clients_secret_is_shown_once_and_the_new_one_replaces_it(office: Office) -> None:
    made = office.operator.post("/clients", json={"name": "PACS", "scope": "system/*.rs"})
    client = made.json()

    def token(secret: str) -> int:
        url = f"{office.door.url}/t/{office.tenant.slug}/oauth2/token"
        form = {"grant_type": "client_credentials"}
        return httpx.post(url, data=form, auth=(client["client_id"], secret)).status_code

    assert made.status_code == 201 and token(client["client_secret"]) == 200
    shown = office.operator.get(f"/clients/{client['id']}")
    listed = office.operator.get("/clients", params={"limit": 200})
    for answer in (shown, listed):
        assert "secret" not in answer.text.replace("CLIENT_SECRET", "")
    renewed = office.operator.post(f"/clients/{client['id']}/secret").json()["client_secret"]
    assert token(client["client_secret"]) == 401 and token(renewed) == 200
    logged = office.door.execute(
        "SELECT count(*) FROM audit_events WHERE metadata::text LIKE ANY (%s)",
        [f"%{client['client_secret']}%", f"%{renewed}%"],
    )
    assert set(logged) == {(0,)}
    disabled = office.operator.post(f"/clients/{client['id']}/disable")
    assert disabled.json()["status"] == "DISABLED" and token(renewed) == 401


@pytest.mark.parametrize("path", ["/users", "/clients", "/application-entities", "/audit-events"])
def test_pages_show_each_row_once(office: Office, path: str) -> None:
    for n in range(5):
        office.operator.post("/clients", json={"name": f"c{n}", "scope": "system/*.rs"})
        office.operator.post("/application-entities", json={"ae_title": f"PAGE{n}"})
        office.member(())
    key = {"/users": "user_id"}.get(path, "id")
    # The log grows while it is read: what was written before has its place.
    until = {"until": office.operator.get("/audit-events").json()["items"][0]["timestamp"]}
    more = until if path == "/audit-events" else {}
    whole = office.operator.get(path, params={"limit": 200, **more}).json()
    seen: list[str] = []
    after: dict[str, str] = {}

    while True:
        answer = office.operator.get(path, params={"limit": 2, **more, **after}).json()
        assert len(answer["items"]) <= 2
        seen += [one[key] for one in answer["items"]]
        if answer["next"] is None or len(seen) >= 40:
            break
        after = {"after": answer["next"]}

    assert len(whole["items"]) >= 5
    assert seen == [one[key] for one in whole["items"]][: len(seen)]
    assert_problem(office.operator.get(path, params={"after": "garbage"}), 400)
    assert_problem(office.operator.get(path, params={"limit": 0}), 400)


def test_an_administrator_gives_what_they_hold_and_no_more(office: Office) -> None:
    manager = office.user({"manage_users", "view_patient"})
    somebody = office.member(())

    within = manager.post(
        "/roles", json={"code": "READER", "name": "Reader", "permissions": ["view_patient"]}
    )
    beyond = manager.post(
        "/roles", json={"code": "MORE", "name": "More", "permissions": ["manage_settings"]}
    )
    given = manager.post(f"/users/{somebody}/roles", json={"role": "READER"})
    admin = manager.post(f"/users/{somebody}/roles", json={"role": "TENANT_ADMIN"})

    assert within.status_code == 201, within.text
    assert_problem(beyond, 403)
    assert given.status_code == 201, given.text
    assert_problem(admin, 403)
    assert "READER" in manager.get(f"/users/{somebody}").json()["roles"]
    assert_problem(manager.delete("/roles/READER"), 409)
    assignment = given.json()["id"]
    assert manager.delete(f"/users/{somebody}/roles/{assignment}").status_code == 204
    etag = within.headers["etag"]
    nothing = manager.put(
        "/roles/READER/permissions", json={"permissions": []}, headers={"If-Match": etag}
    )
    assert nothing.json()["permissions"] == []
    assert manager.delete("/roles/READER").status_code == 204
    assert_problem(manager.get("/roles/READER"), 404)


def test_people_are_invited_and_only_the_operator_chooses_a_password(office: Office) -> None:
    person = {"email": "New@Example.org", "full_name": "New", "user_type": "ADMIN"}
    manager = office.user(ALL)

    invited = manager.post("/users", json=person)
    created = manager.post("/users", json={**person, "password": "correct horse battery"})
    by_operator = office.operator.post(
        "/users", json={**person, "email": "b@example.org", "password": "correct horse battery"}
    )

    assert invited.status_code == 201 and "token=" in invited.json()["link"]
    assert_problem(created, 403)
    assert by_operator.status_code == 201, by_operator.text
    user = by_operator.json()["user_id"]
    assert office.operator.post(f"/users/{user}/disable").json()["status"] == "INACTIVE"
    assert office.operator.post(f"/users/{user}/enable").json()["status"] == "ACTIVE"
    listed = manager.get("/invitations")
    assert "token" not in listed.text
    (open_one,) = [i for i in listed.json()["items"] if i["email"] == "new@example.org"]
    assert manager.delete(f"/invitations/{open_one['id']}").status_code == 204
    assert_problem(manager.delete(f"/invitations/{open_one['id']}"), 404)


def test_a_suspended_organization_is_read_and_only_the_operator_resumes_it(
    door: Door, other_tenant: Tenant
) -> None:
    office = Office(door, other_tenant)
    admin = office.user(ALL)

    assert office.rows_of(
        lambda: office.operator.post("/suspend", json={"reason": "unpaid"}), 1
    ) == 1  # fmt: skip
    assert admin.get("/settings").status_code == 200
    refused = admin.patch("/settings", json={"locale": "de"}, headers={"If-Match": "*"})
    assert_problem(refused, 403)
    assert_problem(admin.post("/resume", json={"reason": "please"}), 403)
    assert_problem(office.operator.post("/suspend", json={"reason": "again"}), 403)
    resumed = office.operator.post("/resume", json={"reason": "paid"})
    assert resumed.json()["status"] == "ACTIVE"


def test_the_gate_limits_the_administration_too(door: Door, other_tenant: Tenant) -> None:
    office = Office(door, other_tenant)
    app = office.door.api_client(other_tenant)
    door.execute("UPDATE api_clients SET rate_limit_per_minute = 3 WHERE id = %s", app)
    service = door.caller(other_tenant, "system/AuditEvent.s", client=app)

    answers = [service.get(office.base + "/audit-events") for _ in range(12)]

    assert "ratelimit" in answers[0].headers
    assert_problem(answers[-1], 429)
    assert int(answers[-1].headers["retry-after"]) > 0


def test_keys_rotate_and_show_no_private_part(office: Office) -> None:
    before = office.operator.get("/keys").json()

    made = office.operator.post("/keys/data/rotate")
    signing = office.operator.post("/keys/signing/rotate", json={})

    after = office.operator.get("/keys").json()
    assert made.status_code == 201, made.text
    assert after["data_key_version"] == made.json()["version"] != before["data_key_version"]
    assert set(signing.json()["key_ids"]) <= {key["kid"] for key in after["signing_keys"]}
    for key in after["signing_keys"]:
        assert not {"d", "p", "q", "dp", "dq", "qi"} & key.keys()


def test_an_entity_is_changed_in_part_and_no_other_tenant_finds_it(
    office: Office, other_tenant: Tenant
) -> None:
    made = office.operator.post(
        "/application-entities",
        json={"ae_title": "CT/1", "host": "10.0.0.5", "port": 104, "may_be_sent_to": True},
    )
    url = f"/application-entities/{made.json()['id']}"
    match = {"If-Match": made.headers["etag"]}

    changed = office.operator.patch(url, json={"source_networks": ["10.0.0.0/24"]}, headers=match)

    assert changed.json()["source_networks"] == ["10.0.0.0/24"]
    assert changed.json()["port"] == 104
    assert_problem(office.operator.patch(url, json={"port": 105}, headers=match), 412)
    overwrite = {"If-Match": "*"}
    wrong = office.operator.patch(url, json={"source_networks": ["10.0.0.5/24"]}, headers=overwrite)
    assert "10.0.0.0/24" in assert_problem(wrong, 400)
    assert_problem(office.operator.post("/application-entities", json={"ae_title": "CT/1"}), 409)
    assert office.operator.post(url + "/disable").json()["active"] is False
    theirs = Office(office.door, other_tenant).operator
    assert_problem(theirs.get(url), 404)


def test_ids_of_another_tenant_are_those_of_nobody(office: Office, other_tenant: Tenant) -> None:
    theirs = Office(office.door, other_tenant)
    user = theirs.member(())
    client = theirs.operator.post("/clients", json={"name": "c", "scope": "system/*.rs"}).json()

    for method, path, own in (
        ("GET", "/users/{}", str(user)),
        ("POST", "/users/{}/disable", str(user)),
        ("GET", "/users/{}/roles", str(user)),
        ("GET", "/clients/{}", client["id"]),
        ("POST", "/clients/{}/disable", client["id"]),
        ("POST", "/clients/{}/secret", client["id"]),
    ):
        found = office.operator.request(method, path.format(own))
        nobodys = office.operator.request(method, path.format(UUID(int=7)))
        assert found.status_code == 404
        assert found.content == nobodys.content


def test_the_documentation_needs_nothing_from_elsewhere(office: Office) -> None:
    page = httpx.get(office.door.url + "/docs")
    document = httpx.get(office.door.url + "/api/v1/openapi.json").json()

    assert page.status_code == 200
    assert "http" not in page.text.replace("http-equiv", "")
    assert "<script" not in page.text
    digest = b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
    assert f"style-src 'sha256-{digest}'" in page.headers["content-security-policy"]
    for path in document["paths"]:
        assert f"/api/v1{path}" in page.text
