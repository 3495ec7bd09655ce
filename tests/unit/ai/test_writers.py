"""The DICOM objects of the AI: valid for independent validators, the same bytes at every build."""

from __future__ import annotations

import io
import shutil
import subprocess
import time
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import numpy as np
import pydicom
import pytest
from pydicom import Dataset

pytest.importorskip("highdicom", reason="the ai extra is not installed")

from ai.dentition import label_of_fdi
from ai.runtime import Finding
from ai.writers.report import ReportContext
from ai.writers.segmentation import segmentation
from ai.writers.structured_report import structured_report
from interop.demo.images import DemoStudy, write_study
from interop.demo.patients import PATIENTS

ROWS, COLUMNS = 1280, 2560
FINDINGS = [
    Finding("caries", 36, "M", ((100.0, 100.0), (150.0, 100.0), (150.0, 150.0)), 0.91),
    Finding(
        "periapical_lesion", 11, None, ((1400.0, 400.0), (1450.0, 400.0), (1450.0, 450.0)), 0.7
    ),
    Finding("bone_loss", 46, None, ((900.0, 800.0), (905.0, 860.0)), 0.8, 28.04, "%"),
]
PIXELMED = Path("/usr/share/java/pixelmed.jar")
# Without these the JDK refuses the validator's stylesheet as too costly.
JDK_LIMITS = [
    f"-Djdk.xml.{name}=0" for name in ("xpathTotalOpLimit", "xpathExprGrpLimit", "xpathExprOpLimit")
]


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> ReportContext:
    study = DemoStudy("PX", "Panoramic", PATIENTS[0], "20261101", "A1")
    (path,) = write_study(study, tmp_path_factory.mktemp("panoramic"))
    header = pydicom.dcmread(path, stop_before_pixels=True)
    return ReportContext(
        key="k" * 64,
        job_id=UUID(int=1),
        model_name="panoramic",
        model_version="1.0.0",
        model_version_id=UUID(int=2),
        bundle_digest="ab" * 32,
        completed_at=datetime(2026, 11, 22, 13, 0, 5, 123456, UTC),
        source=header,
    )


@pytest.fixture(scope="module")
def mask() -> np.ndarray:
    mask = np.zeros((ROWS, COLUMNS), np.uint8)
    mask[700:900, 1800:1900] = label_of_fdi(36)
    mask[300:450, 1400:1450] = label_of_fdi(11)
    return mask


def read(data: bytes) -> Dataset:
    return pydicom.dcmread(io.BytesIO(data))


def objects(context: ReportContext, mask: np.ndarray) -> dict[str, bytes]:
    segments = segmentation(context, mask, [36, 11, 48])
    assert segments is not None
    return {
        "findings.dcm": structured_report(context, FINDINGS),
        "no-findings.dcm": structured_report(context, []),
        "teeth.dcm": segments,
    }


def test_building_again_later_gives_the_same_bytes(
    context: ReportContext, mask: np.ndarray
) -> None:
    first = objects(context, mask)
    time.sleep(1.1)  # highdicom stamps whole seconds

    assert objects(context, mask) == first


def test_the_report_names_finding_tooth_surface_and_certainty(context: ReportContext) -> None:
    report = read(structured_report(context, FINDINGS))

    text = str(report)
    assert report.SOPClassUID.name == "Comprehensive 3D SR Storage"
    assert (report.VerificationFlag, report.CompletionFlag) == ("UNVERIFIED", "COMPLETE")
    assert report.ContentDate + report.ContentTime == "20261122130005.123456"
    for expected in ("80967001", "866006002", "SURF-M", "91.0", "109706009", "28.0", "FDI 36"):
        assert expected in text
    evidence = report.CurrentRequestedProcedureEvidenceSequence[0]
    reference = evidence.ReferencedSeriesSequence[0].ReferencedSOPSequence[0]
    assert reference.ReferencedSOPInstanceUID == context.source.SOPInstanceUID


def test_patient_and_study_are_those_of_the_image(context: ReportContext, mask: np.ndarray) -> None:
    for data in objects(context, mask).values():
        made = read(data)
        for keyword in ("PatientID", "IssuerOfPatientID", "PatientName", "StudyInstanceUID"):
            assert made[keyword].value == context.source[keyword].value


def test_the_segmentation_has_one_segment_for_each_tooth_that_is_in_the_mask(
    context: ReportContext, mask: np.ndarray
) -> None:
    data = segmentation(context, mask, [36, 11, 48])

    assert data is not None
    made = read(data)
    assert [s.SegmentLabel for s in made.SegmentSequence] == ["Tooth 11", "Tooth 36"]
    frames = made.pixel_array
    assert np.array_equal(frames[1].astype(bool), mask == label_of_fdi(36))


def test_no_tooth_makes_no_segmentation(context: ReportContext) -> None:
    assert segmentation(context, np.zeros((ROWS, COLUMNS), np.uint8), []) is None


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="dicom3tools is not installed")
def test_dciodvfy_finds_no_error(context: ReportContext, mask: np.ndarray, tmp_path: Path) -> None:
    for name, data in objects(context, mask).items():
        (tmp_path / name).write_bytes(data)
        found = subprocess.run(
            ["dciodvfy", "-new", tmp_path / name], capture_output=True, text=True, check=False
        )
        lines = (found.stdout + found.stderr).splitlines()
        assert [line for line in lines if line.startswith("Error")] == [], name


@pytest.mark.slow
@pytest.mark.skipif(
    not PIXELMED.exists() or shutil.which("java") is None,
    reason="libpixelmed-java is not installed",
)
@pytest.mark.parametrize("name", ["findings.dcm", "no-findings.dcm"])
def test_pixelmed_accepts_the_report_as_tid_1500(
    context: ReportContext, mask: np.ndarray, tmp_path: Path, name: str
) -> None:
    path = tmp_path / name
    path.write_bytes(objects(context, mask)[name])

    found = subprocess.run(
        ["java", *JDK_LIMITS, "-cp", "/usr/share/java/*",
         "com.pixelmed.validate.DicomSRValidator", path],
        capture_output=True, text=True, check=False,
    )  # fmt: skip

    output = found.stdout + found.stderr
    assert "Found Comprehensive 3D SR IOD" in output or "IOD validation complete" in output
    assert "Root Template Validation Complete" in output
    assert [line for line in output.splitlines() if line.startswith("Error")] == []
