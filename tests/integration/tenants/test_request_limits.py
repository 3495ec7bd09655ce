"""D17 of security.md at the HTTP door: 429 with Retry-After, and fields that tell before."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from uuid import UUID

import httpx
import pytest

from interop.access.costs import entry_cost, request_cost
from storage.tenancy import Tenant

from .conftest import Live

MakeTenant = Callable[..., Tenant]
READ = "/fhir/R4/Patient/nobody"


def test_without_limits_there_are_no_fields(live: Live, make_tenant: MakeTenant) -> None:
    with live.client(make_tenant()) as client:
        response = client.get(READ)

    assert response.status_code == 404
    assert "ratelimit" not in response.headers
    assert "ratelimit-policy" not in response.headers


def test_each_answer_says_what_is_left(
    live: Live, make_tenant: MakeTenant, api_client: Callable[..., UUID]
) -> None:
    tenant = make_tenant(api_rate_limit_per_minute=6000)

    with live.client(tenant, api_client(tenant, 600)) as client:
        client.get(READ)
        search = client.get("/fhir/R4/Patient")

    assert search.status_code == 200
    assert search.headers["ratelimit-policy"] == '"tenant";q=6000;w=60, "client";q=600;w=60'
    found = re.fullmatch(
        r'"tenant";r=(\d+);t=\d+, "client";r=(\d+);t=(\d+)', search.headers["ratelimit"]
    )
    assert found is not None
    # A read and a search cost 21; some units came back already, at 10 and 100 a second.
    assert 5979 <= int(found[1]) <= 6000
    assert 579 <= int(found[2]) <= 595
    assert int(found[3]) in (1, 2, 3)


@pytest.mark.parametrize(
    ("path", "media_type"),
    [
        ("/fhir/R4/Patient/nobody", "application/fhir+json"),
        ("/dicom-web/studies/1.2.3/series/1.2/instances/1.2", "application/problem+json"),
        ("/api/v1/settings", "application/problem+json"),
    ],
)
def test_d17_too_many_requests_are_answered_429_with_retry_after(
    live: Live, make_tenant: MakeTenant, path: str, media_type: str
) -> None:
    with live.client(make_tenant(api_rate_limit_per_minute=30)) as client:
        if path.startswith("/api"):
            # Administration is no tenant's path: the token says whose it is.
            client.base_url = live.url
        started = time.monotonic()
        answers = [client.get(path) for _ in range(40)]
        took = time.monotonic() - started
        refused = [one for one in answers if one.status_code == 429]

        assert 30 <= len(answers) - len(refused) <= 31 + took / 2
        last = refused[-1]
        assert last.headers["content-type"] == media_type
        assert last.headers["ratelimit-policy"] == '"tenant";q=30;w=60'
        assert last.headers["ratelimit"].startswith('"tenant";r=0;t=')
        if "fhir" in media_type:
            assert last.json()["resourceType"] == "OperationOutcome"
            assert last.json()["issue"][0]["code"] == "throttled"
        else:
            assert last.json()["status"] == 429
        wait = int(last.headers["retry-after"])
        assert 1 <= wait <= 3
        time.sleep(wait + 0.3)
        assert client.get(path).status_code != 429


def test_d17_parallel_requests_do_not_pass_the_limit(live: Live, make_tenant: MakeTenant) -> None:
    tenant = make_tenant(api_rate_limit_per_minute=120)
    with live.client(tenant) as client:
        started = time.monotonic()
        with ThreadPoolExecutor(16) as pool:
            codes = list(pool.map(lambda _: client.get(READ).status_code, range(300)))
        took = time.monotonic() - started

    assert 120 <= codes.count(404) <= 121 + took * 2
    assert set(codes) == {404, 429}


def test_requests_without_a_valid_token_use_up_nothing(live: Live, make_tenant: MakeTenant) -> None:
    tenant = make_tenant(api_rate_limit_per_minute=5)

    for _ in range(30):
        for headers in ({}, {"Authorization": "Bearer x.y.z"}, {"Authorization": "Basic eA=="}):
            answer = httpx.get(f"{live.url}/t/{tenant.slug}{READ}", headers=headers)
            assert answer.status_code == 401

    with live.client(tenant) as client:
        assert client.get(READ).status_code == 404


def test_a_tenants_flood_leaves_another_tenant_alone(live: Live, make_tenant: MakeTenant) -> None:
    flooding, calm = (make_tenant(api_rate_limit_per_minute=20) for _ in range(2))

    with live.client(flooding) as client, live.client(calm) as other:
        assert [client.get(READ).status_code for _ in range(40)].count(429) >= 15
        assert [other.get(READ).status_code for _ in range(10)] == [404] * 10


@pytest.mark.parametrize(
    ("method", "path", "units"),
    [
        ("GET", "/fhir/R4/Patient/1", 1),
        ("GET", "/fhir/R4/Patient/1/_history/2", 1),
        ("GET", "/fhir/R4/Patient/1/_history", 10),
        ("GET", "/fhir/R4/Patient/_history", 10),
        ("GET", "/fhir/R4/_history", 10),
        ("GET", "/fhir/R4/Patient", 20),
        ("GET", "/fhir/R4", 20),
        ("GET", "/fhir/R4/Patient/1/$everything", 20),
        ("POST", "/fhir/R4/Patient/_search", 20),
        ("POST", "/fhir/R4/Patient", 100),
        ("PUT", "/fhir/R4/Patient/1", 100),
        ("PATCH", "/fhir/R4/Patient/1", 100),
        ("DELETE", "/fhir/R4/Patient/1", 100),
        ("POST", "/fhir/R4", 0),
        ("GET", "/fhir/R4/metadata", 0),
        ("GET", "/fhir/R4/.well-known/smart-configuration", 0),
        ("GET", "/dicom-web/studies", 20),
        ("GET", "/dicom-web/changefeed", 20),
        ("DELETE", "/dicom-web/studies/1.2", 100),
        ("POST", "/imaging-objects", 100),
        ("GET", "/imaging-objects/1/dicom", 1),
        ("DELETE", "/imaging-objects/1", 100),
        ("GET", "/wado", 1),
        ("GET", "/dicom-web/studies/1.2/series", 20),
        ("GET", "/dicom-web/studies/1.2", 1),
        ("GET", "/dicom-web/studies/1.2/series/1/instances/1/frames/1", 1),
        ("POST", "/dicom-web/studies", 100),
        ("POST", "/oauth2/token", 0),
        ("GET", "/sign-in", 0),
        ("GET", "", 0),
    ],
)
def test_what_a_request_costs(method: str, path: str, units: int) -> None:
    assert request_cost(method, f"/t/demo{path}") == units


@pytest.mark.parametrize(("method", "units"), [("GET", 1), ("POST", 100), ("DELETE", 100)])
def test_what_a_request_of_administration_costs(method: str, units: int) -> None:
    assert request_cost(method, "/api/v1/users/1") == units


@pytest.mark.parametrize(
    ("method", "url", "units"),
    [
        ("GET", "Patient/1", 1),
        ("GET", "Patient?name=x", 20),
        ("get", "Patient/1/_history", 10),
        ("POST", "Patient", 100),
        ("PUT", "Patient?identifier=1", 100),
    ],
)
def test_what_an_entry_of_a_batch_costs(method: str, url: str, units: int) -> None:
    assert entry_cost(method, url) == units
