"""Keys of sealed values with the real server: rotation by its worker, a new master key, KMS."""

from __future__ import annotations

import base64
import json
import os
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest

from benchmarks.live_server import LiveServer
from tests.conftest import MigratedDatabase
from tests.kms import CREDENTIALS, KmsServer

pytestmark = pytest.mark.timeout(600)

SSN = {"system": "http://hl7.org/fhir/sid/us-ssn", "value": "078-05-1120"}


def master_key() -> str:
    return base64.b64encode(os.urandom(32)).decode()


def versions(owner_url: str) -> set[str]:
    with psycopg.connect(owner_url) as owner:
        rows = owner.execute(
            "SELECT split_part(body, ':', 2) FROM (SELECT body FROM fhir_resources"
            " UNION ALL SELECT body FROM fhir_history UNION ALL SELECT value"
            " FROM patient_identifiers) AS held WHERE body LIKE 'sealed:%'"
        ).fetchall()
    return {row[0] for row in rows}


def providers(owner_url: str) -> set[str]:
    with psycopg.connect(owner_url) as owner:
        return {row[0] for row in owner.execute("SELECT provider FROM data_keys").fetchall()}


def shown(server: LiveServer, token: str, patient_id: str) -> dict[str, Any]:
    headers = {"Authorization": f"Bearer {token}"}
    url = f"{server.url}/t/demo/fhir/R4/Patient"
    with httpx.Client(headers=headers, timeout=60) as client:
        found = client.get(url, params={"identifier": SSN["value"]})
        assert found.status_code == 200, found.text
        assert [entry["resource"]["id"] for entry in found.json()["entry"]] == [patient_id]
        resource: dict[str, Any] = client.get(f"{url}/{patient_id}").json()
    return resource


def test_data_keys_rotate_under_a_running_server_and_move_to_other_master_keys_and_to_kms(
    database: MigratedDatabase, tmp_path: Path, kms: KmsServer
) -> None:
    first, second = master_key(), master_key()
    owner_url = database.owner_url
    settings = {"database_url": owner_url}
    with LiveServer(tmp_path, **settings, master_key=first) as server:
        token = server.tenant()
        made = httpx.post(
            f"{server.url}/t/demo/fhir/R4/Patient",
            json={"resourceType": "Patient", "identifier": [SSN]},
            headers={"Authorization": f"Bearer {token}"},
            timeout=60,
        ).json()
        assert versions(owner_url) == {"1"}

        rotated = json.loads(server.cli("keys", "rotate-data", "--tenant", "demo", "--json"))

        assert rotated == {"tenant": "demo", "version": 2}
        server.wait_for(lambda: versions(owner_url) == {"2"}, seconds=90)
        assert shown(server, token, made["id"]) == made
        assert json.loads(server.cli("keys", "reseal", "--tenant", "demo", "--json"))[
            "resealed"
        ] == 0  # fmt: skip

    moving = LiveServer(tmp_path, **settings, master_key=second, former_master_key=first)
    wrapped = json.loads(moving.cli("keys", "rewrap", "--json"))
    assert wrapped["data_keys"] == 3 and wrapped["signing_keys"] >= 1
    with LiveServer(tmp_path, **settings, master_key=second) as server:
        assert shown(server, token, made["id"]) == made, "the token of before is good as well"

    on_kms = {**settings, "kms_key_id": kms.create_key(), "kms_endpoint_url": kms.url}
    moving = LiveServer(tmp_path, **on_kms, master_key=second)
    assert CREDENTIALS["AWS_REGION"] == moving.environment["AWS_REGION"]
    assert json.loads(moving.cli("keys", "rewrap", "--json")) == {
        "data_keys": 3,
        "signing_keys": 0,
    }
    assert providers(owner_url) == {"AWS_KMS"}
    with LiveServer(tmp_path, **on_kms, master_key=second) as server:
        assert shown(server, token, made["id"]) == made


@pytest.mark.parametrize("arguments", [(), ("--tenant", "demo", "--platform")])
def test_whose_data_key_is_meant_must_be_said(
    database: MigratedDatabase, tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    server = LiveServer(tmp_path, database_url=database.owner_url)

    with pytest.raises(RuntimeError, match="either --tenant SLUG or --platform"):
        server.cli("keys", "rotate-data", *arguments)
