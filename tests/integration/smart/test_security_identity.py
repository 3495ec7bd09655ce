"""Security checklist E, "Identity", through the running server: one test for each line and attack.

E1 to E3 for access tokens are in tests/unit/interop/smart/test_tokens.py too, where forged headers
are signed with the server's own key.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import uuid4

import httpx
import pytest
from cryptography.hazmat.primitives import serialization
from joserfc import jwe, jwt
from joserfc.jwk import ECKey, OctKey, RSAKey

from storage.tenancy import Tenant
from tests.integration.smart.conftest import (
    CALLBACK,
    App,
    Person,
    SmartServer,
    answer_of,
    pkce,
)

ASSERTION_TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"


# -- E1 to E4: client assertions ------------------------------------------------------------


class Service:
    """A backend service with keys of its own."""

    def __init__(self, smart: SmartServer, kind: str = "ES384") -> None:
        self.smart, self.kind = smart, kind
        self.key: ECKey | RSAKey = (
            ECKey.generate_key("P-384", {"kid": "k1"})
            if kind == "ES384"
            else RSAKey.generate_key(2048, {"kid": "k1"})
        )
        jwks = {"keys": [self.key.as_dict(private=False)]}
        self.app = smart.register(
            "system/*.rs",
            grant_types=("client_credentials",),
            redirect_uris=(),
            authentication="PRIVATE_KEY_JWT",
            jwks=jwks,
        )
        self.client_id = self.app.client.client_id

    def claims(self, **changed: Any) -> dict[str, Any]:
        now = int(time.time())
        given = {
            "iss": self.client_id,
            "sub": self.client_id,
            "aud": f"{self.smart.base}/oauth2/token",
            "iat": now,
            "exp": now + 240,
            "jti": uuid4().hex,
            **changed,
        }
        return {name: value for name, value in given.items() if value is not None}

    def assertion(self, claims: dict[str, Any] | None = None, **header: Any) -> str:
        """An assertion as the client should make it, with changes."""
        named = {"alg": self.kind, "kid": "k1", "typ": "JWT", **header}
        return signed(named, claims or self.claims(), self.key)

    def ask(self, assertion: str, **more: str) -> httpx.Response:
        return self.smart.token(
            {
                "grant_type": "client_credentials",
                "scope": "system/Patient.rs",
                "client_assertion_type": ASSERTION_TYPE,
                "client_assertion": assertion,
                **more,
            }
        )


def b64(value: bytes) -> str:
    return base64.urlsafe_b64encode(value).rstrip(b"=").decode()


def signed(header: dict[str, Any], claims: dict[str, Any], key: Any) -> str:
    """A JWS of any header, which a library would refuse to make."""
    plain = {name: header[name] for name in ("alg",)}
    head, payload = b64(json.dumps(header).encode()), b64(json.dumps(claims).encode())
    if header["alg"] == "none":
        return f"{head}.{payload}."
    from joserfc._rfc7518.jws_algs import JWS_ALGORITHMS

    algorithm = next(a for a in JWS_ALGORITHMS if a.name == plain["alg"])
    return f"{head}.{payload}.{b64(algorithm.sign(f'{head}.{payload}'.encode(), key))}"


@pytest.fixture(scope="module")
def service(smart: SmartServer) -> Service:
    return Service(smart)


def assert_refused(response: httpx.Response) -> None:
    assert response.status_code == 400, response.text
    body = response.json()
    assert body["error"] == "invalid_client"
    assert body["error_description"].startswith("the client assertion is not accepted: a JWT")
    assert response.headers["cache-control"] == "no-store"


@pytest.mark.parametrize("kind", ["ES384", "RS384"])
def test_e4_a_good_assertion_is_accepted_and_its_token_works(smart: SmartServer, kind: str) -> None:
    service = Service(smart, kind)

    response = service.ask(service.assertion())

    assert response.status_code == 200, response.text
    assert response.json()["scope"] == "system/Patient.rs"
    assert smart.read(response.json()["access_token"], "Patient").status_code == 200


def test_e1_alg_none_is_refused(service: Service) -> None:
    assert_refused(service.ask(service.assertion(alg="none")))


def test_e1_hs256_made_with_the_public_key_is_refused(smart: SmartServer) -> None:
    service = Service(smart, "RS384")
    public = service.key.public_key.public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    for algorithm, kind in (("HS256", "sha256"), ("HS384", "sha384")):
        header = {"alg": algorithm, "kid": "k1"}
        text = ".".join(b64(json.dumps(part).encode()) for part in (header, service.claims()))
        # By hand: no library makes a MAC with a public key any more.
        mac = hmac.new(public, text.encode(), kind).digest()
        assert_refused(service.ask(f"{text}.{b64(mac)}"))


def test_e1_a_key_of_the_wrong_curve_is_refused(service: Service) -> None:
    key = ECKey.generate_key("P-256", {"kid": "k1"})

    assert_refused(service.ask(signed({"alg": "ES256", "kid": "k1"}, service.claims(), key)))


@pytest.mark.parametrize("name", ["jwk", "jku", "x5u", "x5c"])
def test_e1_a_key_or_its_address_in_the_header_is_refused_and_not_fetched(
    service: Service, name: str
) -> None:
    """Of a client that registered its keys; test_backend_keys has the one that named an address."""
    asked: list[str] = []
    server = httpx_sink(asked)
    own = ECKey.generate_key("P-384", {"kid": "k1"})
    value: Any = own.as_dict(private=False) if name == "jwk" else f"https://127.0.0.1:{server}/k"
    if name == "x5c":
        value = [value]

    forged = signed({"alg": "ES384", "kid": "k1", name: value}, service.claims(), own)
    honest = service.assertion(**{name: value})

    assert_refused(service.ask(forged))
    assert_refused(service.ask(honest))
    assert asked == []


def httpx_sink(asked: list[str]) -> int:
    """A port of the loopback that notes whoever connects."""
    import socket

    listener = socket.create_server(("127.0.0.1", 0))

    def accept() -> None:
        listener.settimeout(2)
        try:
            asked.append(str(listener.accept()[1]))
        except TimeoutError:
            pass
        finally:
            listener.close()

    threading.Thread(target=accept, daemon=True).start()
    port: int = listener.getsockname()[1]
    return port


@pytest.mark.parametrize("kid", ["../../dev/null", "' OR 1=1 --", "k2", "", None, 7])
def test_e1_an_unknown_kid_is_refused(service: Service, kid: object) -> None:
    assert_refused(service.ask(service.assertion(kid=kid)))


@pytest.mark.parametrize("extra", [{"crit": ["x"], "x": 1}, {"crit": []}, {"crit": ["exp"]}])
def test_e2_crit_is_refused(service: Service, extra: dict[str, Any]) -> None:
    assert_refused(service.ask(service.assertion(**extra)))


def test_e3_an_encrypted_assertion_is_refused(service: Service) -> None:
    key = ECKey.generate_key("P-384")
    bomb = jwe.encrypt_compact(
        {"alg": "ECDH-ES", "enc": "A128GCM", "zip": "DEF"},
        b"0" * 240_000,
        key,
        algorithms=["ECDH-ES", "A128GCM", "DEF"],
    )

    assert_refused(service.ask(bomb))


def test_e3_an_encrypted_access_token_is_401(smart: SmartServer) -> None:
    bomb = jwe.encrypt_compact(
        {"alg": "dir", "enc": "A128GCM", "zip": "DEF"},
        b"0" * 200_000,
        OctKey.generate_key(128),
        algorithms=["dir", "A128GCM", "DEF"],
    )

    assert smart.read(bomb, "Patient").status_code == 401


def test_e4_a_replayed_assertion_is_refused_by_every_worker(
    make_server: Callable[..., SmartServer], service: Service, tenant: Tenant
) -> None:
    other = make_server(tenant, public_url=service.smart.url)
    assertion = service.assertion()

    first = service.ask(assertion)
    again = service.ask(assertion)
    data = {
        "grant_type": "client_credentials",
        "client_assertion_type": ASSERTION_TYPE,
        "client_assertion": assertion,
    }
    elsewhere = other.token(data)

    assert first.status_code == 200
    assert_refused(again)
    assert_refused(elsewhere)
    fresh = other.token({**data, "client_assertion": service.assertion()})
    assert fresh.status_code == 200


def test_e4_of_many_at_once_one_is_accepted(service: Service) -> None:
    assertion = service.assertion()

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: service.ask(assertion).status_code, range(8)))

    assert sorted(answers) == [200] + [400] * 7


@pytest.mark.parametrize(
    "changed",
    [
        {"exp": int(time.time()) + 900},
        {"iat": None, "exp": int(time.time()) + 3600},
        {"exp": int(time.time()) - 600},
        {"exp": None},
        {"exp": "soon"},
        {"exp": True},
        {"exp": 1e300},
        {"aud": "https://other.example.org/token"},
        {"aud": None},
        {"jti": None},
        {"jti": ""},
        {"jti": "x" * 300},
        {"iss": "somebody"},
        {"sub": "somebody"},
        {"nbf": int(time.time()) + 600},
    ],
)
def test_e4_wrong_claims_are_refused(service: Service, changed: dict[str, Any]) -> None:
    assert_refused(service.ask(service.assertion(service.claims(**changed))))


def test_e4_an_audience_among_others_is_refused(service: Service) -> None:
    own = f"{service.smart.base}/oauth2/token"

    both = service.ask(service.assertion(service.claims(aud=[own, "https://other.example.org"])))
    alone = service.ask(service.assertion(service.claims(aud=[own])))

    assert_refused(both)
    assert alone.status_code == 200


@pytest.mark.parametrize("minutes", [-10, 10])
def test_e4_a_clock_ten_minutes_off_is_refused(service: Service, minutes: int) -> None:
    now = int(time.time()) + minutes * 60

    assert_refused(service.ask(service.assertion(service.claims(iat=now, exp=now + 300))))


@pytest.mark.parametrize("seconds", [-45, 45])
def test_e4_a_clock_seconds_off_is_accepted(service: Service, seconds: int) -> None:
    now = int(time.time()) + seconds

    response = service.ask(service.assertion(service.claims(iat=now, exp=now + 300)))

    assert response.status_code == 200


def test_e4_another_clients_key_is_refused(smart: SmartServer, service: Service) -> None:
    other = Service(smart)

    stolen = signed({"alg": "ES384", "kid": "k1"}, service.claims(), other.key)

    assert_refused(service.ask(stolen))


def test_e4_a_revoked_key_is_refused(smart: SmartServer) -> None:
    service = Service(smart)
    assert service.ask(service.assertion()).status_code == 200
    newer = ECKey.generate_key("P-384", {"kid": "k2"})
    smart.execute(
        "UPDATE api_clients SET jwks = %s WHERE id = %s",
        json.dumps({"keys": [newer.as_dict(private=False)]}),
        service.app.client.id,
    )

    assert_refused(service.ask(service.assertion()))


def test_e4_a_disabled_client_is_refused(smart: SmartServer) -> None:
    service = Service(smart)
    smart.execute("UPDATE api_clients SET status = 'DISABLED' WHERE id = %s", service.app.client.id)

    assert_refused(service.ask(service.assertion()))


def test_e4_two_ways_of_authentication_at_once_are_refused(service: Service) -> None:
    assert_refused(service.ask(service.assertion(), client_secret="x"))


def test_e4_a_client_with_keys_cannot_fall_back_to_a_secret_or_nothing(
    smart: SmartServer, service: Service
) -> None:
    data = {"grant_type": "client_credentials", "client_id": service.client_id}

    assert smart.token(data).status_code == 401
    assert smart.token({**data, "client_secret": ""}).status_code == 401
    assert smart.token({**data, "client_secret": "x"}).status_code == 401


def test_e4_the_reason_is_in_the_audit_and_not_in_the_answer(service: Service) -> None:
    service.ask(service.assertion(service.claims(aud="https://other.example.org")))

    rows = service.smart.execute(
        "SELECT metadata ->> 'reason' FROM audit_events WHERE event_type = 'TOKEN_REFUSED'"
        " ORDER BY timestamp DESC LIMIT 1"
    )
    assert rows == [("aud is not the token endpoint",)]


# -- E5: app launch -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changed", "error"),
    [
        ({"code_challenge": None, "code_challenge_method": None}, "invalid_request"),
        ({"code_challenge_method": None}, "invalid_request"),
        ({"code_challenge_method": "plain"}, "invalid_request"),
        ({"code_challenge": "short"}, "invalid_request"),
        ({"state": None}, "invalid_request"),
        ({"aud": None}, "invalid_request"),
        ({"aud": "https://other.example.org/fhir"}, "invalid_request"),
        ({"aud": "{fhir}/../../../other/fhir/R4"}, "invalid_request"),
        ({"response_type": "token"}, "unsupported_response_type"),
        ({"response_type": "code id_token"}, "unsupported_response_type"),
        ({"response_mode": "fragment"}, "invalid_request"),
        ({"request": "e30.e30."}, "request_not_supported"),
        ({"request_uri": "https://127.0.0.1/x"}, "request_uri_not_supported"),
        ({"scope": None}, "invalid_scope"),
        ({"scope": "system/*.cruds"}, "invalid_scope"),
        ({"scope": "patient/*.rs"}, "invalid_scope"),
        ({"launch": "made-up", "scope": "launch patient/*.rs"}, "invalid_request"),
        ({"launch": "made-up"}, "invalid_scope"),
    ],
)
def test_e5_a_bad_request_is_told_to_the_registered_app_only(
    smart: SmartServer,
    dentist: Person,
    web_app: App,
    changed: dict[str, str | None],
    error: str,
) -> None:
    _, challenge = pkce()
    changed = {k: v and v.replace("{fhir}", smart.fhir) for k, v in changed.items()}

    response = smart.visit(dentist, smart.ask(web_app, challenge, **changed))

    answer = answer_of(response)
    assert answer["error"] == error and "code" not in answer
    assert answer["iss"] == smart.base
    assert response.headers["location"].startswith(f"{CALLBACK}?")


@pytest.mark.parametrize(
    "uri",
    [
        f"{CALLBACK}/more",
        f"{CALLBACK}?x=1",
        f"{CALLBACK}/../evil",
        f"{CALLBACK}#x",
        "https://app.example.org",
        "https://app.example.org.evil.example/callback",
        "https://evil.example/callback",
        "https://app.example.org@evil.example/callback",
        "HTTPS://app.example.org/callback",
        "http://app.example.org/callback",
        "//evil.example",
        "javascript:alert(1)",
        None,
        "",
    ],
)
def test_e5_an_unregistered_redirect_uri_is_never_followed(
    smart: SmartServer, dentist: Person, web_app: App, uri: str | None
) -> None:
    _, challenge = pkce()

    for person in (dentist, None):
        response = smart.visit(person, smart.ask(web_app, challenge, redirect_uri=uri))
        assert response.status_code == 400
        assert "location" not in response.headers
        assert response.headers["content-type"].startswith("text/html")


def test_e5_an_unknown_app_and_a_repeated_parameter_are_answered_here(
    smart: SmartServer, dentist: Person, web_app: App
) -> None:
    _, challenge = pkce()
    asked = smart.ask(web_app, challenge)
    url = f"{smart.base}/oauth2/authorize"

    unknown = smart.visit(dentist, {**asked, "client_id": "<script>"})
    twice = smart.http.get(
        url, params=[*asked.items(), ("redirect_uri", "https://evil.example")],
        headers=smart.cookie(dentist),
    )  # fmt: skip

    for response in (unknown, twice):
        assert response.status_code == 400 and "location" not in response.headers
    assert "<script>" not in unknown.text


def test_e5_nobody_is_redirected_before_signing_in(smart: SmartServer, web_app: App) -> None:
    """RFC 9700 4.11.2: not even with an error, or we would be a redirector for phishing."""
    response = smart.visit(None, smart.ask(web_app, "", response_type="nonsense"))

    assert response.headers["location"].startswith(f"/t/{smart.tenant.slug}/sign-in?")


def test_e5_another_tenants_app_and_session_count_for_nothing(
    make_server: Callable[..., SmartServer],
    smart: SmartServer,
    web_app: App,
    dentist: Person,
    other_tenant: Tenant,
) -> None:
    other = make_server(other_tenant)
    _, challenge = pkce()
    theirs = other.register()

    foreign_app = other.visit(dentist, other.ask(web_app, challenge))
    foreign_session = other.visit(dentist, other.ask(theirs, challenge))

    assert foreign_app.status_code == 400
    assert foreign_session.headers["location"].startswith("/t/other/sign-in?")


def test_e5_a_code_works_once_and_its_replay_ends_every_token_of_it(
    smart: SmartServer, dentist: Person, web_app: App
) -> None:
    answer, verifier = smart.launch(dentist, web_app, scope="user/Patient.rs offline_access")
    tokens = smart.exchange(web_app, answer["code"], verifier).json()
    assert smart.read(tokens["access_token"], "Patient").status_code == 200

    replay = smart.exchange(web_app, answer["code"], verifier)
    refreshed = smart.token(
        {"grant_type": "refresh_token", "refresh_token": tokens["refresh_token"]}, web_app.auth
    )
    smart.services.authenticator._seen.clear()  # what it remembers ends within 45 s

    assert (replay.status_code, replay.json()["error"]) == (400, "invalid_grant")
    assert refreshed.json()["error"] == "invalid_grant"
    assert smart.read(tokens["access_token"], "Patient").status_code == 401


def test_e5_of_many_exchanges_at_once_one_succeeds_and_ends_revoked(
    smart: SmartServer, dentist: Person, web_app: App
) -> None:
    answer, verifier = smart.launch(dentist, web_app)

    with ThreadPoolExecutor(8) as pool:
        answers = list(
            pool.map(lambda _: smart.exchange(web_app, answer["code"], verifier), range(8))
        )

    good = [response for response in answers if response.status_code == 200]
    assert len(good) == 1
    smart.services.authenticator._seen.clear()
    assert smart.read(good[0].json()["access_token"], "Patient").status_code == 401


def test_e5_a_code_is_for_its_own_client_verifier_and_redirect_uri(
    smart: SmartServer, dentist: Person, web_app: App, public_app: App
) -> None:
    def refused(app: App, **changed: str) -> str:
        answer, verifier = smart.launch(dentist, web_app)
        response = smart.exchange(app, answer["code"], changed.pop("verifier", verifier), **changed)
        assert response.status_code == 400
        return str(response.json()["error"])

    assert refused(public_app) == "invalid_grant"
    assert refused(web_app, verifier=pkce()[0]) == "invalid_grant"
    assert refused(web_app, verifier="x") == "invalid_grant"
    assert refused(web_app, redirect_uri="https://app.example.org/other") == "invalid_grant"


def test_e5_a_code_is_spent_by_a_failed_attempt(
    smart: SmartServer, dentist: Person, web_app: App
) -> None:
    answer, verifier = smart.launch(dentist, web_app)
    smart.exchange(web_app, answer["code"], pkce()[0])

    assert smart.exchange(web_app, answer["code"], verifier).json()["error"] == "invalid_grant"


def test_e5_a_code_of_a_minute_ago_is_refused(
    smart: SmartServer, dentist: Person, web_app: App
) -> None:
    answer, verifier = smart.launch(dentist, web_app)
    digest = hashlib.sha256(answer["code"].encode()).hexdigest()
    rows = smart.execute(
        "SELECT extract(epoch FROM expires_at - created_at)::int FROM authorization_codes"
        " WHERE code_hash = %s",
        digest,
    )
    assert rows == [(60,)]
    smart.execute(
        "UPDATE authorization_codes SET expires_at = now() - interval '1 second'"
        " WHERE code_hash = %s",
        digest,
    )

    assert smart.exchange(web_app, answer["code"], verifier).json()["error"] == "invalid_grant"


def test_e5_no_code_or_token_lies_in_the_database(
    smart: SmartServer, dentist: Person, web_app: App
) -> None:
    answer, verifier = smart.launch(dentist, web_app, scope="user/Patient.rs offline_access")
    tokens = smart.exchange(web_app, answer["code"], verifier).json()

    for table in ("authorization_codes", "refresh_tokens", "authorization_grants", "audit_events"):
        for (row,) in smart.execute(f"SELECT row_to_json(t)::text FROM {table} AS t"):
            assert answer["code"] not in row
            assert tokens["refresh_token"] not in row


def test_e5_a_public_client_without_a_verifier_gets_nothing(
    smart: SmartServer, dentist: Person, public_app: App
) -> None:
    answer, _ = smart.launch(dentist, public_app)

    response = smart.token(
        {
            "grant_type": "authorization_code",
            "code": answer["code"],
            "redirect_uri": CALLBACK,
            "client_id": public_app.client.client_id,
        }
    )

    assert response.json()["error"] == "invalid_grant"


def test_e5_a_confidential_client_must_prove_itself(
    smart: SmartServer, dentist: Person, web_app: App
) -> None:
    answer, verifier = smart.launch(dentist, web_app)

    response = smart.token(
        {
            "grant_type": "authorization_code",
            "code": answer["code"],
            "redirect_uri": CALLBACK,
            "code_verifier": verifier,
            "client_id": web_app.client.client_id,
        }
    )

    assert (response.status_code, response.json()["error"]) == (401, "invalid_client")


def test_e1_an_access_token_signed_by_a_client_is_401(smart: SmartServer) -> None:
    key = ECKey.generate_key("P-256", {"kid": "mine"})
    claims = {
        "iss": "interop", "aud": str(smart.tenant.id), "sub": "operator", "name": "x",
        "scope": "system/*.cruds", "iat": 1, "exp": 9_999_999_999, "jti": "x",
    }  # fmt: skip

    forged = jwt.encode({"alg": "ES256", "typ": "at+jwt", "kid": "mine"}, claims, key)

    assert smart.read(forged, "Patient").status_code == 401
