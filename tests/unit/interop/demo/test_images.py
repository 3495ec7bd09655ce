"""The demo's images are DICOM that a validator accepts."""

from __future__ import annotations

import shutil
import subprocess
from itertools import islice
from pathlib import Path

import pytest

from interop.demo.images import DemoStudy, write_study
from interop.demo.patients import PATIENTS


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="dicom3tools is not installed")
@pytest.mark.parametrize("kind", ["IO", "PX", "XC", "CT"])
def test_dciodvfy_finds_no_error(kind: str, tmp_path: Path) -> None:
    study = DemoStudy(kind, "Phantom", PATIENTS[0], "20260101", "A1")

    (path,) = islice(write_study(study, tmp_path), 1)

    found = subprocess.run(["dciodvfy", "-new", path], capture_output=True, text=True, check=False)
    lines = (found.stdout + found.stderr).splitlines()
    assert [line for line in lines if line.startswith("Error")] == []
