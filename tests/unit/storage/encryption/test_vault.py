"""Security checklist G6: sealed values open in their place and nowhere else."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from uuid import uuid4

import psycopg
import pytest

from storage.database import Database
from storage.encryption import KeyDestroyed, MasterKey, SealBroken, place, shred
from storage.encryption.cache import MAX_SECONDS, KeyCache
from storage.encryption.providers import KeyProviders, LocalKeyProvider
from storage.encryption.vault import Sealer, Vault, normalised
from storage.tenancy import Tenant, TenantDirectory

MASTER = bytes(range(32))
HERE = place("patient_identifiers", "value", "11111111-1111-4111-8111-111111111111")


class Clock:
    """Time that a test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Recording(LocalKeyProvider):
    """The local provider, keeping hold of the buffers that it hands out in clear."""

    def __init__(self, master_key: MasterKey) -> None:
        super().__init__(master_key)
        self.given: list[bytearray] = []

    def unwrap(self, wrapped: bytes, key_id: str, context: object) -> bytearray:
        key = super().unwrap(wrapped, key_id, context)  # type: ignore[arg-type]
        self.given.append(key)
        return key


def new_vault(database: Database, master: bytes = MASTER, clock: Clock | None = None) -> Vault:
    provider = LocalKeyProvider(MasterKey(master))
    if clock is None:
        return Vault(database, KeyProviders(provider))
    return Vault(database, KeyProviders(provider), cache=KeyCache(clock=clock), clock=clock)


@pytest.fixture
def vault(database: Database) -> Vault:
    made = new_vault(database)
    database.vault = made
    return made


@pytest.fixture
def fresh_tenant(database: Database, vault: Vault) -> Tenant:
    return TenantDirectory(database).create(f"fresh-{uuid4().hex[:12]}")


def test_g6_a_sealed_value_opens_in_its_place(vault: Vault, tenant: Tenant) -> None:
    sealed = vault.seal(tenant.id, HERE, "123-45-6789 é漢")

    assert sealed.startswith("sealed:1:") and "6789" not in sealed
    assert vault.open(tenant.id, HERE, sealed) == "123-45-6789 é漢"
    assert vault.seal(tenant.id, HERE, "123-45-6789 é漢") != sealed


@pytest.mark.parametrize(
    "there",
    [
        place("patient_identifiers", "value", "22222222-2222-4222-8222-222222222222"),
        place("patient_identifiers", "assigner", "11111111-1111-4111-8111-111111111111"),
        place("patient_insurance_policies", "value", "11111111-1111-4111-8111-111111111111"),
    ],
    ids=["row", "column", "table"],
)
def test_g6_a_value_swapped_between_rows_columns_or_tables_does_not_open(
    vault: Vault, tenant: Tenant, there: str
) -> None:
    sealed = vault.seal(tenant.id, HERE, "123-45-6789")

    with pytest.raises(SealBroken, match="does not open"):
        vault.open(tenant.id, there, sealed)


def test_g6_a_value_swapped_between_tenants_does_not_open(
    vault: Vault, tenant: Tenant, other_tenant: Tenant
) -> None:
    sealed = vault.seal(tenant.id, HERE, "123-45-6789")
    vault.seal(other_tenant.id, HERE, "987-65-4321")

    with pytest.raises(SealBroken, match="does not open"):
        vault.open(other_tenant.id, HERE, sealed)
    with pytest.raises(SealBroken):
        vault.open(None, HERE, sealed)


def test_g6_a_wrapped_key_of_another_tenant_does_not_open(
    vault: Vault, fresh_tenant: Tenant, tenant: Tenant, database: Database, owner_url: str
) -> None:
    """Whoever can write the table of keys gives a tenant the key of another."""
    vault.seal(tenant.id, HERE, "theirs")
    vault.seal(fresh_tenant.id, HERE, "ours")
    keys = []
    for one in (tenant, fresh_tenant):
        with database.connection(one.id) as connection:
            keys.append(
                connection.execute("SELECT wrapped_key FROM data_keys WHERE purpose = 'SEAL'")
                .fetchall()[0][0]
            )  # fmt: skip
    with database.connection(fresh_tenant.id) as connection:
        connection.execute("UPDATE data_keys SET wrapped_key = %s", (keys[0],))

    with pytest.raises(SealBroken):
        new_vault(database).seal(fresh_tenant.id, HERE, "x")


@pytest.mark.parametrize(
    "broken", ["", "123-45-6789", "sealed:", "sealed:1:", "sealed:x:AAAA", "sealed:1:AAAA"]
)
def test_g6_what_is_no_sealed_value_does_not_open(
    vault: Vault, tenant: Tenant, broken: str
) -> None:
    vault.seal(tenant.id, HERE, "x")

    with pytest.raises(SealBroken):
        vault.open(tenant.id, HERE, broken)


