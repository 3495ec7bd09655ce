"""What tests of the ingest share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from interop.dicom.spool import Spool


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    made = Spool(tmp_path / "spool")
    yield made
    made.close()
