from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from interop.dicom import json_array
from interop.dicom.failures import LIMIT_EXCEEDED, MALFORMED, Failure
from interop.dicom.json_array import data_sets

JSON = st.recursive(
    st.none() | st.booleans() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner,
                                                                max_size=4),
    max_leaves=12,
)  # fmt: skip
OBJECTS = st.dictionaries(st.text(max_size=8), JSON, max_size=4)


@pytest.fixture
def read(tmp_path: Path) -> Any:
    def of(text: bytes) -> list[Any]:
        path = tmp_path / "metadata"
        path.write_bytes(text)
        return [one if isinstance(one, Failure) else one.read() for one in data_sets(path)]

    return of


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(objects=st.lists(OBJECTS, max_size=4), indent=st.none() | st.just(1), ascii=st.booleans())
def test_the_objects_of_an_array_come_one_by_one(
    read: Any, objects: list[Any], indent: int | None, ascii: bool
) -> None:
    text = json.dumps(objects, indent=indent, ensure_ascii=ascii).encode()

    assert read(text) == objects
    assert read(b"\xef\xbb\xbf " + text + b"\r\n") == objects
    if objects:
        assert read(json.dumps(objects[0]).encode()) == objects[:1]


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(alphabet='[]{},:"\\a1 ', max_size=30).map(str.encode))
def test_any_text_is_what_a_parser_says_or_a_failure(read: Any, text: bytes) -> None:
    try:
        found = read(text)
    except Failure as failure:
        assert failure.reason == MALFORMED.reason
        return
    assert not any(isinstance(one, Failure) for one in found)
    whole = json.loads(text, parse_int=str)
    assert found == (whole if isinstance(whole, list) else [whole])


def test_digits_are_kept(read: Any) -> None:
    assert read(b'[{"a": [1.10, 12345678901234567890123, -0]}]') == [
        {"a": ["1.10", "12345678901234567890123", "-0"]}
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "empty"),
        (b" ", "an array of data sets"),
        (b"[{},]", "a comma stands before the end"),
        (b"[,{}]", "a data set, an object"),
        (b"[{}{}]", "a data set, an object"),
        (b"[1]", "white space"),
        (b'["a"]', "a data set, an object"),
        (b"[[{}]]", "a data set, an object"),
        (b"[{}", "ends within"),
        (b"[{}]x", "white space"),
        (b"[{}] []", "white space"),
        (b"{}{}", "white space"),
        (b'{"a": [}', "ends within"),
        (b'[{"a"}]', "':' delimiter"),
        (b'[{"a": "\xff"}]', "not UTF-8"),
        (b'[{"a": NaN}]', "NaN is no JSON number"),
        (b'[{"a": 1, "a": 2}]', "'a' stands twice"),
    ],
)
def test_c2_what_is_no_array_is_refused_with_its_place(
    read: Any, text: bytes, message: str
) -> None:
    with pytest.raises(Failure, match=message) as caught:
        read(text)

    assert caught.value.reason == MALFORMED.reason


def test_one_that_is_too_much_is_refused_and_the_next_is_read(
    read: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(json_array, "MAX_BYTES", 1000)
    monkeypatch.setattr(json_array, "MAX_VALUES", 100)
    deep = b'{"a":' + b"[" * 300 + b"]" * 300 + b"}"
    many = b'{"a":[' + b"1," * 150 + b"1]}"
    long = b'{"a":"' + b"x" * 1000 + b'"}'

    found = read(b"[" + b",".join([deep, many, long, b'{"b": "c"}']) + b"]")

    assert found[3] == {"b": "c"}
    assert all(one.reason == LIMIT_EXCEEDED.reason for one in found[:3])
    assert [word in one.message for word, one in zip(("nested", "values", "bytes"), found[:3],
                                                     strict=True)] == [True] * 3  # fmt: skip


@pytest.mark.parametrize(
    "text",
    [
        b'[{"a": "' + b'\\"' * 2_000_000,
        b'[{"a": "' + b"\\" * 3_999_999,
        b"[{" + b",".join(b'"%d":1' % n for n in range(90_000)) + b',"7":1}]',
    ],
    ids=["quotes", "backslashes", "names"],
)
def test_c3_hostile_text_costs_no_more_than_its_length(read: Any, text: bytes) -> None:
    # Each of these took minutes where a scan began again, or a count was made, at every name.
    try:
        (found,) = read(text)
    except Failure as failure:
        found = failure

    assert found.reason == MALFORMED.reason


def test_the_values_of_all_are_counted(read: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_array, "MAX_ARRAY_VALUES", 1000)

    with pytest.raises(Failure, match="more than 1000 values"):
        read(b"[" + b",".join([b'{"a":["b","c"]}'] * 500) + b"]")
