"""What is burned into a rendered image on request (PS3.18 8.3.5.1.1), from its DICOM JSON."""

from __future__ import annotations

from typing import Any

import orjson

_LONGEST_LINE = 80
_SEXES = {"M": "male", "F": "female", "O": "other"}


def patient_lines(dicom_json: str) -> list[str]:
    """Who is shown: name, ID, date of birth, sex."""
    attributes = orjson.loads(dicom_json)
    sex = _text(attributes, "00100040")
    return _lines(
        _person(attributes, "00100010"),
        _labelled("ID", _text(attributes, "00100020")),
        _labelled("born", _date(_text(attributes, "00100030"))),
        _SEXES.get(sex, sex),
    )


def technique_lines(dicom_json: str, frame: int, frames: int) -> list[str]:
    """How it was taken: when, what, which image, the exposure. `frame` counts from 1."""
    attributes = orjson.loads(dicom_json)
    position = attributes.get("00200032", {}).get("Value") or []
    return _lines(
        f"{_date(_text(attributes, '00080020'))} {_time(_text(attributes, '00080030'))}".strip(),
        " ".join(
            filter(
                None,
                (
                    _text(attributes, "00080060"),
                    _text(attributes, "0008103E"),
                    _text(attributes, "00200060"),
                ),
            )
        ),
        _labelled("series", _text(attributes, "00200011")),
        _labelled("image", _text(attributes, "00200013")),
        f"frame {frame} of {frames}" if frames > 1 else "",
        _labelled("kV", _text(attributes, "00180060")),
        _labelled("mA", _text(attributes, "00181151")),
        _labelled("ms", _text(attributes, "00181150")),
        _labelled("position", " ".join(map(_rounded, position[:3]))),
    )


def _lines(*lines: str) -> list[str]:
    return [line[:_LONGEST_LINE] for line in lines if line]


def _labelled(label: str, value: str) -> str:
    return f"{label} {value}" if value else ""


def _rounded(value: object) -> str:
    return f"{value:.1f}" if isinstance(value, float) else str(value)


def _text(attributes: dict[str, Any], tag: str) -> str:
    values = attributes.get(tag, {}).get("Value") or [""]
    return "" if values[0] is None else str(values[0])


def _person(attributes: dict[str, Any], tag: str) -> str:
    """A person name as it is read: family, given middle."""
    values = attributes.get(tag, {}).get("Value") or [{}]
    name = values[0] if isinstance(values[0], dict) else {}
    text = str(name.get("Alphabetic") or name.get("Ideographic") or name.get("Phonetic") or "")
    family, _, given = text.partition("^")
    return ", ".join(filter(None, (family.strip(), given.replace("^", " ").strip())))


def _date(text: str) -> str:
    return f"{text[:4]}-{text[4:6]}-{text[6:8]}" if len(text) == 8 and text.isdigit() else text


def _time(text: str) -> str:
    return f"{text[:2]}:{text[2:4]}" if text[:4].isdigit() and len(text) >= 4 else text
