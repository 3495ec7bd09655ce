"""Offboarding: nothing is left but what the law wants, and a legal hold stops it (D15)."""

from __future__ import annotations

import base64
import json
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any
from uuid import UUID

import httpx
import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict
from pydicom.uid import generate_uid

from interop.deletion_certificate import signer, verify
from interop.dicom.ingest import Source
from storage import tenant_tree
from storage.database import Database
from storage.embedded import SUPERUSER, EmbeddedPostgres
from storage.objects import ObjectStore
from storage.objects.keys import new_key
from storage.tenancy import Tenant, TenantDirectory
from storage.tenants import deletion, features
from storage.tenants.deletion import HeldByLaw, NotDeletable
from tests.unit.interop.dicom.factories import instance, spooled

from .conftest import FHIR_JSON, Live

MakeTenant = Callable[..., Tenant]
EACH = pytest.mark.strategies(
    ("ROW_LEVEL", "ROW_LEVEL"), ("SCHEMA", "SCHEMA"), ("DATABASE", "DATABASE")
)
CANARY = "Zanzibarcanary"
NO_GRACE = timedelta(0)
# The owner of this cluster is not held back by row-level security; the statements are.
AUDITED = "SELECT count(*) FROM audit_events WHERE tenant_id = %s"


@pytest.fixture
def owner(live: Live, owner_url: str) -> Iterator[Database]:
    made = Database(owner_url)
    made.vault = live.services.database.vault
    yield made
    made.close()


def fill(live: Live, database: Database, tenant: Tenant, canary: str = CANARY) -> UUID:
    """Data of every kind, by the doors and by SQL; returns a user who belongs nowhere else."""
    with live.client(tenant) as client:
        for resource in (
            {
                "resourceType": "Patient",
                "id": "p",
                "name": [{"family": canary}],
                "identifier": [
                    {"system": "http://hl7.org/fhir/sid/us-ssn", "value": f"{canary}-ssn"},
                    {"system": "urn:mrn", "value": canary},
                ],
                "birthDate": "1970-01-01",
                "address": [{"line": [canary], "city": canary}],
            },
            {
                "resourceType": "Observation",
                "status": "final",
                "code": {"text": canary},
                "subject": {"reference": "Patient/p"},
            },
            {"resourceType": "Basic", "code": {"text": canary}},
            {
                "resourceType": "Condition",
                "subject": {"reference": "Patient/late"},
                "code": {"text": canary},
            },
        ):
            answer = client.post(
                f"/fhir/R4/{resource['resourceType']}", json=resource, headers=FHIR_JSON
            )
            assert answer.status_code == 201, answer.text
        assert client.get("/fhir/R4/Patient", params={"name": canary}).status_code == 200
    source = Source("C-STORE", "MODALITY", calling_ae_title="MODALITY")
    study = generate_uid()
    for number in range(3):
        dataset = instance(
            PatientName=canary,
            PatientID=f"{canary}{number // 2}",
            StudyInstanceUID=study if number < 2 else generate_uid(),
            SOPInstanceUID=generate_uid(),
            StudyDescription=canary,
        )
        outcome = live.services.ingest.store(tenant, spooled(live.services.spool, dataset), source)
        assert outcome.is_success, outcome
    live.services.objects.put_bytes(new_key(tenant.id), canary.encode())
    with database.connection(tenant.id) as connection:
        features.switch_feature(
            connection, tenant.id, "SOMETHING", is_enabled=True, configuration={"x": canary}
        )
        connection.execute(
            "INSERT INTO locations (tenant_id, name) VALUES (%s, %s)", (tenant.id, canary)
        )
        connection.execute(
            "INSERT INTO locations (tenant_id, name, parent_location_id)"
            " SELECT tenant_id, name, id FROM locations WHERE tenant_id = %s",
            (tenant.id,),
        )
        connection.execute(
            "UPDATE tenant_branding SET display_name = %s WHERE tenant_id = %s", (canary, tenant.id)
        )
        connection.execute(
            "INSERT INTO roles (tenant_id, code, name) VALUES (%s, 'OWN', %s)", (tenant.id, canary)
        )
        connection.execute("UPDATE tenants SET name = %s WHERE id = %s", (canary, tenant.id))
        return member(connection, tenant, canary)


