"""DICOM TLS as an operator sets it up: the real server, its command line, DCMTK as the peer."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pydicom.data
import pytest

from benchmarks.live_server import LiveServer, free_port

pytestmark = [
    pytest.mark.timeout(600),
    pytest.mark.skipif(shutil.which("storescu") is None, reason="DCMTK is not installed"),
]
CT = Path(pydicom.data.__file__).parent / "test_files" / "CT_small.dcm"
MR = CT.with_name("MR_small.dcm")  # another object: DCMTK and we encode sequences differently


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tls")
    printed = LiveServer(folder / "none").cli("tls", "self-signed", "--out", str(folder))
    # What it prints is what the settings take.
    assert f"INTEROP_DICOM_TLS_KEY={folder}/server.key" in printed.splitlines()
    return folder


@pytest.fixture(scope="module")
def server(
    certificates: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[LiveServer, int]]:
    """A server with TLS only; PANO is known by the trial client's certificate."""
    tls_port = free_port()
    live = LiveServer(
        tmp_path_factory.mktemp("server"),
        dicom_plain="off",
        dicom_tls_port=str(tls_port),
        dicom_tls_certificate=str(certificates / "server.pem"),
        dicom_tls_key=str(certificates / "server.key"),
        dicom_tls_ca=str(certificates / "ca.pem"),
    )
    # Beside a server each command is a second, alone it starts the database first.
    live.start("dicom")
    live.cli("tenant", "create", "demo", "--ae-title", "INTEROP")
    live.cli(
        "ae", "create", "--tenant", "demo", "--ae-title", "PANO",
        "--certificate", str(certificates / "client.pem"), "--network", "127.0.0.0/8",
    )  # fmt: skip
    yield live, tls_port
    live.stop()


@pytest.fixture
def storescu(server: tuple[LiveServer, int], certificates: Path) -> Callable[[], int]:
    def run() -> int:
        return subprocess.run(
            ["storescu", "+tls", str(certificates / "client.key"),
             str(certificates / "client.pem"), "+cf", str(certificates / "ca.pem"),
             "-aet", "PANO", "-aec", "INTEROP", "127.0.0.1", str(server[1]), str(CT)],
            capture_output=True, timeout=60,
        ).returncode  # fmt: skip

    return run


def test_a10_tls_is_served_and_plain_dicom_is_not(
    server: tuple[LiveServer, int], storescu: Callable[[], int]
) -> None:
    live, _ = server

    assert storescu() == 0
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", live.dicom_port), timeout=5)


def test_an_entity_is_listed_disabled_and_enabled(
    server: tuple[LiveServer, int], storescu: Callable[[], int]
) -> None:
    live, _ = server
    which = ("--tenant", "demo", "--ae-title", "PANO")

    disabled = json.loads(live.cli("ae", "disable", *which, "--json"))
    assert disabled["active"] is False
    live.wait_for(lambda: storescu() != 0, 15)
    live.cli("ae", "update", *which, "--enable")
    live.wait_for(lambda: storescu() == 0, 15)

    (listed,) = json.loads(live.cli("ae", "list", "--tenant", "demo", "--json"))
    assert listed["source_networks"] == ["127.0.0.0/8"]
    assert len(listed["certificate_fingerprints"]) == 1
    assert "PANO" in live.cli("ae", "list", "--tenant", "demo")


def test_certificates_are_added_and_removed_for_rotation(
    server: tuple[LiveServer, int], storescu: Callable[[], int], certificates: Path
) -> None:
    live, _ = server
    which = ("--tenant", "demo", "--ae-title", "PANO")
    (before,) = json.loads(live.cli("ae", "list", "--tenant", "demo", "--json"))
    former = before["certificate_fingerprints"][0]

    new = str(certificates / "server.pem")  # stands for the device's next one
    both = json.loads(live.cli("ae", "update", *which, "--certificate", new, "--json"))
    one = json.loads(live.cli("ae", "update", *which, "--remove-fingerprint", former, "--json"))

    assert both["certificate_fingerprints"][0] == former
    assert one["certificate_fingerprints"] == both["certificate_fingerprints"][1:]
    live.wait_for(lambda: storescu() != 0, 15)
    live.cli("ae", "update", *which, "--clear", "certificates", "--fingerprint", former)
    live.wait_for(lambda: storescu() == 0, 15)


