"""The forms of answers and bodies: JSON, XML, pretty, summaries and elements, on every way in."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4
from xml.etree import ElementTree

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from interop.fhir import json
from interop.fhir.subsetting import SUBSETTED
from interop.fhir.xml import from_xml, to_xml

Outcome = Callable[..., dict[str, Any]]
FHIR_JSON = {"Content-Type": "application/fhir+json"}
FHIR_XML = {"Content-Type": "application/fhir+xml"}
AS_XML = {"Accept": "application/fhir+xml"}
XML = "application/fhir+xml"
EXAMPLES = Path(__file__).parents[4] / "shared/fhir/examples"

OBSERVATION: dict[str, Any] = {
    "resourceType": "Observation",
    "text": {
        "status": "generated",
        "div": '<div xmlns="http://www.w3.org/1999/xhtml">a &amp; b</div>',
    },
    "status": "final",
    "code": {"text": "forms"},
    "valueQuantity": json.loads(b'{"value":1.500,"unit":"mm"}'),
    "note": [{"text": "a note"}],
}


@pytest.fixture(scope="module")
def observation(fhir: httpx.Client) -> str:
    """The URL of an Observation in its second version, of a patient of its own."""
    patient = fhir.post(
        "/Patient", content=b'{"resourceType":"Patient","active":true,"name":[{"family":"Forms"}]}',
        headers=FHIR_JSON,
    ).json()  # fmt: skip
    body = {**OBSERVATION, "subject": {"reference": f"Patient/{patient['id']}"}}
    made = fhir.post("/Observation", content=json.dumps(body), headers=FHIR_JSON)
    url = f"/Observation/{made.json()['id']}"
    again = {**json.loads(made.content), "note": [{"text": "another note"}]}
    assert fhir.put(url, content=json.dumps(again), headers=FHIR_JSON).status_code == 200
    return url


def as_json(response: httpx.Response) -> Any:
    assert response.headers["content-type"].startswith(XML), response.text
    ElementTree.fromstring(response.content)
    return from_xml(response.content)


def test_every_answer_comes_in_xml(fhir: httpx.Client, observation: str) -> None:
    plain = fhir.get(observation)
    id_ = observation.rpartition("/")[2]

    assert as_json(fhir.get(observation, headers=AS_XML)) == json.loads(plain.content)
    assert as_json(fhir.get(observation, params={"_format": "xml"})) == json.loads(plain.content)
    assert as_json(fhir.get(f"{observation}/_history/1", headers=AS_XML))["note"][0]["text"]
    history = as_json(fhir.get(f"{observation}/_history", headers=AS_XML))
    assert [entry["resource"]["meta"]["versionId"] for entry in history["entry"]] == ["2", "1"]
    found = as_json(fhir.get("/Observation", params={"_id": id_}, headers=AS_XML))
    assert found["entry"][0]["resource"] == json.loads(plain.content)
    posted = fhir.post("/Observation/_search", data={"_id": id_, "_format": "xml"})
    assert as_json(posted)["entry"][0]["resource"] == json.loads(plain.content)
    assert as_json(fhir.get("/metadata", headers=AS_XML))["fhirVersion"] == "4.0.1"
    for refused, status in (
        (fhir.get(f"/Observation/{uuid4()}", headers=AS_XML), 404),
        (fhir.get("/Nonsense", headers=AS_XML), 404),
        (fhir.get("/Observation?nonsense=1", headers=AS_XML), 400),
        (fhir.get("/nonsense/1/2/3", headers=AS_XML), 404),
    ):
        assert refused.status_code == status
        assert as_json(refused)["resourceType"] == "OperationOutcome"


def test_what_is_stored_is_served_as_it_is(fhir: httpx.Client, observation: str) -> None:
    plain = fhir.get(observation)

    assert b'"value":1.500' in plain.content
    assert fhir.get(observation, params={"_pretty": "false", "_format": "json"}).content == (
        plain.content
    )
    pretty = fhir.get(observation, params={"_pretty": "true"})
    assert b'\n  "id"' in pretty.content
    assert json.loads(pretty.content) == json.loads(plain.content)
    pretty_xml = fhir.get(observation, params={"_pretty": "true"}, headers=AS_XML)
    assert b"\n  <id" in pretty_xml.content
    assert as_json(pretty_xml) == json.loads(plain.content)


def test_head_says_what_get_would(fhir: httpx.Client, observation: str) -> None:
    id_ = observation.rpartition("/")[2]
    for url in (
        observation,
        f"{observation}/_history",
        f"{observation}/_history/1",
        f"/Observation?_id={id_}",
        f"/Observation?_id={id_}&_format=xml&_summary=true",
        "/metadata",
        f"/Observation/{uuid4()}",
    ):
        got, head = fhir.get(url), fhir.head(url)
        assert head.status_code == got.status_code, url
        assert head.content == b""
        for name in ("content-type", "content-length", "etag", "last-modified"):
            assert head.headers.get(name) == got.headers.get(name), (url, name)


def test_bodies_come_in_xml(fhir: httpx.Client, assert_outcome: Outcome) -> None:
    made = fhir.post("/Observation", content=to_xml(OBSERVATION), headers={**FHIR_XML, **AS_XML})

    assert made.status_code == 201, made.text
    resource = as_json(made)
    url = f"/Observation/{resource['id']}"
    stored = fhir.get(url)
    assert b'"value":1.500' in stored.content
    assert json.loads(stored.content) == resource
    changed = {**resource, "status": "amended"}
    put = fhir.put(url, content=to_xml(changed), headers={"Content-Type": "text/xml"})
    assert put.status_code == 200
    assert put.json()["status"] == "amended"
    refused = fhir.post("/Observation", content=to_xml(changed), headers={"Content-Type": "a/b"})
    outcome = assert_outcome(refused, 415)
    assert "application/fhir+xml" in outcome["issue"][0]["diagnostics"]
    attack = b'<!DOCTYPE x [<!ENTITY e SYSTEM "file:///etc/passwd">]><Patient/>'
    assert_outcome(fhir.post("/Patient", content=attack, headers=FHIR_XML), 400, "structure")
    wrong = b'<Patient xmlns="http://hl7.org/fhir"><gender value="x"/></Patient>'
    assert_outcome(fhir.post("/Patient", content=wrong, headers=FHIR_XML), 400, "code-invalid")
    version = {"Content-Type": "application/fhir+json; fhirVersion=5.0"}
    assert_outcome(fhir.post("/Observation", content=b"{}", headers=version), 415)


@pytest.mark.parametrize(
    ("summary", "kept", "cut"),
    [
        ("true", {"status", "code", "subject", "valueQuantity"}, {"note", "text"}),
        ("text", {"status", "code", "text"}, {"note", "subject", "valueQuantity"}),
        ("data", {"status", "note", "valueQuantity"}, {"text"}),
    ],
)
def test_summaries_on_read_search_and_history(
    fhir: httpx.Client, observation: str, summary: str, kept: set[str], cut: set[str]
) -> None:
    asked = {"_summary": summary}
    id_ = observation.rpartition("/")[2]

    read = fhir.get(observation, params=asked).json()
    version = fhir.get(f"{observation}/_history/2", params=asked).json()
    found = fhir.get("/Observation", params={"_id": id_, **asked}).json()
    history = fhir.get(f"{observation}/_history", params=asked).json()

    shown = [read, version, found["entry"][0]["resource"]]
    shown += [entry["resource"] for entry in history["entry"]]
    for resource in shown:
        assert kept <= resource.keys() and not cut & resource.keys()
        assert SUBSETTED in resource["meta"]["tag"]
        assert resource["meta"]["versionId"]
    assert f"_summary={summary}" in found["link"][0]["url"]


def test_elements_of_matches_and_of_what_is_included(
    fhir: httpx.Client, observation: str, assert_outcome: Outcome
) -> None:
    asked = {
        "_id": observation.rpartition("/")[2],
        "_include": "Observation:subject",
        "_elements": "note,Patient.active",
    }

    page = fhir.get("/Observation", params=asked).json()

    match, included = (entry["resource"] for entry in page["entry"])
    assert match.keys() == {"resourceType", "id", "meta", "status", "code", "note"}
    assert included.keys() == {"resourceType", "id", "meta", "active"}
    assert SUBSETTED in match["meta"]["tag"] and SUBSETTED in included["meta"]["tag"]
    read = fhir.get(observation, params={"_elements": "note"}, headers=AS_XML)
    assert as_json(read).keys() == match.keys()
    refused = fhir.get("/Observation", params={"_elements": "birthDate"})
    assert "has no element 'birthDate'" in assert_outcome(refused, 400)["issue"][0]["diagnostics"]
    text = {"_summary": "text", "_include": "Observation:subject"}
    assert_outcome(fhir.get("/Observation", params=text), 400)


def test_elements_of_what_a_write_answers(fhir: httpx.Client) -> None:
    made = fhir.post(
        "/Observation?_elements=code", content=json.dumps(OBSERVATION), headers=FHIR_JSON
    )

    assert made.status_code == 201, made.text
    assert made.json().keys() == {"resourceType", "id", "meta", "status", "code"}
    stored = fhir.get(f"/Observation/{made.json()['id']}").json()
    assert stored["note"] == [{"text": "a note"}]
    assert "tag" not in stored["meta"]


# -- every digit and element ------------------------------------------------------------------

TEXT = st.text(
    # R4's pattern of a string has no space but the plain one, tab and the ends of lines.
    st.characters(exclude_categories=("Cs", "Cc", "Z"), exclude_characters="\ufffe\uffff")
    | st.just(" "),
    min_size=1,
    max_size=12,
).filter(lambda text: bool(text.strip()))
NUMBERS = st.from_regex(r"-?(0|[1-9][0-9]{0,15})(\.[0-9]{1,15})?([eE][+-]?[0-9])?", fullmatch=True)
EXTENSIONS = st.recursive(
    st.one_of(
        TEXT.map(lambda text: {"url": "urn:x:text", "valueString": text}),
        NUMBERS.map(lambda text: {"url": "urn:x:number", "valueDecimal": json.number(text)}),
        st.booleans().map(lambda value: {"url": "urn:x:bool", "valueBoolean": value}),
        NUMBERS.map(lambda text: {"url": "urn:x:q", "valueQuantity": {"value": json.number(text)}}),
    ),
    lambda inner: st.lists(inner, min_size=1, max_size=3).map(
        lambda items: {"url": "urn:x:tree", "extension": items}
    ),
    max_leaves=6,
)


@settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(extensions=st.lists(EXTENSIONS, min_size=1, max_size=3), text=TEXT, is_xml=st.booleans())
def test_a_resource_comes_back_with_every_digit_and_element(
    fhir: httpx.Client, extensions: list[dict[str, Any]], text: str, is_xml: bool
) -> None:
    resource = {
        "resourceType": "Basic",
        "extension": extensions,
        "code": {"text": text, "_text": {"extension": extensions}},
    }
    body, headers = (to_xml(resource), FHIR_XML) if is_xml else (json.dumps(resource), FHIR_JSON)

    made = fhir.post("/Basic", content=body, headers=headers)

    assert made.status_code == 201, made.text
    url = f"/Basic/{json.loads(made.content)['id']}"
    for back in (json.loads(fhir.get(url).content), as_json(fhir.get(url, headers=AS_XML))):
        for name in ("extension", "code"):
            assert json.dumps(back[name]) == json.dumps(resource[name])
