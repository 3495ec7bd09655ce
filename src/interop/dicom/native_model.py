"""The Native DICOM Model, PS3.19 A.1: XML from the DICOM JSON Model and back (PS3.18 F.3).

Private elements lose their block on the way out (`gggg00ee` with a `privateCreator`) and get the
first free one on the way in, as both standards say. The reader takes documents with the model's
namespace or with none, follows no reference and refuses every declaration that could make one
(security.md C1); depth, elements, items and values are counted before anything is kept.
"""

from __future__ import annotations

import json
import re
from base64 import b64decode
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from math import isfinite
from typing import Any
from xml.parsers import expat
from xml.sax.saxutils import escape, quoteattr

from pydicom.datadict import keyword_for_tag

from interop.dicom.failures import LIMIT_EXCEEDED, MALFORMED, Failure
from interop.dicom.limits import DEFAULT_LIMITS, Limits
from interop.dicom.walker import standard_vr

Json = dict[str, Any]

NAMESPACE = "http://dicom.nema.org/PS3.19/models/NativeDICOM"
_XML_NAMESPACE = "http://www.w3.org/XML/1998/namespace"
_SCHEMA_INSTANCE = "http://www.w3.org/2001/XMLSchema-instance"
_HEAD = (
    '<?xml version="1.0" encoding="UTF-8"?>\n'
    f'<NativeDicomModel xmlns="{NAMESPACE}" xml:space="preserve">'
)
_TAIL = "</NativeDicomModel>"
# What XML 1.0 cannot carry, not even as a character reference.
_NOT_XML = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")
_GROUPS = ("Alphabetic", "Ideographic", "Phonetic")
_COMPONENTS = ("FamilyName", "GivenName", "MiddleName", "NamePrefix", "NameSuffix")
_BINARY_VRS = frozenset(("OB", "OD", "OF", "OL", "OV", "OW", "UN"))
_INTEGER_VRS = frozenset(("SL", "SS", "UL", "US", "SV", "UV"))
_FLOAT_VRS = frozenset(("FL", "FD"))
_TAG = re.compile(r"[0-9A-F]{8}")
_VR = re.compile(r"[A-Z]{2}")
_BLOCKS = range(0x10, 0x100)
# Values of all attributes of a document, and its nesting of elements in all.
MAX_VALUES = 200_000
_LONGEST_NAME = 64


# Numbers stay the text that they are: their digits count.
_DECODER = json.JSONDecoder(parse_float=str, parse_int=str)


def loads(body: bytes) -> Json:
    """Read one DICOM JSON data set, keeping the digits of its numbers as text."""
    found = _DECODER.decode(body.decode())
    if not isinstance(found, dict):
        raise ValueError("a data set is a JSON object")
    return found


def documents(array: bytes) -> Iterator[bytes]:
    """Return the data sets of an array of ours as documents, one after the other."""
    text = array.decode()
    at = 1
    while text[at] != "]":
        data_set, at = _DECODER.raw_decode(text, at + (text[at] == ","))
        yield to_xml(data_set)


def to_xml(dicom_json: bytes | Mapping[str, Any]) -> bytes:
    """Return one data set of the DICOM JSON Model as an XML document.

    Characters that XML 1.0 does not have become U+FFFD. Raises ValueError where the JSON is none.
    """
    data_set = loads(dicom_json) if isinstance(dicom_json, bytes) else dicom_json
    written: list[str] = [_HEAD]
    _write_data_set(data_set, written)
    written.append(_TAIL)
    return "".join(written).encode()


def _write_data_set(data_set: Mapping[str, Any], written: list[str]) -> None:
    creators: dict[str, str] = {}
    used = {tag[:6] for tag in data_set}
    for tag in sorted(data_set):
        attribute = data_set[tag]
        block = tag[:4] + tag[6:]
        if int(tag[3], 16) & 1 and tag[4:6] == "00" and tag[6:] >= "10" and block in used:
            # A Private Creator: said again by each element of its block.
            creators[block] = str((attribute.get("Value") or [""])[0] or "")
            continue
        if tag.endswith("0000"):
            continue  # group lengths (A.1.1)
        _write_attribute(tag, attribute, creators.get(tag[:6]), written)


