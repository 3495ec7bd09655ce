"""Structured reports as HTML (PS3.18 8.7.4 text/html, PS3.3 C.17.3), from their DICOM JSON.

Every value is a stranger's text and is escaped. There are no links, styles or scripts.
"""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from typing import Any

import orjson

Attributes = dict[str, Any]

_MOST_ITEMS = 20_000
# PS3.3 Table C.17.3-7: where the value of each type stands.
_TEXT_VALUES = {
    "TEXT": "0040A160",
    "DATE": "0040A121",
    "TIME": "0040A122",
    "DATETIME": "0040A120",
    "UIDREF": "0040A124",
}


def is_report(sop_class_uid: str) -> bool:
    """Whether objects of the class have an SR Document Content (PS3.4 B.5)."""
    return sop_class_uid.startswith("1.2.840.10008.5.1.4.1.1.88.")


def report_html(dicom_json: str | bytes) -> bytes:
    """Return the report as a whole HTML document."""
    attributes = orjson.loads(dicom_json)
    title = _meaning(attributes, "0040A043") or "Report"
    state = " ".join(
        filter(None, (_text(attributes, "0040A491"), _text(attributes, "0040A493"))),
    )
    facts = [
        ("Patient", _person(attributes, "00100010")),
        ("Patient ID", _text(attributes, "00100020")),
        ("Date of birth", _text(attributes, "00100030")),
        ("Sex", _text(attributes, "00100040")),
        ("Study date", _text(attributes, "00080020")),
        ("Accession number", _text(attributes, "00080050")),
        ("Content date", _text(attributes, "00080023")),
        ("State", state),
    ]
    rows = "".join(
        f"<tr><th>{escape(name)}</th><td>{escape(value)}</td></tr>"
        for name, value in facts
        if value
    )
    left = [_MOST_ITEMS]
    content = "".join(_items(attributes, left))
    if left[0] <= 0:
        content += f"<p>The report has more than {_MOST_ITEMS} items; the rest is not shown.</p>"
    return (
        '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8">'
        f"<title>{escape(title)}</title></head><body><h1>{escape(title)}</h1>"
        f"<table>{rows}</table>{content}</body></html>\n"
    ).encode()


def _items(attributes: Attributes, left: list[int]) -> Iterator[str]:
    """The content items below one, as a list."""
    items = attributes.get("0040A730", {}).get("Value") or []
    if not items:
        return
    yield "<ul>"
    for item in items:
        left[0] -= 1
        if left[0] < 0:
            break
        if isinstance(item, dict):
            yield f"<li>{_item(item)}"
            yield from _items(item, left)
            yield "</li>"
    yield "</ul>"


def _item(item: Attributes) -> str:
    name, value = _meaning(item, "0040A043"), _value(item)
    if not name:
        return escape(value)
    if not value:
        return f"<strong>{escape(name)}</strong>"
    return f"<strong>{escape(name)}</strong>: {escape(value)}"


def _value(item: Attributes) -> str:
    kind = _text(item, "0040A040")
    if kind in _TEXT_VALUES:
        return _text(item, _TEXT_VALUES[kind])
    match kind:
        case "CODE":
            return _meaning(item, "0040A168")
        case "PNAME":
            return _person(item, "0040A123")
        case "NUM":
            return _number(item)
        case "IMAGE" | "COMPOSITE" | "WAVEFORM":
            (referenced,) = _first_items(item, "00081199") or ({},)
            return f"{kind.lower()} {_text(referenced, '00081155')}"
        case "SCOORD" | "SCOORD3D" | "TCOORD":
            points = item.get("00700022", {}).get("Value") or []
            return f"{_text(item, '00700023').lower()} {', '.join(map(str, points[:100]))}"
    return ""


def _number(item: Attributes) -> str:
    (measured,) = _first_items(item, "0040A300") or ({},)
    unit = ""
    for code in _first_items(measured, "004008EA"):
        unit = _text(code, "00080100")
        unit = "" if unit == "1" else unit
    return f"{_text(measured, '0040A30A')} {unit}".strip()


def _first_items(attributes: Attributes, tag: str) -> list[Attributes]:
    """The first item of a sequence, or nothing."""
    items = attributes.get(tag, {}).get("Value") or []
    return [item for item in items[:1] if isinstance(item, dict)]


def _meaning(attributes: Attributes, tag: str) -> str:
    """The Code Meaning (0008,0104) of a code, else its value."""
    for code in _first_items(attributes, tag):
        return _text(code, "00080104") or _text(code, "00080100")
    return ""


def _text(attributes: Attributes, tag: str) -> str:
    values = attributes.get(tag, {}).get("Value") or [""]
    return "" if values[0] is None else str(values[0])


def _person(attributes: Attributes, tag: str) -> str:
    values = attributes.get(tag, {}).get("Value") or [{}]
    name = values[0] if isinstance(values[0], dict) else {}
    text = str(name.get("Alphabetic") or name.get("Ideographic") or name.get("Phonetic") or "")
    return " ".join(filter(None, text.replace("^", " ").split(" ")))
