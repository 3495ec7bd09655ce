"""DICOM TLS (PS3.15 B.12): security.md A9, A10, A13 against OpenSSL's and DCMTK's own clients."""

from __future__ import annotations

import os
import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from struct import pack
from typing import Any

import pytest

from interop.dimse import scu
from interop.dimse.tls import ReloadingContext, TlsFiles
from interop.dimse.transport_guard import TransportLimits
from tests.dicom_pki import Authority, Pair

OPENSSL = shutil.which("openssl")
needs_dcmtk = pytest.mark.skipif(
    not all(shutil.which(tool) for tool in ("storescu", "echoscu", "storescp")),
    reason="DCMTK's tools are not installed",
)

CALLING_UNKNOWN = b"\3\0\0\0\0\4\0\1\1\3"
CALLED_UNKNOWN = b"\3\0\0\0\0\4\0\1\1\7"
RELEASE_RP = b"\6\0\0\0\0\4\0\0\0\0"


@dataclass
class Pki:
    """Whom the server trusts, and who calls."""

    files: TlsFiles
    authority: Authority
    stranger_authority: Authority
    pano: Pair
    cbct: Pair
    foreign: Pair  # of another CA
    forged: Pair  # of a CA that took the name of ours
    expired: Pair
    early: Pair  # not valid yet


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    ours, theirs, false = (tmp_path_factory.mktemp(name) for name in ("ours", "theirs", "false"))
    authority, stranger = Authority(ours, "ca"), Authority(theirs, "strangers")
    # RSA, so that a client may ask for RSA key exchange and older suites at all.
    server = authority.issue("server", is_rsa=True, host="localhost")
    return Pki(
        TlsFiles(server.certificate, server.key, authority.bundle),
        authority,
        stranger,
        authority.issue("pano"),
        authority.issue("cbct"),
        stranger.issue("foreign"),
        Authority(false, "ca").issue("pano"),
        authority.issue("expired", starts=-9, ends=-1),
        authority.issue("early", starts=1),
    )


@pytest.fixture(scope="module", autouse=True)
def entities(services: Any, tenant: Any, other_tenant: Any, pki: Pki) -> None:
    """PANO is known by its certificate with one tenant, CBCT with the other."""
    for one, title, pair in ((tenant, "PANO", pki.pano), (other_tenant, "CBCT", pki.cbct)):
        with services.database.connection(one.id) as connection:
            connection.execute(
                "INSERT INTO dicom_application_entities (tenant_id, ae_title,"
                " certificate_fingerprints) VALUES (%s, %s, %s)",
                (one.id, title, [pair.fingerprint]),
            )


@pytest.fixture
def port(start: Any, pki: Pki) -> int:
    return int(start(tls_context=ReloadingContext(pki.files)).port)


@dataclass
class Talk:
    """What `openssl s_client` got in answer to an A-ASSOCIATE-RQ and an A-RELEASE-RQ."""

    answer: bytes
    log: str

    @property
    def is_accepted(self) -> bool:
        return self.answer[:1] == b"\2" and self.answer.endswith(RELEASE_RP)


@pytest.fixture
def s_client(port: int, pki: Pki, wire: Any) -> Callable[..., Talk]:
    if OPENSSL is None:
        pytest.skip("openssl is not installed")

    def run(*options: str, pair: Pair | None = pki.pano, **titles: str) -> Talk:
        titles = {"calling": "PANO", **titles}
        identity = ["-cert", str(pair.certificate), "-key", str(pair.key)] if pair else []
        done = subprocess.run(
            ["openssl", "s_client", "-connect", f"127.0.0.1:{port}", "-quiet",
             "-CAfile", str(pki.authority.bundle), "-verify_return_error", *identity, *options],
            input=wire.associate_rq(**titles) + wire.pdu(5, bytes(4)),
            capture_output=True, timeout=30,
        )  # fmt: skip
        return Talk(done.stdout, done.stderr.decode())

    return run


# -- A10: what is spoken ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        ("-tls1_3",),
        ("-tls1_3", "-ciphersuites", "TLS_CHACHA20_POLY1305_SHA256"),
        ("-tls1_2",),
        ("-tls1_2", "-cipher", "ECDHE-RSA-AES128-GCM-SHA256"),
        ("-tls1_2", "-cipher", "ECDHE-RSA-AES256-GCM-SHA384"),
        ("-tls1_2", "-cipher", "ECDHE-RSA-CHACHA20-POLY1305"),
    ],
)
def test_a10_tls_1_2_with_ephemeral_keys_and_1_3_are_spoken(
    s_client: Any, options: tuple[str, ...]
) -> None:
    assert s_client(*options).is_accepted


