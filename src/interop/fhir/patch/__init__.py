"""Patches of a resource: JSON Patch (RFC 6902) and FHIRPath Patch (R4 fhirpatch.html).

Pure: `resource` is never changed, the answer is another. What comes out has passed no validation.
"""

from interop.fhir.patch.fhirpath_patch import apply_fhirpath_patch
from interop.fhir.patch.json_patch import apply_json_patch

__all__ = ["apply_fhirpath_patch", "apply_json_patch"]
