"""A real S3 server (SeaweedFS) and a proxy that breaks connections to it."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from storage.objects import ObjectStore, ObjectStoreUnavailable, open_object_store

ACCESS_KEY, SECRET_KEY = "contract-test", "contract-test-secret"
PORTS = (
    *("master.port", "master.port.grpc", "volume.port", "volume.port.grpc"),
    *("filer.port", "filer.port.grpc", "s3.port", "s3.port.grpc"),
)


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        held = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in held:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in held]


@pytest.fixture(scope="session")
def s3_credentials() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
        patch.setenv("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        yield


@pytest.fixture(scope="session")
def seaweedfs(tmp_path_factory: pytest.TempPathFactory, s3_credentials: None) -> Iterator[str]:
    """The endpoint of an S3 server with one identity and an empty bucket `objects`."""
    folder = tmp_path_factory.mktemp("seaweedfs")
    identity = {
        "name": "contract-test",
        "credentials": [{"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}],
        "actions": ["Admin", "Read", "Write", "List", "Tagging"],
    }
    (folder / "s3.json").write_text(json.dumps({"identities": [identity]}))
    ports = dict(zip(PORTS, free_ports(len(PORTS)), strict=True))
    command = [os.fspath(Path(sys.executable).parent / "weed"), "server", f"-dir={folder}"]
    command += ["-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-filer", "-s3"]
    command += [f"-s3.config={folder}/s3.json", "-volume.max=10", "-master.volumeSizeLimitMB=256"]
    command += [f"-{name}={port}" for name, port in ports.items()]
    endpoint = f"http://127.0.0.1:{ports['s3.port']}"
    with (folder / "log").open("wb") as log:
        # Told to stop it takes up to half a minute to say goodbye; its data is thrown away anyway.
        server = subprocess.Popen(
            command, stdout=log, stderr=log, env={"PATH": os.environ["PATH"], "HOME": str(folder)}
        )
        try:
            wait_until_ready(endpoint, server, folder / "log")
            yield endpoint
        finally:
            server.kill()
            server.wait()


def wait_until_ready(endpoint: str, server: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 90
    while True:
        try:
            store = open_object_store(f"s3://objects?endpoint_url={endpoint}&create_bucket=true")
            store.put_bytes("ready/probe", b"ready")
            store.delete("ready/probe")
            return
        except ObjectStoreUnavailable:
            if server.poll() is not None or time.monotonic() > deadline:
                pytest.fail(f"SeaweedFS does not start: {log.read_text()[-2000:]}")
            time.sleep(0.2)


@pytest.fixture(params=["files", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ObjectStore:
    """An empty object store; every test of the contract runs on each kind."""
    if request.param == "files":
        return open_object_store(f"file://{tmp_path / 'objects'}")
    endpoint = request.getfixturevalue("seaweedfs")
    return open_object_store(f"s3://objects/{os.urandom(6).hex()}?endpoint_url={endpoint}")


@dataclass
class FaultyProxy:
    """Forwards to the S3 server; each fault applies to one connection and is then used up."""

    target: tuple[str, int]
    # Bytes of the answer that get through before the connection is cut; None: all of them.
    faults: list[int | None] = field(default_factory=list)
    connections: int = 0

    def __post_init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.endpoint = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def close(self) -> None:
        # Wakes the thread out of accept(2), which close alone does not.
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join(5)
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            allowed = self.faults.pop(0) if self.faults else None
            threading.Thread(target=self._serve, args=(client, allowed), daemon=True).start()

    def _serve(self, client: socket.socket, allowed: int | None) -> None:
        with client, socket.create_connection(self.target) as server:
            upward = threading.Thread(target=pump, args=(client, server, None), daemon=True)
            upward.start()
            pump(server, client, allowed)
            upward.join()


def pump(source: socket.socket, sink: socket.socket, left: int | None) -> None:
    """Copy until either end closes or `left` bytes are through, then cut both."""
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            if left is not None and len(data) > left:
                sink.sendall(data[:left])
                break
            left = None if left is None else left - len(data)
            sink.sendall(data)
    for one in (source, sink):
        with contextlib.suppress(OSError):
            one.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def faulty_proxy(seaweedfs: str) -> Iterator[FaultyProxy]:
    host, port = seaweedfs.removeprefix("http://").split(":")
    proxy = FaultyProxy((host, int(port)))
    yield proxy
    proxy.close()
