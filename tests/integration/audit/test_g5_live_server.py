"""G5 of security.md on the server as `interop serve` starts it: no PHI in its logs and metrics.

The same server is asked through its other doors too: the commands and DIMSE leave their one row
(G1), the worker seals the log by itself, and `interop audit` tells and verifies it (G3).
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest

from benchmarks.live_server import LiveServer
from interop.dimse import scu
from storage.embedded import EmbeddedPostgres
from tests.integration.access.conftest import FHIR_JSON
from tests.integration.dicomweb.conftest import make_image, multipart, part10

pytestmark = pytest.mark.timeout(600)

NAME = "Xylokanarius"
BORN = "19370413"
NOTE = "zahnfluoreszenzbefund"
CITY = "Ortographingen"
SECRET = "sehr-geheimes-wort-4711"
CANARIES = [NAME, BORN, "1937-04-13", NOTE, CITY, SECRET]
PATIENT = {
    "resourceType": "Patient",
    "id": "canary",
    "name": [{"family": NAME, "given": [NAME]}],
    "birthDate": "1937-04-13",
    "address": [{"city": CITY}],
}
CONDITION = {
    "resourceType": "Condition",
    "id": "note",
    "subject": {"reference": "Patient/canary"},
    "code": {"text": NOTE},
    "note": [{"text": NOTE}],
}


class Live:
    """The server, a token, and clients of its HTTP doors."""

    def __init__(self, server: LiveServer) -> None:
        self.server = server
        self.token = server.tenant("demo", "INTEROP")
        self.secret = server.client("demo", "system/*.cruds")
        self.base = f"{server.url}/t/demo"
        self.http = httpx.Client(headers={"Authorization": f"Bearer {self.token}"}, timeout=60)
        server.cli("ae", "create", "--tenant", "demo", "--ae-title", "PEER")

    def events(self) -> list[dict[str, Any]]:
        """The log, newest first."""
        with EmbeddedPostgres(self.server.data_dir) as cluster:
            with psycopg.connect(cluster.owner_url) as connection:
                rows = connection.execute(
                    "SELECT row_to_json(e) FROM audit_events AS e ORDER BY transaction_id DESC"
                )
                return [row[0] for row in rows]

    def added(self, action: Any) -> list[str]:
        """The event types that an action adds, oldest first."""
        before = {row["id"] for row in self.events()}
        action()
        time.sleep(1.0)
        return [row["event_type"] for row in reversed(self.events()) if row["id"] not in before]


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    with LiveServer(tmp_path_factory.mktemp("server"), log_level="DEBUG") as running:
        made = Live(running)
        yield made
        made.http.close()


def image_file(folder: Path) -> Path:
    image = make_image(
        PatientName=f"{NAME}^{NAME}",
        PatientBirthDate=BORN,
        StudyDescription=NOTE,
        ImageComments=NOTE,
    )
    path = folder / "canary.dcm"
    path.write_bytes(part10(image))
    return path


def through_fhir(live: Live) -> None:
    fhir, http = f"{live.base}/fhir/R4", live.http
    for resource in (PATIENT, CONDITION):
        url = f"{fhir}/{resource['resourceType']}/{resource['id']}"
        stored = http.put(url, content=json.dumps(resource), headers=FHIR_JSON)
        assert stored.status_code == 201, stored.text
    wrong = {**PATIENT, "birthDate": f"{NAME}-{BORN}", "gender": NAME}
    assert http.get(f"{fhir}/Patient/canary").status_code == 200
    assert http.get(f"{fhir}/Patient", params={"name": NAME, "birthdate": "1937-04-13"}).is_success
    refused = [
        http.put(f"{fhir}/Patient/canary", content=json.dumps(wrong), headers=FHIR_JSON),
        http.post(f"{fhir}/Patient", content=f'{{"name": "{NAME}', headers=FHIR_JSON),
        http.get(f"{fhir}/Patient", params={NAME: NOTE}),
        http.get(f"{fhir}/Patient", params={"birthdate": NAME}),
        http.get(f"{fhir}/Patient", params={"_sort": NAME}),
        http.get(f"{fhir}/{NAME}/{NAME}"),
        http.get(f"{fhir}/Patient/canary/_history", params={"_since": NAME}),
        http.post(f"{fhir}/Patient", content=NAME, headers={"Content-Type": NAME}),
        httpx.get(f"{fhir}/Patient/canary", headers={"Authorization": f"Bearer {SECRET}"}),
        # More than a text column's index takes: the database's own words would quote it.
        http.put(
            f"{fhir}/Patient/canary2",
            content=json.dumps({**PATIENT, "id": "canary2", "name": [{"family": NAME * 400}]}),
            headers=FHIR_JSON,
        ),
    ]
    assert all(400 <= answer.status_code < 500 for answer in refused[:-1])


def through_dicomweb(live: Live, path: Path) -> None:
    web, http = f"{live.base}/dicom-web", live.http
    content_type = 'multipart/related; type="application/dicom"; boundary=frontier'
    headers = {"Content-Type": content_type}
    body = multipart(path.read_bytes())
    assert http.post(f"{web}/studies", content=body, headers=headers).status_code == 200
    broken = path.read_bytes()[:400] + NAME.encode() * 20
    http.post(f"{web}/studies", content=multipart(broken), headers=headers)
    json_only = {"Accept": "application/dicom+json"}
    found = http.get(f"{web}/studies", params={"PatientName": f"{NAME}*"}, headers=json_only)
    assert len(found.json()) == 1
    assert http.get(f"{web}/studies", params={"PatientName": "\x00" + NAME}).status_code == 400
    assert http.get(f"{web}/studies", params={NAME: NOTE}).status_code < 500
    assert http.get(f"{web}/{NAME}").status_code == 404


def through_oauth(live: Live) -> None:
    for data in (
        {"grant_type": "client_credentials", "client_id": NAME, "client_secret": SECRET},
        {"grant_type": NAME, "client_id": live.secret["client_id"], "client_secret": SECRET},
    ):
        answer = httpx.post(f"{live.base}/oauth2/token", data=data)
        assert answer.status_code in (400, 401)


def through_dimse(live: Live, path: Path) -> None:
    report = scu.send([path], "127.0.0.1", live.server.dicom_port, "INTEROP", "PEER")
    assert [entry.status for entry in report.failed] == []


def test_g5_no_phi_and_no_secret_in_logs_and_metrics(live: Live, tmp_path: Path) -> None:
    path = image_file(tmp_path)
    through_fhir(live)
    through_dimse(live, path)
    through_dicomweb(live, path)
    through_oauth(live)
    time.sleep(12)  # the worker renders and seals, and says so

    logs = live.server.log.read_text(errors="replace")
    metrics = httpx.get(f"{live.server.url}/metrics").text

    assert "audit_sealed" in logs, "the log is not empty, and the worker seals by itself"
    assert "python_info" in metrics
    secrets = [*CANARIES, live.token, live.token.rpartition(".")[2], live.secret["client_secret"]]
    for canary in secrets:
        told = [line for line in logs.splitlines() if canary.lower() in line.lower()]
        assert told == [], f"the logs tell {canary}"
        assert canary.lower() not in metrics.lower(), f"the metrics tell {canary}"


def test_g1_each_command_leaves_one_row(live: Live, tmp_path: Path) -> None:
    cli = live.server.cli
    demo = ("--tenant", "demo")

    assert live.added(lambda: cli("jobs", *demo)) == ["JOBS_LISTED"]
    assert live.added(lambda: cli("quarantine", *demo)) == ["QUARANTINE_LISTED"]
    assert live.added(lambda: cli("export", *demo, str(tmp_path))) == ["IMAGES_EXPORTED"]
    assert live.added(lambda: cli("audit", "verify", *demo)) == ["AUDIT_LOG_VERIFIED"]
    client = ("client", "create", *demo, "--name", "x", "--scope", "system/*.rs")
    assert live.added(lambda: cli(*client)) == ["CLIENT_CREATED"]
    assert live.added(lambda: cli("token", *demo)) == ["TOKEN_ISSUED"]


def test_g1_dimse_leaves_one_row_for_each_message(live: Live, tmp_path: Path) -> None:
    port = live.server.dicom_port
    path = image_file(tmp_path)

    echoed = live.added(lambda: scu.echo("127.0.0.1", port, "INTEROP", "PEER"))
    stored = live.added(lambda: through_dimse(live, path))

    assert echoed.count("DICOM_ECHO") == 1
    assert [name for name in stored if name.startswith("DICOM_INSTANCE")] == [
        "DICOM_INSTANCE_STORED"
    ]
    with pytest.raises(scu.SendFailed):
        scu.echo("127.0.0.1", port, "INTEROP", "UNKNOWN")
    time.sleep(1.0)
    assert live.events()[0]["event_type"] == "DICOM_ASSOCIATION_REJECTED"


def test_g3_who_looked_is_told_and_the_chain_verifies(live: Live) -> None:
    told = live.server.cli(
        "audit", "who-looked", "--tenant", "demo", "--patient", "canary", "--json"
    )
    kinds = {row["event_type"] for row in json.loads(told)}

    assert {"FHIR_CREATE", "FHIR_READ", "FHIR_SEARCH"} <= kinds
    live.server.cli("audit", "seal", "--tenant", "demo")
    (report,) = json.loads(live.server.cli("audit", "verify", "--tenant", "demo", "--json"))
    assert report["problem"] is None
    assert report["seals"] > 0 and report["rows"] > 20 and report["anchors"] == 1
