"""Writes docs/settings.md from the declaration in interop.settings; a test keeps it current."""

from __future__ import annotations

from pathlib import Path

from pydantic_core import PydanticUndefined

from interop.settings import PREFIX, Settings

TARGET = Path(__file__).parents[1] / "docs" / "settings.md"
HEAD = """# Settings

Read once from the environment at the start; made by `tools/write_settings_doc.py`. Any setting may
be given as `NAME_FILE=/path` instead, for secrets that are mounted as files.

| variable | default | meaning |
|---|---|---|
"""


def document() -> str:
    rows = []
    for name, field in Settings.model_fields.items():
        default = "" if field.default in (None, PydanticUndefined) else f"`{field.default}`"
        rows.append(f"| `{PREFIX}{name.upper()}` | {default} | {field.description} |")
    return HEAD + "\n".join(rows) + "\n"


if __name__ == "__main__":
    TARGET.write_text(document(), encoding="utf-8")
