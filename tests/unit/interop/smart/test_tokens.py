"""Access tokens: only what this installation signed, unexpired, of the right kind, is accepted."""

from __future__ import annotations

import base64
import json
import os
from pathlib import Path
from uuid import uuid4

import pytest
from joserfc import jwt
from joserfc.jwk import ECKey, OctKey

from interop.access import Scopes
from interop.errors import Unauthorized
from interop.smart.tokens import TokenService
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
        row = connection.execute("SELECT kid, public_jwk FROM signing_keys").fetchone()
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


def test_e2_an_unknown_critical_header_is_refused(tokens: TokenService, tenant: Tenant) -> None:
    token = tokens.issue(tenant, None, "operator", SCOPES)
    key = next(iter(tokens._keys.values()))
    claims = json.loads(base64.urlsafe_b64decode(token.split(".")[1] + "=="))
    with pytest.raises(Exception) as caught:  # joserfc refuses to make it, or we to read it
        tokens.verify(
            jwt.encode(
                {"alg": "ES256", "typ": "at+jwt", "kid": key.kid, "crit": ["x"], "x": 1},
                claims,
                key,
            )
        )
    assert caught.type is not AssertionError


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
