"""G1 of security.md: every interaction of every HTTP door leaves exactly one row."""

# ruff: noqa: E501 - a table is read by its lines

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from interop.access import Scopes
from interop.smart.clients import create_client
from storage.audit_events import EVENT_TYPES
from storage.tenancy import Tenant
from tests.integration.access.conftest import FHIR_JSON, Door, put
from tests.integration.audit.conftest import Watch
from tests.integration.dicomweb.conftest import make_image, multipart, part10

PATIENT = {"resourceType": "Patient", "id": "p1", "name": [{"family": "Kanarienvogel"}]}
OTHER = {"resourceType": "Patient", "id": "p2", "name": [{"family": "Kanarienvogel"}]}
WEIGHT: dict[str, Any] = {
    "resourceType": "Observation",
    "id": "o1",
    "status": "final",
    "code": {"text": "weight"},
    "subject": {"reference": "Patient/p1"},
}
LOCATION = {"resourceType": "Location", "id": "l1", "name": "Room 1"}


@dataclass
class Callers:
    """Who asks."""

    fhir: httpx.Client
    reader: httpx.Client
    nobody: httpx.Client
    stranger: httpx.Client
    dicomweb: httpx.Client
    dicomweb_denied: httpx.Client
    dicomweb_nobody: httpx.Client
    oauth: httpx.Client
    client_id: str
    secret: str
    study: str
    series: str
    instance: str


@pytest.fixture(scope="module")
def callers(door: Door, tenant: Tenant, other_tenant: Tenant) -> Callers:
    def bare(path: str, **headers: str) -> httpx.Client:
        client = httpx.Client(base_url=f"{door.url}/t/{tenant.slug}/{path}", headers=headers)
        door.clients.append(client)
        return client

    fhir = door.system(tenant)
    for resource in (PATIENT, OTHER, LOCATION, WEIGHT):
        put(fhir, resource)
    foreign = door.system(other_tenant).headers["Authorization"]
    client, secret = create_client(
        door.services.database, tenant, "test", Scopes.parse("system/*.rs")
    )
    image = make_image()
    dicomweb = door.caller(tenant, "system/*.cruds", door="dicom-web")
    stored = dicomweb.post("/studies", content=multipart(part10(image)), headers=STOW)
    assert stored.status_code == 200, stored.text
    return Callers(
        fhir=fhir,
        reader=door.caller(tenant, "system/Location.rs"),
        nobody=bare("fhir/R4"),
        stranger=bare("fhir/R4", Authorization=foreign),
        dicomweb=dicomweb,
        dicomweb_denied=door.caller(tenant, "system/Location.rs", door="dicom-web"),
        dicomweb_nobody=bare("dicom-web"),
        oauth=bare("oauth2"),
        client_id=client.client_id,
        secret=secret,
        study=image.StudyInstanceUID,
        series=image.SeriesInstanceUID,
        instance=image.SOPInstanceUID,
    )


STOW = {"Content-Type": 'multipart/related; type="application/dicom"; boundary=frontier'}
Call = Callable[[Callers], httpx.Response]


@dataclass(frozen=True)
class Case:
    """One interaction: its answer, its one row, and how many patients it showed."""

    name: str
    call: Call
    status: int
    event: str
    patients: int = 0

    @property
    def outcome(self) -> str:
        return "SUCCESS" if self.status < 400 else "FAILURE"


