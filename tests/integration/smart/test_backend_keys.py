"""Keys at a client's jwks_uri, fetched over real TLS, and everything such a fetch must not do."""

from __future__ import annotations

import asyncio
import datetime
import http.server
import ipaddress
import json
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from joserfc import jwt
from joserfc.jwk import ECKey

from interop.events.egress import EgressFailed, EgressPolicy, EgressRefused, check_url, request
from interop.smart import client_keys
from storage.tenancy import Tenant
from tests.integration.smart.conftest import App, SmartServer

ASSERTION_TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"


class Keys(http.server.BaseHTTPRequestHandler):
    """What a client's web server answers; `answers` maps a path to (status, headers, body)."""

    answers: dict[str, tuple[int, dict[str, str], bytes]]
    asked: list[str]

    def do_GET(self) -> None:
        self.asked.append(self.path)
        status, headers, body = self.answers.get(self.path, (404, {}, b""))
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.path == "/slow":
            for byte in body:
                time.sleep(0.2)
                self.wfile.write(bytes([byte]))
        else:
            self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


def certificate(folder: Path) -> tuple[Path, Path]:
    """A certificate of 127.0.0.1, which is its own authority."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(
            x509.SubjectAlternativeName(
                [x509.IPAddress(ipaddress.ip_address("127.0.0.1")), x509.DNSName("localhost")]
            ),
            critical=False,
        )
        .sign(key, hashes.SHA256())
    )
    pem, secret = folder / "cert.pem", folder / "key.pem"
    pem.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    secret.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return pem, secret


class Host:
    """A client's own web server over TLS."""

    def __init__(self, folder: Path) -> None:
        self.certificate, secret = certificate(folder)
        self.answers: dict[str, tuple[int, dict[str, str], bytes]] = {}
        self.asked: list[str] = []
        handler = type("Handler", (Keys,), {"answers": self.answers, "asked": self.asked})
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.certificate, secret)
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self._server.server_address[1]}"

    def publish(self, path: str, *keys: ECKey) -> None:
        body = json.dumps({"keys": [key.as_dict(private=False) for key in keys]}).encode()
        self.answers[path] = (200, {"Content-Type": "application/jwk-set+json"}, body)

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    made = Host(tmp_path_factory.mktemp("host"))
    yield made
    made.close()


@pytest.fixture(scope="module")
def trusting(make_server: Callable[..., SmartServer], host: Host, tenant: Tenant) -> SmartServer:
    """A server that may call the loopback and trusts the host's certificate."""
    return make_server(
        tenant, egress_private_networks="127.0.0.0/8", egress_ca_file=host.certificate
    )


@pytest.fixture(autouse=True)
def nothing_fetched() -> None:
    client_keys._fetched.clear()


def service(smart: SmartServer, uri: str) -> App:
    return smart.register(
        "system/*.rs",
        grant_types=("client_credentials",),
        redirect_uris=(),
        authentication="PRIVATE_KEY_JWT",
        jwks_uri=uri,
    )


def ask(smart: SmartServer, app: App, key: ECKey, **header: str) -> int:
    now = int(time.time())
    claims = {
        "iss": app.client.client_id,
        "sub": app.client.client_id,
        "aud": f"{smart.base}/oauth2/token",
        "iat": now,
        "exp": now + 60,
        "jti": uuid4().hex,
    }
    assertion = jwt.encode(
        {"alg": "ES384", "kid": key.kid, **header}, claims, key, algorithms=["ES384"]
    )
    data = {
        "grant_type": "client_credentials",
        "client_assertion_type": ASSERTION_TYPE,
        "client_assertion": assertion,
    }
    return smart.token(data).status_code


def new_key() -> ECKey:
    return ECKey.generate_key("P-384", {"kid": uuid4().hex})


def test_keys_are_fetched_once_and_kept(trusting: SmartServer, host: Host) -> None:
    key = new_key()
    host.publish("/kept", key)
    app = service(trusting, f"{host.url}/kept")

    assert [ask(trusting, app, key) for _ in range(3)] == [200, 200, 200]
    assert host.asked.count("/kept") == 1


@pytest.mark.parametrize(
    "other",
    ["/other", "/own/", "/own?", "/own#k", "/OWN", "//own", "/own/../other", "/%6fwn", " /own"],
)
def test_e1_a_jku_is_accepted_only_if_it_is_the_registered_address_and_is_never_fetched(
    trusting: SmartServer, host: Host, monkeypatch: pytest.MonkeyPatch, other: str
) -> None:
    """The one exception to E1, as SMART 2.2 wants it: a jku may repeat the registered jwks_uri.

    The same key lies at every address, so that only the address can be what is refused; the client
    signs itself, so that nothing else is.
    """
    key = new_key()
    host.publish("/own", key)
    host.publish(urlsplit(host.url + other).path, key)
    app = service(trusting, f"{host.url}/own")
    # Nothing is kept: whoever is asked at all is asked over the wire.
    monkeypatch.setattr(client_keys, "PAUSE_SECONDS", 0.0)
    monkeypatch.setattr(client_keys, "KEEP_SECONDS", 0.0)
    host.asked.clear()

    assert ask(trusting, app, key, jku=host.url + other) == 400
    assert host.asked == []
    assert ask(trusting, app, key, jku=f"{host.url}/own") == 200
    assert ask(trusting, app, key) == 200
    assert host.asked == ["/own", "/own"]


