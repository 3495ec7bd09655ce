"""Observation over vital_signs (US Core vital signs).

One row holds what was measured at one moment. Blood pressure alone is the blood pressure panel, one
other measure its own Observation, anything else a vital signs panel with a component per measure.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from interop.fhir.lens import JsonObject
from interop.fhir.mappings.concepts import Coding, Meanings, Reference, has_coding
from interop.fhir.mappings.converters import Moment, Quantity
from interop.fhir.mappings.lens import Entry, ResourceMapping, Row
from interop.fhir.mappings.places import Choice, FirstOf, without_choice
from interop.fhir.mappings.systems import LOINC
from interop.fhir.mappings.tables import TableLens

CATEGORY: Final = Coding(
    "http://terminology.hl7.org/CodeSystem/observation-category", "vital-signs", "Vital Signs"
)
BLOOD_PRESSURE: Final = Coding(LOINC, "85354-9", "Blood pressure panel with all children optional")
PANEL: Final = Coding(
    LOINC,
    "85353-1",
    "Vital signs, weight, height, head circumference, oxygen saturation and BMI panel",
)
PRESSURES: Final = frozenset({"systolic_mmhg", "diastolic_mmhg"})


@dataclass(frozen=True, slots=True)
class Measure:
    """A column, the codes that mean it (the first is written), and its unit."""

    column: str
    codings: tuple[Coding, ...]
    quantity: Quantity

    @property
    def concept(self) -> JsonObject:
        return self.codings[0].concept()


def _loinc(code: str, display: str) -> Coding:
    return Coding(LOINC, code, display)


MEASURES: Final = (
    Measure(
        "systolic_mmhg",
        (_loinc("8480-6", "Systolic blood pressure"),),
        Quantity("mm[Hg]", "mmHg", low=0, high=400),
    ),
    Measure(
        "diastolic_mmhg",
        (_loinc("8462-4", "Diastolic blood pressure"),),
        Quantity("mm[Hg]", "mmHg", low=0, high=300),
    ),
    Measure(
        "heart_rate_bpm",
        (_loinc("8867-4", "Heart rate"),),
        Quantity("/min", "beats/minute", low=0, high=400),
    ),
    Measure(
        "respiratory_rate_bpm",
        (_loinc("9279-1", "Respiratory rate"),),
        Quantity("/min", "breaths/minute", low=0, high=200),
    ),
    Measure(
        "oxygen_saturation_percent",
        (
            _loinc("2708-6", "Oxygen saturation in Arterial blood"),
            _loinc("59408-5", "Oxygen saturation in Arterial blood by Pulse oximetry"),
        ),
        Quantity("%", low=0, high=100),
    ),
    Measure(
        "temperature_celsius",
        (_loinc("8310-5", "Body temperature"),),
        Quantity("Cel", "C", {"[degF]": (5 / 9, -160 / 9)}, low=20, high=50),
    ),
    Measure(
        "height_cm",
        (_loinc("8302-2", "Body height"),),
        Quantity("cm", "", {"m": (100, 0), "[in_i]": (2.54, 0)}, low=0, high=300),
    ),
    Measure(
        "weight_kg",
        (_loinc("29463-7", "Body weight"),),
        Quantity("kg", "", {"g": (0.001, 0), "[lb_av]": (0.45359237, 0)}, low=0, high=700),
    ),
    Measure(
        "bmi",
        (_loinc("39156-5", "Body mass index (BMI) [Ratio]"),),
        Quantity("kg/m2", low=0, high=300, places=2),
    ),
    Measure(
        "pain_score",
        (_loinc("72514-3", "Pain severity - 0-10 verbal numeric rating [Score] - Reported"),),
        Quantity("{score}", "", {"1": (1, 0)}, low=0, high=10, places=0),
    ),
)
COLUMNS: Final = tuple(measure.column for measure in MEASURES)
_BY_COLUMN: Final = {measure.column: measure for measure in MEASURES}
_BY_CODE: Final = Meanings((measure, measure.codings) for measure in MEASURES)

Values = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Measures:
    """All measures, on the Observation itself: its code, value, components."""

    label: str = ", ".join(
        f"{item.column} = LOINC {' or '.join(coding.code for coding in item.codings)}"
        f" in {item.quantity.unit}"
        for item in MEASURES
    )

    def get(self, node: JsonObject) -> tuple[Any, ...]:
        values: Values = {}
        for part in [node, *(node.get("component") or [])]:
            measure = _measure_of(part)
            value = measure.quantity.get(part.get("valueQuantity")) if measure else None
            if measure is not None and value is not None:
                values.setdefault(measure.column, value)
        return tuple(values.get(column) for column in COLUMNS)

    def put(self, value: tuple[Any, ...], node: JsonObject) -> JsonObject:
        wanted = {
            column: item for column, item in zip(COLUMNS, value, strict=True) if item is not None
        }
        own = _measure_of(node)
        if own is not None and wanted.keys() <= {own.column}:
            return _with_value(_without_components(node), own, wanted.get(own.column))
        if "code" not in node and len(wanted) == 1 and not wanted.keys() & PRESSURES:
            measure = _BY_COLUMN[next(iter(wanted))]
            return _with_value({**node, "code": measure.concept}, measure, wanted[measure.column])
        result = _as_panel(node, wanted)
        old = {_column_of(part): part for part in node.get("component") or []}
        others = [part for part in node.get("component") or [] if _column_of(part) is None]
        parts = [
            _with_value(old.get(column) or {"code": _BY_COLUMN[column].concept}, measure, item)
            for column, item in wanted.items()
            for measure in (_BY_COLUMN[column],)
        ]
        if parts or others:
            # vs-2 asks for a reason only where there is nothing else.
            result.pop("dataAbsentReason", None)
            return {**result, "component": [*others, *parts]}
        return {**_without_components(result), "dataAbsentReason": _UNKNOWN.concept()}


_UNKNOWN: Final = Coding(
    "http://terminology.hl7.org/CodeSystem/data-absent-reason", "unknown", "Unknown"
)


def _measure_of(part: Any) -> Measure | None:
    return _BY_CODE.of(part.get("code")) if isinstance(part, dict) else None


def _column_of(part: Any) -> str | None:
    """The column of a component that the row holds; one that it cannot hold is the client's."""
    measure = _measure_of(part)
    if measure is None or measure.quantity.get(part.get("valueQuantity")) is None:
        return None
    return measure.column


