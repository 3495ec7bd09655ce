"""ValueSet/$expand: a page of the codes of a value set (FHIR R4 valueset-operation-expand.html)."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final
from uuid import uuid4

from interop.errors import BadRequest, NotFound, Unprocessable, UnsupportedParameter
from interop.fhir.lens import JsonObject
from interop.fhir.terminology.evaluation import Member, NotExpandable, Terminology
from interop.fhir.terminology.inputs import Inputs, Kind
from interop.fhir.terminology.value_set import ValueSet, value_set
from interop.fhir.versions import instant

PARAMETERS: Final[Mapping[str, Kind]] = {
    "url": "uri",
    "valueSet": "resource",
    "valueSetVersion": "string",
    "filter": "string",
    "offset": "integer",
    "count": "integer",
    "includeDesignations": "boolean",
    "activeOnly": "boolean",
    # Expansions here are flat, and of codes that are defined one by one.
    "excludeNested": "boolean",
    "excludePostCoordinated": "boolean",
    "excludeNotForUI": "boolean",
    "displayLanguage": "code",
}
# Codes in one answer; larger expansions are read a page at a time.
MOST_CODES = 10_000


class ExpansionNotSupported(Unprocessable):
    """The value set cannot be expanded here."""

    issue_code = "not-supported"


class ExpansionTooCostly(Unprocessable):
    """The expansion is too large."""

    issue_code = "too-costly"


def refusal(error: NotExpandable) -> Unprocessable:
    """The error for a client of what cannot be expanded, or told."""
    kind = ExpansionTooCostly if error.code == "too-costly" else ExpansionNotSupported
    return kind(error.reason)


def definition_of(inputs: Inputs, terminology: Terminology, by_id: JsonObject | None) -> ValueSet:
    """The value set that is asked about: of the URL's id, of `url`, or in hand. Raises NotFound."""
    given = [name for name in ("url", "valueSet") if name in inputs]
    if len(given) + (by_id is not None) != 1:
        raise BadRequest("one of url and valueSet is needed, or the id of a ValueSet in the URL")
    if by_id is not None:
        return value_set(by_id)
    if (resource := inputs.node("valueSet")) is not None:
        if resource.get("resourceType") != "ValueSet":
            raise BadRequest("the parameter 'valueSet' must hold a ValueSet")
        return value_set(resource)
    canonical = str(inputs.text("url"))
    if version := inputs.text("valueSetVersion"):
        canonical = f"{canonical.partition('|')[0]}|{version}"
    found = terminology.value_set(canonical)
    if found is None:
        raise NotFound(f"the value set {canonical[:256]!r} is not known here")
    return found


def expand(inputs: Inputs, terminology: Terminology, by_id: JsonObject | None) -> JsonObject:
    """The ValueSet with its expansion. Raises what `definition_of` raises, and Unprocessable."""
    if inputs.flag("includeDesignations"):
        raise UnsupportedParameter("includeDesignations=true: designations are not kept here")
    definition = definition_of(inputs, terminology, by_id)
    try:
        members = terminology.expand_definition(definition)
    except NotExpandable as error:
        raise refusal(error) from None
    members = [member for member in members if _is_wanted(member, inputs)]
    offset, count = inputs.number("offset") or 0, inputs.number("count")
    page = members[offset:] if count is None else members[offset : offset + count]
    if len(page) > MOST_CODES:
        raise ExpansionTooCostly(
            f"{len(page):,} codes are more than {MOST_CODES:,}: narrow with filter, or page with "
            "offset and count"
        )
    expansion: JsonObject = {
        "identifier": f"urn:uuid:{uuid4()}",
        "timestamp": instant(datetime.now(UTC)),
        "total": len(members),
        "offset": offset,
        "parameter": _parameters(inputs, page),
        "contains": [_contains(member) for member in page],
    }
    head = {
        "url": definition.url,
        "version": definition.version,
        "name": definition.name,
        "title": definition.title,
        "status": definition.status,
    }
    return {
        "resourceType": "ValueSet",
        **{key: value for key, value in head.items() if value},
        # json.html: an array is never empty.
        "expansion": {key: value for key, value in expansion.items() if value != []},
    }


def _is_wanted(member: Member, inputs: Inputs) -> bool:
    if inputs.flag("activeOnly") and member.is_inactive:
        return False
    if inputs.flag("excludeNotForUI") and member.is_abstract:
        return False
    words = (inputs.text("filter") or "").casefold().split()
    text = f"{member.code} {member.display or ''}".casefold()
    return all(word in text for word in words)


def _parameters(inputs: Inputs, page: list[Member]) -> list[JsonObject]:
    """What the expansion was made with (and what was asked for and is not here)."""
    found: list[JsonObject] = []
    if "filter" in inputs:
        found.append({"name": "filter", "valueString": inputs.text("filter")})
    if "count" in inputs:
        found.append({"name": "count", "valueInteger": inputs.number("count")})
    for name in ("activeOnly", "excludeNested", "excludeNotForUI"):
        if name in inputs:
            found.append({"name": name, "valueBoolean": inputs.flag(name)})
    if "displayLanguage" in inputs:
        warning = "displayLanguage is not supported: displays are as their systems define them"
        found.append({"name": "warning", "valueString": warning})
    used = sorted({(m.system, m.version) for m in page if m.system and m.version})
    return found + [{"name": "version", "valueUri": f"{system}|{v}"} for system, v in used]


def _contains(member: Member) -> JsonObject:
    found: JsonObject = {"system": member.system, "version": member.version}
    if member.is_abstract:
        found["abstract"] = True
    if member.is_inactive:
        found["inactive"] = True
    found |= {"code": member.code, "display": member.display}
    return {key: value for key, value in found.items() if value is not None}
