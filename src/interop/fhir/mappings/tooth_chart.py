"""Observations over tooth_chart_snapshots: the chart of a patient, and each tooth of it.

A snapshot is what a chart said at one moment and is never changed, so the server shows it. The
chart is one JSON document, `{"teeth": {"36": {"status": ..., "conditions": [...], ...}}}` with the
teeth in the notation of the row; whatever else it says of a tooth is shown as it is named there.
The id of a tooth is the chart's with its last byte exclusive-or the tooth, so that the chart is
found from it by its key; `storage.schema.presentation` has the same in SQL.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, Final
from uuid import UUID

from interop.fhir.lens import Connection, JsonObject
from interop.fhir.mappings import references
from interop.fhir.mappings.concepts import Coding, Reference
from interop.fhir.mappings.converters import Moment
from interop.fhir.mappings.lens import Entry, ResourceMapping, Row, Rows
from interop.fhir.mappings.perio import ToothSite
from interop.fhir.mappings.places import Choice, FirstOf, References
from interop.fhir.mappings.statements import query
from interop.fhir.mappings.systems import DENTAL, own
from interop.fhir.mappings.views import Shown, ViewLens
from storage.dental import TOOTH_BY_FDI, TOOTH_BY_UNIVERSAL

CHART: Final = own("observation", "tooth-chart", "Tooth chart")
CHARTED_TOOTH: Final = own("observation", "charted-tooth", "Charted tooth")
CONDITION: Final = own("observation", "charted-condition", "Charted condition")
CATEGORY: Final = Coding(
    "http://terminology.hl7.org/CodeSystem/observation-category", "exam", "Exam"
)
_ORIGIN: Final = "of a chart that was taken; charts are not changed"
# Numbers of FDI and Universal, and the letters of Universal, fit the last byte of an id.
MARKS: Final = (*range(1, 33), *range(ord("A"), ord("T") + 1), *map(int, TOOTH_BY_FDI))


def _template(code: Coding) -> Any:
    categories = [CATEGORY.concept(), DENTAL.concept()]
    return lambda row: {"status": "final", "category": categories, "code": code.concept()}


def _entries() -> list[Entry]:
    return [
        Entry("patient", "subject", Reference(("Patient",))),
        Entry("encounter", "encounter", Reference(("Encounter",))),
        Entry("created_at", "", Choice("effective", Moment())),
        Entry("recorder", "performer", FirstOf(Reference(("Practitioner",)))),
    ]


CHART_MAPPING: Final = ResourceMapping(
    "Observation",
    "tooth_chart_snapshots",
    [*_entries(), Entry("teeth", "hasMember", References(Reference(("Observation",))), ())],
    template=_template(CHART),
)
TOOTH_MAPPING: Final = ResourceMapping(
    "Observation",
    "tooth_chart_snapshots",
    [
        *_entries(),
        Entry("tooth_number", "bodySite", ToothSite()),
        Entry("status", "valueCodeableConcept", Shown("status of the tooth")),
        Entry(
            "components",
            "component",
            Shown("conditions of the tooth, coded; what else the chart says, by its name"),
        ),
    ],
    template=_template(CHARTED_TOOTH),
)

_CHART: Final = """
SELECT c.id, c.patient_id, c.encounter_id, c.created_at, c.recorded_by_id, c.chart_json,
    c.tooth_numbering_system
FROM tooth_chart_snapshots AS c WHERE c.tenant_id = %s AND c.id = ANY(%s)
"""


def tooth_id(chart: UUID, mark: int) -> UUID:
    """The row id of a tooth in a chart, and the chart's of a tooth's."""
    return UUID(int=chart.int ^ mark)


def mark_of(name: str) -> int:
    """What tells a tooth of a chart, by the name that it has there."""
    return int(name) if name.isdigit() else ord(name)


def teeth_of(chart: Mapping[str, Any]) -> Iterator[tuple[str, int, Any]]:
    """The teeth of a chart: their names there, FDI numbers, and what is said of them."""
    teeth = chart["chart_json"].get("teeth")
    known = {"FDI": TOOTH_BY_FDI, "UNIVERSAL": TOOTH_BY_UNIVERSAL}
    notation = known.get(chart["tooth_numbering_system"], {})
    for name, said in teeth.items() if isinstance(teeth, Mapping) else ():
        if name in notation:
            yield name, int(notation[name].fdi), said


def _load_chart(connection: Connection, tenant_id: UUID, row_id: UUID) -> Rows | None:
    found = query(connection, _CHART, tenant_id, [row_id])
    if not found:
        return None
    teeth = [tooth_id(row_id, mark_of(name)) for name, _, _ in teeth_of(found[0])]
    named = references.literals(connection, tenant_id, "Observation", teeth)
    row = {**_common(connection, tenant_id, found[0]), "teeth": tuple(sorted(named.values()))}
    return Rows(row)


def _load_tooth(connection: Connection, tenant_id: UUID, row_id: UUID) -> Rows | None:
    charts = query(connection, _CHART, tenant_id, [tooth_id(row_id, mark) for mark in MARKS])
    for chart in charts:
        for name, fdi, said in teeth_of(chart):
            if tooth_id(chart["id"], mark_of(name)) == row_id:
                row = {**_common(connection, tenant_id, chart), "tooth_number": fdi}
                return Rows({**row, **_findings(said)})
    return None


def _common(connection: Connection, tenant_id: UUID, chart: Row) -> Row:
    def named(resource_type: str, target: UUID | None) -> str | None:
        return references.literal(connection, tenant_id, resource_type, target) if target else None

    return {
        "patient": named("Patient", chart["patient_id"]),
        "encounter": named("Encounter", chart["encounter_id"]),
        "created_at": chart["created_at"],
        "recorder": named("Practitioner", chart["recorded_by_id"]),
    }


def _findings(said: Any) -> Row:
    """Status and components of what a chart says of a tooth, however it is put."""
    if not isinstance(said, Mapping):
        return {"status": _words(said), "components": None}
    conditions = said.get("conditions")
    listed = conditions if isinstance(conditions, list) else [conditions] if conditions else []
    components = [
        {"code": CONDITION.concept(), "valueCodeableConcept": concept}
        for concept in map(_concept, listed)
        if concept is not None
    ]
    for name, value in said.items():
        words = _words(value)
        if name not in ("status", "conditions") and name.strip() and words is not None:
            components.append({"code": {"text": name.strip()}, "valueString": words["text"]})
    return {"status": _words(said.get("status")), "components": components or None}


def _concept(condition: Any) -> JsonObject | None:
    """A condition as a concept: {system, code, display}, or any words."""
    if not isinstance(condition, Mapping):
        return _words(condition)
    coding = {
        name: condition[name].strip()
        for name in ("system", "code", "display")
        if isinstance(condition.get(name), str) and condition[name].strip()
    }
    return {"coding": [coding]} if "code" in coding else _words(dict(condition) or None)


def _words(value: Any) -> JsonObject | None:
    """A value in words; None where nothing is said."""
    if value is None:
        return None
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return {"text": text.strip()} if text.strip() else None


def chart() -> ViewLens:
    return ViewLens(CHART_MAPPING, _load_chart, _ORIGIN, ("tooth_chart_snapshots", "id"))


def tooth() -> ViewLens:
    return ViewLens(TOOTH_MAPPING, _load_tooth, _ORIGIN)
