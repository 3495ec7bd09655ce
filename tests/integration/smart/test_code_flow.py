"""The authorization code flow as RFC 6749, RFC 7636 and SMART App Launch 2.2 have it."""

from __future__ import annotations

import time

import pytest
from joserfc import jwt
from joserfc.jwk import KeySet

from tests.integration.smart.conftest import (
    CALLBACK,
    App,
    Person,
    SmartServer,
    answer_of,
    pkce,
)


def test_a_standalone_launch_reads_the_chosen_patient_and_no_other(
    smart: SmartServer, dentist: Person, web_app: App
) -> None:
    chosen, _ = smart.patient("Chosen")
    other, _ = smart.patient("Other")

    body = smart.tokens(
        dentist, web_app, scope="launch/patient openid fhirUser patient/Patient.rs", patient=chosen
    )

    assert body["token_type"] == "Bearer" and body["expires_in"] == 3600
    assert body["patient"] == chosen and body["need_patient_banner"] is True
    assert set(body["scope"].split()) == {
        "launch/patient", "openid", "fhirUser", "patient/Patient.rs",
    }  # fmt: skip
    assert "refresh_token" not in body
    assert smart.read(body["access_token"], f"Patient/{chosen}").status_code == 200
    assert smart.read(body["access_token"], f"Patient/{other}").status_code == 404
    found = smart.read(body["access_token"], "Patient").json()
    assert [entry["resource"]["id"] for entry in found["entry"]] == [chosen]


def test_the_answer_carries_state_and_issuer(
    smart: SmartServer, dentist: Person, web_app: App
) -> None:
    answer, _ = smart.launch(dentist, web_app)

    assert answer["state"] == "s t&a=te"
    assert answer["iss"] == smart.base
    configuration = smart.http.get(f"{smart.fhir}/.well-known/smart-configuration").json()
    assert configuration["issuer"] == answer["iss"]


def test_the_id_token_verifies_with_the_published_keys_and_names_the_user(
    smart: SmartServer, dentist: Person, web_app: App
) -> None:
    body = smart.tokens(dentist, web_app, scope="openid fhirUser profile", nonce="n-1")

    keys = KeySet.import_key_set(smart.http.get(f"{smart.base}/oauth2/jwks").json())
    claims = jwt.decode(body["id_token"], keys, algorithms=["RS256"]).claims
    assert claims["iss"] == smart.base
    assert claims["aud"] == web_app.client.client_id
    assert claims["sub"] == str(dentist.user_id)
    assert claims["nonce"] == "n-1"
    assert claims["fhirUser"] == f"{smart.fhir}/Practitioner/{dentist.user_id}"
    assert claims["exp"] > time.time() >= claims["auth_time"]


def test_fhir_user_of_the_id_token_can_be_read(
    smart: SmartServer, dentist: Person, web_app: App
) -> None:
    body = smart.tokens(dentist, web_app, scope="openid fhirUser user/Practitioner.r")

    read = smart.read(body["access_token"], f"Practitioner/{dentist.user_id}")

    assert read.status_code == 200, read.text


def test_a_patient_user_gets_their_own_record_without_being_asked(smart: SmartServer) -> None:
    resource_id, row_id = smart.patient("Selfsame")
    app = smart.register()
    person = smart.person("CLINICIAN", user_type="PATIENT", patient=row_id, resource_scope="SELF")

    body = smart.tokens(person, app, scope="launch/patient openid fhirUser patient/*.rs")

    assert body["patient"] == resource_id
    keys = KeySet.import_key_set(smart.http.get(f"{smart.base}/oauth2/jwks").json())
    claims = jwt.decode(body["id_token"], keys, algorithms=["RS256"]).claims
    assert claims["fhirUser"] == f"{smart.fhir}/Patient/{resource_id}"


def test_the_picker_lists_only_patients_that_the_user_may_see(
    smart: SmartServer, web_app: App
) -> None:
    smart.patient("Hidden")
    person = smart.person("CLINICIAN", resource_scope="SELF")  # treats nobody yet
    _, challenge = pkce()

    page = smart.visit(person, smart.ask(web_app, challenge, scope="launch/patient patient/*.rs"))

    assert page.status_code == 200
    assert "No patient was found" in page.text and "Hidden" not in page.text


