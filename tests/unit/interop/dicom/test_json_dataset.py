"""DICOM JSON and its bulk data as Part 10 files, by DCMTK's and pydicom's reading of them."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import pydicom
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from interop.dicom.failures import Failure
from interop.dicom.json_array import data_sets
from interop.dicom.json_dataset import BulkPart, Encoded, encode
from interop.dicom.native_model import from_xml, to_xml
from interop.dicom.part10 import Instance, parse
from interop.dicom.spool import Spool
from interop.dicom.walker import BULK_PREFIX

from .factories import CORPUS

Json = dict[str, Any]
Made = Callable[[Encoded], Path]
DCM2JSON = shutil.which("dcm2json")
NATIVE = ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2")
IDENTITY = ("00080016", "00080018", "0020000D", "0020000E")


def readable(path: Path) -> Instance | None:
    """The instance, if it is whole, native and has the UIDs of one."""
    try:
        found = parse(path)
    except Failure:
        return None
    has_uids = all(found.text(int(tag, 16)) for tag in IDENTITY)
    return found if has_uids and found.transfer_syntax_uid in NATIVE else None


WHOLE = {path: found for path in CORPUS if (found := readable(path)) is not None}


@pytest.fixture
def made(tmp_path: Path) -> Made:
    """Writes what was encoded."""
    spool = Spool(tmp_path / "spool")

    def write(encoded: Encoded) -> Path:
        writer = spool.writer()
        encoded.write(writer)
        return writer.finish().path

    return write


def no_bulk(uri: str) -> list[BulkPart]:
    raise AssertionError(uri)


def read_array(folder: Path, text: bytes) -> list[Json]:
    path = folder / "metadata.json"
    path.write_bytes(text)
    return [found.read() for found in data_sets(path) if not isinstance(found, Failure)]


def bulk_of(path: Path, instance: Instance, folder: Path) -> Callable[[str], list[BulkPart]]:
    """The values that the instance's JSON refers to, as parts of a request."""
    data = path.read_bytes()

    def find(uri: str) -> list[BulkPart]:
        name = uri.removeprefix(BULK_PREFIX)
        _, at, length = instance.bulk[name]
        part = folder / name.replace("/", "-")
        part.write_bytes(data[at : at + length])
        return [BulkPart(part, length)]

    return find


def plain(instance: Instance) -> Json:
    """The JSON of an instance, but for its character set."""
    found: Json = json.loads(instance.dicom_json)
    found.pop("00080005", None)
    return found


def is_big_endian(instance: Instance) -> bool:
    return instance.transfer_syntax_uid == NATIVE[2]


@pytest.mark.parametrize("form", ["json", "xml"])
@pytest.mark.parametrize(
    "path", [p for p, i in WHOLE.items() if not is_big_endian(i)], ids=lambda path: path.name
)
def test_what_was_taken_apart_is_put_together_again(
    path: Path, form: str, made: Made, tmp_path: Path
) -> None:
    original = WHOLE[path]
    if form == "json":
        (data_set,) = read_array(tmp_path, b"[" + original.dicom_json + b"]")
    else:
        data_set = from_xml(to_xml(original.dicom_json))

    again = parse(made(encode(data_set, bulk_of(path, original, tmp_path))))

    assert again.transfer_syntax_uid == NATIVE[1]
    if form == "json":
        assert plain(again) == plain(original)
    else:
        # Empty name components and private blocks have one form in XML.
        assert to_xml(again.dicom_json) == to_xml(from_xml(to_xml(again.dicom_json)))
        # PS3.19 A.1.1: no group lengths.
        kept = {tag for tag in plain(original) if not tag.endswith("0000")}
        assert set(plain(again)) == kept


@pytest.mark.skipif(DCM2JSON is None, reason="dcm2json is not installed")
def test_what_dcmtk_says_of_the_corpus_makes_the_same_data_sets(made: Made, tmp_path: Path) -> None:
    compared = 0
    for path, original in WHOLE.items():
        done = subprocess.run(
            [str(DCM2JSON), "-q", "-ee", str(path)], capture_output=True, timeout=20
        )
        if done.returncode != 0 or b"inf" in done.stdout or b"nan" in done.stdout:
            continue
        try:
            (data_set,) = read_array(tmp_path, b"[" + done.stdout + b"]")
        except Failure:
            # DCMTK 3.6.7 writes control characters as they are.
            with pytest.raises(ValueError, match=r"control character|UTF-8|utf-8|codec"):
                json.loads(done.stdout)
            continue
        # Pixel data comes inline from DCMTK, with its own opinion of how long a frame is.
        made_file = made(encode(data_set, no_bulk))
        ours, theirs = plain(original), plain(parse(made_file))
        # DCMTK leaves out the lengths of private groups as well.
        known = [tag for tag in ours if not tag.endswith("0000")]
        differing = [tag for tag in known if differs(ours[tag], theirs.get(tag))]
        assert not differing, (path.name, [(t, ours[t], theirs.get(t)) for t in differing])
        assert pydicom.dcmread(BytesIO(made_file.read_bytes())).file_meta.TransferSyntaxUID
        compared += 1
    assert compared > 20


