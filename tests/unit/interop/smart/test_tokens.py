"""Access tokens: only what this installation signed, unexpired, of the right kind, is accepted."""

from __future__ import annotations

import base64
import json
import os
from pathlib import Path
from uuid import uuid4

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from joserfc import jwe, jwt
from joserfc.jwk import ECKey, OctKey

from interop.access import Scopes
from interop.errors import Unauthorized
from interop.smart import keys
from interop.smart.tokens import Subject, TokenService
from storage.database import Database
from storage.encryption import MasterKey, SealBroken
from storage.tenancy import Tenant

SCOPES = Scopes.parse("system/Patient.rs system/ImagingStudy.cruds")


@pytest.fixture(scope="module")
def master_key() -> MasterKey:
    return MasterKey(os.urandom(32))


@pytest.fixture(scope="module")
def tokens(database: Database, master_key: MasterKey) -> TokenService:
    return TokenService(database, master_key, 3600)


def test_a_token_says_who_what_and_which_tenant(tokens: TokenService, tenant: Tenant) -> None:
    client_id = uuid4()

    claims = tokens.verify(tokens.issue(tenant, client_id, "pms", SCOPES))

    assert (claims.tenant_id, claims.client_id, claims.name) == (tenant.id, client_id, "pms")
    assert claims.scopes == SCOPES


def test_a_token_of_an_app_names_user_patient_session_and_grant(
    tokens: TokenService, tenant: Tenant
) -> None:
    client_id, subject = uuid4(), Subject(uuid4(), uuid4(), uuid4(), uuid4(), "Practitioner/7")

    claims = tokens.verify(tokens.issue(tenant, client_id, "app", SCOPES, subject))

    assert claims.client_id == client_id
    assert subject == Subject(
        claims.user_id, claims.patient_id, claims.session_id, claims.grant_id, claims.fhir_user
    )


def test_another_process_verifies_with_the_stored_key(
    tokens: TokenService, database: Database, master_key: MasterKey, tenant: Tenant
) -> None:
    token = tokens.issue(tenant, None, "operator", SCOPES)

    assert TokenService(database, master_key, 3600).verify(token).client_id is None


def test_the_private_key_is_sealed_in_the_database(
    tokens: TokenService, database: Database, tenant: Tenant
) -> None:
    tokens.issue(tenant, None, "operator", SCOPES)

    with database.platform_connection() as connection:
        stored = connection.execute("SELECT private_jwk FROM signing_keys").fetchone()
    assert stored is not None
    assert '"d"' not in stored[0]
    other = TokenService(database, MasterKey(os.urandom(32)), 3600)
    with pytest.raises(SealBroken):
        other.issue(tenant, None, "operator", SCOPES)


def test_e1_algorithm_none_is_refused(tokens: TokenService, tenant: Tenant) -> None:
    _, payload, _ = tokens.issue(tenant, None, "operator", SCOPES).split(".")
    header = base64.urlsafe_b64encode(b'{"alg":"none","typ":"at+jwt"}').rstrip(b"=").decode()

    with pytest.raises(Unauthorized):
        tokens.verify(f"{header}.{payload}.")


def test_e1_a_mac_made_with_the_public_key_is_refused(
    tokens: TokenService, database: Database, tenant: Tenant
) -> None:
    tokens.issue(tenant, None, "operator", SCOPES)
    with database.platform_connection() as connection:
        row = connection.execute(
            "SELECT kid, public_jwk FROM signing_keys WHERE algorithm = 'ES256'"
        ).fetchone()
    assert row is not None
    key = OctKey.import_key(row[1].encode().ljust(64, b" "))
    forged = jwt.encode(
        {"alg": "HS256", "typ": "at+jwt", "kid": row[0]},
        {"iss": "interop", "aud": str(tenant.id), "sub": "operator", "exp": 9999999999},
        key,
    )

    with pytest.raises(Unauthorized):
        tokens.verify(forged)


@pytest.mark.parametrize("kid", ["../../dev/null", "' OR 1=1 --", "unknown"])
def test_e1_a_key_of_the_senders_own_is_refused(
    tokens: TokenService, tenant: Tenant, kid: str
) -> None:
    key = ECKey.generate_key("P-256", {"kid": kid})
    forged = jwt.encode(
        {"alg": "ES256", "typ": "at+jwt", "kid": kid, "jwk": key.as_dict(private=False)},
        {
            "iss": "interop",
            "aud": str(tenant.id),
            "sub": "operator",
            "name": "x",
            "scope": "system/*.cruds",
            "exp": 9999999999,
        },
        key,
    )

    with pytest.raises(Unauthorized):
        tokens.verify(forged)


def forge(tokens: TokenService, token: str, **header: object) -> str:
    """The token's claims under another header, signed with the real key by hand."""
    key = tokens.keys.signing("ES256")
    head = {"alg": "ES256", "typ": "at+jwt", "kid": key.kid, **header}
    encoded = base64.urlsafe_b64encode(json.dumps(head).encode()).rstrip(b"=").decode()
    signed = f"{encoded}.{token.split('.')[1]}"
    der = key.private_key.sign(signed.encode(), ec.ECDSA(hashes.SHA256()))
    r, s = decode_dss_signature(der)
    signature = base64.urlsafe_b64encode(r.to_bytes(32, "big") + s.to_bytes(32, "big"))
    return f"{signed}.{signature.rstrip(b'=').decode()}"


