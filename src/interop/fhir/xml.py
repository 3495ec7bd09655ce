"""The XML form of resources (R4 xml.html), to and from the JSON that everything else works on.

Both ways follow the element tables, so that a resource comes out as it went in: every digit, id,
extension and narrative. Order, attributes and namespaces are those of xml.html; comments are
dropped. Expat reads, with everything refused that could make it read more than the body: document
types and with them all entities, processing instructions, other namespaces (security.md C1).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import Any
from xml.parsers import expat
from xml.sax.saxutils import escape

from interop.errors import BadRequest
from interop.fhir import json
from interop.fhir.definitions import Element, definitions
from interop.fhir.lens import JsonObject

FHIR = "http://hl7.org/fhir"
XHTML = "http://www.w3.org/1999/xhtml"
_SCHEMA_INSTANCE = "http://www.w3.org/2001/XMLSchema-instance "
MAX_DEPTH = json.MAX_DEPTH
MAX_XHTML_DEPTH = 200
_INTEGERS = ("integer", "unsignedInt", "positiveInt")
# What JSON strings of FHIR may hold and XML 1.0 may not.
_NOT_XML = re.compile("[\ufffe\uffff]")
_REPLACEMENT = "\ufffd"
_IN_ATTRIBUTES = {"\n": "&#10;", "\r": "&#13;", "\t": "&#9;", '"': "&quot;"}
_XML_DECLARATION = re.compile(r"\s*<\?xml[^>]*\?>\s*")


class MalformedXml(BadRequest):
    """The body is not an XML document that FHIR allows."""

    issue_code = "structure"


@dataclass(frozen=True, slots=True)
class _Property:
    """A JSON property of a type, and how it is written in XML."""

    key: str
    type: str
    element: Element
    is_primitive: bool


@cache
def _properties(type_: str) -> dict[str, _Property]:
    """What a type has, in the order of xml.html; extensions of a primitive are those of Element."""
    tables = definitions()
    return {
        key: _Property(key, of, element, tables.is_primitive(of))
        for element in tables.types.get(type_, {}).values()
        for key, of in element.keys()
    }


@cache
def _is_resource(type_: str) -> bool:
    return type_ in definitions().resource_types


# -- writing --------------------------------------------------------------------------------


def to_xml(resource: JsonObject, *, pretty: bool = False) -> bytes:
    """The resource as an XML document in UTF-8; with `pretty` a line for each element."""
    out: list[str] = ['<?xml version="1.0" encoding="UTF-8"?>']
    out.extend(_resource(resource, f' xmlns="{FHIR}"', "\n" if pretty else ""))
    return "".join(out).encode()


def _resource(resource: JsonObject, attributes: str, indent: str) -> Iterator[str]:
    type_ = str(resource["resourceType"])
    yield f"{indent}<{type_}{attributes}>"
    yield from _children(resource, type_, indent and indent + "  ")
    yield f"{indent}</{type_}>"


def _children(value: JsonObject, type_: str, indent: str) -> Iterator[str]:
    for key, found in _properties(type_).items():
        if _is_attribute(key, type_):
            continue
        content, beside = value.get(key), value.get("_" + key)
        if content is None and beside is None:
            continue
        if not found.element.is_list:
            yield from _element(found, content, beside, indent)
            continue
        contents, besides = content or [], beside or []
        for index in range(max(len(contents), len(besides))):
            one = contents[index] if index < len(contents) else None
            its = besides[index] if index < len(besides) else None
            yield from _element(found, one, its, indent)


def _element(found: _Property, content: Any, beside: Any, indent: str) -> Iterator[str]:
    if found.type == "xhtml":
        yield indent + _XML_DECLARATION.sub("", content, count=1)
        return
    if found.type == "Resource":
        yield f"{indent}<{found.key}>"
        yield from _resource(content, "", indent and indent + "  ")
        yield f"{indent}</{found.key}>"
        return
    if found.is_primitive:
        inside, type_ = beside or {}, "Element"
        value = "" if content is None else f" value={_quoted(content)}"
    else:
        inside, type_, value = content, found.type, ""
    children = list(_children(inside, type_, indent and indent + "  "))
    identity = f" id={_quoted(inside['id'])}" if "id" in inside else ""
    url = f" url={_quoted(inside['url'])}" if type_ == "Extension" and "url" in inside else ""
    yield f"{indent}<{found.key}{identity}{url}{value}"
    if children:
        yield ">"
        yield from children
        yield f"{indent}</{found.key}>"
    else:
        yield "/>"


def _is_attribute(key: str, type_: str) -> bool:
    """xml.html: the id of an element and the url of an extension are attributes."""
    if key == "id":
        return not _is_resource(type_)
    return key == "url" and type_ == "Extension"


def _quoted(value: Any) -> str:
    if isinstance(value, bool):
        return '"true"' if value else '"false"'
    if isinstance(value, str):
        return f'"{escape(_NOT_XML.sub(_REPLACEMENT, value), _IN_ATTRIBUTES)}"'
    return f'"{json.number_text(value)}"'


# -- reading --------------------------------------------------------------------------------


def from_xml(body: bytes) -> JsonObject:
    """Read one resource. Raises MalformedXml with the place and what would be accepted."""
    return _Reader(body).read()


@dataclass(slots=True)
class _Frame:
    """An element that is open."""

    type: str
    path: str
    depth: int  # of its JSON
    found: _Property | None = None  # None: a resource
    value: Any = None
    object: JsonObject = field(default_factory=dict)
    besides: dict[str, dict[int, JsonObject]] = field(default_factory=dict)

    @property
    def is_primitive(self) -> bool:
        return self.found is not None and self.found.is_primitive

    @property
    def holds_resource(self) -> bool:
        return self.found is not None and self.found.type == "Resource"

    def add(self, child: _Frame) -> None:
        """Take in a child that is complete."""
        found = child.found
        assert found is not None
        content = child.value if found.is_primitive or found.type == "Resource" else child.object
        beside = child.object if found.is_primitive and child.object else None
        if not found.element.is_list:
            if content is not None:
                self.object[found.key] = content
            if beside is not None:
                self.object["_" + found.key] = beside
            return
        items = self.object.setdefault(found.key, [])
        if beside is not None:
            self.besides.setdefault(found.key, {})[len(items)] = beside
        items.append(content)

    def finish(self) -> None:
        """json.html: nulls align the extensions of primitives in a list with their values."""
        for key, besides in self.besides.items():
            values = self.object[key]
            self.object["_" + key] = [besides.get(index) for index in range(len(values))]
            if all(value is None for value in values):
                del self.object[key]


class _Reader:
    """Expat's events to JSON, element by element, so that nothing is built that R4 has not."""

    def __init__(self, body: bytes) -> None:
        self._body = body
        self._stack: list[_Frame] = []
        self._narrative: _Narrative | None = None
        self._result: JsonObject | None = None
        parser = expat.ParserCreate("utf-8", namespace_separator=" ")
        parser.buffer_text = True
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.CharacterDataHandler = self._text
        parser.StartDoctypeDeclHandler = self._refuse("a document type declaration (DOCTYPE)")
        parser.EntityDeclHandler = self._refuse("an entity declaration")
        parser.ProcessingInstructionHandler = self._refuse("a processing instruction")
        self._parser = parser

    def read(self) -> JsonObject:
        try:
            # Expat would follow the byte order mark of another encoding.
            self._body.decode("utf-8")
            self._parser.Parse(self._body, True)
        except UnicodeDecodeError as error:
            raise MalformedXml(f"not UTF-8: byte {error.start} {error.reason}") from None
        except expat.ExpatError as error:
            what = expat.errors.messages[error.code]
            place = f"line {error.lineno}, column {error.offset + 1}"
            raise MalformedXml(f"not well-formed XML in UTF-8: {what} ({place})") from None
        assert self._result is not None
        return self._result

    # -- events -------------------------------------------------------------------------

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        namespace, _, local = name.rpartition(" ")
        if self._narrative is not None:
            self._narrative.start(namespace, local, attributes)
            return
        if not self._stack:
            self._open_resource(namespace, local, attributes, "", 1)
            return
        parent = self._stack[-1]
        if parent.holds_resource:
            if parent.value is not None:
                raise self._error("more than one resource", parent.path)
            self._open_resource(namespace, local, attributes, parent.path, parent.depth)
            return
        found = _properties("Element" if parent.is_primitive else parent.type).get(local)
        is_attribute = _is_attribute(local, parent.type) and not parent.is_primitive
        if found is None or is_attribute or (parent.is_primitive and local == "id"):
            raise self._error(
                f"{parent.type} has no element {local[:64]!r}; accepted: {_accepted(parent)}",
                f"{parent.path}.{local[:64]}",
            )
        self._open(parent, found, namespace, attributes)

    def _open(
        self, parent: _Frame, found: _Property, namespace: str, attributes: dict[str, str]
    ) -> None:
        path = f"{parent.path}.{found.key}"
        if found.element.is_list:
            path += f"[{len(parent.object.get(found.key, ()))}]"
        elif found.key in parent.object or "_" + found.key in parent.object:
            raise self._error("this element may appear once", path)
        if found.type == "xhtml":
            start = self._parser.CurrentByteIndex
            self._narrative = _Narrative(start, path, self._error)
            self._stack.append(_Frame("xhtml", path, parent.depth, found))
            self._narrative.start(namespace, found.key, attributes)
            return
        self._require(namespace, FHIR, path)
        depth = parent.depth + (2 if found.element.is_list else 1)
        if depth > MAX_DEPTH:
            raise self._error(f"nested deeper than {MAX_DEPTH} levels of JSON", path)
        frame = _Frame(found.type, path, depth, found)
        for name, value in attributes.items():
            self._attribute(frame, name, value)
        self._stack.append(frame)

    def _open_resource(
        self, namespace: str, local: str, attributes: dict[str, str], path: str, depth: int
    ) -> None:
        self._require(namespace, FHIR, path or local[:64])
        if not _is_resource(local):
            raise self._error(f"<{local[:64]}> is not a resource type of FHIR R4", path)
        for name in attributes:
            if not name.startswith(_SCHEMA_INSTANCE):
                raise self._error(f"<{local}> has no attribute {name[:64]!r}", path)
        self._stack.append(_Frame(local, path or local, depth, None, None, {"resourceType": local}))

    def _attribute(self, frame: _Frame, name: str, value: str) -> None:
        if name == "id" and not frame.holds_resource:
            frame.object["id"] = value
        elif name == "url" and frame.type == "Extension":
            frame.object["url"] = value
        elif name == "value" and frame.is_primitive:
            frame.value = self._primitive(frame, value)
        else:
            accepted = "id, value" if frame.is_primitive else "id"
            raise self._error(f"no attribute {name[:64]!r}; accepted: {accepted}", frame.path)

    def _primitive(self, frame: _Frame, text: str) -> Any:
        if frame.type == "boolean":
            if text not in ("true", "false"):
                raise self._error(f"{text[:32]!r}; accepted: true, false", frame.path)
            return text == "true"
        if frame.type == "decimal" or frame.type in _INTEGERS:
            try:
                return json.number(text.removeprefix("+") if frame.type != "decimal" else text)
            except ValueError as error:
                raise self._error(str(error), frame.path) from None
        return text

    def _end(self, name: str) -> None:
        narrative = self._narrative
        if narrative is not None:
            narrative.end(name.rpartition(" ")[2])
            if narrative.depth:
                return
            frame = self._stack.pop()
            frame.value = self._div(narrative)
            self._narrative = None
            self._stack[-1].add(frame)
            return
        frame = self._stack.pop()
        frame.finish()
        if frame.found is None:
            self._close_resource(frame)
            return
        if frame.value is None and not frame.object:
            raise self._error("an empty element; leave it out", frame.path)
        self._stack[-1].add(frame)

    def _close_resource(self, frame: _Frame) -> None:
        if self._stack:
            self._stack[-1].value = frame.object
        else:
            self._result = frame.object

    def _text(self, text: str) -> None:
        if self._narrative is not None:
            self._narrative.text(text)
        elif not text.isspace():
            path = self._stack[-1].path if self._stack else ""
            raise self._error("text between elements; values are in the attribute value", path)

    def _div(self, narrative: _Narrative) -> str:
        """The narrative as it stands in the body, or written anew where it leans on the outside."""
        at = self._parser.CurrentByteIndex
        end = self._body.find(b">", at) + 1
        source = self._body[narrative.start_at : end].decode()
        return source if narrative.stands_alone(source) else narrative.rewritten()

    def _require(self, namespace: str, expected: str, path: str) -> None:
        if namespace != expected:
            shown = f"the namespace {namespace[:100]!r}" if namespace else "no namespace"
            raise self._error(f"an element in {shown}; expected {expected}", path)

    def _refuse(self, what: str) -> Callable[..., None]:
        def handler(*_arguments: object) -> None:
            raise self._error(f"{what} is not allowed in FHIR", "")

        return handler

    def _error(self, what: str, path: str) -> MalformedXml:
        line, column = self._parser.CurrentLineNumber, self._parser.CurrentColumnNumber + 1
        place = f"line {line}, column {column}" + (f", at {path[:200]}" if path else "")
        return MalformedXml(f"{what} ({place})", expression=path[:200] or None)