def _write_attribute(
    tag: str, attribute: Mapping[str, Any], creator: str | None, written: list[str]
) -> None:
    vr = attribute.get("vr") or standard_vr(int(tag, 16))
    head = _head(tag, vr) if not creator else _private_head(tag, vr, creator)
    values = attribute.get("Value")
    if vr == "PN" and values:
        values = [_person_name(number, name) for number, name in enumerate(values, 1)]
        if all(name.endswith("/>") for name in values):
            values = None
    if values:
        written.append(f"{head}>")
        if vr == "SQ":
            for number, item in enumerate(values, 1):
                written.append(f'<Item number="{number}">')
                _write_data_set(item or {}, written)
                written.append("</Item>")
        elif vr == "PN":
            written.extend(values)
        else:
            written.extend(
                f'<Value number="{number}">{_text(value)}</Value>'
                for number, value in enumerate(values, 1)
            )
        written.append("</DicomAttribute>")
    elif attribute.get("BulkDataURI"):
        uri = quoteattr(_legal(str(attribute["BulkDataURI"])))
        written.append(f"{head}><BulkData uri={uri}/></DicomAttribute>")
    elif attribute.get("InlineBinary"):
        content = escape(str(attribute["InlineBinary"]))
        written.append(f"{head}><InlineBinary>{content}</InlineBinary></DicomAttribute>")
    else:
        written.append(f"{head}/>")


@lru_cache(maxsize=20_000)
def _head(tag: str, vr: str) -> str:
    keyword = keyword_for_tag(int(tag, 16))
    named = f' keyword="{keyword}"' if keyword else ""
    return f'<DicomAttribute tag="{tag}" vr="{vr}"{named}'


def _private_head(tag: str, vr: str, creator: str) -> str:
    return (
        f'<DicomAttribute tag="{tag[:4]}00{tag[6:]}" vr="{vr}"'
        f" privateCreator={quoteattr(_legal(creator))}"
    )


def _text(value: object) -> str:
    if value is None:
        return ""
    # A parser would make a line feed of a carriage return.
    return escape(_legal(value if isinstance(value, str) else repr(value)), {"\r": "&#13;"})


def _legal(text: str) -> str:
    return _NOT_XML.sub("\ufffd", text)


def _person_name(number: int, name: object) -> str:
    if isinstance(name, str):
        groups = dict(zip(_GROUPS, name.split("="), strict=False))
    else:
        groups = name if isinstance(name, dict) else {}
    written = []
    for group in _GROUPS:
        if not groups.get(group):
            continue
        # What stands behind the fifth component stays with it, for want of an element.
        components = str(groups[group]).split("^", 4)
        content = "".join(
            f"<{element}>{_text(component)}</{element}>"
            for element, component in zip(_COMPONENTS, components, strict=False)
            if component
        )
        if content:
            written.append(f"<{group}>{content}</{group}>")
    if not written:
        return f'<PersonName number="{number}"/>'
    return f'<PersonName number="{number}">{"".join(written)}</PersonName>'


# -- reading --------------------------------------------------------------------------------


def from_xml(body: bytes | Iterable[bytes], limits: Limits = DEFAULT_LIMITS) -> Json:
    """Return the data set of one document in the DICOM JSON Model, tags in order.

    DS and IS are strings, so that they keep their digits (PS3.18 F.2.3); a BulkData `uuid` becomes
    a BulkDataURI. Raises Failure, MALFORMED or LIMIT_EXCEEDED, saying where.
    """
    return _Reader(limits).read([body] if isinstance(body, bytes) else body)


@dataclass(slots=True)
class _Attribute:
    tag: str
    vr: str
    creator: str | None
    # The one kind of children that it may have from the first on, and those.
    kind: str = ""
    values: list[Any] = field(default_factory=list)
    content: str = ""

    def as_json(self) -> Json:
        found: Json = {"vr": self.vr}
        if self.kind == "BulkData":
            found["BulkDataURI"] = self.content
        elif self.kind == "InlineBinary":
            if self.content:
                found["InlineBinary"] = self.content
        elif self.values and any(value is not None for value in self.values):
            found["Value"] = self.values
        return found


