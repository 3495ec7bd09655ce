"""Whatever comes in, validation answers with issues: never with an exception, never for long."""

from __future__ import annotations

import copy
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from interop.errors import BadRequest
from interop.fhir import json
from interop.fhir.outcomes import Issue
from interop.fhir.validation import library, validate
from tests.unit.interop.fhir.validation.test_negatives import VALID

NAMES = [
    *("name", "id", "extension", "contained", "reference", "resourceType", "coding", "value"),
    *("meta", "profile", "url", "valueQuantity", "entry", "resource", "item", "text", "div"),
    *("_gender", "_name", "fullUrl", "code", "system", "period", "start", "identifier"),
]
CORE = "http://hl7.org/fhir/StructureDefinition"
TEXTS = ["", " ", "x", "#", "#x", "Patient/1", "urn:uuid:1", "2020", "2020-13-01", "Patient",
         "Bundle", "Nonsense", "http://hl7.org/fhir/us/core/StructureDefinition/us-core-patient",
         "<div/>", "\u0000", "😀"]  # fmt: skip
_LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**17), 10**17),
    st.decimals(-(10**9), 10**9, places=3),
    st.sampled_from(TEXTS),
    st.text(max_size=5),
)
_NODES = st.recursive(
    _LEAVES,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(NAMES) | st.text(max_size=4), inner, max_size=4)
    ),
    max_leaves=12,
)


