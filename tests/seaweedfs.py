"""A real S3 server (SeaweedFS from its wheel) for the suites that need one."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from storage.objects import ObjectStoreUnavailable, open_object_store

ACCESS_KEY, SECRET_KEY = "contract-test", "contract-test-secret"
PORTS = (
    *("master.port", "master.port.grpc", "volume.port", "volume.port.grpc"),
    *("filer.port", "filer.port.grpc", "s3.port", "s3.port.grpc"),
    # Two servers at once, one per xdist worker, would meet on the defaults of these.
    *("s3.port.iceberg", "s3.port.lance"),
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
