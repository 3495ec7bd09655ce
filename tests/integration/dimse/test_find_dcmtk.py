"""C-FIND with DCMTK's findscu: every level of both models, and its C-CANCEL."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid

from interop.dimse import c_find, find_statements
from tests.integration.dimse.finding import Archive, Study, fill, filled, listening

FINDSCU = shutil.which("findscu")
pytestmark = pytest.mark.skipif(FINDSCU is None, reason="DCMTK's findscu is not installed")


@pytest.fixture(scope="module")
def archive(services: Any, tenant: Any, other_tenant: Any) -> Archive:
    return filled(services, tenant, other_tenant)


@pytest.fixture(scope="module")
def port(services: Any, archive: Archive) -> Iterator[int]:
    with listening(services) as found:
        yield found


def findscu(port: int, folder: Path, *options: str) -> tuple[list[Dataset], str]:
    """The identifiers that findscu received, and what it said."""
    assert FINDSCU is not None
    done = subprocess.run(
        [
            FINDSCU, "-v", "-aet", "PEER", "-aec", "INTEROP", "-X", "-od", str(folder), *options,
            "127.0.0.1", str(port),
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )  # fmt: skip
    said = done.stdout + done.stderr
    return [pydicom.dcmread(path) for path in sorted(folder.glob("rsp*.dcm"))], said


def keys(*values: str) -> list[str]:
    return [part for value in values for part in ("-k", value)]


@pytest.mark.parametrize(
    ("model", "level", "asked", "returned", "count"),
    [
        ("-P", "PATIENT", ["PatientID=P*", "PatientName"], "PatientName", 2),
        ("-P", "STUDY", ["PatientID=P1", "StudyInstanceUID"], "StudyInstanceUID", 2),
        ("-P", "SERIES", ["PatientID=P1", "{study}", "SeriesInstanceUID"], "SeriesInstanceUID", 2),
        (
            "-P", "IMAGE", ["PatientID=P1", "{study}", "{series}", "SOPInstanceUID"],
            "SOPInstanceUID", 3,
        ),
        ("-S", "STUDY", ["PatientName=DOE*", "StudyInstanceUID"], "StudyInstanceUID", 2),
        ("-S", "SERIES", ["{study}", "SeriesInstanceUID", "Modality=C?"], "SeriesInstanceUID", 2),
        ("-S", "IMAGE", ["{study}", "{series}", "SOPInstanceUID"], "SOPInstanceUID", 3),
    ],
)  # fmt: skip
def test_findscu_finds_at_every_level_of_both_models(
    port: int,
    archive: Archive,
    tmp_path: Path,
    model: str,
    level: str,
    asked: list[str],
    returned: str,
    count: int,
) -> None:
    study = archive["ct"]
    places = {
        "study": f"StudyInstanceUID={study.uid}",
        "series": f"SeriesInstanceUID={study.series[0]}",
    }
    wanted = [f"QueryRetrieveLevel={level}", *(key.format(**places) for key in asked)]

    found, said = findscu(port, tmp_path, model, *keys(*wanted))

    assert "Received Final Find Response (Success)" in said
    assert len({str(match[returned].value) for match in found}) == len(found) == count
    assert {match.QueryRetrieveLevel for match in found} == {level}
    assert {match.RetrieveAETitle for match in found} == {"INTEROP"}


@pytest.mark.parametrize("syntax", ["-xi", "-xe", "-xb"])
def test_findscu_reads_every_transfer_syntax(port: int, tmp_path: Path, syntax: str) -> None:
    asked = keys("QueryRetrieveLevel=STUDY", "PatientID=P2", "PatientName", "ModalitiesInStudy")

    found, _ = findscu(port, tmp_path, "-S", syntax, *asked)

    assert [str(match.PatientName) for match in found] == ["Müller^Jörg"]
    assert found[0].ModalitiesInStudy == "CT"


def test_findscu_is_told_what_is_wrong(port: int, tmp_path: Path) -> None:
    found, said = findscu(port, tmp_path, "-S", "-d", *keys("QueryRetrieveLevel=SERIES"))

    assert found == []
    assert "IdentifierDoesNotMatchSOPClass" in said.replace(" ", "") or "0xa900" in said.lower()


def test_findscu_cancels(
    services: Any, tenant: Any, port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A statement for each response, so that the C-CANCEL-RQ comes in time.
    monkeypatch.setattr(c_find, "FIRST_PAGE", 1)
    monkeypatch.setattr(find_statements, "NEXT_PAGE", 1)
    study = Study(generate_uid())
    fill(services, tenant, study, 1, 60)
    asked = keys(
        "QueryRetrieveLevel=IMAGE", f"StudyInstanceUID={study.uid}",
        f"SeriesInstanceUID={study.series[0]}", "SOPInstanceUID",
    )  # fmt: skip

    found, said = findscu(port, tmp_path, "-S", "--cancel", "2", *asked)

    assert "Received Final Find Response (Cancel" in said
    assert 2 <= len(found) < 60
