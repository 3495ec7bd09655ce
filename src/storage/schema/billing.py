"""Section VI: platform invoices and usage, and the claims of clinical finance.

`billing_plans` is the other name of `subscription_plans` (a view; see migrations/functions.sql).
"""

from __future__ import annotations

from datetime import date, datetime
from decimal import Decimal
from uuid import UUID

from sqlalchemy import CheckConstraint, Index, Integer, Numeric, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column

from storage.schema.declarative import (
    Base,
    GlobalTable,
    Json,
    Money,
    Sensitivity,
    TenantTable,
    bounded,
    flag,
    global_link,
    link,
    one_of,
    period,
    phi,
    surface,
    tooth,
)

SECTION = "VI. Billing, Subscription & Clinical Finance"


def _currency() -> CheckConstraint:
    """ISO 4217."""
    return CheckConstraint("currency ~ '^[A-Z]{3}$'", name="currency")


class TenantBillingAccount(TenantTable, Base):
    """The billing profile of one tenant."""

    __tablename__ = "tenant_billing_accounts"
    __section__ = SECTION
    __table_args__ = (UniqueConstraint("tenant_id"), _currency())

    contact_name: Mapped[str | None]
    contact_email: Mapped[str | None]
    contact_phone: Mapped[str | None]
    billing_address_line1: Mapped[str | None]
    billing_address_line2: Mapped[str | None]
    billing_city: Mapped[str | None]
    billing_state: Mapped[str | None]
    billing_postal_code: Mapped[str | None]
    billing_country: Mapped[str | None]
    tax_id: Mapped[str | None]
    currency: Mapped[str] = mapped_column(server_default=text("'USD'"))
    payment_provider: Mapped[str | None]
    payment_method_token_encrypted: Mapped[str | None] = phi(Sensitivity.RESTRICTED)


class Invoice(TenantTable, Base):
    """A platform invoice to a tenant."""

    __tablename__ = "invoices"
    __section__ = SECTION
    __table_args__ = (
        UniqueConstraint("tenant_id", "invoice_number"),
        Index(None, "tenant_id", "status", "due_date"),
        period("period_start", "period_end"),
        CheckConstraint("(status = 'PAID') = (paid_at IS NOT NULL)", name="paid_at"),
        _currency(),
    )

    billing_account_id: Mapped[UUID | None] = link("tenant_billing_accounts")
    subscription_id: Mapped[UUID | None] = link("tenant_subscriptions")
    invoice_number: Mapped[str]
    period_start: Mapped[date]
    period_end: Mapped[date]
    status: Mapped[str] = one_of(
        "DRAFT", "OPEN", "PAID", "OVERDUE", "VOID", "UNCOLLECTIBLE", default="DRAFT"
    )
    currency: Mapped[str] = mapped_column(server_default=text("'USD'"))
    total_amount: Mapped[Money] = mapped_column(server_default=text("0"))
    due_date: Mapped[date | None]
    paid_at: Mapped[datetime | None]


class InvoiceLineItem(TenantTable, Base):
    """A fee, overage or service on an invoice."""

    __tablename__ = "invoice_line_items"
    __section__ = SECTION

    invoice_id: Mapped[UUID] = link("invoices", cascade=True)
    item_type: Mapped[str] = one_of(
        "SUBSCRIPTION_FEE", "AI_OVERAGE", "STORAGE_OVERAGE", "SUPPORT", "CREDIT", "TAX", "OTHER"
    )
    meter_id: Mapped[UUID | None] = global_link("usage_meters")
    description: Mapped[str]
    quantity: Mapped[Decimal] = bounded(0, None, Numeric(18, 4), server_default=text("1"))
    unit_price: Mapped[Money] = mapped_column(server_default=text("0"))
    # A credit is negative: no lower bound.
    amount: Mapped[Decimal] = mapped_column(Numeric(12, 2), server_default=text("0"))


class UsageMeter(GlobalTable, Base):
    """What is counted for billing."""

    __tablename__ = "usage_meters"
    __section__ = SECTION

    code: Mapped[str] = one_of(
        "AI_INFERENCES", "STORAGE_GB", "ACTIVE_USERS", "API_CALLS", unique=True
    )
    name: Mapped[str]
    unit: Mapped[str]
    aggregation: Mapped[str] = one_of("SUM", "MAX", "LAST", default="SUM")


class UsageMeterReading(TenantTable, Base):
    """What a meter counted for a tenant in one period."""

    __tablename__ = "usage_meter_readings"
    __section__ = SECTION
    __table_args__ = (
        UniqueConstraint("tenant_id", "meter_id", "period_start", "period_end"),
        period("period_start", "period_end"),
    )

    meter_id: Mapped[UUID] = global_link("usage_meters")
    period_start: Mapped[datetime]
    period_end: Mapped[datetime]
    quantity: Mapped[Decimal] = bounded(0, None, Numeric(20, 4), server_default=text("0"))