def test_g6_every_changed_byte_is_noticed(vault: Vault, tenant: Tenant) -> None:
    import base64

    head, version, encoded = vault.seal(tenant.id, HERE, "123-45-6789").split(":")
    raw = base64.b64decode(encoded)
    for index in range(len(raw)):
        changed = bytearray(raw)
        changed[index] ^= 1
        with pytest.raises(SealBroken):
            vault.open(
                tenant.id, HERE, f"{head}:{version}:{base64.b64encode(bytes(changed)).decode()}"
            )


def test_g6_another_master_key_opens_nothing(
    vault: Vault, tenant: Tenant, database: Database
) -> None:
    sealed = vault.seal(tenant.id, HERE, "123-45-6789")
    from storage.encryption import KeysUnavailable

    with pytest.raises(KeysUnavailable, match="interop keys rewrap"):
        new_vault(database, bytes(32)).open(tenant.id, HERE, sealed)


def test_g6_after_rotation_the_new_key_seals_and_the_old_one_still_opens(
    vault: Vault, fresh_tenant: Tenant
) -> None:
    before = vault.seal(fresh_tenant.id, HERE, "before")

    assert vault.rotate(fresh_tenant.id) == 2

    after = vault.seal(fresh_tenant.id, HERE, "after")
    assert after.startswith("sealed:2:")
    assert vault.open(fresh_tenant.id, HERE, before) == "before"
    assert vault.open(fresh_tenant.id, HERE, after) == "after"


def test_g6_another_process_seals_with_the_new_key_within_two_seconds(
    database: Database, vault: Vault, fresh_tenant: Tenant
) -> None:
    clock = Clock()
    other = new_vault(database, clock=clock)
    assert other.seal(fresh_tenant.id, HERE, "x").startswith("sealed:1:")
    vault.rotate(fresh_tenant.id)

    clock.now += 2.01

    assert other.seal(fresh_tenant.id, HERE, "x").startswith("sealed:2:")


def test_a_blind_index_is_equal_for_equal_values_of_one_tenant_and_column_only(
    vault: Vault, tenant: Tenant, other_tenant: Tenant
) -> None:
    index = vault.blind_index(tenant.id, "a.b", "123-45-6789")

    assert index == vault.blind_index(tenant.id, "a.b", " 123 45 6789")
    assert index != vault.blind_index(tenant.id, "a.b", "123-45-6780")
    assert index != vault.blind_index(tenant.id, "a.c", "123-45-6789")
    assert index != vault.blind_index(other_tenant.id, "a.b", "123-45-6789")
    assert len(index) == len("blind:") + 22 and "6789" not in index


def test_a_blind_index_stays_when_data_keys_rotate_and_processes_restart(
    vault: Vault, fresh_tenant: Tenant, database: Database
) -> None:
    index = vault.blind_index(fresh_tenant.id, "a.b", "X 1")
    vault.seal(fresh_tenant.id, HERE, "x")
    vault.rotate(fresh_tenant.id)

    assert new_vault(database).blind_index(fresh_tenant.id, "a.b", "x1") == index


def test_a_search_of_a_tenant_without_indexes_makes_no_key(
    vault: Vault, fresh_tenant: Tenant, database: Database
) -> None:
    assert vault.index_of(fresh_tenant.id) is None
    with database.connection(fresh_tenant.id) as connection:
        assert connection.execute("SELECT count(*) FROM data_keys").fetchone() == (0,)

    made = vault.blind_index(fresh_tenant.id, "a.b", "x")

    index = new_vault(database).index_of(fresh_tenant.id)
    assert index is not None and index("a.b", "x") == made


@pytest.mark.parametrize(
    ("written", "same"),
    [("123-45-6789", "123456789"), ("AB 12 CD", "ab12cd"), ("--", "--"), ("１２３", "123")],
)
def test_a_number_is_compared_as_people_write_it(written: str, same: str) -> None:
    assert normalised(written) == normalised(same)


def test_first_writers_at_once_make_one_key_and_lose_nothing(
    database: Database, vault: Vault, fresh_tenant: Tenant
) -> None:
    """Each has a vault of its own, as processes have."""
    start = threading.Barrier(8)

    def write(number: int) -> tuple[str, str]:
        start.wait()
        return str(number), new_vault(database).seal(fresh_tenant.id, HERE, str(number))

    with ThreadPoolExecutor(8) as pool:
        written = list(pool.map(write, range(8)))

    assert [vault.open(fresh_tenant.id, HERE, sealed) for _, sealed in written] == [
        plain for plain, _ in written
    ]
    with database.connection(fresh_tenant.id) as connection:
        assert connection.execute("SELECT count(*) FROM data_keys").fetchone() == (1,)


def test_a_key_that_seals_is_committed_even_when_the_writer_rolls_back(
    database: Database, vault: Vault, fresh_tenant: Tenant
) -> None:
    """What the process goes on sealing with a key that never was would be lost."""
    with pytest.raises(ZeroDivisionError), database.connection(fresh_tenant.id) as connection:
        vault.seal(fresh_tenant.id, HERE, "x", connection)
        raise ZeroDivisionError

    sealed = vault.seal(fresh_tenant.id, HERE, "y")

    assert new_vault(database).open(fresh_tenant.id, HERE, sealed) == "y"