@pytest.mark.parametrize(
    ("options", "alert"),
    [
        (("-tls1", "-cipher", "ALL:@SECLEVEL=0"), "alert protocol version"),
        (("-tls1_1", "-cipher", "ALL:@SECLEVEL=0"), "alert protocol version"),
        # RSA key exchange, CBC, finite-field DH.
        (("-tls1_2", "-cipher", "AES128-GCM-SHA256"), "alert handshake failure"),
        (("-tls1_2", "-cipher", "AES256-SHA:@SECLEVEL=0"), "alert handshake failure"),
        (("-tls1_2", "-cipher", "ECDHE-RSA-AES128-SHA256"), "alert handshake failure"),
        (("-tls1_2", "-cipher", "ECDHE-RSA-AES128-SHA:@SECLEVEL=0"), "alert handshake failure"),
        (("-tls1_2", "-cipher", "DHE-RSA-AES128-GCM-SHA256"), "alert handshake failure"),
        (("-tls1_2", "-cipher", "ADH-AES128-SHA256:@SECLEVEL=0"), "alert handshake failure"),
    ],
)
def test_a10_older_versions_and_suites_are_refused(
    s_client: Any, options: tuple[str, ...], alert: str
) -> None:
    talk = s_client(*options)

    assert talk.answer == b""
    # The server said so: the client was able to ask.
    assert alert in talk.log


def client_hello(version: int, suites: tuple[int, ...]) -> bytes:
    """A ClientHello for what Debian's OpenSSL cannot offer any more (RFC 5246 7.4.1.2)."""
    extensions = b"".join(
        pack(">HH", kind, len(body)) + body
        for kind, body in (
            (0x000A, pack(">HHH", 4, 0x001D, 0x0017)),  # supported_groups: x25519, P-256
            (0x000B, b"\1\0"),  # ec_point_formats
            (0x000D, pack(">HHHHH", 8, 0x0804, 0x0401, 0x0403, 0x0201)),  # signature_algorithms
        )
    )
    listed = b"".join(pack(">H", suite) for suite in suites)
    body = pack(">H", version) + os.urandom(32) + b"\0" + pack(">H", len(listed)) + listed
    body += b"\1\0" + pack(">H", len(extensions)) + extensions
    handshake = b"\1" + len(body).to_bytes(3, "big") + body
    return b"\x16" + pack(">HH", 0x0301, len(handshake)) + handshake


HANDSHAKE, ALERT = 0x16, 0x15
HANDSHAKE_FAILURE, PROTOCOL_VERSION = 40, 70  # RFC 8446 6


@pytest.mark.parametrize(
    ("version", "suites", "answer"),
    [
        # What is asked in this way is understood: these two are the control.
        (0x0303, (0xC02F,), HANDSHAKE),
        (0x0303, (0x000A, 0x0005, 0xC030), HANDSHAKE),
        (0x0303, (0x000A,), HANDSHAKE_FAILURE),  # RSA with 3DES
        (0x0303, (0xC012,), HANDSHAKE_FAILURE),  # ECDHE with 3DES
        (0x0303, (0x0005, 0x0004), HANDSHAKE_FAILURE),  # RSA with RC4
        (0x0303, (0xC011,), HANDSHAKE_FAILURE),  # ECDHE with RC4
        (0x0303, (0x0003, 0x0006, 0x0008), HANDSHAKE_FAILURE),  # export suites
        (0x0303, (0x0001, 0x0002, 0x003B), HANDSHAKE_FAILURE),  # authentication only (IHE ATNA)
        (0x0303, (0x009C, 0x009D, 0x002F), HANDSHAKE_FAILURE),  # RSA key exchange
        (0x0302, (0xC02F,), PROTOCOL_VERSION),
        (0x0301, (0xC02F,), PROTOCOL_VERSION),
        (0x0300, (0x000A,), HANDSHAKE_FAILURE),
    ],
)
def test_a10_what_no_client_here_can_offer_is_refused(
    port: int, version: int, suites: tuple[int, ...], answer: int
) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=10) as raw:
        raw.sendall(client_hello(version, suites))
        received = raw.recv(4096)

    assert received[0] == (HANDSHAKE if answer == HANDSHAKE else ALERT)
    if answer != HANDSHAKE:
        assert received[5:7] == bytes((2, answer))  # fatal


