"""Both kinds of object store, and a proxy that breaks connections to S3."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from storage.objects import ObjectStore, open_object_store


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
