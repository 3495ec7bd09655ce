"""The acceptance gate: what R4 allows passes, and each rule is named where it is broken."""

from __future__ import annotations

import copy
import time
from pathlib import Path
from typing import Any

import pytest

from interop.fhir import json
from interop.fhir.gate import check
from interop.fhir.narrative import NarrativeError, check_narrative
from interop.fhir.outcomes import InvalidResource

SHARED = Path(__file__).parents[5] / "shared/fhir"
XHTML = 'xmlns="http://www.w3.org/1999/xhtml"'

PATIENT: dict[str, Any] = {
    "resourceType": "Patient",
    "name": [{"family": "A", "given": ["B"]}],
    "birthDate": "1970-01-01",
}


def official() -> list[Path]:
    found = [*SHARED.glob("examples/*.json"), *SHARED.glob("igs/dental-data-exchange/**/*.json")]
    return sorted(found)


@pytest.mark.skipif(not SHARED.is_dir(), reason="no official examples at hand")
def test_all_official_examples_pass_at_a_thousand_a_second() -> None:
    resources = [json.loads(path.read_bytes()) for path in official()]
    resources = [resource for resource in resources if "resourceType" in resource]
    for resource in resources:
        check(resource, resource["resourceType"])

    start = time.process_time()
    for resource in resources:
        check(resource, resource["resourceType"])
    spent = time.process_time() - start

    assert len(resources) > 150
    assert len(resources) / spent > 1000


def errors(resource: dict[str, Any], type_: str = "Patient") -> dict[str, str]:
    """What is said about each place."""
    with pytest.raises(InvalidResource) as refused:
        check(resource, type_)
    found: dict[str, str] = {}
    for issue in refused.value.issues:
        place = issue.expression or ""
        found[place] = f"{found.get(place, '')} {issue.diagnostics}"
    return found