def test_the_forge_itself_makes_valid_signatures(tokens: TokenService, tenant: Tenant) -> None:
    token = tokens.issue(tenant, None, "operator", SCOPES)

    assert tokens.verify(forge(tokens, token)).tenant_id == tenant.id


@pytest.mark.parametrize(
    "header",
    [
        {"crit": ["x"], "x": 1},
        {"crit": []},
        {"crit": ["exp"], "exp": 1},
        {"crit": ["b64"], "b64": False},
    ],
)
def test_e2_a_critical_header_is_refused(
    tokens: TokenService, tenant: Tenant, header: dict[str, object]
) -> None:
    token = tokens.issue(tenant, None, "operator", SCOPES)

    with pytest.raises(Unauthorized):
        tokens.verify(forge(tokens, token, **header))


@pytest.mark.parametrize("name", ["jwk", "jku", "x5u", "x5c", "x5t"])
def test_e1_a_header_that_brings_a_key_is_refused_even_when_signed_by_ours(
    tokens: TokenService, tenant: Tenant, name: str
) -> None:
    token = tokens.issue(tenant, None, "operator", SCOPES)

    with pytest.raises(Unauthorized):
        tokens.verify(forge(tokens, token, **{name: "https://127.0.0.1/keys"}))


def test_e3_an_encrypted_token_is_refused(tokens: TokenService, tenant: Tenant) -> None:
    tokens.issue(tenant, None, "operator", SCOPES)
    signing = tokens.keys.signing("ES256")
    bare = {k: v for k, v in signing.as_dict(private=False).items() if k not in ("use", "alg")}
    key = ECKey.import_key(bare)
    protected = {"alg": "ECDH-ES", "enc": "A128GCM", "zip": "DEF", "kid": signing.kid}
    encrypted = jwe.encrypt_compact(
        protected, b"0" * 200_000, key, algorithms=["ECDH-ES", "A128GCM", "DEF"]
    )

    with pytest.raises(Unauthorized):
        tokens.verify(encrypted)


def test_after_a_rotation_old_tokens_verify_and_new_ones_bear_a_new_key(
    database: Database, master_key: MasterKey, tenant: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keys, "SETTLE_SECONDS", 0.0)
    here = TokenService(database, master_key, 3600)
    elsewhere = TokenService(database, master_key, 3600)
    old = here.issue(tenant, None, "operator", SCOPES)
    elsewhere.verify(old)

    here.keys.rotate(3600)
    new = here.issue(tenant, None, "operator", SCOPES)
    elsewhere.keys._loaded_at -= keys.REFRESH_SECONDS + 1

    assert old.split(".")[0] != new.split(".")[0]
    assert elsewhere.verify(old).name == elsewhere.verify(new).name == "operator"
    published = {key["kid"] for key in elsewhere.keys.public()["keys"]}
    assert len(published) == 4  # one of each kind that signs, one of each that retires


def test_a_new_key_signs_only_when_every_process_has_had_time_to_read_it(
    database: Database, master_key: MasterKey, tenant: Tenant
) -> None:
    here = TokenService(database, master_key, 3600)
    before = here.keys.signing("ES256").kid

    (made, _) = here.keys.rotate(3600)

    assert here.keys.signing("ES256").kid == before != made


def test_a_rotation_at_once_ends_every_token(
    database: Database, master_key: MasterKey, tenant: Tenant
) -> None:
    here = TokenService(database, master_key, 3600)
    token = here.issue(tenant, None, "operator", SCOPES)

    here.keys.rotate(3600, at_once=True)

    with pytest.raises(Unauthorized):
        here.verify(token)
    assert here.verify(here.issue(tenant, None, "operator", SCOPES)).name == "operator"


def test_an_expired_token_is_refused_and_says_so(
    database: Database, master_key: MasterKey, tenant: Tenant
) -> None:
    token = TokenService(database, master_key, -120).issue(tenant, None, "operator", SCOPES)

    with pytest.raises(Unauthorized, match=r"expired|not valid"):
        TokenService(database, master_key, 60).verify(token)


@pytest.mark.parametrize("text", ["", "a", "a.b", "a.b.c", "....", "\x00", "é.é.é", "e30.e30.e30"])
def test_rubbish_is_refused(tokens: TokenService, text: str) -> None:
    with pytest.raises(Unauthorized):
        tokens.verify(text)


def test_the_master_key_file_is_made_once_and_private(tmp_path: Path) -> None:
    path = tmp_path / "key"

    sealed = MasterKey.from_file(path).seal("secret", "table.column:1")

    assert path.stat().st_mode & 0o077 == 0
    assert MasterKey.from_file(path).open(sealed, "table.column:1") == "secret"
    with pytest.raises(SealBroken):
        MasterKey.from_file(path).open(sealed, "table.column:2")
