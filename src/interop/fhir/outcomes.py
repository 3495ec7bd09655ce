"""OperationOutcome: the one place where FHIR errors get their shape and headers.

FHIR R4 operationoutcome.html; codes of http://hl7.org/fhir/ValueSet/issue-type.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import orjson

from interop.errors import BadRequest, ServerError

MAX_ISSUES = 50


@dataclass(frozen=True, slots=True)
class Issue:
    """One thing that is wrong, and where."""

    code: str
    diagnostics: str
    expression: str | None = None
    severity: str = "error"

    def as_json(self) -> dict[str, object]:
        found: dict[str, object] = {
            "severity": self.severity,
            "code": self.code,
            "diagnostics": self.diagnostics,
        }
        if self.expression:
            found["expression"] = [self.expression]
        return found


class InvalidResource(BadRequest):
    """The resource breaks rules of FHIR R4."""

    def __init__(self, issues: Iterable[Issue]) -> None:
        self.issues = list(issues)[:MAX_ISSUES]
        first = self.issues[0]
        super().__init__(first.diagnostics, expression=first.expression)


def operation_outcome(issues: Iterable[Issue]) -> bytes:
    """The bytes of an OperationOutcome."""
    return orjson.dumps(
        {"resourceType": "OperationOutcome", "issue": [issue.as_json() for issue in issues]}
    )


def issues_of(error: ServerError) -> list[Issue]:
    """What an error has to say."""
    if isinstance(error, InvalidResource):
        return error.issues
    return [Issue(error.issue_code, error.diagnostics, error.expression)]


def informational(text: str) -> bytes:
    """An OperationOutcome that reports success."""
    return operation_outcome([Issue("informational", text, severity="information")])


def left_out(reasons: Iterable[str]) -> bytes:
    """An OperationOutcome that says what of a request was left out (Prefer: handling=lenient)."""
    return operation_outcome(
        [Issue("not-supported", reason, severity="warning") for reason in reasons][:MAX_ISSUES]
    )
