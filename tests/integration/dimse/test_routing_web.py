"""Auto-routing to DICOMweb services of others: Orthanc behind TLS, and a token endpoint."""

from __future__ import annotations

import base64
import json
import socket
import socketserver
import ssl
import threading
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from benchmarks.orthanc import Orthanc, is_installed
from interop.errors import BadRequest
from interop.routing import deliveries, rules, web_destinations
from interop.settings import Settings
from storage.objects import ObjectStore
from storage.tenancy import Tenant
from tests.dicom_pki import Authority
from tests.integration.dimse.conftest import worker_of
from tests.integration.dimse.dicom_jobs import WorkerServices, running_jobs
from tests.waiting import eventually

pytestmark = pytest.mark.timeout(180)

SECRET = "s3cret"


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return Authority(tmp_path_factory.mktemp("pki"), "ca")


@pytest.fixture
def worker(services: Any, object_store: ObjectStore, tmp_path: Path, pki: Any) -> WorkerServices:
    settings = Settings(
        data_dir=tmp_path / "data",
        egress_private_networks="127.0.0.0/8",
        egress_ca_file=pki.bundle,
    )
    return worker_of(services, object_store, settings)


class Cloud:
    """A DICOMweb service that takes one bearer token, and the token endpoint that gives it."""

    def __init__(self, pki: Any) -> None:
        self.grants: list[str] = []
        self.stored: list[bytes] = []
        self.answer: tuple[int, bytes] | None = None
        cloud = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                status, answer = cloud.serve(self.path, self.headers, body)
                self.send_response(status)
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *_: Any) -> None:
                """Quiet."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        pair = pki.issue("cloud", host="localhost")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(pair.certificate, pair.key)
        self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        self.url = f"https://localhost:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()

    def serve(self, path: str, headers: Any, body: bytes) -> tuple[int, bytes]:
        if path == "/token":
            self.grants.append(headers["Authorization"] + " " + body.decode())
            return 200, json.dumps({"access_token": "t0ken", "expires_in": 600}).encode()
        if self.answer is not None:
            return self.answer
        if path != "/dicom-web/studies" or headers["Authorization"] != "Bearer t0ken":
            return 401, b""
        self.stored.append(body)
        # Explicit VR Little Endian: the element's tag, VR and length, then its value.
        _, _, rest = body.partition(b"\x08\x00\x18\x00UI")
        uid = rest[2 : 2 + int.from_bytes(rest[:2], "little")].rstrip(b"\0").decode()
        return 200, json.dumps(stored(uid)).encode()


def stored(uid: str) -> dict[str, Any]:
    """The response that says so (PS3.18 Annex I)."""
    return {"00081199": {"vr": "SQ", "Value": [{"00081155": {"vr": "UI", "Value": [uid]}}]}}


@pytest.fixture
def cloud(pki: Any) -> Iterator[Cloud]:
    made = Cloud(pki)
    yield made
    made.close()


@pytest.fixture
def route(services: Any, tenant: Tenant) -> Iterator[Callable[..., None]]:
    def put(secret: str | None = None, **values: Any) -> None:
        with services.database.connection(tenant.id) as connection:
            web_destinations.put(connection, tenant.id, "cloud", values, secret)
            rules.put(connection, tenant.id, "up", {"web_destination": "cloud"})

    yield put
    with services.database.connection(tenant.id) as connection:
        for table in ("dicom_deliveries", "dicom_routing_rules", "dicom_web_destinations"):
            connection.execute(f"DELETE FROM {table} WHERE tenant_id = %s", (tenant.id,))


@pytest.fixture
def store(start: Any, connect: Any) -> Callable[..., None]:
    port = start().port

    def send(*samples: Any) -> None:
        peer = connect(port)
        peer.associate()
        for sample in samples:
            assert peer.store(sample).status == 0
        peer.release()

    return send


@pytest.fixture
def listed(services: Any, tenant: Tenant) -> Callable[[], list[dict[str, Any]]]:
    def look() -> list[dict[str, Any]]:
        with services.database.connection(tenant.id) as connection:
            return deliveries.list_deliveries(connection, tenant.id)

    return look


class TlsFront:
    """TLS before a plain port, as a reverse proxy has it: Orthanc's own drops loopback callers."""

    def __init__(self, pki: Any, port: int) -> None:
        pair = pki.issue("front", host="localhost")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(pair.certificate, pair.key)

        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                with (
                    context.wrap_socket(self.request, server_side=True) as outer,
                    socket.create_connection(("127.0.0.1", port)) as inner,
                ):
                    back = threading.Thread(target=pump, args=(inner, outer))
                    back.start()
                    pump(outer, inner)
                    back.join()

        self.server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
        self.url = f"https://localhost:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