BROKEN: list[tuple[dict[str, Any], str, str]] = [
    ({"foo": 1}, "Patient.foo", "no element 'foo'"),
    ({"__proto__": {"a": 1}}, "Patient.__proto__", "no element"),
    ({"gender": "x"}, "Patient.gender", "male | female | other | unknown"),
    ({"active": "true"}, "Patient.active", "boolean"),
    ({"active": None}, "Patient.active", "null"),
    ({"name": {"family": "A"}}, "Patient.name", "array"),
    ({"name": [{"family": ["A"]}]}, "Patient.name[0].family", "string"),
    ({"name": []}, "Patient.name", "empty array"),
    ({"name": [{}]}, "Patient.name[0]", "empty object"),
    ({"name": ["x"]}, "Patient.name[0]", "an object is expected"),
    ({"maritalStatus": False}, "Patient.maritalStatus", "an object is expected"),
    ({"maritalStatus": [{"text": "x"}]}, "Patient.maritalStatus", "one object"),
    ({"contact": [3]}, "Patient.contact[0]", "an object is expected"),
    ({"text": "x"}, "Patient.text", "an object is expected"),
    ({"_gender": "x"}, "Patient._gender", "id or extension"),
    ({"_gender": [{"id": "x"}]}, "Patient._gender", "one object"),
    ({"name": [{"given": ["a"], "_given": ["x"]}]}, "Patient.name[0]._given[0]", "id or extension"),
    ({"_gender": {"extension": [{"url": "u"}]}}, "Patient._gender.extension[0]", "ext-1"),
    ({"name": [None]}, "Patient.name[0]", "null"),
    ({"name": [{"family": ""}]}, "Patient.name[0].family", "empty text"),
    ({"name": [{"family": "  "}]}, "Patient.name[0].family", "white space"),
    ({"name": [{"given": [None]}]}, "Patient.name[0].given[0]", "null"),
    ({"birthDate": "1970-1-1"}, "Patient.birthDate", "date"),
    ({"birthDate": "1970-02-30"}, "Patient.birthDate", "exists"),
    ({"id": "a b"}, "Patient.id", "1 to 64"),
    ({"id": "x" * 65}, "Patient.id", "1 to 64"),
    ({"meta": {"lastUpdated": "2020"}}, "Patient.meta.lastUpdated", "instant"),
    (
        {"deceasedBoolean": True, "deceasedDateTime": "2020"},
        "Patient.deceasedDateTime",
        "takes one",
    ),
    ({"multipleBirthInteger": 1.5}, "Patient.multipleBirthInteger", "whole number"),
    ({"multipleBirthInteger": 2**31}, "Patient.multipleBirthInteger", "whole number"),
    ({"telecom": [{"rank": 0}]}, "Patient.telecom[0].rank", "from 1"),
    ({"photo": [{"size": -1}]}, "Patient.photo[0].size", "from 0"),
    ({"photo": [{"data": "AAA"}]}, "Patient.photo[0].data", "base64"),
    ({"photo": [{"data": "A=AA"}]}, "Patient.photo[0].data", "base64"),
    ({"photo": [{"url": "http://a b"}]}, "Patient.photo[0].url", "white space"),
    ({"language": " en"}, "Patient.language", "code"),
    ({"link": [{"type": "refer"}]}, "Patient.link[0].other", "required"),
    ({"link": [{"other": {"display": "x"}}]}, "Patient.link[0].type", "required"),
    ({"communication": [{"preferred": True}]}, "Patient.communication[0].language", "language"),
    ({"extension": [{"url": "urn:x"}]}, "Patient.extension[0]", "ext-1"),
    (
        {
            "extension": [
                {"url": "u", "valueCode": "x", "extension": [{"url": "v", "valueCode": "y"}]}
            ]
        },
        "Patient.extension[0]",
        "ext-1",
    ),
    ({"extension": [{"valueCode": "x"}]}, "Patient.extension[0].url", "required"),
    (
        {"generalPractitioner": [{"reference": "Patient/1"}]},
        "Patient.generalPractitioner[0]",
        "Organization | Practitioner | PractitionerRole",
    ),
    ({"managingOrganization": {"reference": "#o"}}, "Patient.managingOrganization", "contained"),
    ({"contained": [{"resourceType": "Foo"}]}, "Patient.contained[0]", "R4 resource type"),
    ({"contained": [{"resourceType": []}]}, "Patient.contained[0]", "R4 resource type"),
    (
        {"contained": ["x"], "managingOrganization": {"reference": "#x"}},
        "Patient.contained[0]",
        "object",
    ),
    (
        {"contained": 3, "managingOrganization": {"reference": "#x"}},
        "Patient.contained",
        "array",
    ),
    (
        {"contained": [{"resourceType": "Organization", "id": "o", "bar": 1}]},
        "Patient.contained[0].bar",
        "no element 'bar'",
    ),
    (
        {"contained": [{"resourceType": "Organization", "id": "o", "meta": {"versionId": "1"}}]},
        "Patient.contained[0].meta",
        "dom-4",
    ),
    (
        {
            "contained": [
                {
                    "resourceType": "Organization",
                    "id": "o",
                    "contained": [{"resourceType": "Basic"}],
                }
            ]
        },
        "Patient.contained[0]",
        "dom-2",
    ),
    (
        {"text": {"status": "generated", "div": f"<div {XHTML}><script>1</script></div>"}},
        "Patient.text.div",
        "script",
    ),
]


@pytest.mark.parametrize(("change", "place", "reason"), BROKEN, ids=[p for _, p, _ in BROKEN])
def test_a_broken_rule_is_named_with_its_place(
    change: dict[str, Any], place: str, reason: str
) -> None:
    found = errors({**copy.deepcopy(PATIENT), **change})

    assert any(where == place or where == place.rsplit("/")[0] for where in found), found
    assert reason in " ".join(found.values())


def test_a_required_choice_and_a_required_primitive_are_required() -> None:
    found = errors({"resourceType": "Observation", "code": {"text": "x"}}, "Observation")

    assert "Observation.status" in " ".join(found)


def test_an_extension_may_stand_in_for_a_required_value() -> None:
    absent = [
        {
            "url": "http://hl7.org/fhir/StructureDefinition/data-absent-reason",
            "valueCode": "unknown",
        }
    ]

    check(
        {"resourceType": "Observation", "_status": {"extension": absent}, "code": {"text": "x"}},
        "Observation",
    )
    check(
        {**PATIENT, "name": [{"given": ["A", None], "_given": [None, {"extension": absent}]}]},
        "Patient",
    )