def member(connection: psycopg.Connection[Any], tenant: Tenant, name: str) -> UUID:
    row = connection.execute(
        "INSERT INTO users (full_name, email) VALUES (%s, gen_random_uuid()::text) RETURNING id",
        (name,),
    ).fetchone()
    assert row is not None
    connection.execute(
        "INSERT INTO user_auth_identities (user_id, provider, subject)"
        " VALUES (%s, 'OIDC', gen_random_uuid()::text || %s)",
        (row[0], name),
    )
    connection.execute(
        "INSERT INTO user_tenants (tenant_id, user_id) VALUES (%s, %s)", (tenant.id, row[0])
    )
    return UUID(str(row[0]))


def tables_with(cluster: EmbeddedPostgres, owner_url: str, text: str) -> Counter[str]:
    """Every table of the platform and of all places in which a text occurs, as a superuser sees."""
    name = str(conninfo_to_dict(owner_url)["dbname"])
    with psycopg.connect(cluster.url(SUPERUSER, name)) as connection:
        apart = connection.execute(
            "SELECT database_name FROM tenants WHERE database_name IS NOT NULL"
        ).fetchall()
    found: Counter[str] = Counter()
    for database in (name, *(row[0] for row in apart)):
        with psycopg.connect(cluster.url(SUPERUSER, database)) as connection:
            tables = connection.execute(
                "SELECT n.nspname, c.relname FROM pg_class c"
                " JOIN pg_namespace n ON n.oid = c.relnamespace"
                " WHERE (n.nspname = 'public' OR n.nspname LIKE 't\\_%') AND relkind = 'r'"
            ).fetchall()
            for schema, table in tables:
                row = connection.execute(
                    sql.SQL("SELECT count(*) FROM {} AS t WHERE t::text ILIKE %s").format(
                        sql.Identifier(schema, table)
                    ),
                    (f"%{text}%",),
                ).fetchone()
                if row is not None and row[0]:
                    found[table] += row[0]
    return found


def objects_with(objects: ObjectStore, text: str) -> list[str]:
    return [one.key for one in objects.list("") if text.encode() in objects.get(one.key)]


@EACH
def test_a_deleted_tenant_leaves_no_canary_anywhere(
    live: Live,
    database: Database,
    owner: Database,
    owner_url: str,
    cluster: EmbeddedPostgres,
    make_tenant: MakeTenant,
) -> None:
    tenant, other = make_tenant(), make_tenant()
    fill(live, database, tenant)
    fill(live, database, other, "Neighbourcanary")
    before = tables_with(cluster, owner_url, CANARY)
    neighbour = tables_with(cluster, owner_url, "Neighbourcanary")
    # The test proves nothing where the canary never was.
    assert {"fhir_resources", "fhir_search_string", "patients", "users", "imaging_studies",
            "imaging_objects", "locations", "tenants", "tenant_features", "roles",
            "user_auth_identities", "fhir_history"} <= set(before)  # fmt: skip
    assert len(objects_with(live.services.objects, CANARY)) == 4

    deletion.request(database, tenant.id, grace=NO_GRACE)
    certificate = deletion.run(
        owner, live.services.objects, tenant.id, signer(live.services.tokens.keys)
    )

    assert tables_with(cluster, owner_url, CANARY) == {}
    assert objects_with(live.services.objects, CANARY) == []
    assert list(live.services.objects.list(f"{tenant.id}/")) == []
    said = verify(live.services.tokens.keys, certificate)
    assert said["sub"] == str(tenant.id)
    assert said["deleted"]["objects"] == 4
    assert said["deleted"]["rows"]["patients"] >= 3
    assert said["deleted"]["rows"]["users (anonymized)"] == 1
    assert said["deleted"]["rows"]["data_keys (destroyed)"] >= 1
    # The neighbour has all that it had.
    assert tables_with(cluster, owner_url, "Neighbourcanary") == neighbour
    assert len(objects_with(live.services.objects, "Neighbourcanary")) == 4
    with live.client(other) as client:
        assert client.get("/fhir/R4/Patient?name=Neighbourcanary").json()["entry"]