def pump(source: socket.socket, sink: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)


@pytest.mark.skipif(not is_installed(), reason="Orthanc is not installed")
def test_orthanc_gets_the_very_bytes_over_tls_with_a_password(
    tmp_path: Path, pki: Any, worker: WorkerServices, route: Any, store: Any, make_ct: Any,
    listed: Any,
) -> None:  # fmt: skip
    peer = Orthanc(
        tmp_path / "orthanc", AuthenticationEnabled=True, RegisteredUsers={"us": SECRET}
    ).start()
    front = TlsFront(pki, peer.http_port)
    try:
        route(SECRET, url=f"{front.url}/dicom-web", authentication="BASIC", client_id="us")
        samples = [make_ct(), make_ct(side=300)]
        store(*samples)
        with running_jobs(worker):
            assert eventually(lambda: {d["status"] for d in listed()} == {"DELIVERED"}, 40)

        for sample in samples:
            assert fetched(peer, sample).endswith(sample.dataset)
    finally:
        front.close()
        peer.stop()


def fetched(peer: Orthanc, sample: Any) -> bytes:
    headers = {"Authorization": f"Basic {base64.b64encode(f'us:{SECRET}'.encode()).decode()}"}

    def call(path: str, body: bytes | None = None) -> bytes:
        request = urllib.request.Request(f"{peer.url}{path}", body, headers)
        with urllib.request.urlopen(request, timeout=20) as answer:
            return bytes(answer.read())

    (found,) = json.loads(call("/tools/lookup", sample.sop_instance_uid.encode()))
    return call(f"/instances/{found['ID']}/file")


def test_a_token_is_asked_for_once_and_used(
    cloud: Cloud, worker: WorkerServices, route: Any, store: Any, make_ct: Any, listed: Any
) -> None:
    route(
        SECRET, url=f"{cloud.url}/dicom-web/", authentication="CLIENT_CREDENTIALS",
        client_id="us:er", token_url=f"{cloud.url}/token", scope="dicom.write",
    )  # fmt: skip
    with running_jobs(worker):
        for _ in range(2):
            store(make_ct())
            assert eventually(lambda: {d["status"] for d in listed()} == {"DELIVERED"}, 40)

    assert len(cloud.stored) == 2
    expected = base64.b64encode(f"us%3Aer:{SECRET}".encode()).decode()
    assert cloud.grants == [f"Basic {expected} grant_type=client_credentials&scope=dicom.write"]


def test_f1_a_token_goes_only_to_the_service_that_it_was_fetched_for(
    cloud: Cloud, pki: Any, worker: WorkerServices, route: Any, store: Any, make_ct: Any,
    listed: Any,
) -> None:  # fmt: skip
    """A token that one service trusts would open that service to whoever is called instead."""
    other = Cloud(pki)
    wanted = {"authentication": "CLIENT_CREDENTIALS", "client_id": "us"}
    try:
        with running_jobs(worker):
            for service, secret in ((cloud, SECRET), (other, "an0ther")):
                urls = {"url": f"{service.url}/dicom-web", "token_url": f"{service.url}/token"}
                route(secret, **urls, **wanted)
                store(make_ct())
                assert eventually(lambda: {d["status"] for d in listed()} == {"DELIVERED"}, 40)
    finally:
        other.close()

    pairs = [base64.b64encode(f"us:{secret}".encode()).decode() for secret in (SECRET, "an0ther")]
    grant = "grant_type=client_credentials"
    assert cloud.grants == [f"Basic {pairs[0]} {grant}"]
    assert other.grants == [f"Basic {pairs[1]} {grant}"]


