"""`interop client` and `interop keys` beside a running server with several HTTP workers."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from joserfc.jwk import ECKey

from benchmarks.live_server import LiveServer
from interop.smart.keys import REFRESH_SECONDS, SETTLE_SECONDS

pytestmark = [pytest.mark.timeout(600), pytest.mark.slow]


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    server = LiveServer(tmp_path_factory.mktemp("live"), http_workers="2")
    server.start()
    try:
        server.cli("tenant", "create", "demo", "--ae-title", "INTEROP")
        yield server
    finally:
        server.stop()


def create(live: LiveServer, *options: str) -> dict[str, Any]:
    made: dict[str, Any] = json.loads(
        live.cli("client", "create", "--tenant", "demo", "--name", "an app", *options)
    )
    return made


def test_a_service_gets_a_token_with_what_is_printed(live: LiveServer) -> None:
    made = create(live, "--scope", "system/*.rs")

    assert set(made) == {"client_id", "client_secret"}
    answer = httpx.post(
        f"{live.url}/t/demo/oauth2/token",
        data={"grant_type": "client_credentials"},
        auth=(made["client_id"], made["client_secret"]),
    )
    assert answer.json()["scope"] == "system/*.rs"


def test_a_public_app_has_no_secret(live: LiveServer) -> None:
    made = create(
        live,
        "--public",
        "--scope", "launch/patient openid fhirUser patient/*.rs",
        "--redirect-uri", "http://127.0.0.1:1/a", "--redirect-uri", "https://app.example.org/b",
    )  # fmt: skip

    assert set(made) == {"client_id"}
    known = httpx.get(
        f"{live.url}/t/demo/oauth2/authorize",
        params={"client_id": made["client_id"], "redirect_uri": "https://app.example.org/b"},
    )
    assert known.status_code == 303
    assert known.headers["location"].startswith("/t/demo/sign-in?continue=")


def test_keys_come_from_a_file(live: LiveServer, tmp_path: Path) -> None:
    key = ECKey.generate_key("P-384", {"kid": "k"})
    path = tmp_path / "keys.json"
    path.write_text(json.dumps({"keys": [key.as_dict(private=False)]}))

    assert set(create(live, "--scope", "system/*.rs", "--jwks", str(path))) == {"client_id"}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("--scope", "bogus"), "system/Observation.rs"),
        (("--scope", "user/*.rs", "--redirect-uri", "http://app.example.org/x"), "https://host"),
        (("--scope", "system/*.rs", "--public"), "a public client has neither"),
        (("--scope", "system/*.rs", "--jwks-uri", "http://app.example.org/x"), "only https"),
        (("--scope", "system/*.rs", "--jwks", "/nowhere"), "/nowhere"),
    ],
)
def test_an_error_is_one_line_that_says_what_to_change(
    live: LiveServer, options: tuple[str, ...], expected: str
) -> None:
    with pytest.raises(RuntimeError) as caught:
        create(live, *options)

    assert "Traceback" not in str(caught.value)
    assert expected in " ".join(str(caught.value).split())


def test_every_process_follows_a_rotation_and_no_token_is_lost(live: LiveServer) -> None:
    old = live.cli("token", "--tenant", "demo").strip()
    before = kids(live)

    made = json.loads(live.cli("keys", "rotate", "--json"))["keys"]
    deadline = time.monotonic() + SETTLE_SECONDS
    newest = live.cli("token", "--tenant", "demo").strip()
    while time.monotonic() < deadline:
        # Several processes answer; whichever it is, no token may be refused at any moment.
        assert [status(live, token) for token in (old, newest) for _ in range(3)] == [200] * 6
        time.sleep(0.2)

    assert kids(live) == before | set(made)
    after = live.cli("token", "--tenant", "demo").strip()
    assert after.split(".")[0] != old.split(".")[0]
    assert {status(live, token) for token in (old, after) for _ in range(4)} == {200}


def test_a_rotation_at_once_ends_every_token_within_seconds(live: LiveServer) -> None:
    token = live.cli("token", "--tenant", "demo").strip()
    assert {status(live, token) for _ in range(6)} == {200}  # every process remembers it

    live.cli("keys", "rotate", "--at-once")

    deadline = time.monotonic() + REFRESH_SECONDS + 5
    while {status(live, token) for _ in range(6)} != {401}:
        assert time.monotonic() < deadline, "a token of a withdrawn key still works"
        time.sleep(1)


def kids(live: LiveServer) -> set[str]:
    return {key["kid"] for key in httpx.get(f"{live.url}/t/demo/oauth2/jwks").json()["keys"]}


def status(live: LiveServer, token: str) -> int:
    # A new connection each time: the kernel gives it to either worker.
    with httpx.Client() as client:
        return client.get(
            f"{live.url}/t/demo/fhir/R4/Patient", headers={"Authorization": f"Bearer {token}"}
        ).status_code