def _with_value(part: JsonObject, measure: Measure, value: Any) -> JsonObject:
    """The Observation or component with the value of a measure, or with the reason for none."""
    old = part.get("valueQuantity")
    if value is not None and measure.quantity.get(old) == value:
        return part
    rest = {**without_choice(part, "value")}
    rest.pop("dataAbsentReason", None)
    if value is None:
        return {**rest, "dataAbsentReason": _UNKNOWN.concept()}
    return {**rest, "valueQuantity": measure.quantity.put(value, old)}


def _without_components(node: JsonObject) -> JsonObject:
    """The Observation without the components that the row holds."""
    others = [part for part in node.get("component") or [] if _column_of(part) is None]
    rest = {key: item for key, item in node.items() if key != "component"}
    return {**rest, "component": others} if others else rest


def _as_panel(node: JsonObject, wanted: Values) -> JsonObject:
    """The Observation as a panel that may hold the measures; a single value goes."""
    is_pressure = bool(wanted) and wanted.keys() <= PRESSURES
    if has_coding(node.get("code"), BLOOD_PRESSURE) and is_pressure:
        return dict(node)
    if has_coding(node.get("code"), PANEL) or ("code" in node and _is_other_panel(node)):
        return dict(node)
    code = BLOOD_PRESSURE if is_pressure else PANEL
    return {**without_choice(node, "value"), "code": code.concept()}


def _is_other_panel(node: JsonObject) -> bool:
    """A panel of the client's own coding that holds measures, and no value of its own."""
    is_single = _measure_of(node) is not None or has_coding(node.get("code"), BLOOD_PRESSURE)
    return not is_single


def _template(row: Row) -> dict[str, Any]:
    return {"status": "final", "category": [CATEGORY.concept()]}


def mapping(public_url: str | None) -> ResourceMapping:
    practitioner = Reference(("Practitioner",), public_url)
    return ResourceMapping(
        "Observation",
        "vital_signs",
        [
            Entry(COLUMNS, "", Measures()),
            Entry("patient_id", "subject", Reference(("Patient",), public_url)),
            Entry("encounter_id", "encounter", Reference(("Encounter",), public_url)),
            Entry("measured_at", "", Choice("effective", Moment())),
            Entry("measured_by_id", "performer", FirstOf(practitioner)),
        ],
        template=_template,
    )


_READER: Final = mapping(None)


def is_vital_signs(resource: JsonObject) -> bool:
    """Whether the row can hold the Observation: a moment, a measure, and not withdrawn."""
    if resource.get("status") in ("entered-in-error", "cancelled"):
        return False
    if all(value is None for value in Measures().get(resource)):
        return False
    return _READER.get(resource).row["measured_at"] is not None


def lens(public_url: str | None) -> TableLens:
    return TableLens(mapping(public_url), needs=("patient_id", "measured_at"))