def differs(ours: Json, theirs: Json | None) -> bool:
    """Whether two opinions are really two: DCMTK pads, has fewer digits, and sends all inline."""
    if theirs is None:
        return True
    if "BulkDataURI" in ours or "BulkDataURI" in theirs or ours["vr"] != theirs["vr"]:
        return False
    mine, other = ours.get("Value", []), theirs.get("Value", [])
    if ours["vr"] == "SQ":
        return len(mine) != len(other)
    if len(mine) != len(other):
        return bool(mine) and bool(other)
    return any(not near(a, b) for a, b in zip(mine, other, strict=True))


def near(one: Any, two: Any) -> bool:
    if isinstance(one, float | int) and isinstance(two, float | int):
        return abs(one - two) <= 1e-5 * max(abs(one), abs(two))
    if isinstance(one, dict) and isinstance(two, dict):
        return all(str(two.get(key, "")).rstrip("^ ") == one[key].rstrip("^ ") for key in one)
    return str(one or "").strip() == str(two or "").strip()


UIDS: Json = {tag: {"vr": "UI", "Value": [f"1.2.{n}"]} for n, tag in enumerate(IDENTITY, 3)}


def test_text_of_other_character_sets_is_written_in_utf_8(made: Made) -> None:
    data_set = UIDS | {
        "00080005": {"vr": "CS", "Value": ["ISO_IR 100"]},
        "00100010": {"vr": "PN", "Value": [{"Alphabetic": "Müller", "Ideographic": "山田"}]},
        "00081032": {"vr": "SQ", "Value": [
            {"00080005": {"vr": "CS", "Value": ["ISO_IR 13"]},
             "00080104": {"vr": "LO", "Value": ["ﾔﾏﾀﾞ"]}}]},
    }  # fmt: skip

    found = pydicom.dcmread(made(encode(data_set, no_bulk)))

    assert found.SpecificCharacterSet == "ISO_IR 192"
    assert found.PatientName.ideographic == "山田"
    item = found[0x00081032].value[0]
    assert (item.SpecificCharacterSet, item.CodeMeaning) == ("ISO_IR 192", "ﾔﾏﾀﾞ")


def test_bulk_text_is_converted_from_the_set_that_is_named(made: Made, tmp_path: Path) -> None:
    part = tmp_path / "text"
    part.write_bytes("Grüße, sehr lang".encode("latin-1"))
    data_set = UIDS | {
        "00080005": {"vr": "CS", "Value": ["ISO_IR 100"]},
        "0040A160": {"vr": "UT", "BulkDataURI": "t"},
    }

    found = pydicom.dcmread(
        made(encode(data_set, lambda uri: [BulkPart(part, part.stat().st_size)]))
    )

    assert found.TextValue == "Grüße, sehr lang"


def test_a_value_too_long_for_its_vr_is_un(made: Made) -> None:
    data_set = UIDS | {"00104000": {"vr": "LT", "Value": ["x" * 70_001]}}

    found = pydicom.dcmread(made(encode(data_set, no_bulk)))

    assert len(found[0x00104000].value.rstrip()) == 70_001


def test_group_lengths_and_file_meta_are_ours(made: Made) -> None:
    data_set = UIDS | {
        "00020010": {"vr": "UI", "Value": ["1.2.840.10008.1.2.2"]},
        "00020016": {"vr": "AE", "Value": ["OTHER"]},
        "00080000": {"vr": "UL", "Value": [99]},
    }

    found = pydicom.dcmread(made(encode(data_set, no_bulk)))

    assert found.file_meta.TransferSyntaxUID == NATIVE[1]
    assert "SourceApplicationEntityTitle" not in found.file_meta
    assert (0x0008, 0x0000) not in found


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.text(max_size=6) | st.sampled_from(["1", "-1", "1e5", "FFFF"]),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.sampled_from(["vr", "Value", "InlineBinary", "00100010", "Alphabetic"]),
                      inner, max_size=3),
    max_leaves=8,
)  # fmt: skip
VRS = st.sampled_from("AE AT CS DA DS FD FL IS LO LT OB OW PN SH SL SQ SS SV UC UI UL UN US UT UV"
                      .split())  # fmt: skip
ATTRIBUTE = st.fixed_dictionaries(
    {},
    optional={
        "vr": VRS,
        "Value": st.lists(ANYTHING, max_size=3),
        "InlineBinary": st.text("QUJD=", max_size=6),
    },
)


@settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.dictionaries(
        st.sampled_from(["00100010", "00081032", "00280010", "00091001", "00090010", "7FE00010"]),
        ATTRIBUTE | ANYTHING,
        max_size=4,
    )
)
def test_any_json_is_an_object_that_can_be_read_or_a_failure(made: Made, data_set: Json) -> None:
    try:
        encoded = encode(UIDS | data_set, no_bulk)
    except Failure as failure:
        assert failure.message.endswith(".")
        return
    parse(made(encoded))
