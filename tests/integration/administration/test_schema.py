"""schemathesis asks every operation of the OpenAPI document of /api/v1, well and badly."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import httpx
import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import CheckFunction, not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from interop.access.routes import ADMINISTRATION, ROUTES
from storage.tenancy import Tenant
from tests.integration.access.conftest import Door
from tests.integration.administration.conftest import Office

CHECKS: list[CheckFunction] = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    negative_data_rejection,
]
# They would end the run: no change is taken any more, no token holds any more.
ENDING = ("/suspend", "/resume", "/keys/signing/rotate")
ASKED = [
    (method, path.removeprefix("/api/v1"))
    for (method, path), rule in ROUTES.items()
    if path.startswith(ADMINISTRATION) and rule.permission and not path.endswith(ENDING)
]


@pytest.fixture(scope="module")
def document(office: Office, other_tenant: Tenant) -> dict[str, Any]:
    """The document for one tenant, whose ids it sometimes names; limits are set on another."""
    found: dict[str, Any] = httpx.get(office.door.url + "/api/v1/openapi.json").json()
    known = ids_of(office)
    paths = {}
    for path, operations in found["paths"].items():
        if path.endswith(ENDING):
            continue
        for operation in operations.values():
            # The tenant is in the path by now, and If-Match is sent by the test.
            given = {"tenant", "If-Match"}
            own = [one for one in operation["parameters"] if one["name"] not in given]
            for one in own:
                if one["in"] == "path":
                    one["schema"] = {"enum": known[path.split("/")[3], one["name"]]}
            operation["parameters"] = own
        slug = other_tenant.slug if "quotas" in path else office.tenant.slug
        paths[path.replace("{tenant}", slug)] = operations
    found.pop("security")
    return {**found, "paths": paths, "servers": [{"url": office.door.url + "/api/v1"}]}


def ids_of(office: Office) -> dict[tuple[str, str], list[str]]:
    """By collection and parameter: something that is there, and something that is not."""
    operator = office.operator
    user = str(office.member({"view_patient"}))
    assignment = operator.get(f"/users/{user}/roles").json()["items"][0]["id"]
    invited = operator.post(
        "/users", json={"email": "i@example.org", "full_name": "I", "user_type": "DENTIST"}
    )
    client = operator.post("/clients", json={"name": "c", "scope": "system/*.rs"})
    entity = operator.post("/application-entities", json={"ae_title": "SCHEMA"})
    operator.post("/roles", json={"code": "OWN", "name": "Own", "permissions": []})
    operator.post("/query-tags", json={"path": "PatientAge", "level": "STUDY"})
    web = {"name": "cloud", "url": "https://pacs.example.org/dicom-web"}
    operator.post("/routing-destinations", json=web)
    operator.post("/routing-rules", json={"name": "all", "web_destination": "cloud"})
    nobody = str(uuid4())
    return {
        ("users", "user_id"): [user, nobody],
        ("users", "assignment_id"): [assignment, nobody],
        ("invitations", "invitation_id"): [invited.json()["invitation_id"], nobody],
        ("clients", "id"): [client.json()["id"], nobody],
        ("application-entities", "id"): [entity.json()["id"], nobody],
        ("roles", "code"): ["OWN", "TENANT_ADMIN", "NONE"],
        ("routing-rules", "rule"): ["all", "none"],
        ("routing-destinations", "destination"): ["cloud", "none"],
        ("deliveries", "id"): [nobody],
        ("quarantine", "id"): [nobody],
        ("query-tags", "tag"): ["PatientAge", "00101010", "Nothing"],
        ("features", "feature"): ["AI_DIAGNOSTICS", "NONE"],
    }


@pytest.fixture(scope="module")
def api(document: dict[str, Any]) -> Any:
    found = schemathesis.openapi.from_dict(document)
    found.config.update(base_url=document["servers"][0]["url"])
    return found


@pytest.fixture(scope="module")
def tokens(door: Door, tenant: Tenant, other_tenant: Tenant) -> dict[str, str]:
    return {one.slug: door.system(one).headers["Authorization"] for one in (tenant, other_tenant)}


@pytest.mark.filterwarnings(
    # Of the way in which schemathesis makes bad requests.
    "ignore:Do not use the `random` module inside strategies"
)
@pytest.mark.parametrize(("method", "path"), ASKED, ids=lambda x: x)
def test_every_answer_is_one_that_the_document_promises(
    api: Any, tokens: dict[str, str], method: str, path: str, tenant: Tenant, other_tenant: Tenant
) -> None:
    owner = other_tenant if "quotas" in path else tenant
    operation = api[path.replace("{tenant}", owner.slug)][method]
    headers = {"Authorization": tokens[owner.slug], "If-Match": "*"}
    asked = 0
    session = requests.Session()

    def ask(case: schemathesis.Case) -> None:
        nonlocal asked
        asked += 1
        case.call_and_validate(headers=headers, checks=CHECKS, session=session)

    for mode, examples in ((GenerationMode.POSITIVE, 12), (GenerationMode.NEGATIVE, 12)):
        if mode is GenerationMode.NEGATIVE and not takes_anything(operation):
            continue
        bounded = settings(
            max_examples=examples,
            deadline=None,
            derandomize=True,
            database=None,
            phases=(Phase.explicit, Phase.generate),
            suppress_health_check=list(HealthCheck),
        )
        bounded(given(operation.as_strategy(generation_mode=mode))(ask))()

    session.close()
    assert asked > 0


def takes_anything(operation: Any) -> bool:
    """Whether a request of it can be wrong: it has a query or a body."""
    return bool(operation.query) or bool(operation.body)