@EACH
def test_what_stays_is_the_audit_trail_the_certificate_and_dead_keys(
    live: Live,
    database: Database,
    owner: Database,
    owner_url: str,
    cluster: EmbeddedPostgres,
    make_tenant: MakeTenant,
) -> None:
    tenant = make_tenant()
    fill(live, database, tenant)
    with owner.connection(tenant.id) as connection:
        audited = connection.execute(AUDITED, (tenant.id,)).fetchone()
    assert audited is not None and audited[0] > 5

    deletion.request(database, tenant.id, grace=NO_GRACE)
    certificate = deletion.run(
        owner, live.services.objects, tenant.id, signer(live.services.tokens.keys)
    )

    assert set(tables_with(cluster, owner_url, str(tenant.id))) <= {
        "audit_events", "phi_access_logs", "audit_seals", "data_keys", "tenant_deletions",
        "tenants", "tenant_closure",
    }  # fmt: skip
    with owner.connection(tenant.id) as connection:
        kept = connection.execute(AUDITED, (tenant.id,)).fetchone()
        keys = connection.execute(
            "SELECT count(*), count(wrapped_key) FROM data_keys WHERE tenant_id = %s",
            (tenant.id,),
        ).fetchone()
    assert kept is not None and kept[0] > audited[0]
    assert keys is not None and keys[0] >= 1 and keys[1] == 0
    found = TenantDirectory(database).even_closed(tenant.slug)
    assert found is not None
    assert (found.status, found.name, found.ae_title) == ("CLOSED", "deleted organization", None)
    # Nobody takes the URL over, and a repeat shows the same certificate.
    with pytest.raises(ValueError, match="exists"):
        TenantDirectory(database).create(tenant.slug)
    again = deletion.run(owner, live.services.objects, tenant.id, lambda _: "another")
    assert again == certificate


def test_the_certificate_cannot_be_changed_or_used_as_a_token(
    live: Live, database: Database, owner: Database, make_tenant: MakeTenant
) -> None:
    tenant = make_tenant()
    deletion.request(database, tenant.id, grace=NO_GRACE)
    keys = live.services.tokens.keys
    certificate = deletion.run(owner, live.services.objects, tenant.id, signer(keys))
    head, _, signature = certificate.split(".")
    other = base64.urlsafe_b64encode(json.dumps({"sub": "else"}).encode()).rstrip(b"=").decode()

    with pytest.raises(ValueError, match="signature"):
        verify(keys, f"{head}.{other}.{signature}")
    answer = httpx.get(
        f"{live.url}/t/{make_tenant().slug}/fhir/R4/Patient",
        headers={"Authorization": f"Bearer {certificate}"},
    )
    assert answer.status_code == 401


def place_hold(database: Database, tenant: Tenant) -> UUID:
    with database.connection(tenant.id) as connection:
        row = connection.execute(
            "INSERT INTO legal_holds (tenant_id, entity_type, entity_id, reason)"
            " VALUES (%s, 'PATIENT', gen_random_uuid(), 'a claim') RETURNING id",
            (tenant.id,),
        ).fetchone()
    assert row is not None
    return UUID(str(row[0]))


def test_d15_a_legal_hold_refuses_the_deletion_with_its_id(
    live: Live, database: Database, make_tenant: MakeTenant
) -> None:
    tenant = make_tenant()
    hold = place_hold(database, tenant)

    with pytest.raises(HeldByLaw, match=str(hold)) as caught:
        deletion.request(database, tenant.id, grace=NO_GRACE)

    assert caught.value.hold_id == hold
    found = TenantDirectory(database).even_closed(tenant.slug)
    assert found is not None and found.status == "ACTIVE"


@pytest.mark.parametrize("state", ["REQUESTED", "OBJECTS", "KEYS", "ROWS", "VERIFYING"])
def test_d15_a_hold_that_comes_later_stops_every_step(
    live: Live, database: Database, owner: Database, make_tenant: MakeTenant, state: str
) -> None:
    tenant = make_tenant()
    live.services.objects.put_bytes(new_key(tenant.id), b"held")
    with database.connection(tenant.id) as connection:
        user = member(connection, tenant, "Held")
        connection.execute(
            "INSERT INTO data_keys (tenant_id, purpose, version, wrapped_key, provider,"
            " provider_key_id) VALUES (%s, 'SEAL', 1, 'x', 'LOCAL', 'k')",
            (tenant.id,),
        )
    deletion.request(database, tenant.id, grace=NO_GRACE)
    with database.connection(tenant.id) as connection:
        connection.execute(
            "UPDATE tenant_deletions SET state = %s WHERE tenant_id = %s", (state, tenant.id)
        )
    hold = place_hold(database, tenant)
    sign = signer(live.services.tokens.keys)

    with pytest.raises(HeldByLaw, match=str(hold)):
        deletion.run(owner, live.services.objects, tenant.id, sign)

    assert len(list(live.services.objects.list(f"{tenant.id}/"))) == 1
    with database.connection(tenant.id) as connection:
        left = connection.execute(
            "SELECT (SELECT count(wrapped_key) FROM data_keys WHERE tenant_id = %(tenant)s),"
            " (SELECT full_name FROM users WHERE id = %(user)s),"
            " (SELECT count(*) FROM user_tenants WHERE tenant_id = %(tenant)s)",
            {"tenant": tenant.id, "user": user},
        ).fetchone()
    assert left == (1, "Held", 1)
    with database.connection(tenant.id) as connection:
        connection.execute("UPDATE legal_holds SET released_at = now()")
    assert deletion.run(owner, live.services.objects, tenant.id, sign).count(".") == 2
    assert list(live.services.objects.list(f"{tenant.id}/")) == []


