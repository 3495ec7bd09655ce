"""docs/access.md says what the code decides."""

from __future__ import annotations

import importlib.util
from pathlib import Path

ROOT = Path(__file__).parents[4]


def test_the_tables_of_the_page_are_current() -> None:
    path = ROOT / "tools" / "write_access_doc.py"
    spec = importlib.util.spec_from_file_location("write_access_doc", path)
    assert spec is not None and spec.loader is not None
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    current = (ROOT / "docs" / "access.md").read_text(encoding="utf-8")

    assert tool.document(current) == current, "run: python tools/write_access_doc.py"
    assert "| `view_patient` |" in current