@dataclass(slots=True)
class _DataSet:
    attributes: list[_Attribute] = field(default_factory=list)
    # Private elements may share a tag here; they get their own in JSON (PS3.18 F.3.1).
    seen: set[str] = field(default_factory=set)

    def as_json(self) -> Json:
        """Return the attributes by tag; private ones get their blocks (PS3.5 7.8.1)."""
        found: Json = {}
        blocks: dict[tuple[str, str], list[int]] = {}
        for attribute in self.attributes:
            if attribute.creator is not None:
                continue
            found[attribute.tag] = attribute.as_json()
            group, element = attribute.tag[:4], int(attribute.tag[4:], 16)
            if int(group, 16) & 1 and element in _BLOCKS and attribute.values:
                # Some writers send Private Creators as well: their blocks are kept.
                creator = str(attribute.values[0] or "").rstrip()
                blocks.setdefault((group, creator), []).append(element)
        for attribute in self.attributes:
            if attribute.creator is not None:
                self._place(attribute, attribute.creator, found, blocks)
        return {tag: found[tag] for tag in sorted(found)}

    def _place(
        self,
        attribute: _Attribute,
        creator: str,
        found: Json,
        blocks: dict[tuple[str, str], list[int]],
    ) -> None:
        group, element = attribute.tag[:4], attribute.tag[6:]
        owned = blocks.setdefault((group, creator), [])
        for block in owned:
            tag = f"{group}{block:02X}{element}"
            if tag not in found:
                found[tag] = attribute.as_json()
                return
        for block in _BLOCKS:
            if f"{group}00{block:02X}" not in found:
                found[f"{group}00{block:02X}"] = {"vr": "LO", "Value": [creator]}
                found[f"{group}{block:02X}{element}"] = attribute.as_json()
                owned.append(block)
                return
        raise Failure.of(LIMIT_EXCEEDED, f"Group {group} has more than 240 private blocks.")


