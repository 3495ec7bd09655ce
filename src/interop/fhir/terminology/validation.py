"""$validate-code of ValueSet and CodeSystem (FHIR R4 valueset-operation-validate-code.html).

What cannot be told is an error and never a no: a system may simply not be here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from interop.errors import BadRequest, NotFound
from interop.fhir.lens import JsonObject
from interop.fhir.terminology.code_system import CodeSystem, code_system
from interop.fhir.terminology.evaluation import NotExpandable, Terminology
from interop.fhir.terminology.expansion import (
    ExpansionNotSupported,
    definition_of,
    refusal,
)
from interop.fhir.terminology.inputs import Inputs, Kind

_CODED: Final[Mapping[str, Kind]] = {
    "code": "code",
    "display": "string",
    "coding": "Coding",
    "codeableConcept": "CodeableConcept",
    "abstract": "boolean",
    "displayLanguage": "code",
}
VALUE_SET_PARAMETERS: Final[Mapping[str, Kind]] = {
    "url": "uri",
    "valueSet": "resource",
    "valueSetVersion": "string",
    "system": "uri",
    "systemVersion": "string",
    **_CODED,
}
CODE_SYSTEM_PARAMETERS: Final[Mapping[str, Kind]] = {
    "url": "uri",
    "codeSystem": "resource",
    "version": "string",
    **_CODED,
}
MOST_CODINGS = 100


@dataclass(frozen=True, slots=True)
class Asked:
    """A coding to be judged."""

    system: str | None
    code: str
    display: str | None


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is said of a coding; `message` says why not."""

    is_valid: bool
    message: str | None = None
    display: str | None = None

    def parameters(self) -> JsonObject:
        found: list[JsonObject] = [{"name": "result", "valueBoolean": self.is_valid}]
        if self.message:
            found.append({"name": "message", "valueString": self.message})
        if self.display:
            found.append({"name": "display", "valueString": self.display})
        return {"resourceType": "Parameters", "parameter": found}


def validate_in_value_set(
    inputs: Inputs, terminology: Terminology, by_id: JsonObject | None
) -> JsonObject:
    """Whether a coding is in a value set. Raises BadRequest, NotFound and Unprocessable."""
    definition = definition_of(inputs, terminology, by_id)
    asked = _asked(inputs, inputs.text("system"))
    if "code" in inputs and "system" not in inputs:
        raise BadRequest("a code needs its system")

    def judge(one: Asked) -> Verdict:
        try:
            is_member = terminology.defines(definition, one.system, one.code)
            if is_member is None:
                terminology.expand_definition(definition)
        except NotExpandable as error:
            raise refusal(error) from None
        name = f"{one.system}|{one.code}" if one.system else one.code
        if is_member is None:
            raise ExpansionNotSupported(
                f"whether the value set {definition.url!r} has {name[:256]!r} cannot be told here"
            )
        if not is_member:
            return Verdict(False, f"{name[:256]!r} is not in the value set {definition.url!r}")
        version = inputs.text("systemVersion")
        canonical = f"{one.system}|{version}" if version else one.system
        known = terminology.code_system(canonical) if canonical else None
        return _of_system(inputs, known, one)

    return _any_of(asked, judge).parameters()


def validate_in_code_system(
    inputs: Inputs, terminology: Terminology, by_id: JsonObject | None
) -> JsonObject:
    """Whether a coding is of a code system. Raises BadRequest, NotFound and Unprocessable."""
    known = _code_system(inputs, terminology, by_id)
    asked = _asked(inputs, known.url)

    def judge(one: Asked) -> Verdict:
        if one.system not in (None, known.url):
            return Verdict(False, f"{one.system!r} is not the code system {known.url!r}")
        if known.find(one.code) is None:
            if not known.is_complete:
                raise ExpansionNotSupported(
                    f"the code system {known.url!r} is here in part only: whether it has "
                    f"{one.code[:128]!r} cannot be told"
                )
            return Verdict(False, f"{one.code[:128]!r} is no code of {known.url!r}")
        return _of_system(inputs, known, one)

    return _any_of(asked, judge).parameters()


def _code_system(inputs: Inputs, terminology: Terminology, by_id: JsonObject | None) -> CodeSystem:
    given = [name for name in ("url", "codeSystem") if name in inputs]
    in_coding = (inputs.node("coding") or {}).get("system")
    if by_id is not None and not given:
        return code_system(by_id)
    if by_id is not None or len(given) > 1 or not (given or in_coding):
        raise BadRequest(
            "one of url, codeSystem and a coding with its system is needed, or the id of a "
            "CodeSystem in the URL"
        )
    if (resource := inputs.node("codeSystem")) is not None:
        if resource.get("resourceType") != "CodeSystem" or "url" not in resource:
            raise BadRequest("the parameter 'codeSystem' must hold a CodeSystem with a url")
        return code_system(resource)
    canonical = inputs.text("url") or str(in_coding)
    if version := inputs.text("version"):
        canonical = f"{canonical.partition('|')[0]}|{version}"
    try:
        found = terminology.code_system(canonical)
    except NotExpandable as error:
        raise refusal(error) from None
    if found is None:
        raise NotFound(f"the code system {canonical[:256]!r} is not known here")
    return found


def _asked(inputs: Inputs, system: str | None) -> list[Asked]:
    """The codings that the question is about: one of three ways to say it."""
    ways = [name for name in ("code", "coding", "codeableConcept") if name in inputs]
    if len(ways) != 1:
        raise BadRequest("one of code, coding and codeableConcept is needed")
    if ways[0] == "code":
        return [Asked(system, str(inputs.text("code")), inputs.text("display"))]
    if ways[0] == "coding":
        rows: list[Any] = [inputs.node("coding")]
    else:
        rows = (inputs.node("codeableConcept") or {}).get("coding", [])
    if len(rows) > MOST_CODINGS:
        raise BadRequest(f"a codeableConcept of more than {MOST_CODINGS} codings")
    found = [Asked(r.get("system"), r["code"], r.get("display")) for r in rows if r.get("code")]
    if not found:
        raise BadRequest(f"the {ways[0]} has no code")
    return found


def _any_of(asked: list[Asked], judge: Any) -> Verdict:
    """A concept is valid by any of its codings; what it is not is said of the first."""
    verdicts: list[Verdict] = []
    for one in asked:
        verdict: Verdict = judge(one)
        if verdict.is_valid:
            return verdict
        verdicts.append(verdict)
    return verdicts[0]


def _of_system(inputs: Inputs, known: CodeSystem | None, asked: Asked) -> Verdict:
    """The code is where it should be: whether it may be used, and under this display."""
    concept = known.find(asked.code) if known else None
    if concept is None:
        return Verdict(True, display=None)
    if concept.is_abstract and not inputs.flag("abstract"):
        return Verdict(
            False, f"{asked.code!r} is abstract and not for use in data", concept.display
        )
    if asked.display and concept.display and not _same(asked.display, concept.display):
        said = f"the display {asked.display[:128]!r} is not that of {asked.code!r}: "
        return Verdict(False, f"{said}{concept.display!r}", concept.display)
    hint = f"{asked.code!r} is inactive" if concept.is_inactive else None
    return Verdict(True, hint, concept.display)


def _same(one: str, other: str) -> bool:
    return " ".join(one.casefold().split()) == " ".join(other.casefold().split())
