"""Where the derived R4 tables lie (profiles/r4, from tools/derive_fhir_definitions.py)."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any


def profiles_directory() -> Path:
    """The folder profiles/: beside the package when installed, else at the root of the checkout."""
    package = Path(__file__).resolve().parent
    installed = package / "profiles"
    return installed if installed.is_dir() else package.parent.parent / "profiles"


def read_table(name: str) -> Any:
    """One of the derived tables, by file name without `.json.gz`."""
    packed = (profiles_directory() / "r4" / f"{name}.json.gz").read_bytes()
    return json.loads(gzip.decompress(packed))