class ProcedureCatalogEntry(TenantTable, Base):
    """A CDT or custom code that a tenant uses, with its own description."""

    __tablename__ = "procedure_catalog"
    __section__ = SECTION
    __table_args__ = (UniqueConstraint("tenant_id", "code_system", "code"),)

    code_system: Mapped[str] = one_of("CDT", "CUSTOM", default="CDT")
    code: Mapped[str]
    description: Mapped[str | None]
    category: Mapped[str | None]
    default_duration_minutes: Mapped[int | None] = bounded(0, None, Integer())
    requires_tooth: Mapped[bool] = flag()
    requires_surface: Mapped[bool] = flag()
    is_active: Mapped[bool] = flag(True)


class FeeSchedule(TenantTable, Base):
    """A fee table of a tenant, for all, for one location or for one payer."""

    __tablename__ = "fee_schedules"
    __section__ = SECTION
    __table_args__ = (
        UniqueConstraint(
            "tenant_id",
            "name",
            "location_id",
            "payer_id",
            "effective_from",
            postgresql_nulls_not_distinct=True,
        ),
        period("effective_from", "effective_until"),
        _currency(),
    )

    name: Mapped[str]
    location_id: Mapped[UUID | None] = link("locations")
    payer_id: Mapped[UUID | None] = global_link("tenants")
    currency: Mapped[str] = mapped_column(server_default=text("'USD'"))
    effective_from: Mapped[date]
    effective_until: Mapped[date | None]


class FeeScheduleItem(TenantTable, Base):
    """The fee of one procedure in one fee table."""

    __tablename__ = "fee_schedule_items"
    __section__ = SECTION
    __table_args__ = (UniqueConstraint("tenant_id", "fee_schedule_id", "procedure_catalog_id"),)

    fee_schedule_id: Mapped[UUID] = link("fee_schedules", cascade=True)
    procedure_catalog_id: Mapped[UUID] = link("procedure_catalog")
    fee: Mapped[Money]
    allowed_amount: Mapped[Money | None]


class Claim(TenantTable, Base):
    """The header of an insurance claim."""

    __tablename__ = "claims"
    __section__ = SECTION
    __phi__ = Sensitivity.CLINICAL
    __table_args__ = (
        UniqueConstraint("tenant_id", "claim_number"),
        Index(None, "tenant_id", "status", "submitted_at"),
        period("submitted_at", "adjudicated_at"),
        _currency(),
    )

    patient_id: Mapped[UUID] = link("patients")
    payer_id: Mapped[UUID | None] = global_link("tenants")
    insurance_policy_id: Mapped[UUID | None] = link("patient_insurance_policies")
    claim_number: Mapped[str] = phi(Sensitivity.IDENTIFYING)
    status: Mapped[str] = one_of(
        "DRAFT",
        "SUBMITTED",
        "ACCEPTED",
        "PENDING",
        "PAID",
        "PARTIALLY_PAID",
        "DENIED",
        "APPEALED",
        "CLOSED",
        "VOID",
        default="DRAFT",
    )
    currency: Mapped[str] = mapped_column(server_default=text("'USD'"))
    submitted_at: Mapped[datetime | None]
    resubmitted_at: Mapped[datetime | None]
    adjudicated_at: Mapped[datetime | None]
    total_billed_amount: Mapped[Money] = mapped_column(server_default=text("0"))
    total_allowed_amount: Mapped[Money | None]
    total_paid_amount: Mapped[Money | None]


class ClaimLine(TenantTable, Base):
    """One service on a claim, performed (procedure) or planned (predetermination).

    A claim that arrives from a practice system names the service by its code alone.
    """

    __tablename__ = "claim_lines"
    __section__ = SECTION
    __phi__ = Sensitivity.CLINICAL
    __table_args__ = (
        UniqueConstraint("tenant_id", "claim_id", "line_number"),
        period("service_start", "service_end"),
    )

    claim_id: Mapped[UUID] = link("claims", cascade=True)
    line_number: Mapped[int] = bounded(1, None, Integer())
    procedure_id: Mapped[UUID | None] = link("procedures")
    treatment_plan_item_id: Mapped[UUID | None] = link("treatment_plan_items")
    cdt_code: Mapped[str]
    tooth_number: Mapped[int | None] = tooth()
    surface: Mapped[str | None] = surface()
    service_start: Mapped[date | None]
    service_end: Mapped[date | None]
    quantity: Mapped[int] = bounded(1, None, Integer(), server_default=text("1"))
    billed_amount: Mapped[Money] = mapped_column(server_default=text("0"))
    allowed_amount: Mapped[Money | None]
    paid_amount: Mapped[Money | None]
    patient_responsibility: Mapped[Money | None]


class ClaimStatusEvent(TenantTable, Base):
    """One step of a payer's adjudication; append-only."""

    __tablename__ = "claim_status_events"
    __section__ = SECTION
    __phi__ = Sensitivity.CLINICAL
    __table_args__ = (Index(None, "tenant_id", "claim_id", "occurred_at"),)

    claim_id: Mapped[UUID] = link("claims")
    previous_status: Mapped[str | None]
    status: Mapped[str]
    reason_code: Mapped[str | None]
    message: Mapped[str | None]
    amount: Mapped[Decimal | None] = mapped_column(Numeric(12, 2))
    source: Mapped[str | None] = one_of("PAYER", "CLEARINGHOUSE", "USER", "SYSTEM")
    raw: Mapped[Json | None]
    occurred_at: Mapped[datetime] = mapped_column(server_default=text("now()"))
