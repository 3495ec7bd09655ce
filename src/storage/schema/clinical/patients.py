"""Section III.1: the patient master record and what identifies, reaches and insures a patient."""

from __future__ import annotations

from datetime import date, datetime
from uuid import UUID

from sqlalchemy import CheckConstraint, Index, text
from sqlalchemy.orm import Mapped

from storage.schema.declarative import (
    Base,
    Exact,
    Sensitivity,
    TenantTable,
    exactly_one,
    flag,
    global_link,
    link,
    one_of,
    period,
)

SECTION = "III. Patient & Clinical Data"


class Patient(TenantTable, Base):
    """The master record of a patient of one tenant.

    Names and date of birth may be absent: a device sends what its operator typed, and an
    acknowledged image is worth more than a complete form.
    """

    __tablename__ = "patients"
    __section__ = SECTION
    __phi__ = Sensitivity.IDENTIFYING
    __table_args__ = (
        Index(None, "tenant_id", "last_name", "dob"),
        CheckConstraint("dob BETWEEN DATE '1850-01-01' AND DATE '2200-01-01'", name="dob"),
    )

    primary_location_id: Mapped[UUID | None] = link("locations")
    first_name: Mapped[str | None]
    middle_name: Mapped[str | None]
    last_name: Mapped[str | None]
    name_prefix: Mapped[str | None]
    name_suffix: Mapped[str | None]
    dob: Mapped[date | None]
    sex_at_birth: Mapped[str | None] = one_of("MALE", "FEMALE", "OTHER", "UNKNOWN")
    gender_identity: Mapped[str | None]
    contact_email: Mapped[str | None]
    phone_mobile: Mapped[str | None]
    phone_home: Mapped[str | None]
    preferred_language: Mapped[str | None]
    preferred_contact_method: Mapped[str | None] = one_of(
        "EMAIL", "PHONE_MOBILE", "PHONE_HOME", "SMS", "MAIL", "PORTAL"
    )
    status: Mapped[str] = one_of("ACTIVE", "INACTIVE", "DECEASED", default="ACTIVE")
    deceased_at: Mapped[datetime | None]


class PatientIdentifier(TenantTable, Base):
    """One number or code under which somebody knows the patient.

    Not unique: two records of one person may arrive from two systems and are flagged, never
    merged silently. National and insurance numbers are sealed, and found by `value_index`.
    """

    __tablename__ = "patient_identifiers"
    __section__ = SECTION
    __phi__ = Sensitivity.IDENTIFYING
    __table_args__ = (
        Index(None, "tenant_id", "value", "system", "assigner"),
        Index(None, "tenant_id", "value_index", postgresql_where=text("value_index IS NOT NULL")),
        period("valid_from", "valid_until"),
    )

    patient_id: Mapped[UUID] = link("patients", cascade=True)
    system: Mapped[str] = one_of(
        "INTERNAL", "MRN", "INSURANCE_MEMBER", "NATIONAL_ID", "DSO_GLOBAL_ID", default="MRN"
    )
    assigner: Mapped[Exact | None]
    value: Mapped[Exact]
    value_index: Mapped[Exact | None]
    is_primary: Mapped[bool] = flag()
    valid_from: Mapped[date | None]
    valid_until: Mapped[date | None]


class PatientAddress(TenantTable, Base):
    """A physical or mailing address of a patient."""

    __tablename__ = "patient_addresses"
    __section__ = SECTION
    __phi__ = Sensitivity.IDENTIFYING
    __table_args__ = (period("valid_from", "valid_until"),)

    patient_id: Mapped[UUID] = link("patients", cascade=True)
    address_use: Mapped[str | None] = one_of("HOME", "WORK", "TEMP", "OLD", "BILLING")
    address_type: Mapped[str | None] = one_of("PHYSICAL", "MAILING", "BOTH")
    line1: Mapped[str | None]
    line2: Mapped[str | None]
    city: Mapped[str | None]
    district: Mapped[str | None]
    state: Mapped[str | None]
    postal_code: Mapped[str | None]
    country: Mapped[str | None]
    is_primary: Mapped[bool] = flag()
    valid_from: Mapped[date | None]
    valid_until: Mapped[date | None]


class PatientInsurancePolicy(TenantTable, Base):
    """A patient's coverage by a payer."""

    __tablename__ = "patient_insurance_policies"
    __section__ = SECTION
    __phi__ = Sensitivity.IDENTIFYING
    __table_args__ = (
        Index(None, "tenant_id", "policy_number_index"),
        period("coverage_start", "coverage_end"),
    )

    patient_id: Mapped[UUID] = link("patients", cascade=True)
    payer_id: Mapped[UUID | None] = global_link("tenants")
    payer_name: Mapped[str | None]
    plan_name: Mapped[str | None]
    policy_number: Mapped[str]  # the member's number, sealed
    policy_number_index: Mapped[Exact | None]
    group_number: Mapped[str | None]
    subscriber_name: Mapped[str | None]
    subscriber_relationship: Mapped[str | None] = one_of("SELF", "SPOUSE", "CHILD", "OTHER")
    coverage_start: Mapped[date | None]
    coverage_end: Mapped[date | None]
    priority: Mapped[str] = one_of("PRIMARY", "SECONDARY", "TERTIARY", default="PRIMARY")


class ExternalContact(TenantTable, Base):
    """A person who is no patient: guardian, emergency contact."""

    __tablename__ = "external_contacts"
    __section__ = SECTION
    __phi__ = Sensitivity.IDENTIFYING

    full_name: Mapped[str]
    phone: Mapped[str | None]
    email: Mapped[str | None]
    address: Mapped[str | None]


class PatientRelationship(TenantTable, Base):
    """A family member or guardian, who is a patient or an external contact."""

    __tablename__ = "patient_relationships"
    __section__ = SECTION
    __phi__ = Sensitivity.CLINICAL
    __table_args__ = (
        exactly_one("related_patient_id", "external_contact_id"),
        CheckConstraint("related_patient_id <> patient_id", name="not_self"),
    )

    patient_id: Mapped[UUID] = link("patients", cascade=True)
    related_patient_id: Mapped[UUID | None] = link("patients", cascade=True)
    external_contact_id: Mapped[UUID | None] = link("external_contacts")
    relationship_type: Mapped[str] = one_of("SPOUSE", "CHILD", "GUARDIAN", "EMERGENCY_CONTACT")
