"""The change feed: one order without gaps, whatever commits when, and only what one may see."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest
import requests
from pydicom.uid import generate_uid

from interop.access import Scopes
from interop.dicom import upkeep
from interop.smart.clients import create_client
from interop.smart.tokens import Subject
from storage import imaging_changes
from storage.database import Database
from storage.tenancy import Tenant

from .conftest import Server, make_image, part10

Store = Callable[..., requests.Response]


@pytest.fixture(scope="module")
def deleter(server: Server, tenant: Tenant) -> requests.Session:
    return server.session(tenant, "system/ImagingStudy.cruds")


@pytest.fixture(autouse=True)
def without_retention(database: Database, tenant: Tenant) -> Iterator[None]:
    with database.connection(tenant.id) as connection:
        connection.execute(
            "UPDATE tenant_settings SET default_retention_min_years = 0 WHERE tenant_id = %s",
            (tenant.id,),
        )
    yield


def feed(http: requests.Session, root: str, query: str = "") -> list[dict[str, Any]]:
    answer = http.get(f"{root}/changefeed?{query}")
    assert answer.status_code == 200, answer.text
    found: list[dict[str, Any]] = answer.json()
    return found


def last(http: requests.Session, root: str) -> int:
    found = http.get(f"{root}/changefeed/latest").json()
    return int(found.get("Sequence", 0))


def test_a_life_is_told_in_order_with_its_states(
    http: requests.Session, deleter: requests.Session, root: str, store: Store
) -> None:
    begin = last(http, root)
    image = make_image(PatientID=generate_uid()[-12:])
    url = (
        f"{root}/studies/{image.StudyInstanceUID}/series/{image.SeriesInstanceUID}"
        f"/instances/{image.SOPInstanceUID}"
    )
    store(part10(image))
    assert [e["State"] for e in feed(http, root, f"after={begin}")] == ["Current"]
    deleter.delete(url)
    assert [e["State"] for e in feed(http, root, f"after={begin}")] == ["Deleted", "Deleted"]
    store(part10(image))

    entries = feed(http, root, f"after={begin}")

    assert [(e["Sequence"], e["Action"], e["State"]) for e in entries] == [
        (begin + 1, "Create", "Replaced"),
        (begin + 2, "Delete", "Replaced"),
        (begin + 3, "Create", "Current"),
    ]
    assert {e["SopInstanceUid"] for e in entries} == {image.SOPInstanceUID}
    assert entries[0]["StudyInstanceUid"] == image.StudyInstanceUID
    assert entries[0]["SeriesInstanceUid"] == image.SeriesInstanceUID
    assert entries[0]["Timestamp"].endswith("Z")
    assert http.get(f"{root}/changefeed/latest").json() == entries[-1]


def test_metadata_comes_along_where_it_is_asked_for(
    http: requests.Session, root: str, store: Store
) -> None:
    begin = last(http, root)
    image = make_image(PatientID=generate_uid()[-12:])
    store(part10(image))

    [plain] = feed(http, root, f"after={begin}")
    [full] = feed(http, root, f"offset={begin}&includemetadata=true")

    assert "Metadata" not in plain
    assert full["Metadata"]["00080018"]["Value"] == [image.SOPInstanceUID]
    uri = full["Metadata"]["7FE00010"]["BulkDataURI"]
    answer = http.get(uri, headers={"Accept": "application/octet-stream"})
    assert (answer.status_code, answer.content) == (200, image.PixelData)


def test_a_page_ends_where_the_next_one_begins(
    http: requests.Session, root: str, store: Store
) -> None:
    begin = last(http, root)
    store(*(part10(make_image(PatientID=generate_uid()[-12:])) for _ in range(5)))

    url, seen = f"{root}/changefeed?after={begin}&limit=2", []
    while url:
        answer = http.get(url)
        page = answer.json()
        seen += [e["Sequence"] for e in page]
        url = answer.links["next"]["url"] if page else ""

    assert seen == list(range(begin + 1, begin + 6))


@pytest.mark.parametrize(
    "query", ["after=x", "after=-1", "limit=0", "limit=1001", "x=1", "includemetadata=maybe",
              "after=99999999999999999999"]
)  # fmt: skip
def test_what_is_not_understood_is_refused(http: requests.Session, root: str, query: str) -> None:
    answer = http.get(f"{root}/changefeed?{query}")

    assert answer.status_code == 400
    assert http.get(f"{root}/changefeed/first").status_code == 404


def test_a_change_that_commits_late_is_never_skipped(
    http: requests.Session, root: str, database: Database, tenant: Tenant, store: Store
) -> None:
    """The transaction that began first commits last; a reader looks in between."""
    begin = last(http, root)
    late = psycopg.connect(database.url)
    try:
        late.execute("SELECT set_config('app.tenant', %s, true)", (str(tenant.id),))
        late.execute(
            "INSERT INTO imaging_changes (tenant_id, action, patient_id, imaging_object_id,"
            " study_instance_uid, series_instance_uid, sop_instance_uid)"
            " VALUES (%s, 'CREATE', gen_random_uuid(), gen_random_uuid(), '1.2', '1.3', '1.4')",
            (tenant.id,),
        )
        image = make_image(PatientID=generate_uid()[-12:])
        store(part10(image))
        [seen] = feed(http, root, f"after={begin}")
        late.commit()
    finally:
        late.close()

    [missed] = feed(http, root, f"after={seen['Sequence']}")

    assert seen["SopInstanceUid"] == image.SOPInstanceUID
    assert (missed["SopInstanceUid"], missed["Sequence"]) == ("1.4", begin + 2)


def test_readers_and_writers_at_once_see_one_order_without_gaps(
    http: requests.Session, server: Server, root: str, tenant: Tenant, store: Store
) -> None:
    begin = last(http, root)
    writers, each = 4, 6
    expected = writers * each
    done = threading.Event()

    def read() -> list[tuple[int, str]]:
        session, at = server.session(tenant), begin
        seen: list[tuple[int, str]] = []
        while not (done.is_set() and len(seen) >= expected):
            page = feed(session, root, f"after={at}&limit=3")
            seen += [(e["Sequence"], e["SopInstanceUid"]) for e in page]
            at = seen[-1][0] if seen else at
        return seen

    def write(_: int) -> None:
        for _ in range(each):
            assert store(part10(make_image(PatientID=generate_uid()[-12:]))).status_code == 200

    with ThreadPoolExecutor(8) as pool:
        readers = [pool.submit(read) for _ in range(3)]
        list(pool.map(write, range(writers)))
        done.set()
        results = [reader.result(30) for reader in readers]

    assert [n for n, _ in results[0]] == list(range(begin + 1, begin + 1 + expected))
    assert results[1] == results[0] and results[2] == results[0]


def test_the_feed_shows_only_what_the_caller_may_see(
    http: requests.Session,
    server: Server,
    root: str,
    tenant: Tenant,
    other_tenant: Tenant,
    database: Database,
    store: Store,
) -> None:
    begin = last(http, root)
    mine, others = (make_image(PatientID=generate_uid()[-12:]) for _ in range(2))
    store(part10(mine), part10(others))
    with database.connection(tenant.id) as connection:
        row = connection.execute(
            "SELECT patient_id FROM imaging_studies WHERE tenant_id = %s AND study_uid = %s",
            (tenant.id, mine.StudyInstanceUID),
        ).fetchone()
    assert row is not None
    app = requests.Session()
    scopes = Scopes.parse("patient/ImagingStudy.rs")
    client, _ = create_client(database, tenant, "an app", scopes)
    subject = Subject(patient_id=row[0])
    token = server.services.tokens.issue(tenant, client.id, "an app", scopes, subject)
    app.headers["Authorization"] = f"Bearer {token}"

    of_one = feed(app, root, f"after={begin}")
    elsewhere = server.session(other_tenant)
    theirs = feed(elsewhere, server.root(other_tenant), "after=0")

    assert [e["SopInstanceUid"] for e in of_one] == [mine.SOPInstanceUID]
    assert theirs == []
    assert http.get(f"{root}/changefeed", headers={"Authorization": ""}).status_code == 401


def test_the_worker_numbers_changes_and_erases_what_was_deleted(
    server: Server,
    deleter: requests.Session,
    root: str,
    database: Database,
    tenant: Tenant,
    store: Store,
) -> None:
    image = make_image(PatientID=generate_uid()[-12:])
    store(part10(image))
    deleter.delete(f"{root}/studies/{image.StudyInstanceUID}")
    of_image = (tenant.id, image.SOPInstanceUID)
    where = " WHERE tenant_id = %s AND sop_instance_uid = %s"
    with database.connection(tenant.id) as connection:
        found = connection.execute(f"SELECT storage_uri FROM removed_objects{where}", of_image)
        [(key,)] = found.fetchall()
        connection.execute(
            f"UPDATE removed_objects SET removed_at = now() - interval '2 minutes'{where}", of_image
        )
    assert server.services.objects.local_path(key) is not None

    upkeep.keep(server.services, [tenant])

    assert server.services.objects.local_path(key) is None
    with database.connection(tenant.id) as connection:
        found = connection.execute(f"SELECT sequence FROM imaging_changes{where}", of_image)
        numbers = [row[0] for row in found]
        [(left, erased_at)] = connection.execute(
            f"SELECT storage_uri, erased_at FROM removed_objects{where}", of_image
        ).fetchall()
    assert len(numbers) == 2 and None not in numbers
    assert left is None and erased_at is not None


def test_what_is_old_is_forgotten_and_a_late_reader_is_told(
    http: requests.Session, root: str, database: Database, tenant: Tenant, store: Store
) -> None:
    store(*(part10(make_image(PatientID=generate_uid()[-12:])) for _ in range(3)))
    end = last(http, root)
    with database.connection(tenant.id) as connection:
        connection.execute(
            "UPDATE imaging_changes SET changed_at = now() - interval '400 days'"
            " WHERE tenant_id = %s AND sequence < %s",
            (tenant.id, end),
        )

    pruned = imaging_changes.prune(database, tenant.id)

    assert pruned == end - 1
    gone = http.get(f"{root}/changefeed?after=0")
    assert gone.status_code == 410 and f"up to {end - 1}" in gone.json()["error"]
    assert [e["Sequence"] for e in feed(http, root)] == [end]
    assert [e["Sequence"] for e in feed(http, root, f"after={end - 1}")] == [end]
    store(part10(make_image(PatientID=generate_uid()[-12:])))
    assert last(http, root) == end + 1
    assert imaging_changes.prune(database, tenant.id) == 0
