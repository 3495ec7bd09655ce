"""Native DICOM Model XML against PS3.19 A.1, DCMTK and its own inverse."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from base64 import b64encode
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from interop.dicom.failures import LIMIT_EXCEEDED, MALFORMED, Failure
from interop.dicom.limits import Limits
from interop.dicom.native_model import NAMESPACE, from_xml, to_xml
from interop.dicom.part10 import parse
from interop.dicom.walker import BULK_PREFIX

from .factories import CORPUS
from .native_model_schema import check

Json = dict[str, Any]


def _is_read(path: Path) -> bool:
    try:
        parse(path)
    except Failure:
        return False
    return True


READ = [path for path in CORPUS if _is_read(path)]


@pytest.mark.parametrize("path", READ, ids=lambda path: path.name)
def test_the_corpus_is_valid_and_comes_back(path: Path) -> None:
    original = parse(path).dicom_json

    document = to_xml(original)

    check(document)
    again = from_xml(document)
    assert to_xml(again) == document
    without_blocks = {tag: a for tag, a in json.loads(original).items() if not is_private(tag)}
    found = {tag: a for tag, a in again.items() if not is_private(tag)}
    assert as_text(found) == as_text(without_blocks)


def is_private(tag: str) -> bool:
    return re.fullmatch("[0-9A-F]{3}[13579BDF][0-9A-F]{4}", tag) is not None


def as_text(value: Any) -> Any:
    """Numbers as what they count; private elements, trailing carets and empty names left out."""
    if isinstance(value, dict):
        kept = {k: as_text(v) for k, v in value.items() if not is_private(k)}
        return {k: v for k, v in kept.items() if v not in ([], [None], None, "")}
    if isinstance(value, list):
        return [as_text(one) or None for one in value]
    try:
        return float(value)
    except (TypeError, ValueError):
        return value.rstrip("^") if isinstance(value, str) else value


# -- laws -----------------------------------------------------------------------------------

TEXT = st.text(
    st.characters(codec="utf-8", exclude_categories=("Cs", "Cc"), exclude_characters="\ufffe\uffff")
    | st.sampled_from("\t\r\n<>&'\" "),
    min_size=1,
    max_size=20,
)
COMPONENT = st.text(st.characters(codec="utf-8", exclude_categories=("Cs", "Cc"),
                                  exclude_characters="^=\ufffe\uffff"), max_size=8)  # fmt: skip
GROUP = st.lists(COMPONENT, min_size=1, max_size=5).map(lambda c: "^".join(c).rstrip("^"))
NAME = st.fixed_dictionaries(
    {}, optional={group: GROUP.filter(bool) for group in ("Alphabetic", "Ideographic", "Phonetic")}
).filter(bool)


def values(one: st.SearchStrategy[Any]) -> st.SearchStrategy[list[Any]]:
    several = st.lists(one | st.none(), min_size=1, max_size=4)
    return several.filter(lambda found: any(value is not None for value in found))


def attribute(vr: str, one: st.SearchStrategy[Any]) -> st.SearchStrategy[Json]:
    return st.just({"vr": vr}) | values(one).map(lambda v: {"vr": vr, "Value": v})


def integers(bits: int, signed: bool) -> st.SearchStrategy[int]:
    low = -(1 << (bits - 1)) if signed else 0
    return st.integers(low, low + (1 << bits) - 1)


INLINE = st.binary(min_size=1, max_size=30).map(lambda raw: b64encode(raw).decode())
SIMPLE = st.one_of(
    *(attribute(vr, TEXT) for vr in ("AE", "AS", "CS", "DA", "DT", "TM", "UI", "SH", "LO", "UC")),
    *(attribute(vr, TEXT) for vr in ("ST", "LT", "UT", "UR")),
    attribute("PN", NAME),
    attribute("AT", st.integers(0, 0xFFFFFFFF).map(lambda n: f"{n:08X}")),
    attribute("DS", st.decimals(allow_nan=False, allow_infinity=False).map(str)),
    attribute("IS", integers(32, True).map(str)),
    *(attribute(vr, integers(bits, signed)) for vr, bits, signed in (
        ("US", 16, False), ("SS", 16, True), ("UL", 32, False), ("SL", 32, True),
        ("UV", 64, False), ("SV", 64, True))),
    *(attribute(vr, st.floats(allow_nan=False, allow_infinity=False)) for vr in ("FL", "FD")),
    *(INLINE.map(lambda raw, vr=vr: {"vr": vr, "InlineBinary": raw})
      for vr in ("OB", "OD", "OF", "OL", "OV", "OW", "UN")),
    TEXT.map(lambda uri: {"vr": "OW", "BulkDataURI": uri}),
)  # fmt: skip
# Public tags by their groups' parity; no group lengths.
TAGS = st.tuples(st.integers(4, 0x3FFF).map(lambda n: 2 * n), st.integers(1, 0xFFFF)).map(
    lambda tag: f"{tag[0]:04X}{tag[1]:04X}"
)


@st.composite
def private_block(draw: st.DrawFn) -> Json:
    """Blocks from 10 on without a gap, each used, each creator once: the form that is read back."""
    group = draw(st.integers(4, 0x7FFF).map(lambda n: f"{2 * n + 1:04X}"))
    creators = draw(st.lists(st.text("ABC 1.", min_size=1, max_size=8).map(str.strip)
                             .filter(bool), min_size=1, max_size=3, unique=True))  # fmt: skip
    found: Json = {}
    for block, creator in enumerate(creators, 0x10):
        found[f"{group}00{block:02X}"] = {"vr": "LO", "Value": [creator]}
        for element in draw(st.sets(st.integers(0, 0xFF), min_size=1, max_size=3)):
            found[f"{group}{block:02X}{element:02X}"] = draw(SIMPLE)
    return found


@st.composite
def data_sets(draw: st.DrawFn, depth: int = 0) -> Json:
    found: Json = draw(st.dictionaries(TAGS, SIMPLE, max_size=6))
    if draw(st.booleans()):
        found |= draw(private_block())
    if depth < 3 and draw(st.booleans()):
        items = draw(st.lists(data_sets(depth + 1) | st.just({}), max_size=3))
        found[draw(TAGS)] = {"vr": "SQ", "Value": items} if items else {"vr": "SQ"}
    return {tag: found[tag] for tag in sorted(found)}


@settings(max_examples=150, deadline=None)
@given(data_sets())
def test_reading_what_was_written_gives_the_same(data_set: Json) -> None:
    document = to_xml(data_set)

    check(document)
    assert from_xml(document) == data_set
    assert list(from_xml(document)) == sorted(data_set)
    assert from_xml([document[n : n + 7] for n in range(0, len(document), 7)]) == data_set
    # Bytes of JSON give the same document as the dictionary.
    assert from_xml(to_xml(json.dumps(data_set).encode())) == data_set


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=30))
def test_any_text_can_be_written_and_read(text: str) -> None:
    document = to_xml({"00104000": {"vr": "LT", "Value": [text]}})

    check(document)
    (found,) = from_xml(document)["00104000"].get("Value", [""])
    assert len(found) == len(text)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_any_octets_are_a_data_set_or_a_failure(body: bytes) -> None:
    try:
        from_xml(b"<NativeDicomModel>" + body + b"</NativeDicomModel>")
    except Failure as failure:
        assert failure.message


# -- the standard's own words ---------------------------------------------------------------


def test_values_are_those_of_the_examples_of_the_standard() -> None:
    document = to_xml(
        {
            "00080008": {"vr": "CS", "Value": ["MPG", None, "XR3"]},
            "00180050": {"vr": "DS", "Value": [0.5, "0.4"]},
        }
    )

    text = document.decode()
    assert '<Value number="1">MPG</Value><Value number="2"></Value>' in text
    assert '<Value number="1">0.5</Value><Value number="2">0.4</Value>' in text


def test_two_blocks_of_one_creator_may_share_a_tag_and_get_their_own_back() -> None:
    data_set = {
        "00090010": {"vr": "LO", "Value": ["ACME"]},
        "00090011": {"vr": "LO", "Value": ["ACME"]},
        "00091001": {"vr": "SH", "Value": ["first"]},
        "00091101": {"vr": "SH", "Value": ["second"]},
    }

    document = to_xml(data_set)

    assert document.count(b'tag="00090001" vr="SH" privateCreator="ACME"') == 2
    assert from_xml(document) == data_set


def test_blocks_that_a_writer_names_are_kept() -> None:
    document = f"""<NativeDicomModel xmlns="{NAMESPACE}">
      <DicomAttribute tag="00090020" vr="LO"><Value number="1">ACME</Value></DicomAttribute>
      <DicomAttribute tag="00090001" vr="SH" privateCreator="ACME"/>
      <DicomAttribute tag="00090002" vr="SH" privateCreator="OTHER"/>
    </NativeDicomModel>"""

    assert list(from_xml(document.encode())) == ["00090010", "00090020", "00091002", "00092001"]


def test_a_block_that_nobody_uses_is_kept() -> None:
    data_set = {"00090020": {"vr": "LO", "Value": ["ACME"]}}

    assert from_xml(to_xml(data_set)) == data_set


def test_a_name_of_more_components_than_five_keeps_them() -> None:
    data_set = {"00100010": {"vr": "PN", "Value": [{"Alphabetic": "a^b^c^d^e^f"}]}}

    assert from_xml(to_xml(data_set)) == data_set


def test_a_uuid_is_a_reference_too() -> None:
    document = (
        b'<NativeDicomModel><DicomAttribute tag="7FE00010" vr="OW"><BulkData uuid="u-1"/>'
        b"</DicomAttribute></NativeDicomModel>"
    )

    assert from_xml(document) == {"7FE00010": {"vr": "OW", "BulkDataURI": "u-1"}}


def test_a_missing_vr_is_that_of_the_dictionary() -> None:
    document = b'<NativeDicomModel><DicomAttribute tag="00280010"/></NativeDicomModel>'

    assert from_xml(document) == {"00280010": {"vr": "US"}}


# -- hostile documents ----------------------------------------------------------------------


def wrapped(content: str, head: str = "") -> bytes:
    return f"{head}<NativeDicomModel>{content}</NativeDicomModel>".encode()


LAUGHS = '<!DOCTYPE x [<!ENTITY a "haha"><!ENTITY b "&a;&a;&a;&a;">]>'
BAD = [
    (wrapped("", LAUGHS), "DOCTYPE"),
    (wrapped("", '<!DOCTYPE x SYSTEM "file:///etc/passwd">'), "DOCTYPE"),
    (wrapped("&xxe;"), "undefined entity"),
    (wrapped("<?php exit ?>"), "processing instruction"),
    (wrapped("<xi:include xmlns:xi='http://www.w3.org/2001/XInclude' href='x'/>"), "namespace"),
    (b'<NativeDicomModel xmlns="urn:other"/>', "namespace"),
    (wrapped("<Value number='1'>x</Value>"), "<Value> in <NativeDicomModel>"),
    (wrapped("<DicomAttribute tag='0010001' vr='PN'/>"), "8 upper-case hexadecimal"),
    (wrapped("<DicomAttribute tag='0010001g' vr='PN'/>"), "8 upper-case hexadecimal"),
    (wrapped("<DicomAttribute tag='00100010' vr='pn'/>"), "two capital letters"),
    (wrapped("<DicomAttribute tag='00100010' vr='PN' extra='1'/>"), "no attribute 'extra'"),
    (wrapped("<DicomAttribute tag='00100010' vr='PN' privateCreator='A'/>"), "gggg00ee"),
    (wrapped("<DicomAttribute tag='00100010' vr='PN'/>" * 2), "stands twice"),
    (wrapped("<DicomAttribute tag='00100020' vr='LO'>P1</DicomAttribute>"), "text between"),
    (
        wrapped("<DicomAttribute tag='00100020' vr='LO'><Value>P</Value></DicomAttribute>"),
        "expected 1",
    ),
    (
        wrapped(
            "<DicomAttribute tag='00100020' vr='LO'><Value number='2'>P</Value></DicomAttribute>"
        ),
        "expected 1",
    ),
    (
        wrapped("<DicomAttribute tag='00100020' vr='LO'><Item number='1'/></DicomAttribute>"),
        "expected Value",
    ),
    (
        wrapped("<DicomAttribute tag='00081032' vr='SQ'><Value number='1'/></DicomAttribute>"),
        "expected Item",
    ),
    (
        wrapped("<DicomAttribute tag='7FE00010' vr='OW'><Value number='1'/></DicomAttribute>"),
        "expected InlineBinary",
    ),
    (wrapped("<DicomAttribute tag='7FE00010' vr='OW'><BulkData/></DicomAttribute>"), "uri or a"),
    (
        wrapped(
            "<DicomAttribute tag='7FE00010' vr='OW'><InlineBinary>%</InlineBinary></DicomAttribute>"
        ),
        "not base64",
    ),
    (b"", "no element found"),
    (b'<?xml version="1.0" encoding="x-none"?><NativeDicomModel/>', "encoding"),
    (b"<NativeDicomModel>\xff</NativeDicomModel>", "not well-formed"),
]


@pytest.mark.parametrize(("document", "message"), BAD)
def test_c1_what_is_no_document_is_refused_with_its_place(document: bytes, message: str) -> None:
    with pytest.raises(Failure) as caught:
        from_xml(document)

    assert caught.value.reason == MALFORMED.reason
    assert message.lower() in caught.value.message.lower()


def nested(depth: int) -> bytes:
    open_ = "<DicomAttribute tag='00081032' vr='SQ'><Item number='1'>"
    return wrapped(open_ * depth + "</Item></DicomAttribute>" * depth)


def test_b3_depth_is_limited() -> None:
    assert from_xml(nested(64))
    for depth in (65, 5_000):
        with pytest.raises(Failure, match="nested deeper than 64"):
            from_xml(nested(depth))


def test_b4_elements_items_and_values_are_counted() -> None:
    few = Limits(elements=3, items=3)
    tags = [f"<DicomAttribute tag='0010{n:04X}' vr='LO'/>" for n in range(1, 6)]
    items = "".join(f"<Item number='{n}'/>" for n in range(1, 6))
    for content in (
        "".join(tags),
        f"<DicomAttribute tag='00081032' vr='SQ'>{items}</DicomAttribute>",
    ):
        with pytest.raises(Failure) as caught:
            from_xml(wrapped(content), few)
        assert caught.value.reason == LIMIT_EXCEEDED.reason


# -- second opinions ------------------------------------------------------------------------

DCM2XML, XML2DCM = shutil.which("dcm2xml"), shutil.which("xml2dcm")


@pytest.mark.skipif(DCM2XML is None, reason="dcm2xml is not installed")
def test_dcmtk_writes_the_same_attributes() -> None:
    compared = 0
    for path in READ:
        done = subprocess.run(
            [str(DCM2XML), "-q", "-nat", "+Xn", "+Ca", "latin-1", "+U8", str(path)],
            capture_output=True,
            timeout=20,
        )
        if done.returncode != 0:
            continue
        try:
            theirs = from_xml(done.stdout)
        except Failure as failure:
            # DCMTK writes control characters as they are.
            assert "not well-formed" in failure.message.lower(), (path.name, failure.message)
            continue
        ours = from_xml(to_xml(parse(path).dicom_json))
        public = [tag for tag in ours if not is_private(tag)]
        differing = [tag for tag in public if differs(ours[tag], theirs.get(tag))]
        assert not differing, (path.name, differing, ours[differing[0]], theirs.get(differing[0]))
        compared += 1
    assert compared > 40


def differs(ours: Json, theirs: Json | None) -> bool:
    """Whether two opinions on one attribute are really two; binary values are references there."""
    if theirs is None:
        return "Value" in ours
    if "ISO_IR 192" in (*ours.get("Value", ()), *theirs.get("Value", ())):
        return False  # text is UTF-8 whatever was sent
    if {"InlineBinary", "BulkDataURI"} & (set(ours) | set(theirs)) or ours["vr"] != theirs["vr"]:
        return False
    mine, other = ours.get("Value") or [], theirs.get("Value") or []
    if ours["vr"] == "SQ":
        return len(mine) != len(other)
    if ours["vr"] == "PN":
        # DCMTK 3.6.7 repeats a group where the next one is empty.
        other = [name and {group: name[group] for group in mine[n]} for n, name in enumerate(other)]
    return as_text(mine) != as_text(other) and not _are_near(mine, other)


def _are_near(mine: list[Any], other: list[Any]) -> bool:
    """DCMTK prints binary numbers with fewer digits, and text values with their padding."""
    if len(mine) != len(other):
        return False
    for one, two in zip(mine, other, strict=True):
        if isinstance(one, float | int) and isinstance(two, float | int):
            if abs(one - two) > 1e-5 * max(abs(one), abs(two)):
                return False
        elif str(one or "").strip() != str(two or "").strip():
            return False
    return True


def test_bulk_data_is_referred_to() -> None:
    assert any(BULK_PREFIX.encode() in to_xml(parse(path).dicom_json) for path in READ)
