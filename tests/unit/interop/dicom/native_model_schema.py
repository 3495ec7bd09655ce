"""The rules of PS3.19 A.1.5 and the schema of A.1.6, as checks of one document."""

from __future__ import annotations

import base64
import re
from xml.etree import ElementTree

from pydicom.datadict import keyword_for_tag

NAMESPACE = "{http://dicom.nema.org/PS3.19/models/NativeDICOM}"
VRS = frozenset(
    "AE AS AT CS DA DS DT FL FD IS LO LT OB OD OF OL OV OW PN SH SL SQ SS ST SV TM UC UI UL UN UR"
    " US UT UV".split()
)
BINARY = frozenset("OB OD OF OL OV OW UN".split())
NO_BULK_DATA = frozenset("AE AS AT CS DA DT LO PN SH SQ TM UI UR".split())
COMPONENTS = ["FamilyName", "GivenName", "MiddleName", "NamePrefix", "NameSuffix"]
GROUPS = ["Alphabetic", "Ideographic", "Phonetic"]


def check(document: bytes) -> None:
    """Assert that the document is one of the Native DICOM Model."""
    root = ElementTree.fromstring(document)
    assert root.tag == f"{NAMESPACE}NativeDicomModel"
    assert root.attrib == {"{http://www.w3.org/XML/1998/namespace}space": "preserve"}
    _data_set(root)


def _children(element: ElementTree.Element) -> list[tuple[str, ElementTree.Element]]:
    assert not (element.text or "").strip(), "text between elements"
    for child in element:
        assert child.tag.startswith(NAMESPACE), child.tag
        assert not (child.tail or "").strip(), "text between elements"
    return [(child.tag.removeprefix(NAMESPACE), child) for child in element]


def _data_set(holder: ElementTree.Element) -> None:
    for name, attribute in _children(holder):
        assert name == "DicomAttribute"
        _attribute(attribute)


def _attribute(element: ElementTree.Element) -> None:
    given = dict(element.attrib)
    tag, vr = given.pop("tag"), given.pop("vr")
    assert re.fullmatch("[0-9A-F]{8}", tag) and vr in VRS, (tag, vr)
    is_private = int(tag[3], 16) % 2 == 1
    creator = given.pop("privateCreator", None)
    if creator is None:
        assert tag[4:] != "0000", "a group length"
    else:
        assert is_private and tag[4:6] == "00" and creator.strip()
    keyword = given.pop("keyword", None)
    assert keyword == (None if is_private else keyword_for_tag(int(tag, 16)) or None)
    assert not given, given
    kinds = {name for name, _ in _children(element)}
    assert len(kinds) <= 1, kinds
    kind = kinds.pop() if kinds else None
    if kind in ("Value", "Item", "PersonName"):
        assert (kind == "Item") == (vr == "SQ") and (kind == "PersonName") == (vr == "PN")
        _numbered(element, kind)
    elif kind is not None:
        assert len(element) == 1
        _whole(kind, element[0], vr)


def _numbered(element: ElementTree.Element, kind: str) -> None:
    for number, child in enumerate(element, 1):
        assert child.attrib == {"number": str(number)}
        if kind == "Item":
            _data_set(child)
        elif kind == "PersonName":
            _person_name(child)
        else:
            assert len(child) == 0


def _person_name(element: ElementTree.Element) -> None:
    groups = [name for name, _ in _children(element)]
    assert groups == [group for group in GROUPS if group in groups]
    for _, group in _children(element):
        components = [name for name, _ in _children(group)]
        assert components == [part for part in COMPONENTS if part in components]
        assert all(not part.attrib and len(part) == 0 for part in group)


def _whole(kind: str, element: ElementTree.Element, vr: str) -> None:
    assert len(element) == 0
    if kind == "BulkData":
        assert vr not in NO_BULK_DATA or element.attrib["uri"]
        assert set(element.attrib) in ({"uri"}, {"uuid"}) and not element.text
    else:
        assert kind == "InlineBinary" and vr in BINARY and not element.attrib
        base64.b64decode(element.text or "", validate=True)
