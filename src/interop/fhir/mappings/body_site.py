"""Tooth and surface of a condition, procedure or finding, on the resource itself.

Read from the codings of `bodySite` (SNOMED CT of PS3.16 CID 4018/4019, ADA Universal, ISO 3950)
and, as HL7 Dental Data Exchange writes it, from the contained BodyStructure that the `bodySite`
extension names: `location` is the tooth, `locationQualifier` the surfaces. Both are written.
Surfaces are read in the FDI surface system and ours; SNOMED CT surface codes are left alone,
because published guides contradict each other on what they mean (ai.md 2.1).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from interop.fhir.lens import JsonObject
from interop.fhir.mappings.concepts import Coding, codings
from interop.fhir.mappings.systems import (
    ADA_UNIVERSAL,
    BODY_SITE,
    EXAMPLE_TOOTH,
    FDI_SURFACE,
    ISO_3950,
    OWN_SURFACE,
    SNOMED_CT,
)
from storage.dental import (
    SURFACE_COMBINATIONS,
    SURFACES,
    TOOTH_BY_FDI,
    TOOTH_BY_SNOMED_CT,
    TOOTH_BY_UNIVERSAL,
)

CONTAINED_ID: Final = "body-site"
# Surfaces that a chart names and the FDI surface system does not.
OWN_SURFACES: Final = {"F": "Facial", "P": "Palatal"}

Site = tuple[int | None, str | None]


def tooth_concept(tooth_number: int) -> JsonObject:
    """A tooth in the three notations that clients look for."""
    tooth = TOOTH_BY_FDI[str(tooth_number)]
    return {
        "coding": [
            Coding(SNOMED_CT, tooth.snomed_ct, tooth.name).json(),
            Coding(ISO_3950, tooth.fdi).json(),
            Coding(ADA_UNIVERSAL, tooth.universal).json(),
        ],
        "text": f"Tooth {tooth.fdi}",
    }


def tooth_of(concept: Any) -> int | None:
    """The FDI number of the first tooth that a CodeableConcept names."""
    for item in codings(concept):
        code, system = item.get("code"), item.get("system")
        if not isinstance(code, str):
            continue
        tooth = None
        if system == SNOMED_CT:
            tooth = TOOTH_BY_SNOMED_CT.get(code)
        elif system == ADA_UNIVERSAL:
            tooth = TOOTH_BY_UNIVERSAL.get(code)
        elif system in (ISO_3950, EXAMPLE_TOOTH):
            tooth = TOOTH_BY_FDI.get(code)
        if tooth is not None:
            return int(tooth.fdi)
    return None


def surface_concept(letter: str) -> JsonObject:
    """One surface."""
    if letter in OWN_SURFACES:
        return Coding(OWN_SURFACE, letter, OWN_SURFACES[letter]).concept()
    return Coding(FDI_SURFACE, letter, SURFACES[letter]).concept()


def surface_of(concept: Any) -> str | None:
    """The letters of the surface or combination that a CodeableConcept names."""
    for item in codings(concept):
        code = item.get("code")
        if item.get("system") == FDI_SURFACE and (code in SURFACES or code in SURFACE_COMBINATIONS):
            return str(code)
        if item.get("system") == OWN_SURFACE and code in OWN_SURFACES:
            return str(code)
    return None


@dataclass(frozen=True, slots=True)
class BodySite:
    """(tooth_number, surface) of a resource whose `bodySite` is a list, or a single concept."""

    is_list: bool = True
    label: str = (
        "tooth: SNOMED CT (CID 4018, 4019), ADA Universal or ISO 3950; surfaces: FDI surface;"
        " in bodySite and in the BodyStructure of Dental Data Exchange"
    )

    def get(self, node: JsonObject) -> Site:
        concepts = self._concepts(node)
        structure = next(_structures(node), {})
        teeth = (tooth_of(concept) for concept in [*concepts, structure.get("location")])
        surfaces = _surfaces(structure.get("locationQualifier")) or _surfaces(concepts)
        return (
            next((tooth for tooth in teeth if tooth), None),
            surfaces if 0 < len(surfaces) <= 6 else None,
        )

    def put(self, value: Site, node: JsonObject) -> JsonObject:
        tooth, surface = value
        bare = self._without(node)
        if tooth is None and surface is None:
            return bare
        concepts = self._concepts(bare)
        if tooth is not None:
            concepts = [tooth_concept(tooth), *concepts]
        if not concepts:
            return _with_structure(bare, tooth, surface)
        sites = concepts if self.is_list else concepts[0]
        return _with_structure({**bare, "bodySite": sites}, tooth, surface)

    def _concepts(self, node: JsonObject) -> list[Any]:
        sites = node.get("bodySite")
        if self.is_list:
            return sites if isinstance(sites, list) else []
        return [sites] if isinstance(sites, Mapping) else []

    def _without(self, node: JsonObject) -> JsonObject:
        """The resource without any site that `get` would read."""
        concepts = [
            concept
            for concept in self._concepts(node)
            if tooth_of(concept) is None and surface_of(concept) is None
        ]
        result = {key: item for key, item in node.items() if key != "bodySite"}
        if concepts:
            result["bodySite"] = concepts if self.is_list else concepts[0]
        names = {f"#{structure['id']}" for structure in _structures(node)}
        kept = {
            "extension": [item for item in node.get("extension", []) if _named(item) not in names],
            "contained": [
                item for item in node.get("contained", []) if f"#{item.get('id')}" not in names
            ],
        }
        result.update(kept)
        return {key: item for key, item in result.items() if item != [] or key not in kept}


def _surfaces(concepts: Any) -> str:
    return "".join(surface_of(concept) or "" for concept in concepts or [])


def _named(extension: JsonObject) -> str | None:
    """The contained resource that a bodySite extension names."""
    if extension.get("url") != BODY_SITE:
        return None
    target = (extension.get("valueReference") or {}).get("reference")
    return target if isinstance(target, str) else None


def _structures(node: JsonObject) -> Iterator[JsonObject]:
    """The contained BodyStructures of bodySite extensions that say a tooth or a surface."""
    names = {_named(extension) for extension in node.get("extension") or []}
    for contained in node.get("contained") or []:
        if contained.get("resourceType") != "BodyStructure" or "id" not in contained:
            continue
        says = tooth_of(contained.get("location")) or _surfaces(contained.get("locationQualifier"))
        if says and f"#{contained['id']}" in names:
            yield contained


def _with_structure(node: JsonObject, tooth: int | None, surface: str | None) -> JsonObject:
    patient = (node.get("subject") or {}).get("reference")
    used = {item.get("id") for item in node.get("contained") or []}
    name = next(
        name
        for name in (CONTAINED_ID, *(f"{CONTAINED_ID}-{number}" for number in range(2, 100)))
        if name not in used
    )
    structure: JsonObject = {"resourceType": "BodyStructure", "id": name}
    if tooth is not None:
        structure["location"] = tooth_concept(tooth)
    if surface is not None:
        structure["locationQualifier"] = [surface_concept(letter) for letter in surface]
    if patient is not None:
        structure["patient"] = {"reference": patient}
    extension = {"url": BODY_SITE, "valueReference": {"reference": f"#{name}"}}
    return {
        **node,
        "extension": [*(node.get("extension") or []), extension],
        "contained": [*(node.get("contained") or []), structure],
    }
