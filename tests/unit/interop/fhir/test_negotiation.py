"""Which form an answer has: `_format`, Accept with quality values, `_pretty`."""

from __future__ import annotations

import pytest

from interop.errors import BadRequest, NotAcceptable
from interop.fhir.negotiation import PLAIN, form_of


@pytest.mark.parametrize(
    ("accept", "is_xml"),
    [
        (None, False),
        ("", False),
        ("*/*", False),
        ("application/fhir+json", False),
        ("application/json", False),
        ("application/fhir+xml", True),
        ("application/xml", True),
        ("text/xml", True),
        ("application/fhir+xml;q=0.5, application/fhir+json;q=0.9", False),
        ("application/fhir+json;q=0.5, application/fhir+xml;q=0.9", True),
        ("application/fhir+xml, application/fhir+json", False),
        ("application/fhir+json;q=0, */*", True),
        ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", True),
        ("text/html, */*;q=0.1", False),
        ("text/*;q=0.3, application/xml;q=0.2", False),
        ("application/fhir+xml; fhirVersion=4.0", True),
        ("application/fhir+xml; fhirVersion=5.0, application/fhir+json", False),
        ("APPLICATION/FHIR+XML", True),
    ],
)
def test_accept_chooses_by_quality(accept: str | None, is_xml: bool) -> None:
    assert form_of(accept, []).is_xml is is_xml


@pytest.mark.parametrize(
    "accept",
    ["text/html", "application/fhir+turtle", "*/*;q=0", "application/fhir+json; fhirVersion=5.0"],
)
def test_what_cannot_be_sent_is_not_acceptable(accept: str) -> None:
    with pytest.raises(NotAcceptable, match=r"application/fhir\+json, application/fhir\+xml"):
        form_of(accept, [])


@pytest.mark.parametrize(
    ("value", "is_xml"),
    [
        ("json", False),
        ("application/fhir json", False),
        ("application/json;charset=utf-8", False),
        ("text/json", False),
        ("xml", True),
        ("text/xml", True),
        ("application/xml", True),
        ("application/fhir+xml", True),
    ],
)
def test_format_overrides_accept(value: str, is_xml: bool) -> None:
    other = "application/fhir+json" if is_xml else "application/fhir+xml"

    assert form_of(other, [("_format", value)]).is_xml is is_xml


@pytest.mark.parametrize("value", ["ttl", "html", "application/pdf", "jsonx"])
def test_another_format_is_not_acceptable(value: str) -> None:
    with pytest.raises(NotAcceptable, match="accepted: json, xml"):
        form_of("*/*", [("_format", value)])


def test_what_is_stored_is_served_as_it_is_unless_asked_otherwise() -> None:
    assert form_of("application/json", [("_format", "json"), ("_pretty", "false")]) is PLAIN
    assert form_of(None, [("_pretty", "true")]).is_pretty
    with pytest.raises(BadRequest, match="accepted: true, false"):
        form_of(None, [("_pretty", "yes")])