def body(resource: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {"content": json.dumps({**resource, **changes}), "headers": FHIR_JSON}


def new(resource: dict[str, Any]) -> dict[str, Any]:
    return body({key: value for key, value in resource.items() if key != "id"})


def patch(op: str) -> dict[str, Any]:
    operations = [{"op": op, "path": "/status", "value": "final" if op == "replace" else "x"}]
    headers = {"Content-Type": "application/json-patch+json"}
    return {"content": json.dumps(operations), "headers": headers}


LABELS = {
    "resourceType": "Parameters",
    "parameter": [{"name": "meta", "valueMeta": {"tag": [{"code": "x"}]}}],
}
FHIR = [
    Case("read", lambda c: c.fhir.get("/Observation/o1"), 200, "FHIR_READ", 1),
    Case("read a patient", lambda c: c.fhir.get("/Patient/p1"), 200, "FHIR_READ", 1),
    Case("read no patient's", lambda c: c.fhir.get("/Location/l1"), 200, "FHIR_READ"),
    Case("read by HEAD", lambda c: c.fhir.head("/Patient/p1"), 200, "FHIR_READ", 1),
    Case(
        "read what is not modified",
        lambda c: c.fhir.get("/Patient/p1", headers={"If-None-Match": 'W/"1"'}),
        304,
        "FHIR_READ",
        1,
    ),
    Case("read what is not there", lambda c: c.fhir.get("/Patient/none"), 404, "FHIR_READ"),
    Case("read an unknown type", lambda c: c.fhir.get("/Patent/p1"), 404, "FHIR_READ"),
    Case("read an impossible id", lambda c: c.fhir.get("/Patient/a_b"), 404, "FHIR_READ"),
    Case("read without a right", lambda c: c.reader.get("/Patient/p1"), 403, "FHIR_READ"),
    Case("read as XML", lambda c: c.fhir.get("/Patient/p1?_format=xml"), 200, "FHIR_READ", 1),
    Case("read as Turtle", lambda c: c.fhir.get("/Patient/p1?_format=ttl"), 406, "FHIR_READ"),
    Case("read a part", lambda c: c.fhir.get("/Patient/p1?_summary=true"), 200, "FHIR_READ", 1),
    Case("read no part", lambda c: c.fhir.get("/Patient/p1?_elements=x"), 400, "FHIR_READ"),
    Case("vread", lambda c: c.fhir.get("/Patient/p1/_history/1"), 200, "FHIR_VREAD", 1),
    Case("vread of none", lambda c: c.fhir.get("/Patient/p1/_history/99"), 404, "FHIR_VREAD"),
    Case("vread of no number", lambda c: c.fhir.get("/Patient/p1/_history/x"), 404, "FHIR_VREAD"),
    Case("history", lambda c: c.fhir.get("/Patient/p1/_history"), 200, "FHIR_HISTORY", 1),
    Case("history of none", lambda c: c.fhir.get("/Patient/no/_history"), 404, "FHIR_HISTORY"),
    Case(
        "history, malformed",
        lambda c: c.fhir.get("/Patient/p1/_history?_count=x"),
        400,
        "FHIR_HISTORY",
    ),
    Case("history of a type", lambda c: c.fhir.get("/Patient/_history"), 200, "FHIR_HISTORY", 3),
    Case("history, a page of one", lambda c: c.fhir.get("/Patient/_history?_count=1"), 200, "FHIR_HISTORY", 1),
    Case("history counts only", lambda c: c.fhir.get("/Patient/_history?_summary=count"), 200, "FHIR_HISTORY"),
    Case("history of no patient's", lambda c: c.fhir.get("/Location/_history"), 200, "FHIR_HISTORY"),
    Case("history of everything", lambda c: c.fhir.get("/_history?_count=1000"), 200, "FHIR_HISTORY", 3),
    Case("history without a right", lambda c: c.reader.get("/Patient/_history"), 403, "FHIR_HISTORY"),
    Case("history, some of it", lambda c: c.reader.get("/_history"), 200, "FHIR_HISTORY"),
    Case("everything", lambda c: c.fhir.get("/Patient/p1/$everything"), 200, "FHIR_OPERATION", 1),
    Case("everything of none", lambda c: c.fhir.get("/Patient/no/$everything"), 404, "FHIR_OPERATION"),
    Case("everything without a right", lambda c: c.reader.get("/Patient/p1/$everything"), 403, "FHIR_OPERATION"),
    Case("the newest", lambda c: c.fhir.get("/Observation/$lastn?patient=p1&code=x"), 200, "FHIR_OPERATION"),
    Case("the newest, of whom", lambda c: c.fhir.get("/Observation/$lastn?code=x"), 400, "FHIR_OPERATION"),
    Case("labels", lambda c: c.fhir.get("/Patient/p1/$meta"), 200, "FHIR_READ", 1),
    Case("labels of a type", lambda c: c.fhir.get("/Patient/$meta"), 200, "FHIR_OPERATION"),
    Case("search", lambda c: c.fhir.get("/Patient?name=kanarien"), 200, "FHIR_SEARCH", 2),
    Case("search one patient's", lambda c: c.fhir.get("/Observation?patient=p1"), 200, "FHIR_SEARCH", 1),
    Case("search, a page of one", lambda c: c.fhir.get("/Patient?_count=1"), 200, "FHIR_SEARCH", 1),
    Case("search counts only", lambda c: c.fhir.get("/Patient?_summary=count"), 200, "FHIR_SEARCH"),
    Case("search with nothing found", lambda c: c.fhir.get("/Patient?name=x"), 200, "FHIR_SEARCH"),
    Case(
        "search with its patient",
        lambda c: c.fhir.get("/Observation?_include=Observation:patient"),
        200,
        "FHIR_SEARCH",
        1,
    ),
    Case(
        "search by POST",
        lambda c: c.fhir.post("/Patient/_search", data={"name": "kanarien"}),
        200,
        "FHIR_SEARCH",
        2,
    ),
    Case("search, unknown parameter", lambda c: c.fhir.get("/Patient?x=1"), 400, "FHIR_SEARCH"),
    Case("search without a right", lambda c: c.reader.get("/Patient"), 403, "FHIR_SEARCH"),
    Case("search all types", lambda c: c.fhir.get("?_type=Location"), 200, "FHIR_SEARCH"),
    Case("create", lambda c: c.fhir.post("/Observation", **new(WEIGHT)), 201, "FHIR_CREATE", 1),
    Case("create no patient's", lambda c: c.fhir.post("/Location", **new(LOCATION)), 201, "FHIR_CREATE"),
    Case("create without a right", lambda c: c.reader.post("/Patient", **new(PATIENT)), 403, "FHIR_CREATE"),
    Case("create, not valid", lambda c: c.fhir.post("/Patient", **body({"resourceType": "Patient", "x": 1})), 400, "FHIR_CREATE"),
    Case("create, not JSON", lambda c: c.fhir.post("/Patient", content="{", headers=FHIR_JSON), 400, "FHIR_CREATE"),
    Case("create as text", lambda c: c.fhir.post("/Patient", content="x"), 415, "FHIR_CREATE"),
    Case("update", lambda c: c.fhir.put("/Observation/o1", **body(WEIGHT, status="amended")), 200, "FHIR_UPDATE", 1),
    Case("update as create", lambda c: c.fhir.put("/Observation/o9", **body(WEIGHT, id="o9")), 201, "FHIR_CREATE", 1),
    Case(
        "update of a version that is gone",
        lambda c: c.fhir.put(
            "/Observation/o1", content=json.dumps(WEIGHT), headers={**FHIR_JSON, "If-Match": 'W/"77"'}
        ),
        412,
        "FHIR_UPDATE",
    ),
    Case("update under another id", lambda c: c.fhir.put("/Observation/o1", **body(WEIGHT, id="x")), 400, "FHIR_UPDATE"),
    Case("patch", lambda c: c.fhir.patch("/Observation/o1", **patch("replace")), 200, "FHIR_PATCH", 1),
    Case("patch, a test that fails", lambda c: c.fhir.patch("/Observation/o1", **patch("test")), 422, "FHIR_PATCH"),
    Case("patch, no patch", lambda c: c.fhir.patch("/Patient/p1", content="[]"), 415, "FHIR_PATCH"),
    Case("add a label", lambda c: c.fhir.post("/Observation/o1/$meta-add", **body(LABELS)), 200, "FHIR_OPERATION", 1),
    Case("add a label to none", lambda c: c.fhir.post("/Observation/no/$meta-add", **body(LABELS)), 404, "FHIR_OPERATION"),
    Case("store bytes", lambda c: c.fhir.post("/Binary", content=b"x", headers={"Content-Type": "a/b"}), 201, "FHIR_CREATE"),
    Case("delete", lambda c: c.fhir.delete("/Observation/o9"), 204, "FHIR_DELETE", 1),
    Case("read what was deleted", lambda c: c.fhir.get("/Observation/o9"), 410, "FHIR_READ"),
    Case("delete without a right", lambda c: c.reader.delete("/Patient/p1"), 403, "FHIR_DELETE"),
    Case("batch", lambda c: c.fhir.post("", **body({"resourceType": "Bundle", "type": "batch"})), 200, "FHIR_BATCH"),
    Case("an unknown URL", lambda c: c.fhir.get("/Patient/p1/x/y/z"), 404, "FHIR_OPERATION"),
    Case("no token", lambda c: c.nobody.get("/Patient/p1"), 401, "ACCESS_UNAUTHENTICATED"),
    Case("a forged token", lambda c: c.nobody.get("/Patient/p1", headers={"Authorization": "Bearer x.y.z"}), 401, "ACCESS_UNAUTHENTICATED"),
    Case("another tenant's token", lambda c: c.stranger.get("/Patient/p1"), 404, "ACCESS_UNAUTHENTICATED"),
    Case("read the log", lambda c: c.fhir.get("/AuditEvent?_count=3"), 200, "FHIR_SEARCH"),
    Case("who looked", lambda c: c.fhir.get("/AuditEvent?patient=p1"), 200, "FHIR_SEARCH", 1),
    Case("an event that is not there", lambda c: c.fhir.get("/AuditEvent/x"), 404, "FHIR_READ"),
    Case("create an event", lambda c: c.fhir.post("/AuditEvent", **body({"resourceType": "AuditEvent"})), 405, "FHIR_CREATE"),
    Case("delete an event", lambda c: c.fhir.delete("/AuditEvent/x"), 405, "FHIR_DELETE"),
]  # fmt: skip


def at(c: Callers, rest: str = "") -> str:
    return f"/studies/{c.study}/series/{c.series}/instances/{c.instance}{rest}"


JSON = {"Accept": "application/dicom+json"}
DICOMWEB = [
    Case("QIDO", lambda c: c.dicomweb.get("/studies", headers=JSON), 200, "IMAGING_SEARCHED", 1),
    Case("QIDO instances", lambda c: c.dicomweb.get("/instances", headers=JSON), 200, "IMAGING_SEARCHED", 1),
    Case("QIDO of nothing", lambda c: c.dicomweb.get("/studies?PatientID=x", headers=JSON), 200, "IMAGING_SEARCHED"),
    Case("QIDO, malformed", lambda c: c.dicomweb.get("/studies?limit=x", headers=JSON), 400, "IMAGING_SEARCHED"),
    Case("QIDO without a right", lambda c: c.dicomweb_denied.get("/studies", headers=JSON), 403, "ACCESS_DENIED"),
    Case("retrieve", lambda c: c.dicomweb.get(at(c)), 200, "IMAGING_RETRIEVED", 1),
    Case("retrieve a study", lambda c: c.dicomweb.get(f"/studies/{c.study}"), 200, "IMAGING_RETRIEVED", 1),
    Case("retrieve what is not there", lambda c: c.dicomweb.get("/studies/1.2.3"), 404, "IMAGING_RETRIEVED"),
    Case("metadata", lambda c: c.dicomweb.get(at(c, "/metadata"), headers=JSON), 200, "IMAGING_METADATA_VIEWED", 1),
    Case("metadata of a study", lambda c: c.dicomweb.get(f"/studies/{c.study}/metadata", headers=JSON), 200, "IMAGING_METADATA_VIEWED", 1),
    Case("frames", lambda c: c.dicomweb.get(at(c, "/frames/1")), 200, "IMAGING_FRAMES_RETRIEVED", 1),
    Case("a frame that is not there", lambda c: c.dicomweb.get(at(c, "/frames/9")), 404, "IMAGING_FRAMES_RETRIEVED"),
    Case("rendered", lambda c: c.dicomweb.get(at(c, "/rendered"), headers={"Accept": "image/jpeg"}), 200, "IMAGING_RENDERED", 1),
    Case("bulk data", lambda c: c.dicomweb.get(at(c, "/bulkdata/7FE00010")), 200, "IMAGING_BULK_DATA_RETRIEVED", 1),
    Case("store", lambda c: c.dicomweb.post("/studies", content=multipart(part10(make_image())), headers=STOW), 200, "DICOM_INSTANCE_STORED", 1),
    Case("store what is none", lambda c: c.dicomweb.post("/studies", content=multipart(b"no DICOM"), headers=STOW), 409, "DICOM_INSTANCE_REFUSED"),
    Case("an unknown path", lambda c: c.dicomweb.get("/what"), 404, "IMAGING_RETRIEVED"),
    Case("replace a study", lambda c: c.dicomweb.put(f"/studies/{c.study}"), 405, "IMAGING_RETRIEVED"),
    Case("delete what must be kept", lambda c: c.dicomweb.delete(f"/studies/{c.study}"), 409, "IMAGING_DELETED"),
    Case("delete what is not there", lambda c: c.dicomweb.delete("/studies/1.2.3"), 404, "IMAGING_DELETED"),
    Case("changes", lambda c: c.dicomweb.get("/changefeed"), 200, "IMAGING_CHANGES_LISTED", 1),
    Case("the last change", lambda c: c.dicomweb.get("/changefeed/latest"), 200, "IMAGING_CHANGES_LISTED", 1),
    Case("changes, malformed", lambda c: c.dicomweb.get("/changefeed?limit=x"), 400, "IMAGING_CHANGES_LISTED"),
    Case("no token for images", lambda c: c.dicomweb_nobody.get("/studies"), 401, "ACCESS_UNAUTHENTICATED"),
    Case("store as text", lambda c: c.dicomweb.post("/studies", content=b"x"), 415, "IMAGING_STORE_REFUSED"),
    Case("store without a right", lambda c: c.dicomweb_denied.post("/studies", content=b"x", headers=STOW), 403, "ACCESS_DENIED"),
]  # fmt: skip
OAUTH = [
    Case(
        "token",
        lambda c: c.oauth.post("/token", data={"grant_type": "client_credentials"}, auth=(c.client_id, c.secret)),
        200,
        "TOKEN_ISSUED",
    ),
    Case(
        "token, wrong secret",
        lambda c: c.oauth.post("/token", data={"grant_type": "client_credentials"}, auth=(c.client_id, "x")),
        401,
        "TOKEN_REFUSED",
    ),
    Case(
        "token, too wide a scope",
        lambda c: c.oauth.post(
            "/token",
            data={"grant_type": "client_credentials", "scope": "system/Patient.d"},
            auth=(c.client_id, c.secret),
        ),
        400,
        "TOKEN_REFUSED",
    ),
]  # fmt: skip


@pytest.mark.parametrize("case", FHIR + DICOMWEB + OAUTH, ids=lambda case: case.name)
def test_g1_every_interaction_leaves_exactly_one_row(
    case: Case, callers: Callers, watch: Watch
) -> None:
    answers: list[httpx.Response] = []

    events = watch.during(lambda: answers.append(case.call(callers)))

    assert answers[0].status_code == case.status, answers[0].text
    assert [(event.event_type, event.outcome) for event in events] == [(case.event, case.outcome)]
    assert events[0].accesses == case.patients
    assert events[0].event_type in EVENT_TYPES
    assert events[0].row["ip_address"] == "127.0.0.1"


def test_g1_the_row_and_the_answer_have_one_request_id(callers: Callers, watch: Watch) -> None:
    answers: list[httpx.Response] = []

    (event,) = watch.during(lambda: answers.append(callers.fhir.get("/Patient/p1")))

    assert event.row["request_id"] == answers[0].headers["X-Request-Id"]


def test_g1_a_write_and_its_row_share_a_transaction(
    callers: Callers, watch: Watch, door: Door, tenant: Tenant
) -> None:
    (event,) = watch.during(lambda: callers.fhir.post("/Location", **new(LOCATION)))

    rows = door.execute(
        "SELECT xmin::text FROM fhir_history WHERE tenant_id = %s AND resource_id = %s",
        tenant.id,
        event.row["resource_id"],
    )
    assert int(rows[0][0]) == int(event.row["transaction_id"]) % 2**32


def test_g1_a_stale_resource_is_read_with_one_row(
    callers: Callers, watch: Watch, door: Door, tenant: Tenant
) -> None:
    """Rendering first means that the database is asked twice; who looked did so once."""
    row_id = door.row_id(tenant, "Patient", "p1")
    door.execute("UPDATE patients SET first_name = 'A' WHERE id = %s", row_id)
    assert [e.accesses for e in watch.during(lambda: callers.fhir.get("/Patient/p1"))] == [1]

    door.execute("UPDATE patients SET first_name = 'B' WHERE id = %s", row_id)
    assert len(watch.during(lambda: callers.fhir.get("/Patient?name=kanarien"))) == 1


def test_g1_what_came_before_its_patient_is_logged_for_that_patient(
    callers: Callers, watch: Watch
) -> None:
    put(callers.fhir, {**WEIGHT, "id": "early", "subject": {"reference": "Patient/late"}})
    assert [e.accesses for e in watch.during(lambda: callers.fhir.get("/Observation/early"))] == [0]

    put(callers.fhir, {**PATIENT, "id": "late"})

    assert [e.accesses for e in watch.during(lambda: callers.fhir.get("/Observation/early"))] == [1]
