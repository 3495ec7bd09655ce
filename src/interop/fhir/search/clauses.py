"""One search parameter as it is asked: its name, modifier and values (FHIR R4 search.html 3.1.1.4).

What this server does not support is refused with 400 and the list of what it does, because a filter
that is ignored returns what was not asked for (fhir.md, complaint 3).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache

from interop.errors import BadRequest, TooCostly, UnsupportedParameter
from interop.fhir.definitions import SearchParameter, definitions
from interop.fhir.search.catalog import CustomParameter, parameters

MAX_VALUES = 500

MODIFIERS: dict[str, tuple[str, ...]] = {
    "string": ("exact", "contains", "missing"),
    "token": ("not", "text", "in", "not-in", "above", "below", "of-type", "missing"),
    # and the name of a resource type
    "reference": ("identifier", "above", "below", "missing"),
    "uri": ("above", "below", "missing"),
    "date": ("missing",),
    "number": ("missing",),
    "quantity": ("missing",),
    "composite": ("missing",),
    "special": ("missing",),
}


@dataclass(frozen=True, slots=True)
class Clause:
    """`name[:modifier]=value,value`: values are alternatives, clauses are all required."""

    parameter: SearchParameter
    modifier: str | None
    values: tuple[str, ...]  # still escaped

    @property
    def name(self) -> str:
        return self.parameter.code + (f":{self.modifier}" if self.modifier else "")


def known_parameter(resource_type: str, code: str, place: str) -> SearchParameter:
    known = parameters(resource_type)
    parameter = known.get(code)
    if isinstance(parameter, CustomParameter) and not parameter.has_index():
        raise UnsupportedParameter(
            f"{place}: the index of {resource_type}.{code} is being built ({parameter.progress}); "
            "it can be searched when it is whole"
        )
    if parameter is None or not parameter.has_index():
        accepted = ", ".join(name for name, found in known.items() if found.has_index())
        raise UnsupportedParameter(
            f"{place}: {resource_type} has no search parameter {code[:64]!r}; accepted: {accepted}"
        )
    return parameter


def clause(resource_type: str, name: str, value: str) -> Clause:
    """Read one search parameter. Raises BadRequest, UnsupportedParameter, TooCostly."""
    code, _, modifier = name.partition(":")
    parameter = known_parameter(resource_type, code, repr(name[:64]))
    if modifier or name.endswith(":"):
        _check_modifier(parameter, modifier)
    values = split_values(value)
    if not values or not all(values):
        raise BadRequest(f"{name[:64]} has no value, or an empty one between commas")
    if len(values) > MAX_VALUES:
        raise TooCostly(f"{name[:64]} lists {len(values)} values; at most {MAX_VALUES}")
    return Clause(parameter, modifier or None, values)


def _check_modifier(parameter: SearchParameter, modifier: str) -> None:
    accepted = MODIFIERS[parameter.type]
    if parameter.code in ("_id", "_lastUpdated", "_text", "_content"):
        accepted = ()
    if modifier in accepted:
        return
    if parameter.type == "reference" and modifier in definitions().resource_types:
        if parameter.targets and modifier not in parameter.targets:
            raise BadRequest(
                f"{parameter.code}:{modifier}: accepted types: {', '.join(parameter.targets)}"
            )
        return
    offered = ", ".join(f":{one}" for one in accepted) or "none"
    if parameter.type == "reference":
        offered += ", :<resource type>"
    raise UnsupportedParameter(
        f"the modifier :{modifier[:64]} of {parameter.code} is not supported; accepted: {offered}"
    )


@cache
def hierarchy_of(resource_type: str) -> str | None:
    """The parameter by which resources of a type name the one that they are part of."""
    known = definitions().search_parameters.get(resource_type, {})
    for code in ("partof", "part-of", "parent"):
        if code in known and resource_type in known[code].targets:
            return code
    return None


# -- escaping (search.html 3.1.1.4.19) ------------------------------------------------------


def split_values(text: str, separator: str = ",") -> tuple[str, ...]:
    """Split at separators that no backslash escapes; the parts stay escaped."""
    if "\\" not in text:
        return tuple(text.split(separator))
    parts: list[str] = []
    at = start = 0
    while at < len(text):
        if text[at] == "\\":
            at += 2
            continue
        if text[at] == separator:
            parts.append(text[start:at])
            start = at + 1
        at += 1
    parts.append(text[start:])
    return tuple(parts)


def unescape(text: str) -> str:
    r"""\, \| \$ and \\ as they are meant; any other backslash is itself."""
    return re.sub(r"\\([\\,|$])", r"\1", text) if "\\" in text else text


def escape(text: str, separators: str = r"\,|$") -> str:
    """A text as one value of a search parameter: what would separate is escaped.

    With fewer separators, those left out keep their meaning, and so do escapes that are there.
    """
    if "\\" in separators:
        return re.sub(r"[\\,|$]", r"\\\g<0>", text)
    return re.sub(
        r"\\.|.", lambda c: f"\\{c[0]}" if c[0] in separators else c[0], text, flags=re.DOTALL
    )
