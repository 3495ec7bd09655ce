"""The input parameters of an operation: a query string, or a Parameters body (operations.html)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from interop.errors import BadRequest, UnsupportedParameter
from interop.fhir.lens import JsonObject
from interop.fhir.negotiation import FORM_PARAMETERS

Kind = Literal["uri", "string", "code", "integer", "boolean", "dateTime", "Coding",
               "CodeableConcept", "resource"]  # fmt: skip
# The types that may stand for each other where clients disagree about which one it is.
_FORMS: dict[Kind, tuple[str, ...]] = {
    "uri": ("valueUri", "valueUrl", "valueCanonical", "valueString"),
    "string": ("valueString", "valueCode"),
    "code": ("valueCode", "valueString"),
    "integer": ("valueInteger", "valuePositiveInt", "valueUnsignedInt"),
    "boolean": ("valueBoolean",),
    "dateTime": ("valueDateTime", "valueDate", "valueInstant"),
    "Coding": ("valueCoding",),
    "CodeableConcept": ("valueCodeableConcept",),
    "resource": ("resource",),
}
_IN_QUERY = ("uri", "string", "code", "integer", "boolean", "dateTime")


class Inputs:
    """The values of the parameters that an operation knows."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._values = dict(values)

    def __contains__(self, name: str) -> bool:
        return name in self._values

    def text(self, name: str) -> str | None:
        value = self._values.get(name)
        return None if value is None else str(value)

    def number(self, name: str) -> int | None:
        value: int | None = self._values.get(name)
        return value

    def flag(self, name: str, *, default: bool = False) -> bool:
        return bool(self._values.get(name, default))

    def node(self, name: str) -> JsonObject | None:
        value: JsonObject | None = self._values.get(name)
        return value


def read_inputs(
    accepted: Mapping[str, Kind],
    query: list[tuple[str, str]],
    parameters: JsonObject | None,
) -> Inputs:
    """Both places together. Raises BadRequest, and UnsupportedParameter for any other name."""
    values: dict[str, Any] = {}
    given = [(name, text, None) for name, text in query if name not in FORM_PARAMETERS]
    rows = (parameters or {}).get("parameter", [])
    for name, text, row in [*given, *((str(row.get("name", "")), None, row) for row in rows)]:
        kind = accepted.get(name)
        if kind is None:
            raise UnsupportedParameter(
                f"the parameter {name[:64]!r} is not supported; accepted: {', '.join(accepted)}"
            )
        if name in values:
            raise BadRequest(f"the parameter {name!r} is given twice")
        values[name] = _of_query(name, kind, text) if text is not None else _of_row(kind, row)
    return Inputs(values)


def _of_query(name: str, kind: Kind, text: str) -> Any:
    if kind not in _IN_QUERY:
        raise BadRequest(f"the parameter {name!r} is a {kind}: send it by POST in Parameters")
    if kind == "integer":
        if not text.isascii() or not text.isdigit() or len(text) > 9:
            raise BadRequest(f"{name}={text[:32]!r}; expected a whole number from 0 to 999999999")
        return int(text)
    if kind == "boolean":
        if text not in ("true", "false"):
            raise BadRequest(f"{name}={text[:32]!r}; expected true or false")
        return text == "true"
    return text


def _of_row(kind: Kind, row: Any) -> Any:
    for form in _FORMS[kind]:
        if form in row:
            value = row[form]
            if kind == "integer" and value < 0:
                raise BadRequest(f"{row.get('name')} = {value}; expected a whole number, 0 or more")
            return value
    expected = " or ".join(_FORMS[kind])
    raise BadRequest(f"the parameter {row.get('name')!r} needs {expected}")