def places(node: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [path] if path else []
    if isinstance(node, dict | list):
        for key, value in node.items() if isinstance(node, dict) else enumerate(node):
            found += places(value, (*path, key))
    return found


@st.composite
def damaged(draw: st.DrawFn) -> dict[str, Any]:
    """A valid resource with some of its parts replaced by anything, or something added."""
    type_ = draw(st.sampled_from(sorted(VALID)))
    resource: dict[str, Any] = {"resourceType": type_, **copy.deepcopy(VALID[type_])}
    for _ in range(draw(st.integers(1, 4))):
        if draw(st.booleans()):
            resource[draw(st.sampled_from(NAMES))] = draw(_NODES)
            continue
        *above, last = draw(st.sampled_from(places(resource)))
        owner: Any = resource
        for key in above:
            owner = owner[key]
        owner[last] = draw(_NODES)
    return resource


@settings(max_examples=150, deadline=None)
@given(damaged())
def test_any_resource_is_answered(resource: dict[str, Any]) -> None:
    profile = "http://hl7.org/fhir/us/core/StructureDefinition/us-core-patient"

    for with_gate in (True, False):
        found = validate(resource, [profile], with_gate=with_gate)
        assert all(isinstance(issue, Issue) for issue in found)


@st.composite
def definitions(draw: st.DrawFn) -> dict[str, Any]:
    """A StructureDefinition of which some elements are nonsense."""
    paths = ["Patient", "Patient.name", "Patient.name.given", "Patient.extension",
             "Patient.deceased[x]", "Patient.deceasedBoolean", "Patient.contact.name",
             "Patient.generalPractitioner", "Patient.nonsense", "Observation.code"]  # fmt: skip
    keys = ["min", "max", "type", "slicing", "sliceName", "binding", "fixedCode", "constraint",
            "patternHumanName", "maxLength", "minValueDate", "id", "contentReference"]  # fmt: skip
    good: dict[str, Any] = {
        "min": 1,
        "max": "1",
        "type": [{"code": "Reference", "targetProfile": ["urn:own"], "profile": ["urn:own"]}],
        "slicing": {"discriminator": [{"type": "value", "path": "use"}], "rules": "closed"},
        "sliceName": "s",
        "binding": {"strength": "required", "valueSet": "urn:vs"},
        "constraint": [{"key": "k", "expression": "name.count() > 1", "human": "x"}],
    }
    elements = []
    for _ in range(draw(st.integers(1, 5))):
        element: dict[str, Any] = {"path": draw(st.sampled_from(paths))}
        for key in draw(st.lists(st.sampled_from(keys), max_size=4)):
            element[key] = good[key] if key in good and draw(st.booleans()) else draw(_NODES)
        elements.append(element)
    return {
        "url": "urn:own",
        "type": "Patient",
        "baseDefinition": f"{CORE}/Patient",
        "differential": {"element": elements},
    }


@settings(max_examples=150, deadline=None)
@given(definitions())
def test_any_definition_is_used_or_refused(definition: dict[str, Any]) -> None:
    known = library().with_own({"urn:own": definition})
    patient = {
        "resourceType": "Patient",
        "name": [{"use": "old", "given": ["A"]}],
        "deceasedBoolean": True,
        "generalPractitioner": [{"reference": "#o"}],
        "contained": [{"resourceType": "Organization", "id": "o", "name": "O"}],
        "extension": [{"url": "urn:own", "valueCode": "x"}],
    }

    found = validate(patient, ["urn:own"], known=known)

    assert all(isinstance(issue, Issue) for issue in found)


# -- JSON (security.md C2) ----------------------------------------------------------------------

HOSTILE = {
    "deep": b'{"resourceType":"Patient","contact":' + b"[" * 5000 + b"]" * 5000 + b"}",
    "long number": b'{"resourceType":"Patient","multipleBirthInteger":' + b"9" * 5000 + b"}",
    "long fraction": b'{"resourceType":"Patient","x":0.' + b"9" * 5000 + b"}",
    "NaN": b'{"resourceType":"Patient","x":NaN}',
    "Infinity": b'{"resourceType":"Patient","x":-Infinity}',
    "duplicate": b'{"resourceType":"Patient","id":"1","id":"2"}',
    "duplicate below": b'{"resourceType":"Patient","name":[{"text":"a","t\\u0065xt":"b"}]}',
    "byte order mark": b'\xef\xbb\xbf{"resourceType":"Patient"}',
    "UTF-16": '{"resourceType":"Patient"}'.encode("utf-16"),
    "lone surrogate": b'{"resourceType":"Patient","id":"\\ud800"}',
    "raw surrogate": b'{"resourceType":"Patient","id":"\xed\xa0\x80"}',
    "huge exponent": b'{"resourceType":"Patient","x":1e400}',
    "tiny exponent": b'{"resourceType":"Patient","x":1e-400}',
    "control character": b'{"resourceType":"Patient","id":"\\u0000"}',
    "two documents": b'{"resourceType":"Patient"}{"resourceType":"Patient"}',
    "no object": b"[]",
    "cut": b'{"resourceType":"Pat',
    "empty": b"",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_json_is_refused_with_its_reason(name: str) -> None:
    start = time.process_time()
    with pytest.raises(BadRequest) as refused:
        json.loads(HOSTILE[name])

    assert refused.value.diagnostics
    assert time.process_time() - start < 0.5


def test_prototype_and_minus_zero_are_data_like_any_other() -> None:
    """__proto__ is an element that R4 does not have; -0 and 1.00 keep their digits."""
    polluted = json.loads(b'{"resourceType":"Patient","__proto__":{"admin":true}}')
    kept = b'{"resourceType":"Basic","a":-0,"b":-0.0,"c":1.00,"d":1E+2,"e":1e-7}'

    assert [i.code for i in validate(polluted) if i.expression == "Patient.__proto__"] == [
        "structure"
    ]
    assert json.dumps(json.loads(kept)) == kept


# -- text that costs (security.md C3) -----------------------------------------------------------

LONG = 200_000


@pytest.mark.parametrize(
    ("resource", "code"),
    [
        ({"resourceType": "Binary", "contentType": "x/y", "data": "AAAA " * 28 + "!"}, "value"),
        ({"resourceType": "Binary", "contentType": "x/y", "data": "AAAA " * LONG + "!"}, "value"),
        ({"resourceType": "Patient", "language": " " * LONG + "x"}, "value"),
        ({"resourceType": "Patient", "language": "a " * LONG + " "}, "value"),
        ({"resourceType": "Patient", "telecom": [{"system": "url", "value": "a@" * LONG}]}, None),
        ({"resourceType": "Patient", "implicitRules": "http://" + "a." * LONG + " "}, "value"),
        ({"resourceType": "Patient", "birthDate": "1" * LONG}, "value"),
        ({"resourceType": "Patient", "name": [{"text": "\t" * LONG}]}, "value"),
        (
            {
                "resourceType": "Library",
                "status": "draft",
                "type": {"text": "x"},
                "name": "a" * LONG + "!",
            },
            None,
        ),
    ],
    ids=lambda value: str(value)[:60],
)
def test_no_text_makes_a_pattern_run_wild(resource: dict[str, Any], code: str | None) -> None:
    validate({key: value for key, value in resource.items() if key != "name"})

    start = time.process_time()
    found = validate(resource)
    spent = time.process_time() - start

    assert spent < 0.25
    if code:
        assert code in [issue.code for issue in found]