def test_the_server_echoes_and_sends_to_a_peer_that_requires_tls(
    server: tuple[LiveServer, int], certificates: Path
) -> None:
    live, tls_port = server
    # The server is its own peer: it calls with its certificate, which it must know as INTEROP's.
    own = ("--certificate", str(certificates / "server.pem"))
    live.cli("ae", "create", "--tenant", "demo", "--ae-title", "INTEROP", "--host", "localhost",
             "--port", str(tls_port), "--require-tls", *own)  # fmt: skip

    echoed = live.cli("ae", "echo", "--tenant", "demo", "--ae-title", "INTEROP")
    sent = live.cli("send", "--tenant", "demo", "--ae-title", "INTEROP", str(MR))

    assert echoed.strip() == f"INTEROP at localhost:{tls_port} answers over TLS"
    assert "1 of 1 stored" in sent
    live.cli("ae", "update", "--tenant", "demo", "--ae-title", "INTEROP", "--clear", "certificates",
             "--fingerprint", "ab" * 32)  # fmt: skip
    with pytest.raises(RuntimeError, match=r"no TLS with INTEROP .* is not registered"):
        live.cli("echo", "--tenant", "demo", "--ae-title", "INTEROP")


def test_what_is_not_sent_or_not_committed_fails_the_command(
    server: tuple[LiveServer, int], tmp_path: Path
) -> None:
    live, port = server[0], free_port()
    live.cli("ae", "create", "--tenant", "demo", "--ae-title", "STORAGE", "--host", "127.0.0.1",
             "--port", str(port))  # fmt: skip
    to_storage = ("send", "--tenant", "demo", "--ae-title", "STORAGE")
    peer = subprocess.Popen(["storescp", "-aet", "STORAGE", "-od", str(tmp_path), str(port)])
    try:
        with pytest.raises(RuntimeError, match=r"missing\.dcm: not sent"):
            live.cli(*to_storage, "missing.dcm")
        with pytest.raises(RuntimeError, match="there is no file in"):
            live.cli(*to_storage, str(tmp_path))
        with pytest.raises(
            RuntimeError, match=r"no report yet .* does not offer Storage Commitment"
        ):
            live.cli(*to_storage, "--commit", str(MR))
    finally:
        peer.terminate()
        peer.wait(10)


def test_doctor_tells_of_certificates_and_of_plain_dicom_beyond_this_machine(
    server: tuple[LiveServer, int], certificates: Path, tmp_path: Path
) -> None:
    live, _ = server

    def checks(**settings: str) -> dict[str, dict[str, object]]:
        other = live.beside(live.data_dir)
        other.environment |= {f"INTEROP_{name.upper()}": text for name, text in settings.items()}
        return {check["name"]: check for check in json.loads(other.cli("doctor", "--json"))}

    assert checks()["dicom tls"]["ok"] is True
    plain = checks(dicom_plain="on", dicom_host="0.0.0.0")["listeners"]
    assert plain["ok"] is False and "INTEROP_DICOM_PLAIN=loopback" in str(plain["detail"])

    soon = tmp_path / "soon"
    live.cli("tls", "self-signed", "--out", str(soon), "--days", "29")
    warned = checks(
        dicom_tls_certificate=str(soon / "server.pem"), dicom_tls_key=str(soon / "server.key")
    )["dicom tls"]
    assert warned["ok"] is False and warned["required"] is False
    assert "CN=interop expires on" in str(warned["detail"])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"dicom_host": "0.0.0.0"}, "INTEROP_DICOM_PLAIN=on"),
        ({"dicom_tls_certificate": "none.pem"}, "INTEROP_DICOM_TLS_KEY is not set"),
    ],
)
def test_settings_by_which_nothing_could_listen_are_refused_at_the_start(
    tmp_path: Path, settings: dict[str, str], message: str
) -> None:
    live = LiveServer(tmp_path, **settings)
    try:
        with pytest.raises(RuntimeError, match=message):
            live.start("dicom")
    finally:
        live.stop()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("ae", "create", "--ae-title", "X", "--network", "10.0.0.1/8"), "10.0.0.0/8"),
        (("ae", "update", "--ae-title", "PANO", "--clear", "everything"), "certificates"),
        (("send", "--ae-title", "PANO", str(CT)), "--host HOST --port PORT"),
    ],
)
def test_an_error_says_what_to_change(
    server: tuple[LiveServer, int], arguments: tuple[str, ...], expected: str
) -> None:
    command, *rest = arguments
    words = [command, rest.pop(0)] if command == "ae" else [command]

    with pytest.raises(RuntimeError) as caught:
        server[0].cli(*words, "--tenant", "demo", *rest)

    assert expected in str(caught.value).replace("\n", " ")
    assert "Traceback" not in str(caught.value)
