"""The command line alone, without a running server: the same settings, the same database."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pydicom.data
import pytest

from benchmarks.live_server import LiveServer

pytestmark = pytest.mark.timeout(600)
CT = Path(pydicom.data.__file__).parent / "test_files" / "CT_small.dcm"


@pytest.fixture(scope="module")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    made = LiveServer(tmp_path_factory.mktemp("cli"))
    made.cli("tenant", "create", "demo", "--ae-title", "INTEROP")
    yield made


def test_what_is_imported_is_exported_byte_for_byte(
    installation: LiveServer, tmp_path: Path
) -> None:
    first = json.loads(installation.cli("import", "--tenant", "demo", "--json", str(CT)))
    again = json.loads(installation.cli("import", "--tenant", "demo", "--json", str(CT)))
    exported = json.loads(installation.cli("export", "--tenant", "demo", "--json", str(tmp_path)))

    assert (first["stored"], again["stored"], again["duplicates"]) == (1, 0, 1)
    assert exported == {"written": 1, "skipped": 0}
    (path,) = tmp_path.rglob("*.dcm")
    # The preamble is zeroed at storage (security.md B1); all that follows is as it came.
    assert path.read_bytes()[128:] == CT.read_bytes()[128:]


def test_doctor_checks_every_part(installation: LiveServer) -> None:
    checks = {c["name"]: c for c in json.loads(installation.cli("doctor", "--json"))}

    assert set(checks) == {
        "disk", "database", "places", "objects", "ports", "listeners", "dicom tls", "ai",
        "viewer",
    }  # fmt: skip
    assert all(check["ok"] for check in checks.values() if check["required"])
    assert "cannot bypass row-level security" in checks["database"]["detail"]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("tenant", "create", "demo"), "exists"),
        (("tenant", "create", "Not A Slug"), "a-z, 0-9"),
        (("token", "--tenant", "nowhere"), "known: demo"),
        (("token", "--tenant", "demo", "--scope", "everything"), "system/Observation.rs"),
        (("ae", "create", "--tenant", "demo", "--ae-title", "SEVENTEEN_LETTERS"), "1 to 16"),
        (("send", "--tenant", "demo", "--ae-title", "NOBODY", str(CT)), "interop ae create"),
        (("serve", "--role", "cook"), "http, dicom, worker"),
    ],
)
def test_an_error_is_one_line_that_says_what_to_change(
    installation: LiveServer, arguments: tuple[str, ...], expected: str
) -> None:
    with pytest.raises(RuntimeError) as caught:
        installation.cli(*arguments)

    message = str(caught.value)
    assert "Traceback" not in message
    assert expected in message.replace("\n", " ")
