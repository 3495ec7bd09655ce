"""Lossless JSON, and the traps of security.md C2."""

from __future__ import annotations

import copy
import pickle
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from interop.fhir import json

LITERALS = ["1.10", "100.00", "1e-7", "1E+245", "-0", "-0.0", "0.000", "12345678901234567890", "5"]


@pytest.mark.parametrize("literal", LITERALS)
def test_every_digit_comes_back(literal: str) -> None:
    data = f'{{"value":{literal}}}'.encode()

    assert json.dumps(json.loads(data)) == data


@pytest.mark.parametrize("literal", LITERALS)
def test_a_copied_number_keeps_its_digits(literal: str) -> None:
    value = json.loads(f'{{"value":{literal}}}'.encode())

    assert json.dumps(copy.deepcopy(value)) == json.dumps(value)
    assert json.dumps(pickle.loads(pickle.dumps(value))) == json.dumps(value)


@given(
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers(-(10**30), 10**30)
        | st.decimals(allow_nan=False, allow_infinity=False, min_value=-(10**50), max_value=10**50)
        | st.text(
            st.characters(exclude_categories=("Cs",), exclude_characters="\x00"), max_size=20
        ).filter(lambda text: all(c >= " " or c in "\t\r\n" for c in text)),
        lambda inner: (
            st.lists(inner, max_size=4)
            | st.dictionaries(st.text("abc_", max_size=4), inner, max_size=4)
        ),
        max_leaves=20,
    )
)
def test_what_is_written_is_read_as_the_same(value: object) -> None:
    document = {"it": plain(value)}

    assert json.loads(json.dumps(document)) == document


def plain(value: object) -> object:
    """Integers beyond 64 bits are decimals to us."""
    if isinstance(value, bool) or not isinstance(value, int | list | dict):
        return value
    if isinstance(value, int):
        return value if abs(value) < 10**18 else Decimal(value)
    if isinstance(value, list):
        return [plain(item) for item in value]
    return {key: plain(item) for key, item in value.items()}


REFUSED = [
    (b'{"a":1,"a":2}', "twice", "a"),
    (b'{"x":{"b":[1,{"a":1,"a":2}]}}', "twice", "x.b[1].a"),
    (b'{"a":NaN}', "NaN", "a"),
    (b'{"a":[1,Infinity]}', "Infinity", "a[1]"),
    (b'{"a":-Infinity}', "Infinity", "a"),
    (b'{"a":1e400}', "beyond", "a"),
    (b'{"a":' + b"1" * 101 + b"}", "100", "a"),
    (b'{"a":' + b"1" * 5000 + b"}", "100", "a"),
    (rb'{"a":"\ud800"}', "U+D800", "a"),
    (rb'{"a":"x\u0000"}', "U+0000", "a"),
    (rb'{"a":"\b"}', "U+0008", "a"),
    (rb'{"\udc00":1}', "U+DC00", None),
    (b'\xef\xbb\xbf{"a":1}', "byte order mark", None),
    (b'{"a":"\xff"}', "UTF-8", None),
    (b'{"a":\x00}', "JSON value", "a"),
    (b'{"a":01}', "JSON value", "a"),
    (b'{"a":+1}', "JSON value", "a"),
    (b'{"a":1.}', "JSON value", "a"),
    (b'{"a":1,}', "property name", None),
    (b'{"a" 1}', "':'", "a"),
    (b'{"a":"\n"}', "control character", "a"),
    (b'{"a":"', "nterminated", "a"),
    (b'{"a":1} x', "after the end", None),
    (b"", "JSON value", None),
    (b"[1]", "JSON object", None),
    (b"null", "JSON object", None),
    (b'{"a":' * 65 + b"1" + b"}" * 65, "64 levels", None),
    (b'{"a":' * 5000 + b"1" + b"}" * 5000, "64 levels", None),
    (b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "64 levels", None),
]


@pytest.mark.parametrize(("data", "reason", "place"), REFUSED, ids=range(len(REFUSED)))
def test_json_trap_is_refused_with_its_place(data: bytes, reason: str, place: str | None) -> None:
    with pytest.raises(json.MalformedJson) as refused:
        json.loads(data)

    assert reason in refused.value.diagnostics
    assert refused.value.http_status == 400
    assert refused.value.issue_code == "structure"
    if place is not None:
        assert refused.value.expression == place


def test_depth_64_is_accepted() -> None:
    data = b'{"a":' * 64 + b"1" + b"}" * 64

    assert json.dumps(json.loads(data)) == data


def test_brackets_in_strings_are_not_depth() -> None:
    data = b'{"a":"' + b"[{" * 1000 + b'"}'

    assert json.dumps(json.loads(data)) == data


def test_surrogate_pairs_and_proto_are_plain_text() -> None:
    assert json.loads(rb'{"a":"\ud83d\ude00","__proto__":{"b":1}}') == {
        "a": "😀",
        "__proto__": {"b": 1},
    }
