"""DELETE at each level: what goes, what stays, what holds it, and what others see of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
import requests
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid

from interop.access import Scopes
from interop.dicom import deletion
from interop.fhir.rendering import render_stale
from storage.database import Database
from storage.erasing import erase
from storage.tenancy import Tenant

from .conftest import Server, make_image, part10

Store = Callable[..., requests.Response]
Sql = Callable[..., list[tuple[Any, ...]]]

DELETE = "system/ImagingStudy.cruds"


@pytest.fixture(scope="module")
def deleter(server: Server, tenant: Tenant) -> requests.Session:
    return server.session(tenant, DELETE)


@pytest.fixture
def sql(database: Database, tenant: Tenant) -> Sql:
    def run(statement: str, *values: object) -> list[tuple[Any, ...]]:
        with database.connection(tenant.id) as connection:
            cursor = connection.execute(statement.encode(), (tenant.id, *values))
            return cursor.fetchall() if cursor.description else []

    return run


@pytest.fixture(autouse=True)
def without_retention(sql: Sql) -> Iterator[None]:
    sql("UPDATE tenant_settings SET default_retention_min_years = 0 WHERE tenant_id = %s")
    yield
    sql("UPDATE tenant_settings SET allow_storing_deleted = true WHERE tenant_id = %s")
    sql("DELETE FROM data_retention_policies WHERE tenant_id = %s")


def a_study(store: Store, series: int = 2, instances: int = 2) -> list[Dataset]:
    study, patient = generate_uid(), generate_uid()[-12:]
    images = []
    for n in range(series):
        uid, modality = generate_uid(), ("IO", "PX")[n % 2]
        for number in range(instances):
            images.append(
                make_image(
                    StudyInstanceUID=study,
                    SeriesInstanceUID=uid,
                    PatientID=patient,
                    Modality=modality,
                    InstanceNumber=number + 1,
                )
            )
    assert store(*map(part10, images)).status_code == 200
    return images


def url_of(root: str, image: Dataset, level: str) -> str:
    url = f"{root}/studies/{image.StudyInstanceUID}"
    if level != "study":
        url += f"/series/{image.SeriesInstanceUID}"
    return url + (f"/instances/{image.SOPInstanceUID}" if level == "instance" else "")


def shown(http: requests.Session, root: str, image: Dataset) -> dict[str, Any]:
    """What QIDO says of the study: series with their instances, and its own counts."""
    study = f"{root}/studies/{image.StudyInstanceUID}"
    found = http.get(f"{root}/studies?StudyInstanceUID={image.StudyInstanceUID}").json()
    series = http.get(f"{study}/series").json() if found else []
    instances = http.get(f"{study}/instances").json() if found else []
    return {"study": found, "series": series, "instances": instances}


def value(item: dict[str, Any], tag: str) -> Any:
    found = item[tag].get("Value", [])
    return found[0] if len(found) == 1 else found


def test_an_instance_goes_and_everything_counts_anew(
    http: requests.Session, deleter: requests.Session, root: str, store: Store
) -> None:
    images = a_study(store)
    url = url_of(root, images[0], "instance")
    assert http.get(f"{url}/metadata").status_code == 200

    answer = deleter.delete(url)

    assert (answer.status_code, answer.content) == (204, b"")
    found = shown(http, root, images[0])
    assert value(found["study"][0], "00201208") == 3
    assert value(found["study"][0], "00201206") == 2
    counts = {value(s, "0020000E"): value(s, "00201209") for s in found["series"]}
    assert counts == {images[0].SeriesInstanceUID: 1, images[2].SeriesInstanceUID: 2}
    assert {value(i, "00080018") for i in found["instances"]} == {
        image.SOPInstanceUID for image in images[1:]
    }
    assert http.get(url).status_code == 404
    assert http.get(f"{url}/metadata").status_code == 404
    series = http.get(f"{url_of(root, images[0], 'series')}/metadata").json()
    assert [value(i, "00080018") for i in series] == [images[1].SOPInstanceUID]
    assert deleter.delete(url).status_code == 404


def test_a_series_goes_with_its_modality_and_the_last_one_takes_the_study(
    http: requests.Session, deleter: requests.Session, root: str, store: Store
) -> None:
    images = a_study(store)

    assert deleter.delete(url_of(root, images[0], "series")).status_code == 204
    found = shown(http, root, images[0])
    assert value(found["study"][0], "00080061") == "PX"
    assert [value(s, "0020000E") for s in found["series"]] == [images[2].SeriesInstanceUID]

    assert deleter.delete(url_of(root, images[2], "series")).status_code == 204
    assert shown(http, root, images[0])["study"] == []
    assert http.get(url_of(root, images[0], "study")).status_code == 404


def test_a_study_goes_whole_with_its_fhir_resource_and_its_bytes(
    server: Server,
    tenant: Tenant,
    database: Database,
    deleter: requests.Session,
    root: str,
    store: Store,
    sql: Sql,
) -> None:
    images = a_study(store)
    study = images[0].StudyInstanceUID
    [(row_id,)] = sql(
        "SELECT id FROM imaging_studies WHERE tenant_id = %s AND study_uid = %s", study
    )
    keys = sql(
        "SELECT storage_uri FROM imaging_objects WHERE tenant_id = %s AND study_id = %s", row_id
    )
    render_stale(database, tenant.id)

    assert deleter.delete(url_of(root, images[0], "study")).status_code == 204

    assert resource(database, tenant, row_id) == (True, None)
    objects = server.services.objects
    assert all(objects.stat(key) for (key,) in keys)
    erase(database, objects, tenant.id, timedelta(0))
    assert [objects.local_path(key) for (key,) in keys] == [None] * 4
    assert sql(
        "SELECT count(*), count(storage_uri), count(erased_at) FROM removed_objects"
        " WHERE tenant_id = %s AND study_instance_uid = %s",
        study,
    ) == [(4, 0, 4)]
    [(event, metadata)] = sql(
        "SELECT event_type, metadata FROM audit_events WHERE tenant_id = %s AND resource_id = %s"
        " AND event_type = 'IMAGING_DELETED'",
        str(row_id),
    )
    assert event == deletion.EVENT and metadata["instances"] == 4 and metadata["whole_study"]


def resource(database: Database, tenant: Tenant, row_id: UUID) -> tuple[bool, Any]:
    """Whether the ImagingStudy is deleted, and else what it says, after rendering."""
    render_stale(database, tenant.id)
    with database.connection(tenant.id) as connection:
        row = connection.execute(
            "SELECT deleted, body FROM fhir_resources WHERE tenant_id = %s"
            " AND resource_type = 'ImagingStudy' AND resource_id = %s",
            (tenant.id, str(row_id)),
        ).fetchone()
    assert row is not None
    return row[0], None if row[0] else json.loads(row[1])


def test_fhir_follows_in_the_same_transaction(
    tenant: Tenant,
    database: Database,
    deleter: requests.Session,
    root: str,
    store: Store,
    sql: Sql,
) -> None:
    images = a_study(store)
    [(row_id,)] = sql(
        "SELECT id FROM imaging_studies WHERE tenant_id = %s AND study_uid = %s",
        images[0].StudyInstanceUID,
    )
    before = resource(database, tenant, row_id)[1]
    assert before["numberOfInstances"] == 4

    deleter.delete(url_of(root, images[0], "instance"))

    assert sql(
        "SELECT stale FROM fhir_resources WHERE tenant_id = %s"
        " AND resource_type = 'ImagingStudy' AND resource_id = %s",
        str(row_id),
    ) == [(True,)]
    after = resource(database, tenant, row_id)[1]
    assert after["numberOfInstances"] == 3
    assert sum(len(series["instance"]) for series in after["series"]) == 3


@pytest.mark.parametrize(
    "held", ["IMAGING_STUDY", "PATIENT", "IMAGING_SERIES", "IMAGING_OBJECT", "TENANT"]
)
def test_a_legal_hold_forbids_it_and_says_which(
    http: requests.Session, deleter: requests.Session, root: str, store: Store, sql: Sql, held: str
) -> None:
    images = a_study(store)
    [(study_id, patient_id, series_id, object_id)] = sql(
        "SELECT s.id, s.patient_id, o.series_id, o.id FROM imaging_studies s"
        " JOIN imaging_objects o ON o.tenant_id = s.tenant_id AND o.study_id = s.id"
        " WHERE s.tenant_id = %s AND o.sop_instance_uid = %s",
        images[0].SOPInstanceUID,
    )
    entity = {
        "IMAGING_STUDY": study_id,
        "PATIENT": patient_id,
        "IMAGING_SERIES": series_id,
        "IMAGING_OBJECT": object_id,
        "TENANT": uuid4(),
    }[held]
    [(hold,)] = sql(
        "INSERT INTO legal_holds (tenant_id, entity_type, entity_id, reason, reference)"
        " VALUES (%s, %s, %s, 'a lawsuit about somebody', 'Case 7') RETURNING id",
        held,
        entity,
    )
    try:
        for level in ("study", "series", "instance"):
            url = url_of(root, images[0], level)
            answer = deleter.delete(f"{url}?reviewed-findings=delete")
            assert answer.status_code == 409, level
            assert str(hold) in answer.json()["error"] and "Case 7" in answer.json()["error"]
            assert "lawsuit" not in answer.text
        assert len(shown(http, root, images[0])["instances"]) == 4
        # What the hold does not speak of may go.
        free = deleter.delete(url_of(root, images[3], "instance"))
        assert free.status_code == (204 if held in ("IMAGING_SERIES", "IMAGING_OBJECT") else 409)
    finally:
        sql("UPDATE legal_holds SET released_at = now() WHERE tenant_id = %s")
    assert deleter.delete(url_of(root, images[0], "study")).status_code == 204


def test_retention_forbids_it_until_somebody_who_may_says_why(
    server: Server,
    tenant: Tenant,
    deleter: requests.Session,
    root: str,
    store: Store,
    sql: Sql,
) -> None:
    images = a_study(store)
    sql(
        "INSERT INTO data_retention_policies (tenant_id, data_class, min_years)"
        " VALUES (%s, 'IMAGING', 10)"
    )
    url = url_of(root, images[0], "study")

    refused = deleter.delete(url)
    by_a_client = deleter.delete(f"{url}?despite-retention=wrong patient")
    every = Scopes.parse("system/*.cruds")
    token = server.services.tokens.issue(tenant, None, "operator", every)
    operator = {"Authorization": f"Bearer {token}"}
    too_short = requests.delete(f"{url}?despite-retention=x", headers=operator)
    allowed = requests.delete(f"{url}?despite-retention=wrong patient", headers=operator)

    assert refused.status_code == 409
    assert "kept until 2036-03-14" in refused.json()["error"]
    assert (by_a_client.status_code, too_short.status_code) == (403, 400)
    assert allowed.status_code == 204
    assert sql(
        "SELECT metadata ->> 'despite_retention' FROM audit_events WHERE tenant_id = %s"
        " AND event_type = 'IMAGING_DELETED' AND metadata ? 'despite_retention'"
    ) == [("wrong patient",)]


def test_it_needs_the_letter_d(http: requests.Session, root: str, store: Store) -> None:
    images = a_study(store, 1, 1)

    answer = http.delete(url_of(root, images[0], "study"))

    assert answer.status_code == 403
    assert len(shown(http, root, images[0])["instances"]) == 1


def test_another_tenants_study_is_not_there(
    server: Server, other_tenant: Tenant, http: requests.Session, root: str, store: Store
) -> None:
    images = a_study(store, 1, 1)
    theirs = server.session(other_tenant, DELETE)

    mine = theirs.delete(url_of(server.root(other_tenant), images[0], "study"))
    nobodys = theirs.delete(f"{server.root(other_tenant)}/studies/1.2.3")

    assert (mine.status_code, mine.content) == (nobodys.status_code, nobodys.content)
    assert mine.status_code == 404
    assert len(shown(http, root, images[0])["instances"]) == 1


def test_stored_again_where_the_tenant_allows_it(
    http: requests.Session, deleter: requests.Session, root: str, store: Store, sql: Sql
) -> None:
    images = a_study(store, 1, 2)
    url = url_of(root, images[0], "instance")
    deleter.delete(url)

    sql("UPDATE tenant_settings SET allow_storing_deleted = false WHERE tenant_id = %s")
    refused = store(part10(images[0]))
    kept = sql(
        "SELECT count(*) FROM quarantined_objects WHERE tenant_id = %s AND sop_instance_uid = %s",
        images[0].SOPInstanceUID,
    )
    sql("UPDATE tenant_settings SET allow_storing_deleted = true WHERE tenant_id = %s")
    taken = store(part10(images[0]))

    assert refused.status_code == 409
    [item] = refused.json()["00081198"]["Value"]
    assert item["00081197"]["Value"] == [0x0124]
    assert kept == [(0,)]
    assert taken.status_code == 200
    assert http.get(url, headers={"Accept": "application/dicom"}).status_code == 200
    assert len(shown(http, root, images[0])["instances"]) == 2
    deleter.delete(url)
    assert store(part10(images[0])).status_code == 200


def test_what_the_ai_made_of_an_image_goes_with_it_unless_somebody_judged_it(
    http: requests.Session,
    deleter: requests.Session,
    root: str,
    store: Store,
    sql: Sql,
    database: Database,
) -> None:
    images = a_study(store, 2, 1)
    image, report = images
    [(study_id, patient_id, object_id)] = sql(
        "SELECT s.id, s.patient_id, o.id FROM imaging_studies s JOIN imaging_objects o"
        " ON o.tenant_id = s.tenant_id AND o.study_id = s.id"
        " WHERE s.tenant_id = %s AND o.sop_instance_uid = %s",
        image.SOPInstanceUID,
    )
    version = model_version(database)
    [(job,)] = sql(
        "INSERT INTO ai_inference_jobs (tenant_id, model_version_id, study_id, idempotency_key,"
        " status, sr_sop_instance_uid, compute_env)"
        " VALUES (%s, %s, %s, %s, 'SUCCEEDED', %s, jsonb_build_object('image', %s::text))"
        " RETURNING id",
        version, study_id, str(uuid4()), report.SOPInstanceUID, object_id,
    )  # fmt: skip
    [(finding,)] = sql(
        "INSERT INTO ai_predictions (tenant_id, job_id, patient_id, imaging_object_id,"
        " prediction_type) VALUES (%s, %s, %s, %s, 'CARIES') RETURNING id",
        job, patient_id, object_id,
    )  # fmt: skip
    sql(
        "INSERT INTO ai_review_events (tenant_id, prediction_id, review_action)"
        " VALUES (%s, %s, 'CONFIRMED')",
        finding,
    )
    url = url_of(root, image, "instance")

    refused = deleter.delete(url)
    allowed = deleter.delete(f"{url}?reviewed-findings=delete")

    assert refused.status_code == 409 and "1 findings" in refused.json()["error"]
    assert allowed.status_code == 204
    # The report was all that was left.
    assert shown(http, root, image)["study"] == []
    for rows, key in (
        ("ai_inference_jobs WHERE tenant_id = %s AND id", job),
        ("ai_predictions WHERE tenant_id = %s AND id", finding),
        ("ai_review_events WHERE tenant_id = %s AND prediction_id", finding),
    ):
        assert sql(f"SELECT 1 FROM {rows} = %s", key) == []


def model_version(database: Database) -> UUID:
    with database.platform_connection() as connection:
        row = connection.execute(
            "WITH model AS (INSERT INTO ai_models (name, domain)"
            " VALUES ('panoramic ' || gen_random_uuid(), 'CARIES') RETURNING id)"
            " INSERT INTO ai_model_versions (model_id, version_tag, artifact_uri)"
            " SELECT id, '1', 'bundle:x' FROM model RETURNING id"
        ).fetchone()
    assert row is not None
    made: UUID = row[0]
    return made
