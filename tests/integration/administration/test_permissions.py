"""Each route of /api/v1 with each kind of caller: who gets in, who learns nothing, one row each."""

from __future__ import annotations

import httpx
import pytest

from interop.access.routes import ADMINISTRATION, OPERATOR, ROUTES, Rule
from storage.tenancy import Tenant
from tests.integration.administration.conftest import ALL, Office, assert_problem, comparable

GUARDED = [
    (method, path.removeprefix(ADMINISTRATION), rule)
    for (method, path), rule in ROUTES.items()
    if path.startswith(ADMINISTRATION) and rule.permission
]
NOBODY = "00000000-0000-4000-8000-00000000000"
PATHS = {
    "user_id": NOBODY + "0",
    "assignment_id": NOBODY + "1",
    "invitation_id": NOBODY + "2",
    "id": NOBODY + "3",
    "code": "NO_SUCH_ROLE",
    "feature": "NO_SUCH_FEATURE",
    "tag": "PatientAge",
    "rule": "no-rule",
    "destination": "nowhere",
}
# What a caller gets who may: the routes are asked with ids of nobody and without a body.
INSIDE = {200, 201, 400, 404, 415}


def ask(client: httpx.Client, method: str, path: str) -> httpx.Response:
    url = path if path.startswith("http") else str(client.base_url).rstrip("/") + path
    return client.request(method, url.format(**PATHS))


def test_the_matrix_covers_the_whole_administration() -> None:
    assert len(GUARDED) > 35
    assert {rule.permission for *_, rule in GUARDED} == {
        OPERATOR,
        "manage_users",
        "manage_settings",
        "view_audit_log",
        "view_imaging",
        "upload_imaging",
    }


@pytest.fixture(scope="module")
def people(office: Office) -> dict[str, tuple[httpx.Client, httpx.Client]]:
    """For each permission: somebody with all others, and somebody with it alone."""
    everything = office.user(ALL)
    found = {
        permission: (office.user(ALL - {permission}), office.user({permission}))
        for permission in (
            "manage_users",
            "manage_settings",
            "view_audit_log",
            "view_imaging",
            "upload_imaging",
        )
    }
    return {**found, OPERATOR: (everything, office.operator)}


@pytest.fixture(scope="module")
def stranger(office: Office, other_tenant: Tenant) -> httpx.Client:
    return office.stranger(other_tenant)


@pytest.mark.parametrize(
    ("method", "path", "rule"), GUARDED, ids=lambda x: x if isinstance(x, str) else ""
)
def test_a_route_lets_in_whom_its_rule_names_and_audits_everybody(
    office: Office,
    people: dict[str, tuple[httpx.Client, httpx.Client]],
    stranger: httpx.Client,
    method: str,
    path: str,
    rule: Rule,
) -> None:
    without, holder = people[rule.permission]
    answers: dict[str, httpx.Response] = {}

    def calls() -> None:
        for name, client in {
            "nobody": office.anybody,
            "stranger": stranger,
            "without": without,
            "holder": holder,
            "operator": office.operator,
        }.items():
            answers[name] = ask(client, method, path)

    left = office.rows_of(calls, 5)

    assert_problem(answers["nobody"], 401)
    assert answers["nobody"].headers["www-authenticate"] == "Bearer"
    assert_problem(answers["without"], 403)
    # The same as where there never was a tenant.
    nowhere = office.door.url + ADMINISTRATION.replace("{tenant}", "x" * len(office.tenant.slug))
    assert comparable(answers["stranger"]) == comparable(ask(stranger, method, nowhere + path))
    assert_problem(answers["stranger"], 404)
    for name in ("holder", "operator"):
        assert answers[name].status_code in INSIDE, answers[name].text
        assert answers[name].headers["cache-control"] == "no-store"
        assert "ratelimit" not in answers[name].headers  # no quota, no limit
    assert left == 5


def test_a_refusal_is_denied_access_in_the_log_and_a_stranger_is_nobody(office: Office) -> None:
    office.user(()).get("/users")

    assert office.newest()[:2] == ("ACCESS_DENIED", "FAILURE")
    assert office.newest()[2] == {
        "status": 403,
        "method": "GET",
        "route": "/tenants/{tenant}/users",
    }


@pytest.mark.parametrize(
    ("scope", "status"),
    [
        ("user/*.cruds", 403),  # given for records
        ("user/PractitionerRole.cruds", 200),
        ("user/PractitionerRole.s", 200),
        ("user/PractitionerRole.r", 403),
        ("user/Patient.cruds", 403),
        ("system/PractitionerRole.cruds", 403),
        ("user/PractitionerRole.s?active=true", 403),
    ],
)
def test_an_app_administers_only_with_a_scope_that_names_it(
    office: Office, scope: str, status: int
) -> None:
    app = office.door.api_client(office.tenant)

    answer = office.user(ALL, scope, client=app).get("/users")

    assert answer.status_code == status, answer.text


@pytest.mark.parametrize("path", ["", "/users", "/clients", "/settings", "/keys", "/roles"])
def test_a_service_administers_nothing_whatever_its_scopes(office: Office, path: str) -> None:
    scopes = "system/*.cruds system/Organization.cruds system/PractitionerRole.cruds"

    assert_problem(ask(office.service(scopes), "GET", path), 403)


def test_a_service_reads_the_log_with_the_scope_for_it(office: Office) -> None:
    assert office.service("system/AuditEvent.s").get("/audit-events").status_code == 200
    assert office.service("system/*.cruds").get("/audit-events").status_code == 403


def test_a_permission_for_one_location_is_none_for_the_organization(office: Office) -> None:
    user = office.member(ALL)
    office.door.execute("UPDATE user_roles SET resource_scope = 'SELF' WHERE user_id = %s", user)
    client = office.door.caller(office.tenant, "user/*.cruds", user=user)

    assert client.get(office.base + "/users").status_code == 403


def test_what_is_no_route_is_not_there_and_a_wrong_method_says_which_are(office: Office) -> None:
    assert_problem(office.operator.get("/nothing"), 404)
    assert_problem(office.anybody.get("/nothing"), 401)
    wrong = office.operator.put("/users")
    assert_problem(wrong, 405)
    assert wrong.headers["allow"] == "GET, POST"
    assert_problem(httpx.get(office.door.url + "/api/v1/nothing"), 404)
    assert office.rows_of(lambda: office.operator.delete("/settings"), 1) == 1
