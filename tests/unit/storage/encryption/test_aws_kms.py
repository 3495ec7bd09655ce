"""Security checklist G6 with AWS KMS as the provider; the KMS is moto's server process."""

from __future__ import annotations

import os
import socket
import time
from uuid import uuid4

import boto3
import pytest

from storage.database import Database
from storage.encryption import KeysUnavailable, MasterKey, SealBroken, place
from storage.encryption import aws_kms as aws_kms_module
from storage.encryption.aws_kms import PAUSE_SECONDS, AwsKeyProvider
from storage.encryption.cache import KeyCache
from storage.encryption.providers import KeyProviders, LocalKeyProvider, context_of
from storage.encryption.vault import Vault
from storage.tenancy import Tenant, TenantDirectory
from tests.kms import CREDENTIALS, KmsServer

HERE = place("patient_identifiers", "value", "1")


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def fresh_tenant(database: Database) -> Tenant:
    return TenantDirectory(database).create(f"kms-{uuid4().hex[:12]}")


def vault_of_provider(database: Database, provider: AwsKeyProvider, clock: Clock) -> Vault:
    return Vault(database, KeyProviders(provider), cache=KeyCache(clock=clock), clock=clock)


def test_a_data_key_comes_from_kms_and_opens_in_another_process(
    kms: KmsServer, database: Database, fresh_tenant: Tenant
) -> None:
    arn = kms.create_key()

    sealed = vault_of_provider(database, kms.provider(arn), Clock()).seal(
        fresh_tenant.id, HERE, "123-45-6789"
    )

    other = vault_of_provider(database, kms.provider(arn), Clock())
    assert other.open(fresh_tenant.id, HERE, sealed) == "123-45-6789"
    with database.connection(fresh_tenant.id) as connection:
        stored = connection.execute(
            "SELECT provider, provider_key_id, wrapped_key FROM data_keys"
        ).fetchall()
    assert [row[:2] for row in stored] == [("AWS_KMS", arn)]
    context = {"tenant": str(fresh_tenant.id)}
    client = boto3.client("kms", endpoint_url=kms.url, region_name=CREDENTIALS["AWS_REGION"])
    opened = client.decrypt(CiphertextBlob=stored[0][2], EncryptionContext=context)
    client.close()
    assert len(opened["Plaintext"]) == 32


def test_kms_refuses_the_data_key_of_a_tenant_in_the_context_of_another(kms: KmsServer) -> None:
    provider = kms.provider()
    mine, theirs = context_of(uuid4()), context_of(uuid4())
    key, wrapped, key_id = provider.generate(mine)

    assert provider.unwrap(wrapped, key_id, mine) == key
    with pytest.raises(SealBroken):
        provider.unwrap(wrapped, key_id, theirs)


def test_wrapping_anew_gives_the_same_key_under_the_other_kms_key(kms: KmsServer) -> None:
    old, new = kms.provider(), kms.provider()
    context = context_of(None)
    key, _, _ = old.generate(context)

    wrapped, key_id = new.wrap(key, context)

    assert AwsKeyProvider(None, endpoint_url=kms.url).unwrap(wrapped, key_id, context) == key


def test_g6_kms_down_10_min_sealed_values_fail_closed_once_their_key_has_left_the_cache(
    kms: KmsServer, database: Database, fresh_tenant: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(aws_kms_module, "READ_SECONDS", 0.5)
    clock = Clock()
    vault = vault_of_provider(database, kms.provider(), clock)
    sealed = vault.seal(fresh_tenant.id, HERE, "123-45-6789")
    kms.pause()

    clock.now += 299
    assert vault.open(fresh_tenant.id, HERE, sealed) == "123-45-6789", "the key is still hot"
    clock.now += 301
    with pytest.raises(KeysUnavailable, match="AWS KMS"):
        vault.open(fresh_tenant.id, HERE, sealed)
    with pytest.raises(KeysUnavailable, match="AWS KMS"):
        vault.seal(fresh_tenant.id, HERE, "new")
    with pytest.raises(KeysUnavailable, match="AWS KMS"):
        vault.blind_index(fresh_tenant.id, "a.b", "new")
    with pytest.raises(KeysUnavailable, match="AWS KMS"):
        vault.rotate(fresh_tenant.id)

    kms.resume()
    time.sleep(PAUSE_SECONDS + 0.1)
    assert vault.open(fresh_tenant.id, HERE, sealed) == "123-45-6789"
    assert vault.open(fresh_tenant.id, HERE, vault.seal(fresh_tenant.id, HERE, "new")) == "new"


def test_while_kms_is_down_only_the_first_waits_for_it(
    kms: KmsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(aws_kms_module, "READ_SECONDS", 0.5)
    clock = Clock()
    provider = AwsKeyProvider(kms.create_key(), endpoint_url=kms.url, clock=clock)
    kms.pause()
    with pytest.raises(KeysUnavailable):
        provider.generate(context_of(None))

    begun = time.monotonic()
    for _ in range(100):
        with pytest.raises(KeysUnavailable, match="a moment ago"):
            provider.generate(context_of(None))

    assert time.monotonic() - begun < 0.5


@pytest.mark.parametrize("key", ["alias/missing", "arn:aws:kms:eu-central-1:1:key/none"])
def test_a_key_that_kms_does_not_have_is_an_outage_and_not_clear_text(
    kms: KmsServer, key: str
) -> None:
    with pytest.raises(KeysUnavailable, match="refused generate_data_key"):
        kms.provider(key).generate(context_of(None))


def test_nobody_listening_is_an_outage(kms: KmsServer) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    provider = AwsKeyProvider("alias/x", endpoint_url=f"http://127.0.0.1:{port}")

    with pytest.raises(KeysUnavailable, match="did not answer"):
        provider.generate(context_of(None))


def test_rewrapping_moves_a_tenant_from_the_master_key_to_kms_and_on(
    kms: KmsServer, database: Database, fresh_tenant: Tenant
) -> None:
    local = LocalKeyProvider(MasterKey(os.urandom(32)))
    first = Vault(database, KeyProviders(local))
    sealed = first.seal(fresh_tenant.id, HERE, "123-45-6789")
    index = first.blind_index(fresh_tenant.id, "a.b", "x")

    provider = kms.provider()
    assert Vault(database, KeyProviders(provider, [local])).rewrap(fresh_tenant.id) == 2

    only_kms = Vault(database, KeyProviders(provider))
    assert only_kms.open(fresh_tenant.id, HERE, sealed) == "123-45-6789"
    assert only_kms.blind_index(fresh_tenant.id, "a.b", "x") == index
    with pytest.raises(KeysUnavailable):
        Vault(database, KeyProviders(local)).open(fresh_tenant.id, HERE, sealed)