def test_canonicals_can_have_extensions() -> None:
    """The official schema forgets them; US Core's QuestionnaireResponses have them."""
    title = [{"url": "urn:title", "valueString": "x"}]
    response = {"resourceType": "QuestionnaireResponse", "status": "completed"}

    check(
        {**response, "questionnaire": "urn:q", "_questionnaire": {"extension": title}},
        "QuestionnaireResponse",
    )
    check({**PATIENT, "meta": {"_profile": [{"extension": title}]}}, "Patient")


def test_the_wrong_type_is_refused_before_all_else() -> None:
    assert "accepts Patient" in errors({"resourceType": "Basic"})["Patient.resourceType"]


def test_resources_in_a_bundle_are_checked_as_their_own_type() -> None:
    entry = {"resource": {"resourceType": "Patient", "gender": "x"}}
    bundle = {"resourceType": "Bundle", "type": "collection", "entry": [entry]}

    assert list(errors(bundle, "Bundle")) == ["Bundle.entry[0].resource.gender"]


def test_the_specifications_base64_pattern_is_not_run() -> None:
    """Exponential in the specification's own pattern (reliability.md M10, security.md C3)."""
    resource = {"resourceType": "Binary", "contentType": "text/plain", "data": "AAAA " * 5000 + "!"}

    start = time.perf_counter()
    errors(resource, "Binary")

    assert time.perf_counter() - start < 0.5


ALLOWED = [
    "<p>text</p>",
    '<a href="https://example.test/">x</a><a name="b">y</a>',
    '<a href="mailto:a@b.test">x</a><a href="#part">x</a><a href="other.html">x</a>',
    '<img src="#photo" alt="x"/><img src="data:image/png;base64,AAAA" alt="x"/>',
    '<table><tr><td style="color:red" colspan="2">x</td></tr></table>',
    '<p style="background-image: url(tbl_bck10.png)">x</p>',
    '<p style="background: url(data:image/png;base64,AAAA)">x</p>',
    "  ",
]
FORBIDDEN = [
    "<script>alert(1)</script>",
    '<p onclick="x()">x</p>',
    "<iframe/>",
    "<object/>",
    "<form><input/></form>",
    "<style>p{}</style>",
    '<link href="x"/>',
    '<a href="javascript:alert(1)">x</a>',
    '<a href=" JaVaScRiPt:alert(1)">x</a>',
    '<a href="java&#10;script:alert(1)">x</a>',
    '<a href="data:text/html,x">x</a>',
    '<a href="//evil.test/">x</a>',
    '<img src="https://evil.test/beacon.gif"/>',
    '<img src="//evil.test/beacon.gif"/>',
    '<img src="data:image/svg+xml;base64,AAAA"/>',
    '<p style="background:url(https://evil.test/)">x</p>',
    '<p style="background:url(//evil.test/)">x</p>',
    '<p style="background:url( &quot;x.png&quot;);b:url(https:x)">x</p>',
    '<p style="background:uurl(x)rl(https://evil.test/)">x</p>',
    '<p style="background:url(data:image/svg+xml;base64,AAAA)">x</p>',
    '<p style="width:expression(alert(1))">x</p>',
    r'<p style="background:\75rl(x)">x</p>',
    '<svg xmlns="http://www.w3.org/2000/svg"><script/></svg>',
    '<p xmlns:x="urn:x" x:y="z">x</p>',
    "<p>&nbsp;</p>",
    "<p>unclosed",
    "<!DOCTYPE div><p/>",
    "<?php x ?>",
    "<![CDATA[<script>]]></p>",
]


@pytest.mark.parametrize("content", ALLOWED)
def test_formatting_is_allowed(content: str) -> None:
    check_narrative(f"<div {XHTML}>{content}</div>")


@pytest.mark.parametrize("content", FORBIDDEN)
def test_what_runs_or_calls_is_not(content: str) -> None:
    """security.md C7."""
    with pytest.raises(NarrativeError):
        check_narrative(f"<div {XHTML}>{content}</div>")


@pytest.mark.parametrize(
    "div",
    [
        "",
        "text",
        "<div>no namespace</div>",
        f"<p {XHTML}>not a div</p>",
        f"<!DOCTYPE x [<!ENTITY e SYSTEM 'file:///etc/passwd'>]><div {XHTML}>&e;</div>",
    ],
)
def test_a_div_is_one_xhtml_div(div: str) -> None:
    with pytest.raises(NarrativeError):
        check_narrative(div)