class _Narrative:
    """The XHTML of one narrative while it is read. What it may hold is for the gate to say."""

    def __init__(self, start_at: int, path: str, error: Callable[[str, str], MalformedXml]) -> None:
        self.start_at = start_at
        self.depth = 0
        self._path = path
        self._error = error
        self._is_empty = False  # nothing yet in the element that was opened last
        self._written: list[str] = []

    def start(self, namespace: str, local: str, attributes: dict[str, str]) -> None:
        if namespace != XHTML:
            raise self._error(f"<{local[:32]}> is not in the namespace {XHTML}", self._path)
        if self.depth >= MAX_XHTML_DEPTH:
            raise self._error(f"XHTML deeper than {MAX_XHTML_DEPTH} levels", self._path)
        shown = "" if self.depth else f' xmlns="{XHTML}"'
        for name, value in attributes.items():
            shown += f" {name.rpartition(' ')[2]}={_quoted(value)}"
        self._written.append(f"<{local}{shown}>")
        self.depth += 1
        self._is_empty = True

    def end(self, local: str) -> None:
        self.depth -= 1
        if self._is_empty:
            self._written[-1] = self._written[-1][:-1] + "/>"
        else:
            self._written.append(f"</{local}>")
        self._is_empty = False

    def text(self, text: str) -> None:
        self._written.append(escape(text))
        self._is_empty = False

    def stands_alone(self, source: str) -> bool:
        """Whether the text is XHTML by itself: it names its namespace, without a prefix."""
        if not source.startswith("<div"):
            return False
        seen: list[str] = []
        parser = expat.ParserCreate(namespace_separator=" ")
        parser.StartElementHandler = lambda name, _: seen.append(name) if not seen else None
        try:
            parser.Parse(source, True)
        except expat.ExpatError:
            return False
        return seen == [f"{XHTML} div"]

    def rewritten(self) -> str:
        return "".join(self._written)


def _accepted(frame: _Frame) -> str:
    if frame.is_primitive:
        return "extension"
    known = [key for key in _properties(frame.type) if not _is_attribute(key, frame.type)]
    return ", ".join(known[:40])
