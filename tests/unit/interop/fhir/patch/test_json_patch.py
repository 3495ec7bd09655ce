"""JSON Patch on resources: RFC 6902 with its examples (Appendix A), and what FHIR adds."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from interop.errors import BadRequest, TooCostly, Unprocessable
from interop.fhir import json
from interop.fhir.json import dumps, loads, loads_array
from interop.fhir.patch import apply_json_patch

TYPE = {"resourceType": "Basic", "id": "1"}

# RFC 6902 Appendix A, the members under `x`: (what is there, operations, what must come out).
APPLIED: list[tuple[str, Any, list[Any], Any]] = [
    ("A1 member", {"foo": "bar"}, [("add", "/x/baz", "qux")], {"foo": "bar", "baz": "qux"}),
    ("A2 item", ["bar", "baz"], [("add", "/x/1", "qux")], ["bar", "qux", "baz"]),
    ("A3 remove member", {"baz": "qux", "foo": 1}, [("remove", "/x/baz")], {"foo": 1}),
    ("A4 remove item", ["bar", "qux", "baz"], [("remove", "/x/1")], ["bar", "baz"]),
    ("A5 replace", {"baz": "qux"}, [("replace", "/x/baz", "boo")], {"baz": "boo"}),
    (
        "A6 move",
        {"foo": {"bar": "baz", "waldo": "fred"}, "qux": {"corge": "grault"}},
        [("move", "/x/foo/waldo", "/x/qux/thud")],
        {"foo": {"bar": "baz"}, "qux": {"corge": "grault", "thud": "fred"}},
    ),
    ("A7 move item", ["all", "grass", "cows", "eat"], [("move", "/x/1", "/x/3")],
     ["all", "cows", "eat", "grass"]),
    ("A8 test", {"baz": "qux", "foo": ["a", 2, "c"]},
     [("test", "/x/baz", "qux"), ("test", "/x/foo/1", 2)], {"baz": "qux", "foo": ["a", 2, "c"]}),
    ("A10 nested", {"foo": "bar"}, [("add", "/x/child", {"grandchild": {}})],
     {"foo": "bar", "child": {"grandchild": {}}}),
    ("A14 escapes", {"/": 9, "~1": 10}, [("test", "/x/~01", 10), ("replace", "/x/~1", 8)],
     {"/": 8, "~1": 10}),
    ("A16 array value", ["bar"], [("add", "/x/-", ["abc", "def"])], ["bar", ["abc", "def"]]),
    ("copy", {"a": {"b": 1}}, [("copy", "/x/a", "/x/c"), ("replace", "/x/c/b", 2)],
     {"a": {"b": 1}, "c": {"b": 2}}),
    ("an empty name", {"": 1}, [("replace", "/x/", 2)], {"": 2}),
    ("add where something is", {"a": 1}, [("add", "/x/a", 2)], {"a": 2}),
    ("add null", {"a": 1}, [("add", "/x/b", None)], {"a": 1, "b": None}),
]  # fmt: skip


def operation(op: str, path: str, third: Any = ...) -> dict[str, Any]:
    if op in ("move", "copy"):
        return {"op": op, "from": path, "path": third}
    return {"op": op, "path": path} | ({} if third is ... else {"value": third})


@pytest.mark.parametrize(("before", "operations", "after"), [case[1:] for case in APPLIED],
                         ids=[case[0] for case in APPLIED])  # fmt: skip
def test_operations_do_what_the_rfc_says(
    before: Any, operations: list[tuple[Any, ...]], after: Any
) -> None:
    resource = {**TYPE, "x": before}
    untouched = copy.deepcopy(resource)

    patched = apply_json_patch(resource, [operation(*one) for one in operations])

    assert patched == {**TYPE, "x": after}
    assert resource == untouched


@pytest.mark.parametrize(
    ("operations", "said"),
    [
        ([("test", "/x/a", 2)], "operation [0] (test)"),
        ([("test", "/x/a", True)], "operation [0] (test)"),  # true is not 1
        ([("test", "/x/a", "1")], "operation [0] (test)"),
        ([("remove", "/x/b")], "nothing at '/x/b'"),
        ([("replace", "/x/b", 1)], "beside it there is: a, list"),
        ([("add", "/x/b/c", 1)], "nothing at '/x/b'"),
        ([("add", "/x/list/3", 1)], "the array has 2 items"),
        ([("add", "/x/list/01", 1)], "the array has 2 items"),
        ([("remove", "/x/list/-")], "the array has 2 items"),
        ([("remove", "")], "cannot be removed"),
        ([("move", "/x", "/x/a")], "into itself"),
        ([("add", "/y", 1), ("replace", "/id", "2")], "may not change id"),
        ([("replace", "/resourceType", "Patient")], "may not change resourceType"),
        ([("replace", "", "text")], "no resource"),
    ],
)
def test_what_does_not_fit_the_resource_is_unprocessable(
    operations: list[tuple[Any, ...]], said: str
) -> None:
    resource = {**TYPE, "x": {"a": 1, "list": [1, 2]}}

    with pytest.raises(Unprocessable) as raised:
        apply_json_patch(resource, [operation(*one) for one in operations])

    assert said in raised.value.diagnostics


@pytest.mark.parametrize(
    ("operations", "said"),
    [
        (["add"], "operation [0] is not an object"),
        ([{"op": "ad", "path": ""}], "accepted: add, remove, replace, move, copy, test"),
        ([{"op": "add", "path": "/x"}], "has no value"),
        ([{"op": "add", "path": "x", "value": 1}], "expected a JSON Pointer"),
        ([{"op": "add", "path": "/a~2", "value": 1}], "expected a JSON Pointer"),
        ([{"op": "add", "value": 1}], "expected a JSON Pointer"),
        ([{"op": "move", "path": "/a"}], "from is 'None'"),
    ],
)
def test_what_is_no_json_patch_is_a_bad_request(operations: list[Any], said: str) -> None:
    with pytest.raises(BadRequest) as raised:
        apply_json_patch(dict(TYPE), operations)

    assert said in raised.value.diagnostics


def test_numbers_are_equal_by_value_and_keep_their_digits() -> None:
    resource = loads(b'{"resourceType":"Basic","id":"1","value":1.50,"other":1E+3}')
    patch = loads_array(
        b'[{"op":"test","path":"/value","value":1.5},{"op":"copy","from":"/value","path":"/copy"},'
        b'{"op":"test","path":"/other","value":1000},{"op":"add","path":"/new","value":2.10}]'
    )

    patched = apply_json_patch(resource, patch)

    expected = b'{"resourceType":"Basic","id":"1","value":1.50,"other":1E+3,"copy":1.50,"new":2.10}'
    assert dumps(patched) == expected


def test_what_a_removal_empties_is_left_out() -> None:
    resource = {**TYPE, "name": [{"given": ["Ada"]}], "meta": {"tag": []}}

    patched = apply_json_patch(resource, [{"op": "remove", "path": "/name/0/given/0"}])

    assert patched == {**TYPE, "meta": {"tag": []}}


def test_a_removal_may_be_followed_by_an_addition_in_the_same_place() -> None:
    resource = {**TYPE, "given": ["Ada"]}
    operations = [operation("remove", "/given/0"), operation("add", "/given/-", "Grace")]

    assert apply_json_patch(resource, operations)["given"] == ["Grace"]


def test_too_many_operations_and_growing_copies_are_too_costly() -> None:
    with pytest.raises(TooCostly):
        apply_json_patch(dict(TYPE), [operation("test", "/id", "1")] * 1001)
    doubling = [operation("copy", "/x", "/x/-")] * 100
    with pytest.raises(TooCostly):
        apply_json_patch({**TYPE, "x": ["text" * 100]}, doubling)
    wrapping = [operation("move", "/x", "/y"), operation("add", "/x", {})]
    deeper = [*wrapping, operation("move", "/y", "/x/y")] * 100
    with pytest.raises(TooCostly):
        apply_json_patch({**TYPE, "x": {}}, deeper)


def test_a_patch_that_is_no_array_is_refused() -> None:
    with pytest.raises(json.MalformedJson, match="expected a JSON Patch"):
        loads_array(b"{}")