def test_a10_plain_dicom_is_not_spoken_at_the_tls_port(port: int, connect: Any, wire: Any) -> None:
    peer = connect(port)
    peer.send(wire.associate_rq())

    received = peer.receive_pdu()

    assert received is None or received[0] not in (2, 3)


# -- A10: who is admitted ---------------------------------------------------------------------


@pytest.mark.parametrize("version", ["-tls1_2", "-tls1_3"])
@pytest.mark.parametrize(
    ("who", "alert"),
    [
        (None, "handshake failure|certificate required"),
        ("expired", "certificate expired"),
        ("early", "bad certificate"),
        ("foreign", "unknown ca"),
        ("forged", "decrypt error"),
    ],
)
def test_a10_without_a_good_certificate_nobody_gets_in(
    s_client: Any, pki: Pki, version: str, who: str | None, alert: str
) -> None:
    talk = s_client(version, pair=getattr(pki, who) if who else None)

    assert talk.answer == b""
    assert any(f"alert {text}" in talk.log for text in alert.split("|"))


def test_a10_a_certificate_whose_key_the_peer_lacks_is_refused(port: int, pki: Pki) -> None:
    """Certificates are public: the signature in the handshake is what counts."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    with pytest.raises(ssl.SSLError, match="KEY_VALUES_MISMATCH"):
        context.load_cert_chain(pki.pano.certificate, pki.cbct.key)


def test_optional_certificates_admit_those_who_are_known_without_one(
    start: Any, connect: Any, pki: Pki
) -> None:
    files = replace(pki.files, is_client_certificate_required=False)
    port = start(tls_context=ReloadingContext(files)).port
    client = ssl.create_default_context(cafile=str(pki.authority.bundle))

    def associate(calling: str) -> Any:
        peer = connect(port)
        peer.socket = client.wrap_socket(peer.socket, server_hostname="localhost")
        return peer.associate(calling=calling)

    assert associate("PEER")[0] == 2
    assert associate("PANO") == (3, CALLING_UNKNOWN[6:])


# -- A9: the certificate, the AE titles and the tenant belong together -------------------------


@pytest.mark.parametrize(
    ("pair", "calling", "called", "answer"),
    [
        ("pano", "PANO", "INTEROP", None),
        ("cbct", "CBCT", "OTHER", None),
        # A known AE title with another's certificate.
        ("cbct", "PANO", "INTEROP", CALLING_UNKNOWN),
        # The called AE title of B with the certificate of A, under each name that B knows.
        ("pano", "PANO", "OTHER", CALLING_UNKNOWN),
        ("pano", "CBCT", "OTHER", CALLING_UNKNOWN),
        ("pano", "PEER", "OTHER", CALLING_UNKNOWN),
        # Registered without a certificate: the one that is shown is not its own.
        ("pano", "PEER", "INTEROP", CALLING_UNKNOWN),
        ("pano", "PANO", "NOBODY", CALLED_UNKNOWN),
    ],
)
def test_a9_one_match_or_reject(
    s_client: Any, pki: Pki, pair: str, calling: str, called: str, answer: bytes | None
) -> None:
    talk = s_client(pair=getattr(pki, pair), calling=calling, called=called)

    if answer is None:
        assert talk.is_accepted
    else:
        assert talk.answer == answer


def test_a9_a_tenant_that_admits_anybody_admits_no_unknown_certificate(
    s_client: Any, services: Any, other_tenant: Any, pki: Pki
) -> None:
    statement = "UPDATE tenant_settings SET allow_any_calling_ae = %s WHERE tenant_id = %s"
    with services.database.connection(other_tenant.id) as connection:
        connection.execute(statement, (True, other_tenant.id))
    try:
        assert s_client(calling="WHOEVER", called="OTHER").answer == CALLING_UNKNOWN
    finally:
        with services.database.connection(other_tenant.id) as connection:
            connection.execute(statement, (False, other_tenant.id))


def test_a9_the_audit_names_the_certificate(
    s_client: Any, services: Any, tenant: Any, pki: Pki, eventually: Any
) -> None:
    s_client(pair=pki.cbct)

    def found() -> list[tuple[Any, ...]]:
        with services.database.connection(tenant.id) as connection:
            rows: list[tuple[Any, ...]] = connection.execute(
                "SELECT metadata->>'code' FROM audit_events WHERE tenant_id = %s"
                " AND event_type = 'DICOM_ASSOCIATION_REJECTED'"
                " AND metadata->>'certificate_sha256' = %s",
                (tenant.id, pki.cbct.fingerprint),
            ).fetchall()
        return rows

    assert eventually(lambda: ("1/1/3",) in found())


def test_certificates_are_rotated_and_may_be_known_by_subject(
    s_client: Any, pki: Pki, registered: Any
) -> None:
    former, latter = pki.authority.issue("former"), pki.authority.issue("latter")
    registered("TURNING", certificate_fingerprints=[former.fingerprint, latter.fingerprint])
    registered("NAMED", certificate_subject=former.subject)

    assert s_client(pair=former, calling="TURNING").is_accepted
    assert s_client(pair=latter, calling="TURNING").is_accepted
    assert s_client(pair=former, calling="NAMED").is_accepted
    assert s_client(pair=latter, calling="NAMED").answer == CALLING_UNKNOWN


def test_networks_count_with_a_certificate_too(s_client: Any, pki: Pki, registered: Any) -> None:
    pins = [pki.pano.fingerprint]
    registered("INSIDE", certificate_fingerprints=pins, source_networks=["127.0.0.0/8"])
    registered("OUTSIDE", certificate_fingerprints=pins, source_networks=["192.0.2.0/24"])

    assert s_client(calling="INSIDE").is_accepted
    assert s_client(calling="OUTSIDE").answer == CALLING_UNKNOWN


# -- A13, and the end of a connection ----------------------------------------------------------


def test_a13_a_silent_peer_is_closed_at_the_deadline_of_the_handshake(
    start: Any, connect: Any, pki: Pki
) -> None:
    limits = TransportLimits(handshake_seconds=1.0)  # pdu_seconds stays at 30
    running = start(limits, tls_context=ReloadingContext(pki.files))
    peer = connect(running.port)
    began = time.monotonic()

    assert peer.receive_pdu(10) is None

    assert 0.5 < time.monotonic() - began < 3


def test_the_end_is_announced(port: int, connect: Any, pki: Pki) -> None:
    """Without close_notify OpenSSL 3 reports the end of the connection as an error."""
    client = ssl.create_default_context(cafile=str(pki.authority.bundle))
    client.load_cert_chain(pki.pano.certificate, pki.pano.key)
    peer = connect(port)
    peer.socket = client.wrap_socket(
        peer.socket, server_hostname="localhost", suppress_ragged_eofs=False
    )
    assert peer.associate(calling="PANO")[0] == 2

    peer.release()

    assert peer.socket.recv(10) == b""


# -- certificates that change -------------------------------------------------------------------


def test_new_certificates_are_served_without_a_restart_and_broken_ones_are_not(
    start: Any, connect: Any, pki: Pki, tmp_path: Path, eventually: Any
) -> None:
    first = pki.authority.issue("first", host="localhost")
    second = pki.authority.issue("second", host="localhost")
    shown, key, bundle = (tmp_path / name for name in ("shown.pem", "shown.key", "ca.pem"))
    for source, target in ((first.certificate, shown), (first.key, key)):
        shutil.copy(source, target)
    shutil.copy(pki.authority.bundle, bundle)
    running = start(tls_context=ReloadingContext(TlsFiles(shown, key, bundle)))
    client = ssl.create_default_context(cafile=str(pki.authority.bundle))
    client.load_cert_chain(pki.pano.certificate, pki.pano.key)

    def fingerprint() -> str:
        from hashlib import sha256

        with socket.create_connection(("127.0.0.1", running.port), timeout=10) as raw:
            with client.wrap_socket(raw, server_hostname="localhost") as connection:
                return sha256(connection.getpeercert(binary_form=True) or b"").hexdigest()

    open_one = connect(running.port)
    open_one.socket = client.wrap_socket(open_one.socket, server_hostname="localhost")
    open_one.associate(calling="PANO")
    assert fingerprint() == first.fingerprint

    shutil.copy(second.certificate, shown)  # half of the pair: the old one serves on
    time.sleep(1.2)
    assert fingerprint() == first.fingerprint
    shutil.copy(second.key, key)

    assert eventually(lambda: fingerprint() == second.fingerprint)
    assert open_one.echo().status == 0

    # Another CA: whoever was admitted is not any more.
    shutil.copy(pki.stranger_authority.bundle, bundle)
    time.sleep(1.2)
    refused = connect(running.port)
    with pytest.raises((ssl.SSLError, ConnectionError)):
        refused.socket = client.wrap_socket(refused.socket, server_hostname="localhost")
        refused.associate(calling="PANO")
        refused.socket.recv(1)
        raise ConnectionError("closed")
    assert eventually(lambda: running.listener.connection_count == 1)


# -- DCMTK -------------------------------------------------------------------------------------


def dcmtk(
    tool: str, port: int, pki: Pki, pair: Pair, *rest: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [tool, "+tls", str(pair.key), str(pair.certificate), "+cf", str(pki.authority.bundle),
         "-aet", "PANO", "-aec", "INTEROP", "127.0.0.1", str(port), *rest],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip


@needs_dcmtk
def test_echoscu_and_storescu_of_dcmtk_over_tls(
    port: int, pki: Pki, make_ct: Any, services: Any, tenant: Any
) -> None:
    samples = [make_ct() for _ in range(5)]

    echoed = dcmtk("echoscu", port, pki, pki.pano)
    sent = dcmtk("storescu", port, pki, pki.pano, *(str(s.path) for s in samples))

    assert (echoed.returncode, sent.returncode) == (0, 0), echoed.stderr + sent.stderr
    with services.database.connection(tenant.id) as connection:
        row = connection.execute(
            "SELECT count(*) FROM imaging_objects WHERE tenant_id = %s"
            " AND sop_instance_uid = ANY(%s)",
            (tenant.id, [s.sop_instance_uid for s in samples]),
        ).fetchone()
    assert row == (5,)


@needs_dcmtk
@pytest.mark.parametrize("who", ["cbct", "foreign", "forged", "expired"])
def test_a10_storescu_of_dcmtk_with_another_certificate_is_refused(
    port: int, pki: Pki, make_ct: Any, who: str
) -> None:
    done = dcmtk("storescu", port, pki, getattr(pki, who), str(make_ct().path))

    assert done.returncode != 0


@pytest.fixture
def storescp(pki: Pki, tmp_path: Path) -> Iterator[tuple[int, Path]]:
    """DCMTK's storage SCP with TLS, which requires a certificate."""
    if shutil.which("storescp") is None:
        pytest.skip("DCMTK's storescp is not installed")
    received = tmp_path / "received"
    received.mkdir()
    with socket.create_server(("127.0.0.1", 0)) as probe:
        free = int(probe.getsockname()[1])
    process = subprocess.Popen(
        ["storescp", "+tls", str(pki.files.key), str(pki.files.certificate),
         "+cf", str(pki.authority.bundle), "-od", str(received), str(free)],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", free)) == 0:
                break
        time.sleep(0.05)
    yield free, received
    process.terminate()
    process.wait(10)


def test_our_scu_sends_over_tls_with_our_certificate(
    storescp: tuple[int, Path], pki: Pki, make_ct: Any
) -> None:
    port, received = storescp
    files = TlsFiles(pki.pano.certificate, pki.pano.key, pki.authority.bundle)
    server = _fingerprint(pki.files)

    by_name = scu.send(
        [make_ct().path], "localhost", port, "ANY", "INTEROP", tls_context=files.client_context()
    )
    by_pin = scu.echo(
        "127.0.0.1", port, "ANY", "INTEROP", tls_context=files.client_context(frozenset([server]))
    )

    assert [entry.status for entry in by_name.sent] == [0]
    assert by_pin == 0
    assert len(list(received.iterdir())) == 1


def test_our_scu_refuses_a_peer_that_is_not_the_registered_one(
    storescp: tuple[int, Path], pki: Pki
) -> None:
    port, _ = storescp
    files = TlsFiles(pki.pano.certificate, pki.pano.key, pki.authority.bundle)
    strange = replace(files, ca=pki.stranger_authority.bundle)

    for host, context, reason in (
        ("127.0.0.1", files.client_context(), "IP address mismatch"),
        ("localhost", files.client_context(frozenset([pki.cbct.fingerprint])), "not registered"),
        ("localhost", strange.client_context(), "self-signed certificate in certificate chain"),
    ):
        with pytest.raises(scu.SendFailed, match=reason):
            scu.echo(host, port, "ANY", "INTEROP", tls_context=context)


def _fingerprint(files: TlsFiles) -> str:
    from interop.dimse.certificates import fingerprint_of_file

    assert files.certificate is not None
    return fingerprint_of_file(files.certificate)