def test_each_object_is_settled_by_what_the_service_says_of_it(
    cloud: Cloud, worker: WorkerServices, route: Any, store: Any, make_ct: Any, listed: Any
) -> None:
    route(url=f"{cloud.url}/dicom-web")
    good, bad = make_ct(), make_ct()
    refused = {
        "00081155": {"vr": "UI", "Value": [bad.sop_instance_uid]},
        "00081197": {"vr": "US", "Value": [0x0122]},
    }
    said = stored(good.sop_instance_uid) | {"00081198": {"vr": "SQ", "Value": [refused]}}
    cloud.answer = (202, json.dumps(said).encode())
    store(good, bad)

    with running_jobs(worker):
        assert eventually(lambda: {d["status"] for d in listed()} == {"DELIVERED", "RETRYING"}, 40)

    states = {d["sop_instance_uid"]: (d["status"], d["status_code"]) for d in listed()}
    assert states[good.sop_instance_uid][0] == "DELIVERED"
    assert states[bad.sop_instance_uid] == ("RETRYING", 0x0122)


@pytest.mark.parametrize("reason", [1 << 70, -1, "many", None])
def test_a_failure_reason_that_is_none_is_a_failure_all_the_same(
    cloud: Cloud, worker: WorkerServices, route: Any, store: Any, make_ct: Any, listed: Any,
    reason: object,
) -> None:  # fmt: skip
    route(url=f"{cloud.url}/dicom-web")
    bad = make_ct()
    item = {"00081155": {"Value": [bad.sop_instance_uid]}, "00081197": {"Value": [reason]}}
    cloud.answer = (409, json.dumps({"00081198": {"vr": "SQ", "Value": [item]}}).encode())
    store(bad)

    with running_jobs(worker):
        assert eventually(lambda: [d["status"] for d in listed()] == ["RETRYING"], 40)

    assert listed()[0]["status_code"] == 0x0110


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ((500, b""), "HTTP status 500"),
        ((302, b""), "HTTP status 302"),
        ((200, b"{}"), "does not say that it is stored"),
        ((200, b"<html>"), "no JSON"),
    ],
)
def test_what_is_no_confirmation_is_a_failure_that_is_tried_again(
    cloud: Cloud, worker: WorkerServices, route: Any, store: Any, make_ct: Any, listed: Any,
    answer: tuple[int, bytes], message: str,
) -> None:  # fmt: skip
    route(url=f"{cloud.url}/dicom-web")
    cloud.answer = answer
    store(make_ct())

    with running_jobs(worker):
        assert eventually(lambda: [d["status"] for d in listed()] == ["RETRYING"], 40)

    assert message in listed()[0]["message"]


def test_f1_an_address_inside_is_not_called(
    cloud: Cloud, worker: WorkerServices, route: Any, store: Any, make_ct: Any, listed: Any
) -> None:
    route(url=f"{cloud.url}/dicom-web")
    worker.settings = worker.settings.model_copy(update={"egress_private_networks": ""})
    store(make_ct())

    with running_jobs(worker):
        assert eventually(lambda: [d["status"] for d in listed()] == ["RETRYING"], 40)

    assert "not public" in listed()[0]["message"]
    assert cloud.stored == []


@pytest.mark.parametrize(
    "values",
    [
        {"url": "http://pacs.example.org/dicom-web"},
        {"url": "https://us:er@pacs.example.org/"},
        {"url": "file:///etc/passwd"},
        {"url": "https://[::1"},
        {"url": "https://pacs.example.org", "authentication": "BEARER"},
        {"url": "https://pacs.example.org", "authentication": "KERBEROS"},
    ],
)
def test_what_cannot_be_called_is_not_registered(route: Any, values: dict[str, str]) -> None:
    with pytest.raises(BadRequest):
        route(**values)


def test_a_secret_is_sealed_and_stays_with_its_origin(
    route: Any, services: Any, tenant: Tenant
) -> None:
    route(SECRET, url="https://pacs.example.org/a", authentication="BEARER")
    with services.database.connection(tenant.id) as connection:
        row = connection.execute(
            "SELECT secret_encrypted FROM dicom_web_destinations WHERE tenant_id = %s",
            (tenant.id,),
        ).fetchone()
    assert row[0].startswith("sealed:")
    assert SECRET not in row[0]

    route(url="https://pacs.example.org/b")
    with pytest.raises(BadRequest, match="another origin"):
        route(url="https://attacker.example.net/b")
