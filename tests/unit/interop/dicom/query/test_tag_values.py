from __future__ import annotations

from base64 import b64encode
from typing import Any
from uuid import uuid4

import pytest

from interop.dicom.query.tag_values import NotIndexed, QueryTag, needed, values_of
from interop.dicom.query.values import in_utc, number_text


def tag(path: str, vr: str, creator: str | None = None) -> QueryTag:
    return QueryTag(uuid4(), tuple(path.split(".")), creator, vr)


def one(vr: str, *values: Any, **other: Any) -> dict[str, Any]:
    return {"00101010": {"vr": vr, "Value": list(values), **other}}


@pytest.mark.parametrize(
    ("vr", "values", "expected"),
    [
        ("LO", ["a", "b", "a", "", None], ("a", "b")),
        ("PN", [{"Alphabetic": "Çelik^Ümit"}, None], ("CELIK^UMIT",)),
        ("PN", [{"Alphabetic": "A^B", "Ideographic": "山"}], ("A^B=山",)),
        ("DS", [70.50, "7e1", "x" * 0], ("70.5", "70")),
        ("IS", [7, "007", 7.0], ("7",)),
        ("DA", ["20260704"], ("20260704",)),
        ("TM", ["101530.5"], ("101530.5",)),
        ("UI", ["1.2.3"], ("1.2.3",)),
        ("DT", ["20260704233000+0200", "2026"], ("20260704213000", "2026")),
        ("AT", ["0010001A"], ("0010001A",)),
    ],
)
def test_values_are_kept_as_they_are_compared(
    vr: str, values: list[Any], expected: tuple[str, ...]
) -> None:
    assert values_of(tag("00101010", vr), one(vr, *values)) == expected


@pytest.mark.parametrize(
    ("vr", "attribute", "message"),
    [
        ("DA", {"Value": ["4 July"]}, "not valid.*date"),
        ("TM", {"Value": ["10:15"]}, "not valid.*time"),
        ("UI", {"Value": ["x"]}, "not valid"),
        ("IS", {"Value": ["1.5"]}, "not valid"),
        ("DS", {"Value": ["heavy"]}, "not valid"),
        ("DS", {"Value": ["1e999"]}, "not valid"),
        ("LO", {"Value": ["x" * 513]}, "longer than 512"),
        ("LO", {"Value": [str(n) for n in range(101)]}, "more than 100"),
        ("LO", {"Value": [{"00080100": {}}]}, "sequence"),
        ("LO", {"BulkDataURI": "@@BULK@@/x"}, "bulk data"),
        ("US", {"InlineBinary": b64encode(b"abc").decode()}, "no values of VR US"),
    ],
)
def test_what_breaks_its_vr_is_not_indexed(
    vr: str, attribute: dict[str, Any], message: str
) -> None:
    with pytest.raises(NotIndexed, match=message):
        values_of(tag("00101010", vr), {"00101010": {"vr": vr, **attribute}})


def test_a_data_set_states_the_zone_of_its_moments() -> None:
    data_set = one("DT", "20260704233000")
    data_set["00080201"] = {"vr": "SH", "Value": ["-0500"]}

    assert values_of(tag("00101010", "DT"), data_set) == ("20260705043000",)


def test_private_values_are_found_by_creator_also_without_a_vr() -> None:
    mine = tag("00111001", "LO", "ACME")
    data_set: dict[str, Any] = {
        "00110010": {"vr": "LO", "Value": ["OTHER"]},
        "00110013": {"vr": "LO", "Value": ["ACME"]},
        "00111001": {"vr": "LO", "Value": ["not mine"]},
        "00111301": {"vr": "UN", "InlineBinary": b64encode(b"A\\B ").decode()},
    }

    assert values_of(mine, data_set) == ("A", "B")
    assert values_of(tag("00111001", "LO", "NOBODY"), data_set) == ()
    numbers = tag("00111001", "US", "ACME")
    data_set["00111301"]["InlineBinary"] = b64encode(b"\1\0\0\1").decode()
    assert values_of(numbers, data_set) == ("1", "256")


def test_values_of_all_items_are_found() -> None:
    items = [{"00080100": {"vr": "SH", "Value": [value]}} for value in ("A", "B")]
    data_set = {"00081032": {"vr": "SQ", "Value": [*items, {}, None]}}

    assert values_of(tag("00081032.00080100", "SH"), data_set) == ("A", "B")
    assert values_of(tag("00081032.00080100", "SH"), {}) == ()


def test_of_an_object_only_what_the_tags_need_is_read() -> None:
    members = {
        0x00080201: '"00080201":{"vr":"SH","Value":["+0100"]}',
        0x00101010: '"00101010":{"vr":"AS","Value":["041Y"]}',
        0x00101020: '"00101020":{"vr":"DS","Value":[1.7]}',
        0x00110010: '"00110010":{"vr":"LO","Value":["ACME"]}',
        0x00111001: '"00111001":{"vr":"LO","Value":["x"]}',
    }

    assert needed([tag("00101010", "AS")], members).keys() == {"00080201", "00101010"}
    assert needed([tag("00111001", "LO", "ACME")], members).keys() == {
        "00080201", "00110010", "00111001",
    }  # fmt: skip


def test_moments_and_numbers_have_one_text() -> None:
    assert in_utc("20260704233000.5+0230", None) == "20260704210000.5"
    assert in_utc("2026070423", 150) == "202607042030"
    assert in_utc("20260704", 120) == "20260704"
    assert in_utc("99999999999999", 60) == "99999999999999"
    assert {number_text(text) for text in ("1", "1.0", "+01", "1e0")} == {"1"}
    assert number_text("0.10") == "0.1"
