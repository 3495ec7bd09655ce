"""Cases of the lens laws: financial, administrative and knowledge resources."""

from __future__ import annotations

from interop.fhir.mappings import coverage
from tests.unit.interop.fhir.mappings.law_strategies import (
    DAYS,
    PUBLIC,
    TEXT,
    Case,
    enum,
    maybe,
    record,
    ref,
)

BUSINESS_CASES: dict[str, Case] = {
    "Coverage": (
        coverage.mapping(PUBLIC),
        record(
            policy_number=maybe(TEXT),
            subscriber_name=maybe(TEXT),
            patient_id=maybe(ref("Patient")),
            subscriber_relationship=maybe(enum("SELF", "SPOUSE", "CHILD", "OTHER")),
            coverage_start=maybe(DAYS),
            coverage_end=maybe(DAYS),
            payer_id=maybe(ref("Organization")),
            payer_name=maybe(TEXT),
            group_number=maybe(TEXT),
            plan_name=maybe(TEXT),
            priority=enum("PRIMARY", "SECONDARY", "TERTIARY"),
        ),
        {},
    ),
}
