"""Validation beyond the gate: R4's rules on every element, and profiles (R4 validation.html).

    validate(resource)                                    R4 and what meta.profile names
    validate(resource, ["http://hl7.org/fhir/us/core/StructureDefinition/us-core-patient"])

Pure: no database. A tenant's own profiles and value sets come in as `library` and `codes`.
"""

from interop.fhir.validation.bindings import Codes
from interop.fhir.validation.enforcing import require_valid
from interop.fhir.validation.library import ProfileLibrary, library
from interop.fhir.validation.validating import LEVELS, validate

__all__ = ["LEVELS", "Codes", "ProfileLibrary", "library", "require_valid", "validate"]