def test_more_first_writers_than_connections_do_not_wait_for_each_other_for_ever(
    database: Database, vault: Vault
) -> None:
    small = Database(database.conninfo, pool_size=2)
    small.vault = Vault(small, vault.providers)
    tenants = [TenantDirectory(database).create(f"bulk-{uuid4().hex[:12]}") for _ in range(4)]

    def write(tenant: Tenant) -> str:
        with small.connection(tenant.id) as connection:
            return small.vault.seal(tenant.id, HERE, tenant.slug, connection)

    with ThreadPoolExecutor(4) as pool:
        sealed = list(pool.map(write, tenants))
    small.close()

    assert [vault.open(t.id, HERE, s) for t, s in zip(tenants, sealed, strict=True)] == [
        t.slug for t in tenants
    ]


def test_keys_in_clear_are_overwritten_as_soon_as_they_are_used(
    database: Database, fresh_tenant: Tenant
) -> None:
    provider = Recording(MasterKey(MASTER))
    vault = Vault(database, KeyProviders(provider))

    sealed = vault.seal(fresh_tenant.id, HERE, "x")
    vault.blind_index(fresh_tenant.id, "a.b", "x")

    assert len(provider.given) == 2
    assert all(key == bytearray(32) for key in provider.given)
    assert vault.open(fresh_tenant.id, HERE, sealed) == "x"


def test_a_key_is_fetched_again_after_five_minutes(
    database: Database, fresh_tenant: Tenant
) -> None:
    clock = Clock()
    provider = Recording(MasterKey(MASTER))
    vault = Vault(database, KeyProviders(provider), cache=KeyCache(clock=clock), clock=clock)
    sealed = vault.seal(fresh_tenant.id, HERE, "x")

    clock.now += MAX_SECONDS - 1
    vault.open(fresh_tenant.id, HERE, sealed)
    assert len(provider.given) == 1
    clock.now += 2

    assert vault.open_now(fresh_tenant.id, HERE, sealed) is None
    assert vault.open(fresh_tenant.id, HERE, sealed) == "x"
    assert len(provider.given) == 2


def test_the_platform_has_keys_of_its_own(database: Database, vault: Vault, tenant: Tenant) -> None:
    sealer, where = Sealer(vault, None), place("user_auth_identities", "mfa_secret_encrypted", "1")

    sealed = sealer.seal("JBSWY3DPEHPK3PXP", where)

    assert Sealer(new_vault(database), None).open(sealed, where) == "JBSWY3DPEHPK3PXP"
    with pytest.raises(SealBroken):
        Sealer(vault, tenant.id).open(sealed, where)


def test_g7_after_crypto_shred_nothing_of_the_tenant_opens(
    database: Database, vault: Vault, fresh_tenant: Tenant, tenant: Tenant
) -> None:
    sealed = vault.seal(fresh_tenant.id, HERE, "123-45-6789")
    vault.blind_index(fresh_tenant.id, "a.b", "x")
    others = vault.seal(tenant.id, HERE, "others")

    with database.connection(fresh_tenant.id) as connection:
        assert shred(connection, fresh_tenant.id) == 2

    for one in (vault, new_vault(database)):
        with pytest.raises(KeyDestroyed):
            one.open(fresh_tenant.id, HERE, sealed)
        with pytest.raises(KeyDestroyed):
            one.seal(fresh_tenant.id, HERE, "new")
        with pytest.raises(KeyDestroyed):
            one.blind_index(fresh_tenant.id, "a.b", "x")
        assert one.open(tenant.id, HERE, others) == "others"


def test_g7_restored_rows_of_a_shredded_tenant_stay_closed(
    database: Database, vault: Vault, owner_url: str, fresh_tenant: Tenant
) -> None:
    """A backup of the rows from before, restored after the keys were destroyed."""
    row, billing = uuid4(), "tenant_billing_accounts"
    column = "payment_method_token_encrypted"
    with database.connection(fresh_tenant.id) as connection:
        token = vault.seal(fresh_tenant.id, place(billing, column, row), "tok_1", connection)
        insert = f"INSERT INTO {billing} (tenant_id, id, {column}) VALUES (%s, %s, %s)"
        connection.execute(insert, (fresh_tenant.id, row, token))
    with psycopg.connect(owner_url) as owner:
        owner.execute("SELECT set_config('app.tenant', %s, false)", (str(fresh_tenant.id),))
        backup = owner.execute(f"SELECT tenant_id, id, {column} FROM {billing}").fetchall()
        assert len(backup) == 1
        owner.execute(f"DELETE FROM {billing}")
    with database.connection(fresh_tenant.id) as connection:
        shred(connection, fresh_tenant.id)

    with database.connection(fresh_tenant.id) as connection:
        connection.execute(insert, backup[0])

    with pytest.raises(KeyDestroyed):
        new_vault(database).open(fresh_tenant.id, place(billing, column, row), backup[0][2])


def test_a_database_without_keys_says_so(database: Database) -> None:
    bare = Database(database.conninfo)

    with pytest.raises(RuntimeError, match="without encryption keys"):
        _ = bare.vault
