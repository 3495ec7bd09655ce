"""The acceptance gate: no resource is stored that is not FHIR R4.

The official JSON Schema decides what elements, types and required codes are allowed; `gate_rules`
covers what it cannot express. Resources inside resources (contained, Bundle entries) are each
checked as their own type, so that an error names their element and not "none of 148 types".
"""

from __future__ import annotations

import re
from functools import cache
from typing import Any

import jsonschema_rs
import orjson

from interop.fhir import json
from interop.fhir.definitions import definitions, read_table
from interop.fhir.gate_rules import check_rules
from interop.fhir.lens import JsonObject
from interop.fhir.outcomes import MAX_ISSUES, InvalidResource, Issue

_ACCEPTED_CODES = 12
_CANONICAL = "#/definitions/canonical"
_REFERENCE = re.compile(r'"\$ref":"#/definitions/([^"]+)"')


def check(resource: JsonObject, expected_type: str) -> None:
    """Raise InvalidResource, naming every rule that `resource` breaks and where."""
    if found := issues_of(resource, expected_type):
        raise InvalidResource(found)


def issues_of(resource: JsonObject, expected_type: str) -> list[Issue]:
    """What is wrong with a resource, for `check` and for $validate."""
    found = resource.get("resourceType")
    if found != expected_type:
        wrong = f"resourceType is {str(found)[:64]!r}; this URL accepts {expected_type}"
        return [Issue("invalid", wrong, f"{expected_type}.resourceType")]
    issues: list[Issue] = []
    _check_schema(resource, expected_type, expected_type, issues)
    for path, inner in check_rules(resource, expected_type, issues):
        _check_schema(inner, str(inner["resourceType"]), path, issues)
    return issues


def is_of_type(value: Any, type_: str) -> bool:
    """Whether a value is one of a data type, by the schema and the rules."""
    if not isinstance(value, dict):
        return False
    issues: list[Issue] = []
    inner = list(check_rules(value, type_, issues))
    plain = _without_null_items(orjson.loads(json.dumps(value)))
    return not issues and not inner and bool(_validator(type_).is_valid(plain))


def _check_schema(resource: JsonObject, type_: str, path: str, issues: list[Issue]) -> None:
    # The validator takes plain JSON values only, and decimals of ours are not.
    packed = json.dumps(resource)
    plain = orjson.loads(packed)
    if b"null" in packed:
        plain = _without_null_items(plain)
    validator = _validator(type_)
    if validator.is_valid(plain):
        return
    for error in validator.iter_errors(plain):
        issues += _translated(error, type_, path)
        if len(issues) >= MAX_ISSUES:
            return


def _without_null_items(value: Any) -> Any:
    """The official schema forbids the nulls that json.html asks for in arrays of primitives.

    They stand for values that have extensions only; `gate_rules` checks that they do.
    """
    if isinstance(value, list):
        return [_without_null_items(item) for item in value if item is not None]
    if isinstance(value, dict):
        return {key: _without_null_items(item) for key, item in value.items()}
    return value


@cache
def _schema_definitions() -> dict[str, Any]:
    """The official definitions, in which a nested resource is any object with a type."""
    found: dict[str, Any] = dict(read_table("fhir.schema")["definitions"])
    found["ResourceList"] = {"type": "object", "required": ["resourceType"]}
    for definition in found.values():
        _add_extensions_of_canonicals(definition.get("properties", {}))
    return found


def _add_extensions_of_canonicals(properties: dict[str, Any]) -> None:
    """The official schema forgets that a canonical can have extensions (json.html#primitive)."""
    element = {"$ref": "#/definitions/Element"}
    for name, schema in list(properties.items()):
        if schema.get("$ref") == _CANONICAL:
            properties.setdefault(f"_{name}", element)
        elif schema.get("items", {}).get("$ref") == _CANONICAL:
            properties.setdefault(f"_{name}", {"type": "array", "items": element})


@cache
def _validator(type_: str) -> jsonschema_rs.Draft6Validator:
    whole = _schema_definitions()
    return jsonschema_rs.Draft6Validator(
        {
            "$ref": f"#/definitions/{type_}",
            "definitions": {name: whole[name] for name in _reachable(type_)},
        }
    )


def _reachable(type_: str) -> set[str]:
    """The definitions that one rests on: compiling all of them takes ten times as long."""
    found, waiting = {type_}, [type_]
    while waiting:
        for name in _referred(waiting.pop()) - found:
            found.add(name)
            waiting.append(name)
    return found


@cache
def _referred(name: str) -> frozenset[str]:
    text = orjson.dumps(_schema_definitions()[name]).decode()
    return frozenset(_REFERENCE.findall(text))


def _translated(error: jsonschema_rs.ValidationError, type_: str, path: str) -> list[Issue]:
    """What a schema error means in FHIR's words."""
    place = path + _element_path(error.instance_path)
    rule = error.kind.name
    value: Any = error.kind.value
    if rule == "additionalProperties":
        owner = list(error.schema_path)[1] if len(error.schema_path) > 1 else type_
        return [
            Issue(
                "structure",
                f"{place} has no element {str(name)[:64]!r} in R4; {_elements_of(str(owner))}",
                f"{place}.{str(name)[:64]}",
            )
            for name in value
        ]
    if rule == "enum":
        shown = " | ".join(map(str, value[:_ACCEPTED_CODES]))
        more = "" if len(value) <= _ACCEPTED_CODES else f" and {len(value) - _ACCEPTED_CODES} more"
        return [Issue("code-invalid", f"{place}: accepted codes are {shown}{more}", place)]
    if rule == "type":
        return [Issue("structure", f"{place} must be of JSON type {' or '.join(value)}", place)]
    if rule == "pattern":
        return [Issue("value", f"{place} is not a valid {_primitive(error)}", place)]
    if rule == "required":
        return [Issue("required", f"{place} must have the element {value!r}", f"{place}.{value}")]
    return [Issue("structure", f"{place}: {rule} expects {str(value)[:100]}", place)]


def _element_path(instance_path: list[str | int]) -> str:
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in instance_path)


def _elements_of(type_: str) -> str:
    table = definitions().types.get(type_.replace("_", ".", 1)) or definitions().types.get(type_)
    if not table:
        return "see the R4 definition for what is accepted"
    names = [key for element in table.values() for key, _ in element.keys()][:40]
    return f"accepted: {', '.join(names)}"


_FORMS = {
    "date": "date: 2024, 2024-05 or 2024-05-17",
    "dateTime": "dateTime: 2024, 2024-05-17 or 2024-05-17T09:30:00+02:00",
    "instant": "instant: 2024-05-17T09:30:00.000+02:00",
    "time": "time: 09:30:00",
    "id": "id: 1 to 64 of A-Z a-z 0-9 - .",
    "code": "code: no spaces at the ends and single ones inside",
    "string": "string: not empty",
    "uri": "uri: no spaces",
    "oid": "oid: urn:oid:1.2.3",
}


def _primitive(error: jsonschema_rs.ValidationError) -> str:
    parts = [str(part) for part in error.schema_path]
    name = parts[1] if len(parts) == 3 else ""
    if name in _FORMS:
        return _FORMS[name]
    return f"value; the pattern is {str(error.kind.value)[:160]}"
