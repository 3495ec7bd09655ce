"""Identifiers are read back by pydicom as they were meant, in every syntax and character set."""

from __future__ import annotations

from io import BytesIO
from typing import Any

import pytest
from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset

from interop.dimse.identifier_encoding import Element, IdentifierEncoder, encoder_for

IMPLICIT, EXPLICIT, BIG = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2"
NAME, LEVEL, ROWS, UID, REQUESTED = 0x00100010, 0x00080052, 0x00280010, 0x0020000D, 0x00400275


def decoded(raw: bytes, syntax: str) -> Dataset:
    return read_dataset(BytesIO(raw), syntax == IMPLICIT, syntax != BIG)


def written(
    value: Any, tag: int = NAME, vr: str = "PN", syntax: str = EXPLICIT, asked: str | None = None
) -> Dataset:
    encoder = IdentifierEncoder([Element(tag, vr, lambda row: row[0])], syntax, asked)
    return decoded(encoder.identifier((value,)), syntax)


@pytest.mark.parametrize("syntax", [IMPLICIT, EXPLICIT, BIG])
def test_elements_come_in_order_with_constants_between(syntax: str) -> None:
    elements = [
        Element(ROWS, "US", lambda row: row[1]),
        Element(NAME, "PN", lambda row: row[0]),
        Element(UID, "UI", lambda row: row[2]),
        Element(LEVEL, "CS", constant="STUDY"),
        Element(0x7FE10010, "LO", constant="END"),
        Element(0x00080061, "CS", lambda row: ["CT", "IO"]),
        Element(0x00201208, "IS", lambda row: 12),
        Element(0x00081030, "LO", lambda row: None),
    ]

    raw = IdentifierEncoder(elements, syntax, None).identifier(("DOE^J", 512, "1.2.3"))

    found = decoded(raw, syntax)
    assert list(found.keys()) == sorted(found.keys())
    assert (found.PatientName, found.Rows, found.StudyInstanceUID) == ("DOE^J", 512, "1.2.3")
    assert (found.QueryRetrieveLevel, found.ModalitiesInStudy) == ("STUDY", ["CT", "IO"])
    assert (found.NumberOfStudyRelatedInstances, found.StudyDescription) == (12, "")
    assert len(raw) % 2 == 0
    assert "SpecificCharacterSet" not in found


@pytest.mark.parametrize(
    ("asked", "text", "answered"),
    [
        (None, "Müller^Jörg", "ISO_IR 192"),
        ("ISO_IR 100", "Müller^Jörg", "ISO_IR 100"),
        ("ISO_IR 100", "王^小东", "ISO_IR 192"),
        ("ISO_IR 144", "Люксембург", "ISO_IR 144"),
        ("GB18030", "Wang^XiaoDong=王^小东", "GB18030"),
        ("ISO_IR 13", "ﾔﾏﾀﾞ^ﾀﾛｳ", "ISO_IR 13"),
        ("ISO_IR 13", "山田^太郎", "ISO_IR 192"),
        ("\\ISO 2022 IR 87", "Yamada^Tarou=山田^太郎=やまだ^たろう", ["", "ISO 2022 IR 87"]),
        (
            "ISO 2022 IR 6\\ISO 2022 IR 149", "Hong^Gildong=洪^吉洞=홍^길동",
            ["ISO 2022 IR 6", "ISO 2022 IR 149"],
        ),
        ("no such set", "Müller", "ISO_IR 192"),
        ("no such set ü", "Müller", "ISO_IR 192"),
        ("ISO_IR 192", "😀^emoji", "ISO_IR 192"),
    ],
)  # fmt: skip
def test_a_text_arrives_whole(asked: str | None, text: str, answered: Any) -> None:
    found = written(text, asked=asked)

    assert str(found.PatientName) == text or answered == "ISO_IR 13"
    assert found.SpecificCharacterSet == answered
    if answered == "ISO_IR 13":
        assert str(found.PatientName).replace("\\", "¥") == text


def test_ascii_is_said_to_be_in_the_set_that_was_asked_for() -> None:
    assert written("DOE", asked="ISO_IR 100").SpecificCharacterSet == "ISO_IR 100"
    assert "SpecificCharacterSet" not in written("DOE")


def test_an_encoder_refuses_what_would_not_come_back() -> None:
    latin_1 = encoder_for("ISO_IR 100")

    assert latin_1 is not None
    assert latin_1("Müller") == "Müller".encode("latin-1")
    with pytest.raises(UnicodeEncodeError):
        latin_1("王")
    assert encoder_for("ISO_IR 999") is None


@pytest.mark.parametrize("syntax", [IMPLICIT, EXPLICIT, BIG])
@pytest.mark.parametrize(
    ("tag", "attribute", "expected"),
    [
        (0x00280100, {"vr": "US", "Value": [16]}, 16),
        (0x00189074, {"vr": "DT", "Value": ["20260102"]}, "20260102"),
        (0x00280030, {"vr": "DS", "Value": [0.25, 1]}, [0.25, 1]),
        (0x00280030, {"vr": "DS", "Value": [-0.12345678901234567]}, -0.123456789),
        (0x00189087, {"vr": "FD", "Value": [1.5]}, 1.5),
        (0x00280009, {"vr": "AT", "Value": ["00181063"]}, 0x00181063),
        (0x00080008, {"vr": "CS", "Value": ["ORIGINAL", None, "AXIAL"]}, ["ORIGINAL", "", "AXIAL"]),
        (0x00100010, {"vr": "PN", "Value": [{"Alphabetic": "A", "Phonetic": "C"}]}, "A==C"),
        (0x00282000, {"vr": "OB", "InlineBinary": "AQI="}, b"\x01\x02"),
        (0x00280100, {"vr": "US", "Value": ["no number"]}, None),
        (0x00282000, {"vr": "OB", "BulkDataURI": "@@BULK@@/00282000"}, None),
        (0x00081030, {"vr": "LO"}, ""),
    ],
)
def test_attributes_of_json_are_written_in_their_vr(
    syntax: str, tag: int, attribute: dict[str, Any], expected: Any
) -> None:
    found = written(attribute, tag, attribute["vr"], syntax)[tag].value

    if isinstance(expected, float):
        assert found == pytest.approx(expected)
    else:
        assert found == expected or (expected in (None, "") and found in (None, "", b""))


@pytest.mark.parametrize("syntax", [IMPLICIT, EXPLICIT, BIG])
def test_sequences_are_written_with_their_items(syntax: str) -> None:
    inner = {"vr": "SQ", "Value": [{"00080100": {"vr": "SH", "Value": ["T-1"]}}, {}]}
    value = {
        "vr": "SQ",
        "Value": [{"00400009": {"vr": "SH", "Value": ["Ä1"]}, "00400008": inner}],
    }

    found = written(value, REQUESTED, "SQ", syntax)

    (item,) = found.RequestAttributesSequence
    assert item.ScheduledProcedureStepID == "Ä1"
    assert [len(one) for one in item.ScheduledProtocolCodeSequence] == [1, 0]
    assert found.SpecificCharacterSet == "ISO_IR 192"


def test_what_does_not_fit_its_length_is_left_empty() -> None:
    def length(syntax: str) -> int:
        encoder = IdentifierEncoder([Element(0x00081030, "LO", lambda row: row[0])], syntax, None)
        return len(encoder.identifier(("A" * 70_000,)))

    assert (length(EXPLICIT), length(IMPLICIT)) == (8, 70_008)
