"""One lens for all Observations, which picks the table by the content or by the row.

An Observation that fits no table, such as a laboratory result, is stored whole and has no row.
"""

from __future__ import annotations

from uuid import UUID

from interop.errors import Unprocessable
from interop.fhir.lens import Connection, JsonObject
from interop.fhir.mappings import ai_finding, perio, vital_signs
from interop.fhir.mappings.perio import ToothLens
from interop.fhir.mappings.tables import TableLens
from interop.fhir.mappings.views import ViewLens

Part = ToothLens | TableLens | ViewLens


class ObservationLens:
    """Periodontal charts, vital signs and findings of the AI."""

    resource_type = "Observation"

    def __init__(self, public_url: str | None) -> None:
        self.tooth = ToothLens(public_url)
        origin = "made of the Observations of its teeth; delete those"
        held_in = ("perio_measurements", "exam_observation_id")
        exam = perio.exam_mapping(public_url)
        self.exam = ViewLens(exam, perio.load_exam, origin, held_in)
        self.vital_signs = vital_signs.lens(public_url)
        self.finding = ai_finding.lens(public_url)

    @property
    def parts(self) -> tuple[Part, ...]:
        return (self.finding, self.tooth, self.exam, self.vital_signs)

    def holds(self, resource: JsonObject) -> bool:
        """Whether a table holds such an Observation: most are stored whole."""
        return (
            perio.is_tooth(resource)
            or perio.is_exam(resource)
            or vital_signs.is_vital_signs(resource)
        )

    def row_id(
        self, connection: Connection, tenant_id: UUID, resource: JsonObject, proposed: UUID
    ) -> UUID | None:
        """The row of the Observation: from its content for a charted tooth, else as proposed."""
        if self._view(connection, tenant_id, proposed) is not None:
            return proposed
        if perio.is_tooth(resource):
            named = self.tooth.row_id(connection, tenant_id, resource)
            if named is not None and named != proposed:
                self._refuse_move(connection, tenant_id, proposed)
            return named
        if perio.is_exam(resource):
            return self._exam_id(connection, tenant_id, resource)
        return proposed if vital_signs.is_vital_signs(resource) else None

    def _refuse_move(self, connection: Connection, tenant_id: UUID, row_id: UUID) -> None:
        if self.tooth.exists(connection, tenant_id, row_id):
            raise Unprocessable(
                "patient, encounter, tooth and day are what a charted tooth is known by; delete"
                " this Observation and create another",
                expression="Observation.bodySite",
            )

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

    def write(
        self,
        connection: Connection,
        tenant_id: UUID,
        row_id: UUID,
        resource: JsonObject,
        actor: str,
    ) -> list[str]:
        part = self._for_content(connection, tenant_id, row_id, resource)
        for other in (self.tooth, self.vital_signs):
            if other is not part:
                # What the Observation was before is no longer what its rows could say.
                other.delete(connection, tenant_id, row_id)
        return part.write(connection, tenant_id, row_id, resource, actor) if part else []

    def waits_for(self, connection: Connection, tenant_id: UUID, resource: JsonObject) -> list[str]:
        """References whose columns are empty until their resources exist."""
        if perio.is_tooth(resource):
            return self.tooth.waits_for(connection, tenant_id, resource)
        if vital_signs.is_vital_signs(resource):
            return self.vital_signs.waits_for(connection, tenant_id, resource)
        return []

    def present(
        self, connection: Connection, tenant_id: UUID, row_id: UUID, stored: JsonObject | None
    ) -> JsonObject | None:
        for part in self.parts:
            presented = part.present(connection, tenant_id, row_id, stored)
            if presented is not None:
                return presented
        return None

    def delete(self, connection: Connection, tenant_id: UUID, row_id: UUID) -> None:
        for part in self.parts:
            part.delete(connection, tenant_id, row_id)

    def overlay(
        self, connection: Connection, tenant_id: UUID, row_id: UUID, resource: JsonObject
    ) -> JsonObject:
        """A finding and an exam as the server has them; other Observations are their senders'."""
        view = self._view(connection, tenant_id, row_id)
        return resource if view is None else view.overlay(connection, tenant_id, row_id, resource)

    def _view(self, connection: Connection, tenant_id: UUID, row_id: UUID) -> ViewLens | None:
        """What shows a row that is the server's own; asked of every Observation, so at once."""
        found = connection.execute(
            "SELECT 'finding' FROM ai_predictions WHERE tenant_id = %(tenant)s AND id = %(row)s"
            " UNION ALL (SELECT 'exam' FROM perio_measurements"
            " WHERE tenant_id = %(tenant)s AND exam_observation_id = %(row)s LIMIT 1)",
            {"tenant": tenant_id, "row": row_id},
        ).fetchone()
        if found is None:
            return None
        return self.finding if found[0] == "finding" else self.exam

    def _for_content(
        self, connection: Connection, tenant_id: UUID, row_id: UUID, resource: JsonObject
    ) -> Part | None:
        view = self._view(connection, tenant_id, row_id)
        if view is not None:
            return view
        if perio.is_tooth(resource):
            return self.tooth
        if perio.is_exam(resource):
            return self.exam
        return self.vital_signs if vital_signs.is_vital_signs(resource) else None


def lens(public_url: str | None) -> ObservationLens:
    return ObservationLens(public_url)
