"""One lens for all Observations, which picks the table by the content or by the row.

Charted teeth, vital signs, habits and outcomes are written by clients; periodontal exams, tooth
charts, annotations and findings of the AI are shown. An Observation that fits no table, such as a
laboratory result, is stored whole and has no row.
"""

from __future__ import annotations

from typing import Final
from uuid import UUID

from interop.fhir.lens import Connection, JsonObject, Lens
from interop.fhir.mappings import (
    ai_finding,
    annotation,
    outcome,
    perio,
    social_history,
    tooth_chart,
    vital_signs,
)
from interop.fhir.mappings.perio import ToothLens
from interop.fhir.mappings.shared_type import SharedLens, Table, Writable
from interop.fhir.mappings.views import ViewLens

# Which part has the row; asked of every Observation, so at once.
_HELD: Final = """
SELECT 'finding' FROM ai_predictions WHERE tenant_id = %(tenant)s AND id = %(row)s
    AND prediction_type <> 'RISK_SCORE'
UNION ALL (SELECT 'exam' FROM perio_measurements
    WHERE tenant_id = %(tenant)s AND exam_observation_id = %(row)s LIMIT 1)
UNION ALL (SELECT 'tooth' FROM perio_measurements
    WHERE tenant_id = %(tenant)s AND observation_id = %(row)s LIMIT 1)
UNION ALL SELECT 'vital_signs' FROM vital_signs WHERE tenant_id = %(tenant)s AND id = %(row)s
UNION ALL SELECT 'habit' FROM patient_social_history
    WHERE tenant_id = %(tenant)s AND id = %(row)s
UNION ALL SELECT 'outcome' FROM clinical_outcomes WHERE tenant_id = %(tenant)s AND id = %(row)s
UNION ALL SELECT 'chart' FROM tooth_chart_snapshots WHERE tenant_id = %(tenant)s AND id = %(row)s
UNION ALL SELECT 'annotation' FROM image_annotations
    WHERE tenant_id = %(tenant)s AND id = %(row)s AND source_type = 'USER'
UNION ALL (SELECT 'charted_tooth' FROM tooth_chart_snapshots
    WHERE tenant_id = %(tenant)s AND id = ANY(%(charts)s) LIMIT 1)
LIMIT 1
"""


class ObservationLens(SharedLens):
    """Periodontal and tooth charts, vital signs, habits, outcomes, annotations, AI findings."""

    def __init__(self, public_url: str | None) -> None:
        origin = "made of the Observations of its teeth; delete those"
        held_in = ("perio_measurements", "exam_observation_id")
        self.tooth = ToothLens(public_url)
        self.exam = ViewLens(perio.exam_mapping(public_url), perio.load_exam, origin, held_in)
        shown = {
            "finding": ai_finding.lens(public_url),
            "exam": self.exam,
            "chart": tooth_chart.chart(),
            "charted_tooth": tooth_chart.tooth(),
            "annotation": annotation.lens(),
        }
        vitals = vital_signs.lens(public_url)
        written = {
            "tooth": Writable(self.tooth, perio.is_tooth),
            "vital_signs": Writable(vitals, vital_signs.is_vital_signs),
            "habit": Writable(social_history.lens(public_url), social_history.is_habit),
            "outcome": outcome.part(public_url),
        }
        super().__init__(tuple(shown.values()), tuple(written.values()))
        self._by_name: dict[str, ViewLens | Table] = {
            **shown,
            **{name: part.lens for name, part in written.items()},
        }

    def lens_of_new(self, resource: JsonObject) -> Lens | None:
        """What writes a new Observation: most are stored whole, and no lens does."""
        return self if perio.is_exam(resource) else super().lens_of_new(resource)

    def row_id(
        self, connection: Connection, tenant_id: UUID, resource: JsonObject, proposed: UUID
    ) -> UUID | None:
        """The row of the Observation: from its content for a charted tooth, else as proposed."""
        held = self._held(connection, tenant_id, proposed)
        if isinstance(held, ViewLens):
            return proposed
        if perio.is_exam(resource) and not perio.is_tooth(resource):
            return self._exam_id(connection, tenant_id, resource)
        named = super().row_id(connection, tenant_id, resource, proposed)
        if held is not None and named != proposed:
            # What the Observation was before is no longer what its rows could say.
            held.delete(connection, tenant_id, proposed)
        return named

    def write(
        self,
        connection: Connection,
        tenant_id: UUID,
        row_id: UUID,
        resource: JsonObject,
        actor: str,
    ) -> list[str]:
        held = self._held(connection, tenant_id, row_id)
        if isinstance(held, ViewLens):
            return []
        table = self._table(resource)
        if held is not None and held is not table:
            held.delete(connection, tenant_id, row_id)
        return table.write(connection, tenant_id, row_id, resource, actor) if table else []

    def present(
        self, connection: Connection, tenant_id: UUID, row_id: UUID, stored: JsonObject | None
    ) -> JsonObject | None:
        held = self._held(connection, tenant_id, row_id)
        return held.present(connection, tenant_id, row_id, stored) if held else None

    def delete(self, connection: Connection, tenant_id: UUID, row_id: UUID) -> None:
        held = self._held(connection, tenant_id, row_id)
        if held is not None:
            held.delete(connection, tenant_id, row_id)

    def _exam_id(
        self, connection: Connection, tenant_id: UUID, resource: JsonObject
    ) -> UUID | None:
        """The exam that the charted teeth already make."""
        row = self.exam.get(resource).row
        patient, encounter = perio.resolve(connection, tenant_id, row).values()
        if patient is None or row["measured_at"] is None:
            return None
        exam = perio.exam_id(patient, encounter, row["measured_at"])
        return exam if self.exam.exists(connection, tenant_id, exam) else None

    def _view(self, connection: Connection, tenant_id: UUID, row_id: UUID) -> ViewLens | None:
        held = self._held(connection, tenant_id, row_id)
        return held if isinstance(held, ViewLens) else None

    def _held(
        self, connection: Connection, tenant_id: UUID, row_id: UUID
    ) -> ViewLens | Table | None:
        """What has the row."""
        charts = [tooth_chart.tooth_id(row_id, mark) for mark in tooth_chart.MARKS]
        values = {"tenant": tenant_id, "row": row_id, "charts": charts}
        found = connection.execute(_HELD, values).fetchone()
        return self._by_name[found[0]] if found else None


def lens(public_url: str | None) -> ObservationLens:
    return ObservationLens(public_url)
