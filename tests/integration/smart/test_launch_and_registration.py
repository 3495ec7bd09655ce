"""EHR launch (SMART App Launch 2.2, 2.0.6) and registration by an administrator (RFC 7591)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from joserfc.jwk import ECKey

from storage.tenancy import Tenant
from tests.integration.smart.conftest import (
    CALLBACK,
    FHIR_JSON,
    App,
    Person,
    SmartServer,
    answer_of,
    pkce,
)


def start(smart: SmartServer, headers: dict[str, str], **body: Any) -> httpx.Response:
    return smart.http.post(f"{smart.base}/oauth2/launch", json=body, headers=headers)


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def encounter(smart: SmartServer, patient: str) -> str:
    answer = smart.http.post(
        f"{smart.fhir}/Encounter",
        json={
            "resourceType": "Encounter",
            "status": "in-progress",
            "class": {
                "system": "http://terminology.hl7.org/CodeSystem/v3-ActCode",
                "code": "AMB",
            },
            "subject": {"reference": f"Patient/{patient}"},
            "period": {"start": "2026-11-22T08:00:00Z"},
        },
        headers={**smart.operator(), **FHIR_JSON},
    )
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


def test_an_ehr_launch_conveys_patient_encounter_banner_and_intent(
    smart: SmartServer, dentist: Person
) -> None:
    app = smart.register(launch_uri="https://app.example.org/launch?x=1")
    chosen, _ = smart.patient("Open")
    visit = encounter(smart, chosen)

    started = start(
        smart,
        smart.cookie(dentist),
        patient=chosen,
        encounter=visit,
        client_id=app.client.client_id,
        need_patient_banner=False,
        intent="order-review",
    )
    assert started.status_code == 201, started.text
    launch = started.json()
    body = smart.tokens(
        dentist, app, scope="launch openid fhirUser patient/*.rs", launch=launch["launch"]
    )

    assert launch["iss"] == smart.fhir and launch["expires_in"] == 300
    sent = parse_qs(urlsplit(launch["launch_url"]).query)
    assert sent == {"x": ["1"], "iss": [smart.fhir], "launch": [launch["launch"]]}
    assert body["patient"] == chosen and body["encounter"] == visit
    assert body["need_patient_banner"] is False and body["intent"] == "order-review"
    assert smart.read(body["access_token"], f"Encounter/{visit}").status_code == 200


def test_a_launch_is_used_once(smart: SmartServer, dentist: Person, web_app: App) -> None:
    chosen, _ = smart.patient("Once")
    value = start(smart, smart.operator(), patient=chosen).json()["launch"]
    scope = "launch patient/*.rs"

    first, _ = smart.launch(dentist, web_app, scope=scope, launch=value)
    second, _ = smart.launch(dentist, web_app, scope=scope, launch=value)

    assert "code" in first
    assert second["error"] == "invalid_request"


def test_a_launch_is_for_its_app_and_user_and_five_minutes(
    smart: SmartServer, dentist: Person, web_app: App
) -> None:
    chosen, _ = smart.patient("Bound")
    other_app, other = smart.register(), smart.person("CLINICIAN")
    scope = "launch patient/*.rs"

    def value(**more: Any) -> str:
        return str(start(smart, smart.cookie(dentist), patient=chosen, **more).json()["launch"])

    for_app = value(client_id=web_app.client.client_id)
    wrong_app, _ = smart.launch(dentist, other_app, scope=scope, launch=for_app)
    wrong_user, _ = smart.launch(other, web_app, scope=scope, launch=value())
    old = value()
    smart.execute("UPDATE launch_contexts SET expires_at = now() WHERE used_at IS NULL")
    late, _ = smart.launch(dentist, web_app, scope=scope, launch=old)

    assert {a["error"] for a in (wrong_app, wrong_user, late)} == {"invalid_request"}


def test_a_launch_shows_no_patient_whom_the_user_may_not_see(
    smart: SmartServer, web_app: App
) -> None:
    chosen, _ = smart.patient("Unseen")
    person = smart.person("CLINICIAN", resource_scope="SELF")
    value = start(smart, smart.operator(), patient=chosen).json()["launch"]

    answer, _ = smart.launch(person, web_app, scope="launch patient/*.rs", launch=value)
    own = start(smart, smart.cookie(person), patient=chosen)

    assert answer["error"] == "access_denied"
    assert own.json() == {
        "error": "invalid_request", "error_description": f"there is no Patient/{chosen}",
    }  # fmt: skip


def test_a_launch_needs_a_caller_who_may_read_the_patient(
    smart: SmartServer, make_server: Callable[..., SmartServer], other_tenant: Tenant
) -> None:
    chosen, _ = smart.patient("Guarded")
    elsewhere = make_server(other_tenant)
    weak = smart.operator("system/Observation.rs")

    assert start(smart, {}, patient=chosen).status_code == 401
    assert start(smart, weak, patient=chosen).status_code == 403
    assert start(smart, elsewhere.operator(), patient=chosen).status_code == 404
    assert start(smart, smart.operator(), patient="nobody").status_code == 400
    assert start(elsewhere, elsewhere.operator(), patient=chosen).status_code == 400
    assert start(smart, smart.operator(), patient=chosen, more=1).status_code == 400
    assert start(smart, smart.operator(), patient=7).status_code == 400


def test_an_encounter_of_another_patient_is_refused(smart: SmartServer) -> None:
    chosen, _ = smart.patient("One")
    other, _ = smart.patient("Two")

    answer = start(smart, smart.operator(), patient=chosen, encounter=encounter(smart, other))

    assert answer.status_code == 400


def test_a_form_of_another_site_starts_no_launch(smart: SmartServer, dentist: Person) -> None:
    chosen, _ = smart.patient("Forged")

    answer = smart.http.post(
        f"{smart.base}/oauth2/launch", data={"patient": chosen}, headers=smart.cookie(dentist)
    )

    assert answer.status_code == 415


# -- registration ---------------------------------------------------------------------------

METADATA = {
    "client_name": "An app",
    "redirect_uris": [CALLBACK],
    "token_endpoint_auth_method": "none",
    "grant_types": ["authorization_code", "refresh_token"],
    "response_types": ["code"],
    "scope": "launch/patient openid fhirUser offline_access patient/*.rs",
}


def register(smart: SmartServer, headers: dict[str, str], **changed: Any) -> httpx.Response:
    body = {k: v for k, v in {**METADATA, **changed}.items() if v is not None}
    return smart.http.post(f"{smart.base}/oauth2/register", json=body, headers=headers)


def test_an_administrator_registers_an_app_that_then_works(smart: SmartServer) -> None:
    administrator = smart.person("TENANT_ADMIN", user_type="ADMIN")
    chosen, _ = smart.patient("Registered")

    answer = register(smart, smart.cookie(administrator))

    assert answer.status_code == 201, answer.text
    body = answer.json()
    assert body["redirect_uris"] == [CALLBACK] and "client_secret" not in body
    assert body["scope"].split() == METADATA["scope"].split()
    verifier, challenge = pkce()
    given = {
        "response_type": "code", "client_id": body["client_id"], "redirect_uri": CALLBACK,
        "scope": "launch/patient patient/*.rs", "state": "s", "aud": smart.fhir,
        "code_challenge": challenge, "code_challenge_method": "S256",
    }  # fmt: skip
    page = smart.submit(administrator, smart.visit(administrator, given), {"patient": chosen})
    code = answer_of(smart.submit(administrator, page, {"decision": "allow"}))["code"]
    token = smart.token(
        {
            "grant_type": "authorization_code", "client_id": body["client_id"], "code": code,
            "redirect_uri": CALLBACK, "code_verifier": verifier,
        }
    )  # fmt: skip
    assert token.json()["patient"] == chosen


@pytest.mark.parametrize("method", ["client_secret_basic", "client_secret_post"])
def test_the_operator_registers_a_confidential_app(smart: SmartServer, method: str) -> None:
    body = register(smart, smart.operator(), token_endpoint_auth_method=method).json()

    assert body["client_secret"] and body["client_secret_expires_at"] == 0
    assert body["token_endpoint_auth_method"] == method


def test_only_who_manages_settings_everywhere_registers(
    smart: SmartServer, dentist: Person, web_app: App
) -> None:
    before = smart.execute("SELECT count(*) FROM api_clients")
    partial = smart.person("TENANT_ADMIN", user_type="ADMIN", resource_scope="SELF")
    administrator = smart.person("TENANT_ADMIN", user_type="ADMIN")
    of_app = smart.tokens(administrator, web_app, scope="user/*.cruds")["access_token"]
    of_service = smart.services.tokens.issue(
        smart.tenant, web_app.client.id, "service", web_app.client.scopes
    )

    statuses = [
        register(smart, headers).status_code
        for headers in (
            {},
            smart.cookie(dentist),
            smart.cookie(partial),
            bearer(of_app),
            bearer(of_service),
        )
    ]

    assert statuses == [401, 403, 403, 403, 403]
    assert smart.execute("SELECT count(*) FROM api_clients") == before


PRIVATE = ECKey.generate_key("P-384", {"kid": "k"})
# 1024 bits: an odd number of the right length is enough for a public key.
SHORT = {"kty": "RSA", "kid": "k", "e": "AQAB", "n": "w" * 171}
SECRET = "private_key_jwt"


@pytest.mark.parametrize(
    ("changed", "error"),
    [
        ({"redirect_uris": []}, "invalid_redirect_uri"),
        ({"redirect_uris": ["http://app.example.org/cb"]}, "invalid_redirect_uri"),
        ({"redirect_uris": ["https://app.example.org/cb#x"]}, "invalid_redirect_uri"),
        ({"redirect_uris": ["javascript:alert(1)"]}, "invalid_redirect_uri"),
        ({"redirect_uris": ["data:text/html,x"]}, "invalid_redirect_uri"),
        ({"redirect_uris": ["https://u:p@app.example.org/cb"]}, "invalid_redirect_uri"),
        ({"redirect_uris": ["https://app.example.org/'\"<"]}, "invalid_redirect_uri"),
        ({"redirect_uris": "https://app.example.org/cb"}, "invalid_redirect_uri"),
        ({"redirect_uris": [7]}, "invalid_redirect_uri"),
        ({"client_name": ""}, "invalid_client_metadata"),
        ({"client_name": 7}, "invalid_client_metadata"),
        ({"scope": ""}, "invalid_client_metadata"),
        ({"scope": "bogus"}, "invalid_client_metadata"),
        ({"grant_types": ["password"]}, "invalid_client_metadata"),
        ({"grant_types": ["client_credentials"]}, "invalid_client_metadata"),
        ({"grant_types": ["refresh_token"]}, "invalid_client_metadata"),
        ({"response_types": ["token"]}, "invalid_client_metadata"),
        ({"token_endpoint_auth_method": "client_secret_jwt"}, "invalid_client_metadata"),
        ({"token_endpoint_auth_method": SECRET}, "invalid_client_metadata"),
        ({"token_endpoint_auth_method": SECRET, "jwks": {"keys": []}}, "invalid_client_metadata"),
        (
            {
                "token_endpoint_auth_method": SECRET,
                "jwks": {"keys": [PRIVATE.as_dict(private=True)]},
            },
            "invalid_client_metadata",
        ),
        (
            {
                "token_endpoint_auth_method": SECRET,
                "jwks": {"keys": [SHORT]},
            },
            "invalid_client_metadata",
        ),
        (
            {"token_endpoint_auth_method": SECRET, "jwks_uri": "http://app.example.org/k"},
            "invalid_client_metadata",
        ),
        ({"jwks_uri": "https://app.example.org/k"}, "invalid_client_metadata"),
        ({"client_uri": "javascript:alert(1)"}, "invalid_client_metadata"),
    ],
)
def test_metadata_that_could_not_work_safely_is_refused(
    smart: SmartServer, changed: dict[str, Any], error: str
) -> None:
    answer = register(smart, smart.operator(), **changed)

    assert (answer.status_code, answer.json()["error"]) == (400, error), answer.text


def test_a_body_that_is_no_json_object_is_refused(smart: SmartServer) -> None:
    url = f"{smart.base}/oauth2/register"
    headers = {**smart.operator(), "Content-Type": "application/json"}

    for body in (b"", b"[]", b"{", b'{"client_name": "a", "client_name": "b"}', b"\xff"):
        answer = smart.http.post(url, content=body, headers=headers)
        assert (answer.status_code, answer.json()["error"]) == (400, "invalid_request")
    assert smart.http.post(url, content=b"x" * 70_000, headers=headers).status_code == 413


def test_each_refusal_leaves_one_audit_row(smart: SmartServer, dentist: Person) -> None:
    def rows() -> int:
        count = "SELECT count(*) FROM audit_events WHERE tenant_id = %s"
        return int(smart.execute(count, smart.tenant.id)[0][0])

    app = smart.register()
    _, challenge = pkce()
    asked = smart.ask(app, challenge, aud="https://other.example.org")
    for refuse in (
        lambda: register(smart, smart.cookie(dentist)),
        lambda: register(smart, smart.operator(), scope="bogus"),
        lambda: start(smart, smart.operator(), patient=7),
        lambda: smart.visit(dentist, asked),
        lambda: smart.http.post(f"{smart.base}/oauth2/introspect", data={"token": "x"}),
        lambda: smart.http.post(f"{smart.base}/oauth2/revoke", data={"token": "x"}),
    ):
        before = rows()
        refuse()
        assert rows() == before + 1
