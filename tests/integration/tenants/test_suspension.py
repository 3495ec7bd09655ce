"""What a suspended and a closed tenant answer, at each door, within a minute."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from pydicom.uid import generate_uid

from ai.pipeline import Pipeline
from ai.routing import refusals
from interop.access import Scopes
from interop.dicom.ingest import Ingest, Source
from interop.dimse.policy import Rejected
from interop.dimse.registry import Peer
from interop.dimse.scp import open_context
from interop.errors import Conflict
from interop.identity import users
from interop.identity.actors import Actor
from interop.smart.clients import create_client
from storage import tenancy
from storage.database import Database
from storage.quotas import storage_bytes
from storage.tenancy import Tenant
from storage.tenants import lifecycle
from tests.unit.interop.dicom.factories import instance, spooled

from .conftest import FHIR_JSON, Live

MakeTenant = Callable[..., Tenant]
PATIENT = {"resourceType": "Patient", "id": "p", "name": [{"family": "Ko"}]}


@pytest.fixture
def forget(live: Live) -> Callable[[], None]:
    """Lets the time pass for which a process remembers a tenant."""

    def later() -> None:
        assert tenancy.CACHE_SECONDS < 60
        live.services.tenants.forget()

    return later


@pytest.fixture
def tenant_with_patient(
    live: Live, make_tenant: MakeTenant
) -> Iterator[tuple[Tenant, httpx.Client]]:
    tenant = make_tenant()
    with live.client(tenant) as client:
        made = client.put("/fhir/R4/Patient/p", json=PATIENT, headers=FHIR_JSON)
        assert made.status_code == 201, made.text
        yield tenant, client


def test_a_suspended_tenant_is_read_and_not_changed(
    database: Database,
    tenant_with_patient: tuple[Tenant, httpx.Client],
    forget: Callable[[], None],
) -> None:
    tenant, client = tenant_with_patient
    lifecycle.suspend(database, tenant.id, "unpaid")
    forget()

    assert client.get("/fhir/R4/Patient/p").status_code == 200
    assert len(client.get("/fhir/R4/Patient?name=ko").json()["entry"]) == 1
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    posted = client.post("/fhir/R4/Patient/_search", content="name=ko", headers=form)
    assert posted.status_code == 200
    for method, path in (
        ("PUT", "/fhir/R4/Patient/p"),
        ("POST", "/fhir/R4/Patient"),
        ("DELETE", "/fhir/R4/Patient/p"),
    ):
        refused = client.request(method, path, json=PATIENT, headers=FHIR_JSON)
        assert refused.status_code == 403, (method, refused.text)
        assert refused.json()["issue"][0]["code"] == "forbidden"
        assert "suspended" in refused.json()["issue"][0]["diagnostics"]
    stow = client.post("/dicom-web/studies", content=b"", headers={"Content-Type": "x/y"})
    assert stow.status_code == 403

    lifecycle.resume(database, tenant.id, "paid")
    forget()
    assert client.put("/fhir/R4/Patient/p", json=PATIENT, headers=FHIR_JSON).status_code == 200


def test_a_closed_tenant_answers_like_one_that_never_was(
    live: Live,
    database: Database,
    tenant_with_patient: tuple[Tenant, httpx.Client],
    forget: Callable[[], None],
) -> None:
    tenant, client = tenant_with_patient
    lifecycle.close(database, tenant.id, "left")
    forget()

    def shown(response: httpx.Response, slug: str) -> tuple[int, str, dict[str, str]]:
        # The ETag of /metadata is a hash of the URL too, which is anybody's to ask for.
        own = ("date", "x-request-id", "etag")
        headers = {k: v for k, v in response.headers.items() if k not in own}
        # A page's nonce is another each time.
        nonces = re.findall(r"nonce-([\w-]+)", headers.pop("content-security-policy", ""))
        text = response.text.replace(slug, "SLUG")
        for nonce in nonces:
            text = text.replace(nonce, "NONCE")
        return response.status_code, text, headers

    token = client.headers["authorization"]
    never = f"n{tenant.slug[1:]}"
    for path in (
        "/fhir/R4/Patient/p",
        "/fhir/R4/Patient",
        "/dicom-web/studies",
        "/fhir/R4/metadata",
        "/oauth2/token",
        "/sign-in",
    ):
        for headers in ({"Authorization": token}, {}):
            theirs = httpx.get(f"{live.url}/t/{tenant.slug}{path}", headers=headers)
            nobodys = httpx.get(f"{live.url}/t/{never}{path}", headers=headers)
            assert shown(theirs, tenant.slug) == shown(nobodys, never), (path, headers)
            assert PATIENT["name"][0]["family"] not in theirs.text  # type: ignore[index]


@pytest.mark.parametrize("step", [lifecycle.suspend, lifecycle.close])
def test_no_association_and_no_object_is_accepted(
    live: Live,
    database: Database,
    make_tenant: MakeTenant,
    forget: Callable[[], None],
    step: Callable[..., None],
) -> None:
    tenant = make_tenant()
    with database.connection(tenant.id) as connection:
        connection.execute(
            "UPDATE tenant_settings SET allow_any_calling_ae = true WHERE tenant_id = %s",
            (tenant.id,),
        )
    assert tenant.ae_title is not None
    peer = Peer(tenant.ae_title, "MODALITY", "127.0.0.1")
    context = open_context(live.services)
    context.policy.release(context.policy.admit(peer))
    step(database, tenant.id, "a reason")
    forget()

    context = open_context(live.services)
    with pytest.raises(Rejected):
        context.policy.admit(peer)
    context.close()
    # An association that was open before still has the tenant as it was.
    source = Source("C-STORE", "MODALITY", calling_ae_title="MODALITY")
    outcome = live.services.ingest.store(tenant, spooled(live.services.spool, instance()), source)

    assert outcome.kind == "failed"
    assert outcome.failure is not None and outcome.failure.dicom_status == 0x0124
    assert list(live.services.objects.list(f"{tenant.id}/")) == []


def test_d17_uploads_racing_the_storage_limit_stop_within_one_object(
    live: Live, database: Database, make_tenant: MakeTenant, tmp_path: Path
) -> None:
    """Many senders at once, through the real ingest of one process and of another."""
    tenant = make_tenant()
    services = live.services
    source = Source("C-STORE", "MODALITY", calling_ae_title="MODALITY")
    study = generate_uid()
    size = spooled(services.spool, instance(StudyInstanceUID=study)).byte_size
    limit = 12 * size + size // 2
    with database.connection(tenant.id) as connection:
        connection.execute(
            "UPDATE tenant_quotas SET max_storage_bytes = %s WHERE tenant_id = %s",
            (limit, tenant.id),
        )
        connection.execute(
            "INSERT INTO tenant_quotas (tenant_id, max_storage_bytes) VALUES (%s, %s)"
            " ON CONFLICT DO NOTHING",
            (tenant.id, limit),
        )
    other = Ingest(services.database, services.objects, services.spool)

    def send(number: int) -> int | None:
        dataset = instance(
            StudyInstanceUID=study if number % 2 else generate_uid(),
            SOPInstanceUID=generate_uid(),
            SeriesInstanceUID=generate_uid(),
        )
        ingest = services.ingest if number % 3 else other
        outcome = ingest.store(tenant, spooled(services.spool, dataset), source)
        return outcome.failure.dicom_status if outcome.failure else None

    try:
        with ThreadPoolExecutor(12) as pool:
            statuses = list(pool.map(send, range(36)))
    finally:
        other.close()

    with database.connection(tenant.id) as connection:
        used = storage_bytes(connection, tenant.id)
        row = connection.execute(
            "SELECT count(*), sum(byte_size)::bigint FROM imaging_objects WHERE tenant_id = %s",
            (tenant.id,),
        ).fetchone()
    stored = statuses.count(None)
    assert row == (stored, used)
    assert used <= limit < used + 2 * size
    assert set(statuses) == {None, 0xA700}
    assert len(list(services.objects.list(f"{tenant.id}/"))) == stored


def test_a_suspended_tenants_clients_still_get_tokens_to_read_with(
    live: Live, database: Database, make_tenant: MakeTenant, forget: Callable[[], None]
) -> None:
    tenant = make_tenant()
    client, secret = create_client(database, tenant, "reader", Scopes.parse("system/*.rs"))
    lifecycle.suspend(database, tenant.id, "unpaid")
    forget()

    answer = httpx.post(
        f"{live.url}/t/{tenant.slug}/oauth2/token",
        data={"grant_type": "client_credentials"},
        auth=(client.client_id, secret),
    )
    signing_in = httpx.get(f"{live.url}/t/{tenant.slug}/sign-in")

    assert answer.status_code == 200, answer.text
    assert signing_in.status_code == 200


def test_a_suspended_tenants_analyses_wait_and_new_ones_are_refused(
    database: Database, make_tenant: MakeTenant
) -> None:
    tenant = make_tenant()
    with database.connection(tenant.id) as connection:
        version = connection.execute(
            "WITH m AS (INSERT INTO ai_models (name, domain) VALUES (%s, 'CARIES') RETURNING id)"
            " INSERT INTO ai_model_versions (model_id, version_tag, artifact_uri)"
            " SELECT id, '1', 'x' FROM m RETURNING id",
            (tenant.slug,),
        ).fetchone()
        assert version is not None
        job = connection.execute(
            "INSERT INTO ai_inference_jobs (tenant_id, model_version_id, idempotency_key)"
            " VALUES (%s, %s, 'k') RETURNING id",
            (tenant.id, version[0]),
        ).fetchone()
        assert job is not None
    lifecycle.suspend(database, tenant.id, "unpaid")

    # Nothing of the ports is touched: a suspended tenant's images are not even read.
    Pipeline(database, None, None).run_inference(tenant.id, job[0])  # type: ignore[arg-type]

    with database.connection(tenant.id) as connection:
        state = connection.execute(
            "SELECT status, attempts FROM ai_inference_jobs WHERE tenant_id = %s", (tenant.id,)
        ).fetchone()
        waiting = connection.execute(
            "SELECT count(*) FROM procrastinate_jobs WHERE args ->> 'job_id' = %s"
            " AND status = 'todo' AND scheduled_at > now()",
            (str(job[0]),),
        ).fetchone()
        why = refusals(connection, tenant.id, job[0])
    assert state == ("QUEUED", 0)
    assert waiting == (1,)
    assert "the tenant is suspended or closed" in why


def test_d17_users_are_refused_beyond_the_quota_at_the_door_that_adds_them(
    database: Database, make_tenant: MakeTenant
) -> None:
    tenant = make_tenant(max_users=2)

    def add(number: int) -> int:
        address = f"{tenant.slug}-{number}@x.example"
        try:
            with database.connection(tenant.id) as connection:
                users.create_user(
                    connection,
                    tenant.id,
                    Actor.operator(),
                    email=address,
                    full_name="A",
                    user_type="DENTIST",
                    password_hash=None,
                )
        except Conflict:
            return 409
        return 201

    with ThreadPoolExecutor(6) as pool:
        codes = sorted(pool.map(add, range(6)))

    assert codes == [201, 201, 409, 409, 409, 409]
