"""Validation of what is written: what a tenant asks of resources before they are stored.

The gate has passed. Errors of R4's own rules are 400 like those of the gate, those of profiles 422
(http.html#create). Warnings keep nobody from writing.
"""

from __future__ import annotations

from interop.errors import Unprocessable
from interop.fhir.lens import JsonObject
from interop.fhir.outcomes import InvalidResource
from interop.fhir.validation.bindings import Codes
from interop.fhir.validation.library import ProfileLibrary
from interop.fhir.validation.validating import validate


class NonconformingResource(InvalidResource):
    """The resource breaks rules of a profile that it claims."""

    http_status = Unprocessable.http_status


def require_valid(
    resource: JsonObject,
    level: str,
    known: ProfileLibrary | None = None,
    codes: Codes | None = None,
) -> None:
    """Raise InvalidResource or NonconformingResource, naming every rule that is broken."""
    if level == "NONE":
        return
    found = validate(
        resource, level=level, known=known, codes=codes, with_gate=False, with_warnings=False
    )
    errors = [issue for issue in found if issue.severity == "error"]
    if not errors:
        return
    if level == "PROFILE" and not _breaks_r4(resource):
        raise NonconformingResource(errors)
    raise InvalidResource(errors)


def _breaks_r4(resource: JsonObject) -> bool:
    found = validate(resource, level="BASE", with_gate=False, with_warnings=False)
    return any(issue.severity == "error" for issue in found)
