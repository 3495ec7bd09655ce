"""The probing sites of a tooth, which are components of its Observation.

Each measure of a site is a component, told apart by an extension with the site. LOINC codes as read
in published listings: 32910-2 probing depth at a probe site, 64043-3 free gingival margin to
cement-enamel junction, 34016-6 dental plaque at a probe site, 64044-1 and 64042-5 of the PhenX
periodontal protocol; SNOMED CT 86276007 bleeding on probing. What has no code that could be checked
has one of ours.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from interop.fhir.lens import JsonObject
from interop.fhir.mappings.concepts import Coding, has_coding
from interop.fhir.mappings.converters import Boolean, Converter, Integer, Quantity
from interop.fhir.mappings.lens import Row
from interop.fhir.mappings.places import without_choice
from interop.fhir.mappings.systems import LOINC, SNOMED_CT, own, own_extension
from storage.dental import PERIODONTAL_SITES

SITE: Final = own_extension("periodontal-site")
_OTHER_SITES: Final = {
    "MP": "Mesiopalatal",
    "P": "Palatal",
    "DP": "Distopalatal",
    "M": "Mesial",
    "D": "Distal",
}
SITES: Final = {
    code: own("periodontal-site", code, display)
    for code, display in {**PERIODONTAL_SITES, **_OTHER_SITES}.items()
}
NOT_PERFORMED: Final = Coding(
    "http://terminology.hl7.org/CodeSystem/data-absent-reason", "not-performed", "Not Performed"
)


@dataclass(frozen=True, slots=True)
class Ranged(Integer):
    """A grade within the range of its column."""

    high: int = 0
    label: str = "integer"

    def get(self, node: Any) -> int | None:
        value = Integer.get(self, node)
        return value if value is not None and 0 <= value <= self.high else None


@dataclass(frozen=True, slots=True)
class Measure:
    """A column of a site, the codes that mean it (the first is written), and its value."""

    column: str
    codings: tuple[Coding, ...]
    suffix: str
    converter: Converter


MEASURES: Final = (
    Measure(
        "pocket_depth_mm",
        (
            Coding(LOINC, "32910-2", "Probing depth {Tooth}.{probe site} Measured"),
            Coding(LOINC, "64042-5"),
        ),
        "Quantity",
        Quantity("mm", low=0, high=20, places=1),
    ),
    Measure(
        "gingival_margin_mm",
        (
            Coding(
                LOINC,
                "64043-3",
                "Distance from the free gingival margin, FGM, to the cement-enamel junction, CEJ",
            ),
        ),
        "Quantity",
        Quantity("mm", low=-15, high=15, places=1),
    ),
    Measure(
        "bleeding_on_probing",
        (Coding(SNOMED_CT, "86276007", "Bleeding on probing"), Coding(LOINC, "64044-1")),
        "Boolean",
        Boolean(),
    ),
    Measure(
        "suppuration",
        (own("observation", "suppuration", "Suppuration on probing"),),
        "Boolean",
        Boolean(),
    ),
    Measure(
        "plaque", (Coding(LOINC, "34016-6", "Dental plaque {Probe site}"),), "Boolean", Boolean()
    ),
    Measure(
        "mobility_grade",
        (own("observation", "tooth-mobility", "Tooth mobility grade"),),
        "Integer",
        Ranged(high=3),
    ),
    Measure(
        "furcation_involvement",
        (own("observation", "furcation", "Furcation involvement grade"), Coding(LOINC, "34015-8")),
        "Integer",
        Ranged(high=4),
    ),
)
COLUMNS: Final = tuple(measure.column for measure in MEASURES)
_BY_COLUMN: Final = {measure.column: measure for measure in MEASURES}
_DEPTH: Final = MEASURES[0]
Cell = tuple[str, str]  # site, column


@dataclass(frozen=True, slots=True)
class Sites:
    """The rows of a tooth, on the Observation itself: a component for each measure of each site."""

    label: str = "component per site (our extension) and measure: " + ", ".join(
        f"{item.column} = {item.codings[0].code}" for item in MEASURES
    )

    def get(self, node: JsonObject) -> tuple[Row, ...]:
        rows: dict[str, Row] = {}
        for component in node.get("component") or []:
            cell = _cell(component)
            if cell is None:
                continue
            row = rows.setdefault(cell[0], {"site": cell[0], **dict.fromkeys(COLUMNS)})
            if row[cell[1]] is None:
                row[cell[1]] = _value(component, _BY_COLUMN[cell[1]])
        return tuple(rows[site] for site in SITES if site in rows)

    def put(self, value: tuple[Row, ...], node: JsonObject) -> JsonObject:
        wanted = _cells(value)
        components: list[JsonObject] = []
        for component in node.get("component") or []:
            cell = _cell(component)
            if cell is None:
                components.append(component)
            elif cell in wanted:
                components.append(_with_value(component, cell, wanted.pop(cell)))
        for cell, item in wanted.items():
            components.append(_with_value(_new_component(cell), cell, item))
        rest = {key: item for key, item in node.items() if key != "component"}
        return {**rest, "component": components} if components else rest


def _cells(rows: tuple[Row, ...]) -> dict[Cell, Any]:
    """What is measured at each site; a site without any measure says that none was taken."""
    cells: dict[Cell, Any] = {}
    for row in rows:
        measured = {column: row[column] for column in COLUMNS if row[column] is not None}
        for column, value in (measured or {_DEPTH.column: None}).items():
            cells[row["site"], column] = value
    return cells


def _cell(component: Any) -> Cell | None:
    """The site and the column of a component; None for one that is the client's own."""
    if not isinstance(component, dict):
        return None
    site = _site(component)
    for measure in MEASURES:
        if site and has_coding(component.get("code"), *measure.codings):
            is_held = _value(component, measure) is not None or "dataAbsentReason" in component
            return (site, measure.column) if is_held else None
    return None


def _site(component: JsonObject) -> str | None:
    for extension in component.get("extension") or []:
        if extension.get("url") == SITE:
            concept = extension.get("valueCodeableConcept")
            return next((code for code, item in SITES.items() if has_coding(concept, item)), None)
    return None


def _value(component: JsonObject, measure: Measure) -> Any:
    return measure.converter.get(component.get(f"value{measure.suffix}"))


def _new_component(cell: Cell) -> JsonObject:
    site, column = cell
    return {
        "extension": [{"url": SITE, "valueCodeableConcept": SITES[site].concept()}],
        "code": _BY_COLUMN[column].codings[0].concept(),
    }


def _with_value(component: JsonObject, cell: Cell, value: Any) -> JsonObject:
    measure = _BY_COLUMN[cell[1]]
    if _value(component, measure) == value and (
        value is not None or "dataAbsentReason" in component
    ):
        return component
    rest = without_choice(component, "value")
    rest.pop("dataAbsentReason", None)
    if value is None:
        return {**rest, "dataAbsentReason": NOT_PERFORMED.concept()}
    old = component.get(f"value{measure.suffix}")
    return {**rest, f"value{measure.suffix}": measure.converter.put(value, old)}
