"""`interop delete`, `interop quarantine`, `interop import --patient`, beside a running server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.live_server import LiveServer
from tests.integration.dicomweb.conftest import make_image, part10
from tests.integration.imaging_files.conftest import jpeg

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    # Beside a server each command is a second, alone it starts the database first.
    with LiveServer(tmp_path_factory.mktemp("imaging")) as made:
        made.cli("tenant", "create", "demo", "--ae-title", "INTEROP")
        yield made


def test_an_operator_decides_between_two_and_deletes_at_last(
    installation: LiveServer, tmp_path: Path
) -> None:
    first = make_image(SeriesDescription="first")
    second = make_image(
        SeriesDescription="second",
        SOPInstanceUID=first.SOPInstanceUID,
        StudyInstanceUID=first.StudyInstanceUID,
        SeriesInstanceUID=first.SeriesInstanceUID,
    )
    for name, image in (("1.dcm", first), ("2.dcm", second)):
        (tmp_path / name).write_bytes(part10(image))
    tenant = ("--tenant", "demo")
    installation.cli("import", *tenant, str(tmp_path / "1.dcm"))
    with pytest.raises(RuntimeError, match="refused"):
        installation.cli("import", *tenant, str(tmp_path / "2.dcm"))

    [kept] = json.loads(installation.cli("quarantine", *tenant, "--json"))["objects"]
    seen = json.loads(installation.cli("quarantine", "show", *tenant, kept["id"]))
    released = json.loads(installation.cli("quarantine", "release", *tenant, "--json", kept["id"]))

    assert (kept["state"], seen["differing"]) == ("PENDING", ["0008103E"])
    assert released["result"] == "stored"
    study = ("delete", *tenant, "--study", str(first.StudyInstanceUID))
    with pytest.raises(RuntimeError, match="kept until"):
        installation.cli(*study)
    gone = json.loads(installation.cli(*study, "--despite-retention", "a test", "--json"))
    assert gone["instances"] == 1 and gone["is_whole_study"]


def test_a_patients_pictures_are_imported_from_a_folder(
    installation: LiveServer, tmp_path: Path
) -> None:
    (tmp_path / "a.dcm").write_bytes(part10(make_image(PatientID="P-7")))
    folder = tmp_path / "pictures"
    folder.mkdir()
    (folder / "smile.jpg").write_bytes(jpeg(1))
    (folder / "same.jpg").write_bytes(jpeg(1))
    (folder / "link.jpg").symlink_to("/etc/passwd")
    installation.cli("import", "--tenant", "demo", str(tmp_path / "a.dcm"))

    report = json.loads(
        installation.cli("import", "--tenant", "demo", "--patient", "P-7", "--json", str(folder))
    )

    assert (report["stored"], report["duplicates"], report["skipped"]) == (1, 1, 1)
    with pytest.raises(RuntimeError, match="P-8"):
        installation.cli("import", "--tenant", "demo", "--patient", "P-8", str(folder))