class Failing:
    """An object store that fails at one of its deletions, as a killed process would stop there."""

    def __init__(self, objects: ObjectStore, at: int) -> None:
        self._objects, self._left = objects, at

    def delete(self, key: str) -> None:
        if self._left == 0:
            raise KeyboardInterrupt
        self._left -= 1
        self._objects.delete(key)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._objects, name)


def test_a_deletion_that_was_cut_off_goes_on(
    live: Live,
    database: Database,
    owner: Database,
    owner_url: str,
    cluster: EmbeddedPostgres,
    make_tenant: MakeTenant,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tenant = make_tenant()
    fill(live, database, tenant)
    deletion.request(database, tenant.id, grace=NO_GRACE)
    sign = signer(live.services.tokens.keys)

    with pytest.raises(KeyboardInterrupt):
        deletion.run(owner, Failing(live.services.objects, 2), tenant.id, sign)  # type: ignore[arg-type]
    cut = deletion._delete_table
    tables = 0

    def cut_off(*arguments: Any) -> int:
        nonlocal tables
        tables += 1
        if tables == 60:
            raise KeyboardInterrupt
        return cut(*arguments)

    monkeypatch.setattr(deletion, "_delete_table", cut_off)
    with pytest.raises(KeyboardInterrupt):
        deletion.run(owner, live.services.objects, tenant.id, sign)
    monkeypatch.setattr(deletion, "_delete_table", cut)
    assert tables_with(cluster, owner_url, CANARY) != {}
    deletion.run(owner, live.services.objects, tenant.id, sign)

    assert tables_with(cluster, owner_url, CANARY) == {}
    assert list(live.services.objects.list(f"{tenant.id}/")) == []


def test_members_of_other_tenants_keep_their_name(
    live: Live, database: Database, owner: Database, make_tenant: MakeTenant
) -> None:
    tenant, other = make_tenant(), make_tenant()
    with database.connection(tenant.id) as connection:
        gone = member(connection, tenant, "Gone")
        stays = member(connection, tenant, "Stays")
    with database.connection(other.id) as connection:
        connection.execute(
            "INSERT INTO user_tenants (tenant_id, user_id) VALUES (%s, %s)", (other.id, stays)
        )

    deletion.request(database, tenant.id, grace=NO_GRACE)
    deletion.run(owner, live.services.objects, tenant.id, signer(live.services.tokens.keys))

    with database.platform_connection() as connection:
        rows = connection.execute(
            "SELECT u.id, u.full_name, u.status, count(i.id) FROM users u"
            " LEFT JOIN user_auth_identities i ON i.user_id = u.id"
            " WHERE u.id = ANY (%s) GROUP BY u.id",
            ([gone, stays],),
        ).fetchall()
    assert set(rows) == {(gone, "deleted user", "DISABLED", 0), (stays, "Stays", "ACTIVE", 1)}


def test_a_tenant_with_others_below_it_is_not_deleted(
    database: Database, make_tenant: MakeTenant
) -> None:
    parent = make_tenant()
    child = make_tenant(parent)

    with pytest.raises(NotDeletable, match=child.slug):
        deletion.request(database, parent.id)

    tenant_tree.place_below(database, child.id, None)
    deletion.request(database, parent.id)
    with pytest.raises(ValueError, match="cannot be resumed"):
        from storage.tenants import lifecycle

        lifecycle.resume(database, parent.id, "changed our mind")


def test_the_grace_is_longer_than_a_tenant_is_remembered() -> None:
    from interop.access.http import REMEMBER_SECONDS
    from storage.tenancy import CACHE_SECONDS

    assert deletion.GRACE.total_seconds() > max(CACHE_SECONDS, REMEMBER_SECONDS)
