"""The patient compartment: which resources belong to a patient's record, and by what reference.

Membership follows from the official CompartmentDefinition and from nothing else (FHIR R4
compartmentdefinition-patient.html): a resource that names the patient by another parameter, such as
Observation.focus, is no part of the record (security.md D7).
"""

from __future__ import annotations

from functools import cache

from interop.r4_tables import read_table

PATIENT = "Patient"


@cache
def _definition() -> dict[str, tuple[str, ...]]:
    return {type_: tuple(codes) for type_, codes in read_table("compartment-patient").items()}


def patient_parameters(resource_type: str) -> tuple[str, ...]:
    """The search parameters by which a type's resources belong to a patient; () for types without.

    A Patient belongs to its own compartment besides, by its id.
    """
    return _definition().get(resource_type, ())


def is_in_compartment(resource_type: str) -> bool:
    """Whether resources of the type can belong to a patient's record."""
    return resource_type in _definition()
