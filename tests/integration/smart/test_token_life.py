"""How tokens are renewed, described and ended: RFC 6749 6, RFC 7662, RFC 7009, and within 60 s."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from interop.access.http import REMEMBER_SECONDS
from interop.smart.pruning import prune
from storage.tenancy import Tenant
from tests.integration.smart.conftest import App, Person, SmartServer


def refresh(smart: SmartServer, app: App, token: str, **more: str) -> httpx.Response:
    data = {"grant_type": "refresh_token", "refresh_token": token, **more}
    if app.secret is None:
        data["client_id"] = app.client.client_id
    return smart.token(data, app.auth)


def introspect(smart: SmartServer, app: App, token: str) -> dict[str, Any]:
    response = smart.http.post(
        f"{smart.base}/oauth2/introspect", data={"token": token}, auth=app.auth
    )
    assert response.status_code == 200, response.text
    body: dict[str, Any] = response.json()
    return body


def forget(smart: SmartServer) -> None:
    """What the authenticator remembers is gone within a minute; a test need not wait for it."""
    assert REMEMBER_SECONDS < 60
    smart.services.authenticator._seen.clear()


def works(smart: SmartServer, token: str) -> bool:
    forget(smart)
    status = smart.read(token, "Patient").status_code
    assert status in (200, 401)
    return status == 200


# -- refresh --------------------------------------------------------------------------------


def test_a_refresh_keeps_context_and_rotates(
    smart: SmartServer, dentist: Person, web_app: App
) -> None:
    chosen, _ = smart.patient("Renewed")
    first = smart.tokens(
        dentist,
        web_app,
        scope="launch/patient openid fhirUser offline_access patient/Patient.rs",
        patient=chosen,
    )

    second = refresh(smart, web_app, first["refresh_token"]).json()

    assert second["patient"] == chosen and second["scope"] == first["scope"]
    assert second["refresh_token"] != first["refresh_token"]
    assert "id_token" in second
    assert works(smart, second["access_token"])


def test_a_refresh_token_used_twice_ends_the_whole_family(
    smart: SmartServer, dentist: Person, public_app: App
) -> None:
    first = smart.tokens(dentist, public_app, scope="user/Patient.rs offline_access")
    second = refresh(smart, public_app, first["refresh_token"]).json()

    again = refresh(smart, public_app, first["refresh_token"])
    after = refresh(smart, public_app, second["refresh_token"])

    assert again.json()["error"] == after.json()["error"] == "invalid_grant"
    assert not works(smart, second["access_token"])


def test_of_many_refreshes_at_once_one_succeeds(
    smart: SmartServer, dentist: Person, web_app: App
) -> None:
    first = smart.tokens(dentist, web_app, scope="user/Patient.rs offline_access")

    with ThreadPoolExecutor(6) as pool:
        statuses = pool.map(
            lambda _: refresh(smart, web_app, first["refresh_token"]).status_code, range(6)
        )

    assert sorted(statuses) == [200] + [400] * 5


def test_a_refresh_token_of_another_client_is_refused_and_stays_good(
    smart: SmartServer, dentist: Person, web_app: App, public_app: App
) -> None:
    first = smart.tokens(dentist, web_app, scope="user/Patient.rs offline_access")

    stolen = refresh(smart, public_app, first["refresh_token"])

    assert stolen.json()["error"] == "invalid_grant"
    assert refresh(smart, web_app, first["refresh_token"]).status_code == 200


def test_a_refresh_may_ask_for_less_and_never_for_more(
    smart: SmartServer, dentist: Person, web_app: App
) -> None:
    first = smart.tokens(
        dentist, web_app, scope="user/Patient.rs user/Observation.rs offline_access"
    )

    second = refresh(
        smart, web_app, first["refresh_token"], scope="user/Patient.cruds system/*.rs"
    ).json()
    third = refresh(smart, web_app, second["refresh_token"]).json()

    assert second["scope"] == "user/Patient.rs"
    assert third["scope"] == first["scope"]  # RFC 6749 6: the grant itself is not narrowed


def test_online_access_ends_with_the_browser_session_and_offline_does_not(
    smart: SmartServer, web_app: App
) -> None:
    person = smart.person("CLINICIAN")
    online = smart.tokens(person, web_app, scope="user/Patient.rs online_access")
    offline = smart.tokens(person, web_app, scope="user/Patient.rs offline_access")
    assert works(smart, online["access_token"])

    smart.execute("UPDATE sessions SET revoked_at = now() WHERE id = %s", person.session_id)

    assert refresh(smart, web_app, online["refresh_token"]).json()["error"] == "invalid_grant"
    assert not works(smart, online["access_token"])
    assert works(smart, offline["access_token"])
    assert refresh(smart, web_app, offline["refresh_token"]).status_code == 200


def test_offline_wins_where_both_are_asked(
    smart: SmartServer, dentist: Person, web_app: App
) -> None:
    body = smart.tokens(dentist, web_app, scope="user/Patient.rs online_access offline_access")

    assert body["scope"] == "offline_access user/Patient.rs"


def test_a_client_without_the_grant_type_gets_no_refresh_token(
    smart: SmartServer, dentist: Person
) -> None:
    app = smart.register(grant_types=("authorization_code",))

    body = smart.tokens(dentist, app, scope="user/Patient.rs offline_access")

    assert "refresh_token" not in body and body["scope"] == "user/Patient.rs"


def test_an_unused_refresh_token_ends(smart: SmartServer, dentist: Person, web_app: App) -> None:
    body = smart.tokens(dentist, web_app, scope="user/Patient.rs offline_access")
    smart.execute("UPDATE refresh_tokens SET expires_at = now() - interval '1 s'")

    assert refresh(smart, web_app, body["refresh_token"]).json()["error"] == "invalid_grant"


# -- revocation -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "end",
    [
        "UPDATE api_clients SET status = 'DISABLED' WHERE id = %(client)s",
        "UPDATE api_clients SET expires_at = now() WHERE id = %(client)s",
        "UPDATE sessions SET revoked_at = now() WHERE id = %(session)s",
        "UPDATE user_tenants SET status = 'INACTIVE' WHERE user_id = %(user)s",
        "UPDATE users SET status = 'DISABLED' WHERE id = %(user)s",
    ],
)
def test_e8_a_token_ends_within_a_minute_of_client_session_member_or_user(
    smart: SmartServer, end: str
) -> None:
    app, person = smart.register(), smart.person("CLINICIAN")
    token = smart.tokens(person, app)["access_token"]
    assert works(smart, token)

    values = {"client": app.client.id, "session": person.session_id, "user": person.user_id}
    smart.execute(end.replace("%(", "'{").replace(")s", "}'").format(**values))

    assert not works(smart, token)


def test_a_client_revokes_its_access_token(
    smart: SmartServer, dentist: Person, web_app: App
) -> None:
    body = smart.tokens(dentist, web_app, scope="user/Patient.rs offline_access")
    url = f"{smart.base}/oauth2/revoke"

    revoked = smart.http.post(url, data={"token": body["access_token"]}, auth=web_app.auth)

    assert (revoked.status_code, revoked.content) == (200, b"")
    assert not works(smart, body["access_token"])
    assert refresh(smart, web_app, body["refresh_token"]).status_code == 200


def test_a_client_revokes_a_refresh_token_and_all_that_hangs_on_it(
    smart: SmartServer, dentist: Person, public_app: App
) -> None:
    body = smart.tokens(dentist, public_app, scope="user/Patient.rs offline_access")
    data = {"token": body["refresh_token"], "client_id": public_app.client.client_id}

    revoked = smart.http.post(f"{smart.base}/oauth2/revoke", data=data)

    assert revoked.status_code == 200
    assert not works(smart, body["access_token"])
    assert refresh(smart, public_app, body["refresh_token"]).json()["error"] == "invalid_grant"


def test_revoking_nothing_succeeds_and_anothers_token_stays(
    smart: SmartServer, dentist: Person, web_app: App
) -> None:
    other = smart.register()
    body = smart.tokens(dentist, web_app, scope="user/Patient.rs offline_access")
    url = f"{smart.base}/oauth2/revoke"

    unknown = smart.http.post(url, data={"token": "nonsense"}, auth=other.auth)
    access = smart.http.post(url, data={"token": body["access_token"]}, auth=other.auth)
    smart.http.post(url, data={"token": body["refresh_token"]}, auth=other.auth)

    assert unknown.status_code == 200
    assert access.json()["error"] == "unauthorized_client"
    assert works(smart, body["access_token"])
    assert refresh(smart, web_app, body["refresh_token"]).status_code == 200


# -- introspection --------------------------------------------------------------------------


def test_introspection_says_what_smart_needs(
    smart: SmartServer, dentist: Person, web_app: App
) -> None:
    chosen, _ = smart.patient("Described")
    body = smart.tokens(
        dentist, web_app, scope="launch/patient openid fhirUser patient/*.rs", patient=chosen
    )
    resource_server = smart.register("system/*.rs", grant_types=("client_credentials",))

    found = introspect(smart, resource_server, body["access_token"])

    assert found["active"] is True
    assert set(found["scope"].split()) == set(body["scope"].split())
    assert found["client_id"] == web_app.client.client_id
    assert found["patient"] == chosen
    assert found["fhirUser"] == f"{smart.fhir}/Practitioner/{dentist.user_id}"
    assert found["iss"] == smart.base and found["sub"] == str(dentist.user_id)
    assert found["exp"] - found["iat"] == body["expires_in"]


def test_introspection_of_what_does_not_hold_says_only_that(
    make_server: Callable[..., SmartServer],
    smart: SmartServer,
    dentist: Person,
    web_app: App,
    other_tenant: Tenant,
) -> None:
    elsewhere = make_server(other_tenant)
    foreign = elsewhere.tokens(elsewhere.person("CLINICIAN"), elsewhere.register())
    ended = smart.tokens(dentist, web_app, scope="user/Patient.rs offline_access")
    refresh(smart, web_app, ended["refresh_token"])
    smart.http.post(
        f"{smart.base}/oauth2/revoke", data={"token": ended["access_token"]}, auth=web_app.auth
    )

    for token in ("x", foreign["access_token"], ended["access_token"], ended["refresh_token"]):
        assert introspect(smart, web_app, token) == {"active": False}


def test_introspection_needs_a_confidential_client_of_the_tenant(
    smart: SmartServer, dentist: Person, web_app: App, public_app: App
) -> None:
    token = smart.tokens(dentist, web_app)["access_token"]
    url = f"{smart.base}/oauth2/introspect"

    public = smart.http.post(url, data={"token": token, "client_id": public_app.client.client_id})
    nobody = smart.http.post(url, data={"token": token})
    bearer = smart.http.post(
        url, data={"token": token}, headers={"Authorization": f"Bearer {token}"}
    )

    assert [r.status_code for r in (public, nobody, bearer)] == [401, 401, 401]


# -- housekeeping ---------------------------------------------------------------------------


def test_pruning_removes_what_has_ended_and_keeps_what_lives(
    smart: SmartServer, dentist: Person, web_app: App
) -> None:
    old = smart.tokens(dentist, web_app, scope="user/Patient.rs offline_access")
    smart.execute("UPDATE authorization_grants SET expires_at = now() - interval '2 days'")
    kept = smart.tokens(dentist, web_app, scope="user/Patient.rs offline_access")

    removed = prune(smart.services.database, smart.tenant.id)

    assert removed["authorization_grants"] >= 1
    assert smart.execute(
        "SELECT count(*) FROM authorization_grants WHERE tenant_id = %s", smart.tenant.id
    ) == [(1,)]
    assert refresh(smart, web_app, old["refresh_token"]).json()["error"] == "invalid_grant"
    assert refresh(smart, web_app, kept["refresh_token"]).status_code == 200