def test_a_patient_whom_the_user_may_not_see_cannot_be_chosen(
    smart: SmartServer, web_app: App
) -> None:
    hidden, _ = smart.patient("Hidden")
    person = smart.person("CLINICIAN", resource_scope="SELF")
    _, challenge = pkce()
    page = smart.visit(person, smart.ask(web_app, challenge, scope="launch/patient patient/*.rs"))

    answer = answer_of(smart.submit(person, page, {"patient": hidden}))

    assert answer["error"] == "access_denied"


def test_the_picker_finds_by_name(smart: SmartServer, dentist: Person, web_app: App) -> None:
    wanted, _ = smart.patient("Zwicky")
    _, challenge = pkce()
    page = smart.visit(dentist, smart.ask(web_app, challenge, scope="launch/patient patient/*.rs"))

    found = smart.submit(dentist, page, {"search": "zwick"}, form=0)

    assert f'value="{wanted}"' in found.text
    assert found.text.count('name="patient"') == 1


def test_without_a_session_the_person_signs_in_and_comes_back(
    smart: SmartServer, web_app: App
) -> None:
    _, challenge = pkce()

    sent = smart.visit(None, smart.ask(web_app, challenge))

    assert sent.status_code == 303
    assert sent.headers["location"].startswith(f"/t/{smart.tenant.slug}/sign-in?continue=%2Ft%2F")


def test_prompt_none_never_shows_a_page(smart: SmartServer, dentist: Person) -> None:
    app = smart.register()
    _, challenge = pkce()
    asked = smart.ask(app, challenge, prompt="none")

    assert answer_of(smart.visit(None, asked))["error"] == "login_required"
    assert answer_of(smart.visit(dentist, asked))["error"] == "consent_required"


def test_max_age_is_kept(smart: SmartServer, dentist: Person, web_app: App) -> None:
    time.sleep(1.1)
    answer, _ = smart.launch(dentist, web_app, max_age="1")

    assert answer["error"] == "login_required"


def test_saying_no_tells_the_app(smart: SmartServer, dentist: Person) -> None:
    app = smart.register()
    _, challenge = pkce()
    page = smart.visit(dentist, smart.ask(app, challenge))

    answer = answer_of(smart.submit(dentist, page, {"decision": "deny"}))

    assert answer["error"] == "access_denied" and "code" not in answer


def test_the_consent_page_names_app_and_scopes_and_holds_no_script(
    smart: SmartServer, dentist: Person
) -> None:
    app = smart.register()
    _, challenge = pkce()

    page = smart.visit(dentist, smart.ask(app, challenge, scope="openid user/ImagingStudy.rs"))

    assert "Test &lt;i&gt;app&lt;/i&gt;" in page.text and "Ada &lt;b&gt;User" in page.text
    assert "Read imaging study records of every patient that you may see" in page.text
    assert "<script" not in page.text
    policy = page.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; style-src 'nonce-")
    assert "form-action 'self' https://app.example.org;" in policy
    assert "frame-ancestors 'none'" in policy


def test_a_decision_without_the_token_of_the_page_is_refused(
    smart: SmartServer, dentist: Person
) -> None:
    app = smart.register()
    _, challenge = pkce()
    page = smart.visit(dentist, smart.ask(app, challenge))
    another = smart.sign_in(dentist.user_id)

    forged = smart.submit(dentist, page, {"decision": "allow", "csrf": "0" * 64})
    foreign = smart.submit(another, page, {"decision": "allow"})

    assert (forged.status_code, foreign.status_code) == (403, 403)


def test_agreement_is_remembered_for_the_same_scopes_until_taken_back(
    smart: SmartServer, dentist: Person
) -> None:
    app = smart.register()
    first = smart.tokens(dentist, app, scope="openid user/Patient.rs offline_access")
    _, challenge = pkce()

    again = smart.visit(dentist, smart.ask(app, challenge, scope="openid user/Patient.rs"))
    more = smart.visit(dentist, smart.ask(app, challenge, scope="openid user/Patient.cruds"))
    page = smart.http.get(f"{smart.base}/oauth2/apps", headers=smart.cookie(dentist))
    (token,) = {
        value for value in page.text.split('name="csrf" value="')[1:] for value in [value[:64]]
    }
    taken = smart.http.post(
        f"{smart.base}/oauth2/apps",
        data={"csrf": token, "app": str(app.client.id)},
        headers=smart.cookie(dentist),
    )
    after = smart.visit(dentist, smart.ask(app, challenge, scope="openid user/Patient.rs"))
    refreshed = smart.token(
        {"grant_type": "refresh_token", "refresh_token": first["refresh_token"]}, app.auth
    )

    assert "code" in answer_of(again)
    assert more.status_code == 200 and "Allow" in more.text
    assert taken.status_code == 303
    assert after.status_code == 200 and "Allow" in after.text
    assert refreshed.json()["error"] == "invalid_grant"