class _Reader:
    """Expat's events to JSON; nothing is kept of what the model has not."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._elements = self._items = self._values = 0
        self._data_sets: list[_DataSet] = []
        self._attributes: list[_Attribute] = []
        self._path: list[str] = []
        self._name: dict[str, list[str]] = {}
        self._text: list[str] | None = None
        self._result: Json | None = None
        parser = expat.ParserCreate(namespace_separator=" ")
        parser.buffer_text = True
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.CharacterDataHandler = self._characters
        parser.StartDoctypeDeclHandler = self._refuse("a document type declaration (DOCTYPE)")
        parser.EntityDeclHandler = self._refuse("an entity declaration")
        parser.ProcessingInstructionHandler = self._refuse("a processing instruction")
        self._parser = parser

    def read(self, pieces: Iterable[bytes]) -> Json:
        try:
            for piece in pieces:
                self._parser.Parse(piece, False)
            self._parser.Parse(b"", True)
        except expat.ExpatError as error:
            what = expat.errors.messages[error.code]
            raise Failure.of(
                MALFORMED,
                f"Not well-formed XML: {what} (line {error.lineno}, column {error.offset + 1}).",
            ) from None
        except (LookupError, ValueError) as error:
            # The encoding that the declaration names.
            raise Failure.of(MALFORMED, f"The XML cannot be decoded: {error}.") from None
        assert self._result is not None
        return self._result

    # -- events -----------------------------------------------------------------------------

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        namespace, _, local = name.rpartition(" ")
        if namespace not in (NAMESPACE, ""):
            raise self._error(f"<{local[:_LONGEST_NAME]}> is not in the namespace {NAMESPACE}")
        parent = self._path[-1] if self._path else ""
        open_ = _ELEMENTS.get((parent, local))
        if open_ is None:
            accepted = ", ".join(child for holder, child in _ELEMENTS if holder == parent) or "none"
            raise self._error(
                f"<{local[:_LONGEST_NAME]}> in {f'<{parent}>' if parent else 'the document'};"
                f" accepted: {accepted}"
            )
        handler, allowed = open_
        for attribute in attributes:
            known = attribute.startswith((_XML_NAMESPACE, _SCHEMA_INSTANCE))
            if attribute not in allowed and not known:
                raise self._error(
                    f"<{local}> has no attribute {attribute[:_LONGEST_NAME]!r};"
                    f" accepted: {', '.join(allowed) or 'none'}"
                )
        self._path.append(local)
        if handler is not None:
            handler(self, local, attributes)

    def _end(self, name: str) -> None:
        local = self._path.pop()
        text = "".join(self._text) if self._text is not None else ""
        self._text = None
        match local:
            case "DicomAttribute":
                self._data_sets[-1].attributes.append(self._attributes.pop())
            case "Item":
                self._attributes[-1].values.append(self._data_sets.pop().as_json())
            case "PersonName":
                self._attributes[-1].values.append(self._person_name())
            case "Value":
                self._attributes[-1].values.append(self._value(self._attributes[-1].vr, text))
            case "InlineBinary":
                self._attributes[-1].content = self._inline(text)
            case "NativeDicomModel":
                self._result = self._data_sets.pop().as_json()
            case _ if local in _COMPONENTS:
                group = self._name[self._path[-1]]
                group[_COMPONENTS.index(local)] = text

    def _characters(self, text: str) -> None:
        if self._text is not None:
            self._text.append(text)
        elif not text.isspace():
            raise self._error("text between elements; values stand in Value and its siblings")

    # -- what begins ------------------------------------------------------------------------

    def _open_document(self, _local: str, _attributes: dict[str, str]) -> None:
        self._data_sets.append(_DataSet())

    def _open_attribute(self, _local: str, attributes: dict[str, str]) -> None:
        self._elements += 1
        if self._elements > self._limits.elements:
            raise self._too_many("elements", self._limits.elements)
        tag = attributes.get("tag", "")
        if not _TAG.fullmatch(tag):
            raise self._error(f"tag {tag[:16]!r}; expected 8 upper-case hexadecimal digits")
        creator = attributes.get("privateCreator")
        if creator is not None and not (int(tag[3], 16) & 1 and tag[4:6] == "00"):
            raise self._error(f"tag {tag} with a privateCreator; expected gggg00ee, gggg odd")
        if creator is not None and not creator.strip():
            raise self._error(f"tag {tag} has an empty privateCreator")
        vr = attributes.get("vr") or standard_vr(int(tag, 16))
        if not _VR.fullmatch(vr):
            raise self._error(f"vr {vr[:8]!r} of {tag}; expected two capital letters")
        if creator is None:
            seen = self._data_sets[-1].seen
            if tag in seen:
                raise self._error(f"{tag} stands twice in one data set")
            seen.add(tag)
        self._attributes.append(_Attribute(tag, vr, creator.rstrip() if creator else None))

    def _open_value(self, local: str, attributes: dict[str, str]) -> None:
        attribute = self._attributes[-1]
        self._require_kind(attribute, local)
        self._values += 1
        if self._values > MAX_VALUES:
            raise self._too_many("values", MAX_VALUES)
        if attributes.get("number") != str(len(attribute.values) + 1):
            raise self._error(
                f"<{local}> number {attributes.get('number', '')[:12]!r} of {attribute.tag};"
                f" expected {len(attribute.values) + 1}"
            )
        if local == "Item":
            self._items += 1
            if self._items > self._limits.items:
                raise self._too_many("items", self._limits.items)
            if len(self._data_sets) > self._limits.depth:
                raise Failure.of(
                    LIMIT_EXCEEDED,
                    f"Sequences are nested deeper than {self._limits.depth}, the most accepted.",
                )
            self._data_sets.append(_DataSet())
        elif local == "PersonName":
            self._name = {}
        else:
            self._text = []

    def _open_group(self, local: str, _attributes: dict[str, str]) -> None:
        if local in self._name:
            raise self._error(f"<{local}> stands twice in one PersonName")
        self._name[local] = [""] * len(_COMPONENTS)

    def _open_text(self, _local: str, _attributes: dict[str, str]) -> None:
        self._text = []

    def _open_inline(self, local: str, _attributes: dict[str, str]) -> None:
        self._require_kind(self._attributes[-1], local, is_single=True)
        self._text = []

    def _open_bulk(self, local: str, attributes: dict[str, str]) -> None:
        attribute = self._attributes[-1]
        self._require_kind(attribute, local, is_single=True)
        given = [attributes[name] for name in ("uri", "uuid") if attributes.get(name)]
        if len(given) != 1:
            raise self._error(f"<BulkData> of {attribute.tag} needs either a uri or a uuid")
        attribute.content = given[0]

    def _require_kind(self, attribute: _Attribute, local: str, *, is_single: bool = False) -> None:
        if attribute.kind and (is_single or attribute.kind != local):
            raise self._error(f"<{local}> of {attribute.tag} beside <{attribute.kind}>")
        attribute.kind = local
        expected = {"SQ": "Item", "PN": "PersonName"}.get(attribute.vr)
        is_plain = local in ("Value", "InlineBinary")
        if (expected is None and local in ("Item", "PersonName")) or (expected and is_plain):
            raise self._error(
                f"<{local}> in {attribute.tag} with vr {attribute.vr};"
                f" expected {expected or 'Value, InlineBinary or BulkData'}"
            )
        if local == "Value" and attribute.vr in _BINARY_VRS:
            raise self._error(
                f"<Value> in {attribute.tag} with vr {attribute.vr};"
                " expected InlineBinary or BulkData"
            )

    # -- what ends --------------------------------------------------------------------------

    def _person_name(self) -> Json | None:
        groups = {
            group: "^".join(self._name[group]).rstrip("^")
            for group in _GROUPS
            if group in self._name
        }
        return {group: text for group, text in groups.items() if text} or None

    def _value(self, vr: str, text: str) -> object:
        if not text:
            return None
        if vr in _INTEGER_VRS:
            try:
                return int(text.strip()[:24])
            except ValueError:
                return text
        if vr in _FLOAT_VRS:
            try:
                number = float(text)
            except ValueError:
                return text
            return number if isfinite(number) else text
        return text

    def _inline(self, text: str) -> str:
        packed = "".join(text.split())
        try:
            b64decode(packed, validate=True)
        except ValueError as error:
            raise self._error(f"InlineBinary is not base64: {error}") from None
        return packed

    def _refuse(self, what: str) -> Callable[..., None]:
        def handler(*_arguments: object) -> None:
            raise self._error(f"{what} is not allowed")

        return handler

    def _error(self, what: str) -> Failure:
        line, column = self._parser.CurrentLineNumber, self._parser.CurrentColumnNumber + 1
        inside = "".join(f" in {attribute.tag}" for attribute in self._attributes[-3:])
        return Failure.of(MALFORMED, f"{what} (line {line}, column {column}{inside}).")

    def _too_many(self, what: str, most: int) -> Failure:
        return Failure.of(
            LIMIT_EXCEEDED, f"The data set has more than {most} {what}, the most accepted."
        )


_Handler = Callable[[_Reader, str, dict[str, str]], None]
_ATTRIBUTE = ("tag", "vr", "keyword", "privateCreator")
# The schema of A.1.6: (parent, element) -> what opens it, and the attributes that it may have.
_ELEMENTS: dict[tuple[str, str], tuple[_Handler | None, tuple[str, ...]]] = {
    ("", "NativeDicomModel"): (_Reader._open_document, ()),
    ("NativeDicomModel", "DicomAttribute"): (_Reader._open_attribute, _ATTRIBUTE),
    ("Item", "DicomAttribute"): (_Reader._open_attribute, _ATTRIBUTE),
    ("DicomAttribute", "Value"): (_Reader._open_value, ("number",)),
    ("DicomAttribute", "Item"): (_Reader._open_value, ("number",)),
    ("DicomAttribute", "PersonName"): (_Reader._open_value, ("number",)),
    ("DicomAttribute", "BulkData"): (_Reader._open_bulk, ("uri", "uuid")),
    ("DicomAttribute", "InlineBinary"): (_Reader._open_inline, ()),
    **{("PersonName", group): (_Reader._open_group, ()) for group in _GROUPS},
    **{(g, part): (_Reader._open_text, ()) for g in _GROUPS for part in _COMPONENTS},
}
