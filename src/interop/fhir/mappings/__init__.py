"""The lenses: one per resource type that has tables (design.md 1).

`build_lenses(public_url)` makes them for a server under that address; `LENSES` are those of a
server that does not know its address: references are relative, and so is what Endpoint says.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from interop.fhir.lens import Lens
from interop.fhir.mappings import (
    ai_device,
    ai_job,
    condition,
    consent,
    coverage,
    encounter,
    imaging_study,
    location,
    observation,
    organization,
    patient,
    practitioner,
    procedure,
)

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
    observation.lens,
    ai_job.diagnostic_report,
    ai_device.device,
    ai_job.provenance,
    ai_job.task,
    consent.lens,
    coverage.lens,
)


def build_lenses(public_url: str | None) -> dict[str, Lens]:
    """Every lens by its resource type."""
    base = public_url.rstrip("/") if public_url else None
    lenses = [factory(base) for factory in _FACTORIES]
    return {lens.resource_type: lens for lens in lenses}


LENSES: Final = build_lenses(None)
