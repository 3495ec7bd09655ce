"""Write conformance/capability-statement.json from the running code.

    .venv/bin/python tools/write_capability_statement.py

A test fails when the file and the code differ.
"""

from __future__ import annotations

import json
from pathlib import Path

from interop.fhir.capability import capability_statement

TARGET = Path(__file__).resolve().parent.parent / "conformance/capability-statement.json"


def text() -> str:
    """The statement of the software, one resource type a line so that changes can be read."""
    statement = capability_statement()
    (rest,) = statement.pop("rest")
    resources = rest.pop("resource")
    head = json.dumps(statement, indent=1)[:-2]
    lines = ",\n".join(json.dumps(one, separators=(",", ":")) for one in resources)
    tail = json.dumps(rest, separators=(",", ":"))[:-1]
    return f'{head},\n "rest": [{tail},"resource":[\n{lines}\n]}}]\n}}\n'


if __name__ == "__main__":
    TARGET.parent.mkdir(exist_ok=True)
    TARGET.write_text(text(), encoding="utf-8")
    print(f"{TARGET.name}: {TARGET.stat().st_size:,} bytes")
