"""AllergyIntolerance over patient_allergies (US Core AllergyIntolerance).

What was refuted or entered in error is no allergy of the patient, and that a patient has none is
not one either: such resources are stored whole and have no row.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from interop.fhir.lens import JsonObject
from interop.fhir.mappings.concepts import (
    Coding,
    Concept,
    ConceptText,
    Reference,
    codings,
    has_coding,
)
from interop.fhir.mappings.converters import Codes, Day, Text
from interop.fhir.mappings.lens import Entry, ResourceMapping
from interop.fhir.mappings.medication import DRUG, Drug, normalize
from interop.fhir.mappings.path import DATA_ABSENT_REASON, path
from interop.fhir.mappings.places import Choice, Notes
from interop.fhir.mappings.shared_type import SharedLens, Writable
from interop.fhir.mappings.systems import SNOMED_CT, own_extension
from interop.fhir.mappings.tables import TableLens

_HL7: Final = "http://terminology.hl7.org/CodeSystem"
_VERIFICATION: Final = f"{_HL7}/allergyintolerance-verification"
NOT_AN_ALLERGY: Final = (
    Coding(_VERIFICATION, "refuted"),
    Coding(_VERIFICATION, "entered-in-error"),
)
# IPS "no information" codes and SNOMED CT's "no known allergy" and its children for drug,
# environment and food.
_ABSENT: Final = "http://hl7.org/fhir/uv/ips/CodeSystem/absent-unknown-uv-ips"
_NO_KNOWN: Final = ("716186003", "409137002", "428607008", "429625007")
MATERIAL: Final = own_extension("catalogue-material")
CATEGORY: Final = own_extension("allergy-category")
LIFE_THREATENING: Final = own_extension("allergy-life-threatening")

CLINICAL_STATUS: Final = Concept(
    {
        code.upper(): Coding(f"{_HL7}/allergyintolerance-clinical", code)
        for code in ("active", "inactive", "resolved")
    }
)
CRITICALITIES: Final = Codes({"low": "LOW", "high": "HIGH", "unable-to-assess": "UNABLE_TO_ASSESS"})
SEVERITIES: Final = Codes({"mild": "MILD", "moderate": "MODERATE", "severe": "SEVERE"})
_EXTENSION = path(f"extension[url={CATEGORY}]")


@dataclass(frozen=True, slots=True)
class Category:
    """The category, on the resource: R4 has no materials, and none for what is anything else."""

    label: str = (
        "medication = DRUG; our extension material = MATERIAL, written with environment; else OTHER"
    )

    def get(self, node: JsonObject) -> str:
        if (_EXTENSION.get(node) or {}).get("valueCode") == "material":
            return "MATERIAL"
        categories = node.get("category")
        is_drug = isinstance(categories, list) and "medication" in categories
        return "DRUG" if is_drug else "OTHER"

    def put(self, value: str, node: JsonObject) -> JsonObject:
        bare = _EXTENSION.put(node, None)
        rest = {key: item for key, item in bare.items() if key.lstrip("_") != "category"}
        if value == "DRUG":
            return {**rest, "category": ["medication"]}
        if value == "OTHER":
            return rest
        marked = {**rest, "category": ["environment"]}
        return _EXTENSION.put(marked, {"url": CATEGORY, "valueCode": "material"})


@dataclass(frozen=True, slots=True)
class Reaction:
    """(reaction, severity) of the first reaction; R4 has no severity above severe."""

    label: str = (
        "first: manifestation[0].text, else display; severity "
        + SEVERITIES.label
        + "; severe with our extension = LIFE_THREATENING"
    )

    def get(self, node: Any) -> tuple[str | None, str | None]:
        first = node[0] if isinstance(node, list) and node else None
        if not isinstance(first, Mapping):
            return None, None
        manifestations = first.get("manifestation")
        shown = manifestations[0] if isinstance(manifestations, list) and manifestations else None
        displays = (Text().get(item.get("display")) for item in codings(shown))
        words = ConceptText().get(shown) or next((item for item in displays if item), None)
        severity = SEVERITIES.get(first.get("severity"))
        if severity == "SEVERE" and _is_life_threatening(first):
            severity = "LIFE_THREATENING"
        return words, severity

    def put(self, value: tuple[str | None, str | None], node: Any) -> Any:
        words, severity = value
        first, *others = node or [{}]
        if words is None and severity is None:
            return None
        changed = dict(first)
        if self.get([first])[0] != words or "manifestation" not in first:
            changed["manifestation"] = [{"text": words} if words else _UNSAID]
        if self.get([first])[1] != severity:
            changed = _with_severity(changed, severity)
        return [changed, *others]


_UNSAID: Final = {"extension": [{"url": DATA_ABSENT_REASON, "valueCode": "unknown"}]}
_LIFE_THREATENING = path(f"extension[url={LIFE_THREATENING}]")


def _is_life_threatening(reaction: Mapping[str, Any]) -> bool:
    return bool((_LIFE_THREATENING.get(dict(reaction)) or {}).get("valueBoolean"))


def _with_severity(reaction: JsonObject, severity: str | None) -> JsonObject:
    is_worse = severity == "LIFE_THREATENING"
    code = "severe" if is_worse else SEVERITIES.put(severity, None)
    extension = {"url": LIFE_THREATENING, "valueBoolean": True} if is_worse else None
    return _LIFE_THREATENING.put(path("severity").put(reaction, code), extension)


def mapping(public_url: str | None) -> ResourceMapping:
    return ResourceMapping(
        "AllergyIntolerance",
        "patient_allergies",
        [
            Entry("clinical_status", "clinicalStatus", CLINICAL_STATUS, "ACTIVE"),
            Entry(
                "drug_id",
                f"extension[url={DRUG}].valueReference",
                Reference(("Medication",), public_url),
            ),
            Entry(
                "material_id",
                f"extension[url={MATERIAL}].valueReference",
                Reference(("Device",), public_url),
            ),
            Entry("category", "", Category()),
            Entry("criticality", "criticality", CRITICALITIES),
            Entry(("code_system_uri", "code", "substance"), "code", Drug()),
            Entry("patient_id", "patient", Reference(("Patient",), public_url)),
            Entry("onset_date", "", Choice("onset", Day())),
            Entry("recorded_by_id", "recorder", Reference(("Practitioner",), public_url)),
            Entry("notes", "note", Notes()),
            Entry(("reaction", "severity"), "reaction", Reaction()),
        ],
    )


def is_allergy(resource: JsonObject) -> bool:
    """Whether the resource says that the patient has, or had, an allergy."""
    if has_coding(resource.get("verificationStatus"), *NOT_AN_ALLERGY):
        return False
    return not any(
        item.get("system") == _ABSENT
        or (item.get("system") == SNOMED_CT and item.get("code") in _NO_KNOWN)
        for item in codings(resource.get("code"))
    )


def lens(public_url: str | None) -> SharedLens:
    needs = ("patient_id", "substance")
    return SharedLens(
        (),
        (Writable(TableLens(mapping(public_url), needs=needs, normalize=normalize), is_allergy),),
    )
