"""conformance/: the statements are those of the code that serves."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[3]
TOOL = "tools/write_conformance_statement.py"


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("write_conformance_statement", ROOT / TOOL)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_dicom_conformance_statement_is_the_code_s(tool: ModuleType) -> None:
    assert tool.STATEMENT.read_text(encoding="utf-8") == tool.statement(), f"run {TOOL}"


def test_the_ihe_integration_statement_is_the_tool_s(tool: ModuleType) -> None:
    assert tool.IHE.read_text(encoding="utf-8") == tool.ihe(), f"run {TOOL}"