def test_a_public_app_on_the_loopback_is_asked_for_each_time(
    smart: SmartServer, dentist: Person
) -> None:
    """RFC 8252 8.6: whatever program listens there may have the client's id."""
    app = smart.register(authentication="NONE", redirect_uris=("http://127.0.0.1:1/cb",))
    smart.tokens(dentist, app)
    _, challenge = pkce()

    assert smart.visit(dentist, smart.ask(app, challenge)).status_code == 200


def test_granted_are_asked_and_registered_scopes_only(smart: SmartServer, dentist: Person) -> None:
    app = smart.register("openid user/Patient.rs patient/Observation.rs system/*.cruds")

    body = smart.tokens(
        dentist,
        app,
        scope="openid offline_access user/Patient.cruds system/Patient.rs patient/*.rs bogus",
    )

    assert body["scope"] == "openid user/Patient.rs"


def test_v1_scopes_come_back_as_they_were_asked(smart: SmartServer, dentist: Person) -> None:
    app = smart.register("openid user/*.cruds")

    body = smart.tokens(dentist, app, scope="openid user/Patient.read user/Observation.rs")

    assert body["scope"] == "openid user/Patient.read user/Observation.rs"
    assert smart.read(body["access_token"], "Patient").status_code == 200


def test_a_scope_with_a_constraint_is_granted_whole(smart: SmartServer, dentist: Person) -> None:
    app = smart.register("user/*.rs")
    asked = "user/Observation.rs?category=laboratory"

    assert smart.tokens(dentist, app, scope=asked)["scope"] == asked


def test_authorize_by_post_continues_as_get(
    smart: SmartServer, dentist: Person, web_app: App
) -> None:
    _, challenge = pkce()

    posted = smart.http.post(f"{smart.base}/oauth2/authorize", data=smart.ask(web_app, challenge))
    page = smart.http.get(f"{smart.url}{posted.headers['location']}", headers=smart.cookie(dentist))

    assert posted.status_code == 303
    assert page.status_code in (200, 303)


def test_a_redirect_uri_keeps_its_query(smart: SmartServer, dentist: Person) -> None:
    app = smart.register(redirect_uris=(f"{CALLBACK}?here=1",))

    answer, _ = smart.launch(dentist, app)

    assert answer["here"] == "1" and "code" in answer


@pytest.mark.parametrize("authentication", ["NONE", "CLIENT_SECRET"])
def test_public_and_confidential_apps_redeem_with_their_verifier(
    smart: SmartServer, dentist: Person, authentication: str
) -> None:
    app = smart.register(authentication=authentication)

    assert smart.tokens(dentist, app)["access_token"]


def test_the_secret_may_come_in_the_body(smart: SmartServer, dentist: Person, web_app: App) -> None:
    answer, verifier = smart.launch(dentist, web_app)
    assert web_app.secret

    response = smart.token(
        {
            "grant_type": "authorization_code",
            "code": answer["code"],
            "redirect_uri": CALLBACK,
            "code_verifier": verifier,
            "client_id": web_app.client.client_id,
            "client_secret": web_app.secret,
        }
    )

    assert response.status_code == 200


def test_each_step_leaves_one_audit_row(smart: SmartServer, dentist: Person, web_app: App) -> None:
    smart.tokens(dentist, web_app)

    def count() -> int:
        rows = smart.execute(
            "SELECT count(*) FROM audit_events WHERE tenant_id = %s", smart.tenant.id
        )
        return int(rows[0][0])

    before = count()
    answer, verifier = smart.launch(dentist, web_app)
    authorized = count()
    smart.exchange(web_app, answer["code"], verifier)
    issued = count()
    smart.exchange(web_app, "no-code", verifier)
    refused = count()

    assert (authorized - before, issued - authorized, refused - issued) == (1, 1, 1)
    events = smart.execute(
        "SELECT event_type, outcome, user_id, api_client_id FROM audit_events"
        " WHERE tenant_id = %s ORDER BY timestamp DESC LIMIT 3",
        smart.tenant.id,
    )
    assert events == [
        ("TOKEN_REFUSED", "FAILURE", None, web_app.client.id),
        ("TOKEN_ISSUED", "SUCCESS", dentist.user_id, web_app.client.id),
        ("APP_AUTHORIZED", "SUCCESS", dentist.user_id, web_app.client.id),
    ]
