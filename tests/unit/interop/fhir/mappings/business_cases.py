"""Cases of the lens laws: financial, administrative and knowledge resources."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from interop.fhir.mappings import (
    care_team,
    catalogue,
    charge_item_definition,
    claim,
    claim_response,
    code_system,
    communication,
    coverage,
    custom_fields,
    document,
    imaging_file,
    invoice,
    library,
    plan_definition,
    practitioner_role,
    related_person,
    subscription,
)
from interop.fhir.mappings.lens import ResourceMapping, Row
from tests.unit.interop.fhir.mappings.law_strategies import (
    BODY_SITE,
    DAYS,
    MOMENTS,
    PUBLIC,
    TEXT,
    Case,
    distinct,
    enum,
    joined,
    maybe,
    record,
    ref,
)

MONEY = st.decimals(0, 9_999_999_999, places=2)
CURRENCY = enum("USD", "EUR", "CHF")
WORD = st.from_regex(r"[a-z]{1,8}", fullmatch=True)
# What a loader has made of rows: objects and lists that are shown as they are.
OBJECT: st.SearchStrategy[Any] = st.fixed_dictionaries({"text": TEXT})
LIST: st.SearchStrategy[Any] = st.lists(OBJECT, min_size=1, max_size=3)

CONTACT = st.one_of(
    record(full_name=maybe(TEXT), phone=maybe(TEXT), email=maybe(TEXT), address=maybe(TEXT))
)
CLAIM_LINE = joined(
    BODY_SITE,
    record(
        line_number=st.integers(1, 40),
        cdt_code=st.from_regex(r"D[0-9]{4}", fullmatch=True),
        service_start=maybe(DAYS),
        service_end=maybe(DAYS),
        quantity=st.integers(1, 99),
        billed_amount=MONEY,
        procedure_id=maybe(ref("Procedure")),
        treatment_plan_item_id=maybe(ref("ServiceRequest")),
    ),
)


def shown(mapping: ResourceMapping, **strategies: st.SearchStrategy[Any]) -> Case:
    """A view: columns are texts unless said otherwise, and any of them may be empty."""
    columns = {name: maybe(strategies.get(name, TEXT)) for name in mapping.columns}
    row: st.SearchStrategy[Row] = st.fixed_dictionaries(columns)
    return mapping, row, {}


def role(mapping: ResourceMapping) -> Case:
    return shown(
        mapping,
        is_active=st.booleans(),
        period=OBJECT,
        practitioner=ref("Practitioner"),
        organization=ref("Organization"),
        codes=LIST,
        specialty=LIST,
        location=ref("Location"),
        endpoint=ref("Endpoint"),
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
    "RelatedPerson": (
        related_person.mapping(PUBLIC),
        joined(
            CONTACT,
            record(
                patient_id=maybe(ref("Patient")),
                related_patient_id=maybe(ref("Patient")),
                relationship_type=maybe(enum("SPOUSE", "CHILD", "GUARDIAN", "EMERGENCY_CONTACT")),
            ),
        ),
        {},
    ),
    "Claim": (
        claim.mapping(PUBLIC),
        record(
            claim_number=TEXT,
            status=st.sampled_from(list(claim.STATUS_OF)),
            submitted_at=maybe(MOMENTS),
            resubmitted_at=maybe(MOMENTS),
            patient_id=maybe(ref("Patient")),
            payer_id=maybe(ref("Organization")),
            insurance_policy_id=maybe(ref("Coverage")),
            total_billed_amount=MONEY,
            currency=CURRENCY,
        ),
        {"claim_lines": distinct(CLAIM_LINE, "line_number")},
    ),
    "ChargeItemDefinition": (
        charge_item_definition.MAPPING,
        record(
            description=maybe(TEXT),
            is_active=st.booleans(),
            code_system=enum("CDT", "CUSTOM"),
            code=TEXT,
            category=maybe(TEXT),
        ),
        {},
    ),
    "CareTeam": shown(
        care_team.MAPPING,
        status=enum("ACTIVE", "INACTIVE"),
        team_type=enum("CLINICAL", "ADMINISTRATIVE", "RESEARCH"),
        participants=LIST,
        organization=LIST,
        description=LIST,
    ),
    "PractitionerRole of a membership": role(practitioner_role.MEMBERSHIP),
    "PractitionerRole of a role": role(practitioner_role.ASSIGNMENT),
    "ClaimResponse": shown(
        claim_response.MAPPING,
        status=enum("ACTIVE", "VOID"),
        patient=ref("Patient"),
        insurer=OBJECT,
        requestor=ref("Organization"),
        request=ref("Claim"),
        items=LIST,
        totals=LIST,
        payment=OBJECT,
        notes=LIST,
    ),
    "Invoice": shown(
        invoice.MAPPING,
        status=enum("DRAFT", "ISSUED", "BALANCED", "CANCELLED"),
        recipient=ref("Organization"),
        issuer=OBJECT,
        created_at=MOMENTS,
        period=OBJECT,
        due_date=DAYS,
        paid_at=MOMENTS,
        lines=LIST,
        total=OBJECT,
    ),
    "DocumentReference of a document": shown(
        document.MAPPING,
        doc_status=st.just("SIGNED"),
        patient=ref("Patient"),
        created_at=MOMENTS,
        signer=ref("Practitioner"),
        organization=ref("Organization"),
        content=LIST,
        context=OBJECT,
    ),
    "DocumentReference of a file": shown(
        imaging_file.DOCUMENT,
        patient=ref("Patient"),
        received_at=MOMENTS,
        organization=ref("Organization"),
        content=LIST,
        context=OBJECT,
    ),
    "Media": shown(
        imaging_file.MEDIA,
        kind=OBJECT,
        status=enum("COMPLETED"),
        patient=ref("Patient"),
        encounter=ref("Encounter"),
        part_of=LIST,
        created=MOMENTS,
        received_at=MOMENTS,
        tooth=OBJECT,
        height=maybe(st.integers(1, 65535)),
        width=maybe(st.integers(1, 65535)),
        number_of_frames=maybe(st.integers(1, 2**31 - 1)),
        attachment=OBJECT,
    ),
    "Communication": shown(
        communication.MAPPING,
        conversation=OBJECT,
        status=enum("PREPARATION", "IN-PROGRESS", "COMPLETED", "STOPPED"),
        conversation_type=enum("PATIENT_MESSAGING", "CASE_DISCUSSION"),
        patient=ref("Patient"),
        about=LIST,
        sent_at=MOMENTS,
        recipients=LIST,
        sender=ref("Patient", "Practitioner"),
        payload=LIST,
    ),
    "Subscription": shown(
        subscription.MAPPING, status=enum("ACTIVE", "ERROR", "OFF"), channel=OBJECT
    ),
    "Library": shown(
        library.MAPPING,
        status=enum("PUBLISHED", "RETIRED"),
        approved_at=MOMENTS,
        topics=LIST,
        content=LIST,
    ),
    "PlanDefinition": shown(
        plan_definition.MAPPING, status=enum("ACTIVE", "RETIRED"), actions=LIST
    ),
    "CodeSystem": shown(
        code_system.CODE_SYSTEM,
        content=enum("COMPLETE", "FRAGMENT", "NONE"),
        number_of_codes=st.integers(0, 90_000),
        properties=LIST,
        concepts=LIST,
    ),
    "ValueSet": shown(code_system.VALUE_SET, include=OBJECT),
    "Medication": shown(catalogue.MEDICATION, status=enum("ACTIVE", "INACTIVE"), code=OBJECT),
    "Device of a material": shown(
        catalogue.DEVICE_MATERIAL, status=enum("ACTIVE", "INACTIVE"), allergens=LIST
    ),
    "Device of equipment": shown(
        catalogue.DEVICE_EQUIPMENT, status=enum("ACTIVE", "INACTIVE"), type=OBJECT
    ),
    "StructureDefinition": shown(
        custom_fields.DEFINITION,
        is_active=enum("ACTIVE", "RETIRED"),
        context=LIST,
        differential=OBJECT,
    ),
}

VALUES: dict[str, st.SearchStrategy[Any]] = {
    "TEXT": TEXT,
    "CHOICE": TEXT,
    "NUMBER": st.decimals(allow_nan=False, allow_infinity=False, places=3, max_value=10**9),
    "BOOLEAN": enum("true", "false"),
    "DATE": DAYS.map(str),
    "DATETIME": MOMENTS.map(lambda moment: moment.isoformat()),
    "JSON": st.dictionaries(WORD, st.integers() | WORD, max_size=3),
}
