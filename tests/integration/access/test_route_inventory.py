"""Every live route has a rule that it keeps (security.md G8, API9; D8)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from starlette.routing import BaseRoute, Mount, Route

from interop.access.routes import DICOMWEB, FHIR, ROUTES, Rule
from interop.app import application
from interop.dicomweb import router as dicomweb
from interop.fhir.capability import capability_statement
from interop.settings import Settings
from storage.tenancy import Tenant
from tests.integration.access.conftest import Door

VALUES = {
    "resource_type": "Observation",
    "resource_type:fhir_type": "Observation",
    "owner_type": "Patient",
    "owner_id": "some-id",
    "resource_id": "some-id",
    "version_id": "1",
    "path": "what/is/this/url",
    "study": "1.2.3",
    "series": "1.2.3.4",
    "instance": "1.2.3.4.5",
    "frames": "1",
    "provider": "x",
    "user_id": "00000000-0000-4000-8000-000000000000",
    "assignment_id": "00000000-0000-4000-8000-000000000000",
    "invitation_id": "00000000-0000-4000-8000-000000000000",
    "id": "00000000-0000-4000-8000-000000000000",
    "code": "NO_SUCH_ROLE",
    "feature": "NO_SUCH_FEATURE",
    "rest:path": "what/is/this/url",
    "target": "nobody",
    "which": "latest",
    "tag": "PatientAge",
    "rule": "no-rule",
    "destination": "nowhere",
}
# An id of a token's scopes that permits nothing of what any route needs.
NOTHING = "openid"


def live_routes(routes: list[BaseRoute], prefix: str = "") -> Iterator[tuple[str, str]]:
    """(method, path) of every route; one that takes every method is `*`."""
    for route in routes:
        if isinstance(route, Mount):
            yield from live_routes(list(route.routes), prefix + route.path)
            continue
        assert isinstance(route, Route), f"{route} is of a kind that this test does not know"
        methods = (route.methods or set()) - {"HEAD", "OPTIONS"}
        if {"GET", "POST", "PUT", "PATCH", "DELETE"} <= methods:
            methods = {"*"}
        for method in methods:
            yield method, prefix + route.path


def test_every_live_route_has_a_rule_and_every_rule_a_route() -> None:
    app = application(Settings(database_url="postgresql://nowhere/none"))

    live = set(live_routes(app.routes))

    assert live - set(ROUTES) == set(), "routes that nobody decided about"
    assert set(ROUTES) - live == set(), "rules without a route"


def test_the_capability_statement_lists_exactly_what_the_routes_serve() -> None:
    statement: dict[str, Any] = capability_statement()
    served = {
        rule.interaction
        for (_, path), rule in ROUTES.items()
        if rule.interaction and "{resource_type}" in path
    }
    of_all = {rule.interaction for rule in ROUTES.values() if rule.interaction} - served
    listed = {entry["code"] for entry in statement["rest"][0]["interaction"]}
    # One URL, whose Bundle says which of the two it is.
    assert listed == of_all | {"batch", "transaction"}

    for resource in statement["rest"][0]["resource"]:
        # The server alone makes audit events.
        expected = {"read", "search-type"} if resource["type"] == "AuditEvent" else served
        assert {entry["code"] for entry in resource["interaction"]} == expected, resource["type"]


def token_routes() -> list[tuple[str, str, Rule]]:
    found = []
    for (method, path), rule in ROUTES.items():
        if rule.guard != "TOKEN":
            continue
        if path.startswith(DICOMWEB):
            found += [("GET", DICOMWEB + sub, Rule("TOKEN", "rs")) for sub in dicomweb.GET]
            found += [("POST", DICOMWEB + sub, Rule("TOKEN", "c")) for sub in dicomweb.POST]
            found += [("DELETE", DICOMWEB + sub, Rule("TOKEN", "d")) for sub in dicomweb.DELETE]
        else:
            found.append(("PATCH" if method == "*" else method, path, rule))
    return found


def url_of(path: str, tenant: Tenant) -> str:
    """The path with a value for every name."""
    url = path.replace("{tenant}", tenant.slug).replace("{path:fhir_path}", VALUES["path"])
    url = url.replace("{path:path}", "7FE00010")
    for name, value in VALUES.items():
        url = url.replace(f"{{{name}}}", value)
    assert "{" not in url, url
    return url


@pytest.mark.parametrize(
    ("method", "path", "rule"), token_routes(), ids=lambda x: x if isinstance(x, str) else ""
)
def test_a_route_asks_for_a_token_and_a_permission_and_audits_the_refusal(
    door: Door, tenant: Tenant, method: str, path: str, rule: Rule
) -> None:
    url = door.url + url_of(path, tenant)

    without = httpx.request(method, url)
    permitted_nothing = door.caller(tenant, NOTHING)
    count = "SELECT count(*) FROM audit_events WHERE tenant_id = %s AND outcome = 'FAILURE'"
    before = door.execute(count, tenant.id)[0][0]
    refused = permitted_nothing.request(method, url, headers={"Content-Type": "application/json"})
    after = door.execute(count, tenant.id)[0][0]

    assert without.status_code == 401, without.text
    assert refused.status_code in ((403,) if rule.letter else (404, 405)), refused.text
    assert after == before + 1
    for answer in (without, refused):
        assert "no-store" in answer.headers["cache-control"]
        assert "Authorization" in answer.headers.get("vary", "")


@pytest.mark.parametrize("garbage", ["Bearer x", "Bearer", "Basic eDp4", "Bearer a.b.c"])
def test_no_route_takes_a_token_that_is_none(door: Door, tenant: Tenant, garbage: str) -> None:
    for method, path, _ in token_routes():
        url = door.url + url_of(path, tenant)
        answer = httpx.request(method, url, headers={"Authorization": garbage})
        assert answer.status_code == 401, (method, path)


def test_the_paths_of_the_table_are_the_doors_of_the_design() -> None:
    assert FHIR == "/t/{tenant}/fhir/R4"
    assert DICOMWEB == dicomweb.ROOT
