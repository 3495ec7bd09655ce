"""AWS KMS for tests: moto's server, a process of its own, which a test can pause."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator

import pytest

from storage.encryption.aws_kms import AwsKeyProvider

# moto looks at neither; boto3 wants some.
CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",  # no secret: moto accepts anything
    "AWS_REGION": "eu-central-1",
    "AWS_DEFAULT_REGION": "eu-central-1",
}
START_SECONDS = 60


class KmsServer:
    """One server; `pause` and `resume` keep its keys, as an outage does."""

    def __init__(self) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._process = subprocess.Popen(
            [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(self.port)],
            env={**os.environ, **CREDENTIALS},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + START_SECONDS
        while not self._answers():
            assert self._process.poll() is None, "moto's server ended"
            assert time.monotonic() < deadline, "moto's server did not start"
            time.sleep(0.1)

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/moto-api/data.json", timeout=2):
                return True
        except OSError:
            return False

    def create_key(self) -> str:
        """A new key; returns its ARN."""
        import boto3

        client = boto3.client("kms", endpoint_url=self.url, region_name=CREDENTIALS["AWS_REGION"])
        arn: str = client.create_key()["KeyMetadata"]["Arn"]
        client.close()
        return arn

    def provider(self, key_id: str | None = None) -> AwsKeyProvider:
        return AwsKeyProvider(key_id or self.create_key(), endpoint_url=self.url)

    def pause(self) -> None:
        """Answer nothing any more, as a server behind a broken network does not."""
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._process.send_signal(signal.SIGCONT)

    def stop(self) -> None:
        self._process.send_signal(signal.SIGCONT)
        self._process.kill()
        self._process.wait(20)


@pytest.fixture(scope="session")
def kms_server() -> Iterator[KmsServer]:
    """The server of this run."""
    server = KmsServer()
    yield server
    server.stop()


@pytest.fixture
def kms(kms_server: KmsServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[KmsServer]:
    """KMS, and the environment in which boto3 finds its way to it."""
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    yield kms_server
    kms_server.resume()
