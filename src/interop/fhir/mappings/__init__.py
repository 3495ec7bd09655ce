"""The lenses: one per resource type that has tables (design.md 1).

`build_lenses(public_url)` makes them for a server under that address; `LENSES` are those of a
server that does not know its address: references are relative, and so is what Endpoint says.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from interop.fhir.lens import Lens
from interop.fhir.mappings import (
    ai_job,
    allergy,
    appointment,
    care_plan,
    care_team,
    catalogue,
    charge_item_definition,
    claim,
    claim_response,
    clinical_note,
    code_system,
    communication,
    condition,
    consent,
    coverage,
    custom_fields,
    document_reference,
    encounter,
    imaging_file,
    imaging_study,
    invoice,
    library,
    location,
    medication,
    observation,
    organization,
    patient,
    plan_definition,
    practitioner,
    practitioner_role,
    procedure,
    referral,
    related_person,
    risk_assessment,
    service_request,
    subscription,
)
from interop.fhir.mappings.custom_fields import CustomFieldsLens
from storage.schema.presentation import CUSTOM_FIELDS

_FACTORIES: Final[tuple[Callable[[str | None], Lens], ...]] = (
    patient.lens,
    practitioner.lens,
    organization.organization,
    organization.endpoint,
    location.lens,
    encounter.lens,
    condition.lens,
    procedure.lens,
    imaging_study.lens,
    imaging_file.media,
    observation.lens,
    ai_job.diagnostic_report,
    catalogue.device,
    ai_job.provenance,
    referral.task,
    consent.lens,
    coverage.lens,
    related_person.lens,
    practitioner_role.lens,
    care_team.lens,
    claim.lens,
    claim_response.lens,
    charge_item_definition.lens,
    invoice.lens,
    document_reference.lens,
    clinical_note.composition,
    appointment.lens,
    medication.statement,
    medication.request,
    allergy.lens,
    care_plan.lens,
    service_request.lens,
    risk_assessment.lens,
    communication.lens,
    subscription.lens,
    library.lens,
    plan_definition.lens,
    code_system.code_system,
    code_system.value_set,
    catalogue.medication,
    custom_fields.definition,
)


def build_lenses(public_url: str | None) -> dict[str, Lens]:
    """Every lens by its resource type."""
    base = public_url.rstrip("/") if public_url else None
    lenses = {lens.resource_type: lens for lens in (factory(base) for factory in _FACTORIES)}
    for entity_type, resource_type in CUSTOM_FIELDS.items():
        lenses[resource_type] = CustomFieldsLens(lenses[resource_type], entity_type)
    return lenses


LENSES: Final = build_lenses(None)