def test_e1_a_jku_is_refused_where_keys_and_no_address_were_registered(
    trusting: SmartServer, host: Host
) -> None:
    key = new_key()
    host.publish("/named", key)
    app = trusting.register(
        "system/*.rs",
        authentication="PRIVATE_KEY_JWT",
        grant_types=("client_credentials",),
        redirect_uris=(),
        jwks={"keys": [key.as_dict(private=False)]},
    )

    assert ask(trusting, app, key, jku=f"{host.url}/named") == 400
    assert "/named" not in host.asked
    assert ask(trusting, app, key) == 200


def test_a_new_key_is_found_and_unknown_ones_are_not_asked_for_in_a_loop(
    trusting: SmartServer, host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = new_key(), new_key()
    host.publish("/rolled", old)
    app = service(trusting, f"{host.url}/rolled")
    assert ask(trusting, app, old) == 200
    host.publish("/rolled", new)

    assert [ask(trusting, app, new_key()) for _ in range(5)] == [400] * 5
    assert host.asked.count("/rolled") == 1
    monkeypatch.setattr(client_keys, "PAUSE_SECONDS", 0.0)
    assert ask(trusting, app, new) == 200


def test_a_key_that_was_taken_down_is_refused_when_the_memory_ends(
    trusting: SmartServer, host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = new_key()
    host.publish("/down", key)
    app = service(trusting, f"{host.url}/down")
    assert ask(trusting, app, key) == 200
    host.publish("/down", new_key())
    monkeypatch.setattr(client_keys, "KEEP_SECONDS", 0.0)
    monkeypatch.setattr(client_keys, "PAUSE_SECONDS", 0.0)

    assert ask(trusting, app, key) == 400


@pytest.mark.parametrize(
    ("path", "status", "headers", "body"),
    [
        ("/moved", 302, {"Location": "/kept"}, b""),
        ("/broken", 200, {}, b"{"),
        ("/list", 200, {}, b"[]"),
        ("/deep", 200, {}, b"[" * 100_000),
        ("/error", 500, {}, b""),
        ("/huge", 200, {}, b" " * 300_000),
    ],
)
def test_an_answer_that_is_no_key_set_is_a_refusal(
    trusting: SmartServer, host: Host, path: str, status: int, headers: dict[str, str], body: bytes
) -> None:
    host.answers[path] = (status, headers, body)
    app = service(trusting, f"{host.url}{path}")

    assert ask(trusting, app, new_key()) == 400


def test_f1_a_private_address_is_not_called_without_the_setting(
    smart: SmartServer, host: Host
) -> None:
    key = new_key()
    host.publish("/private", key)

    assert ask(smart, service(smart, f"{host.url}/private"), key) == 400
    assert "/private" not in host.asked


PUBLIC = EgressPolicy()


@pytest.mark.parametrize(
    "url",
    [
        "http://example.org/",
        "file:///etc/passwd",
        "gopher://example.org/",
        "ftp://example.org/",
        "//example.org/",
        "example.org",
        "",
        "https://",
        "https://user@example.org/",
        "https://user:secret@example.org/",
        "https://example.org./",
        "https://example.org:99999/",
        "https://example.org/ x",
        "https://exämple.org/",
        "https://example.org\\@evil.example/",
        "https://" + "a" * 3000,
    ],
)
def test_f1_what_is_not_a_plain_https_url_is_refused(url: str) -> None:
    with pytest.raises(EgressRefused):
        check_url(url)


@pytest.mark.parametrize(
    "host_name",
    [
        "127.0.0.1",
        "localhost",
        "[::1]",
        "0.0.0.0",
        "[::]",
        "169.254.169.254",
        "10.0.0.1",
        "192.168.1.1",
        "172.16.0.1",
        "100.64.0.1",
        "2130706433",
        "0177.0.0.1",
        "0x7f.1",
        "127.1",
        "[::ffff:127.0.0.1]",
        "[::ffff:10.0.0.1]",
        "[64:ff9b::7f00:1]",
        "[2002:7f00:1::]",
        "[2001:0:1234::1]",
        "[fe80::1]",
        "[fd00::1]",
        "224.0.0.1",
    ],
)
def test_f1_an_address_that_is_not_public_is_refused(host_name: str) -> None:
    with pytest.raises(EgressRefused):
        asyncio.run(request("GET", f"https://{host_name}/", PUBLIC))


def test_f1_a_name_is_resolved_once_and_all_its_addresses_count(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[str] = []

    async def rebinding(self: Any, host: str, port: int, **_: Any) -> list[Any]:
        asked.append(host)
        return [(2, 1, 6, "", ("93.184.215.14", port)), (2, 1, 6, "", ("127.0.0.1", port))]

    monkeypatch.setattr(asyncio.base_events.BaseEventLoop, "getaddrinfo", rebinding)

    with pytest.raises(EgressRefused):
        asyncio.run(request("GET", "https://rebind.example/", PUBLIC))
    assert asked == ["rebind.example"]


def test_f1_a_certificate_nobody_vouches_for_and_a_slow_answer_fail(host: Host) -> None:
    host.answers["/slow"] = (200, {}, b"x" * 100)
    networks = EgressPolicy.parse("127.0.0.0/8", None).private_networks
    unknown = EgressPolicy(networks)
    hurried = EgressPolicy(networks, host.certificate, timeout_seconds=0.5)

    with pytest.raises(EgressFailed, match="certificate"):
        asyncio.run(request("GET", f"{host.url}/slow", unknown))
    with pytest.raises(EgressFailed, match=r"0\.5 s"):
        asyncio.run(request("GET", f"{host.url}/slow", hurried))
