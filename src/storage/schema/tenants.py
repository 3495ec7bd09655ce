"""Section I: tenants and their tree, settings, subscriptions, quotas, locations and teams."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Index,
    Integer,
    SmallInteger,
    UniqueConstraint,
    text,
)
from sqlalchemy.orm import Mapped, mapped_column

from storage.schema.declarative import (
    Base,
    Exact,
    GlobalTable,
    Json,
    Money,
    Sensitivity,
    TenantTable,
    bounded,
    count,
    exactly_one,
    flag,
    global_link,
    link,
    member_link,
    one_of,
    period,
    phi,
    platform_link,
)

SECTION = "I. Multi-Tenancy & Tenant Management"


class Tenant(GlobalTable, Base):
    """An organization: solo practice, group, DSO, school, payer, regulator or AI vendor."""

    __tablename__ = "tenants"
    __section__ = SECTION
    __table_args__ = (
        # The same form that storage.tenancy accepts; it stands in every URL of the tenant.
        CheckConstraint("slug ~ '^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$'", name="slug"),
        # PS3.5 6.2, VR AE.
        CheckConstraint("length(ae_title) BETWEEN 1 AND 16", name="ae_title"),
        CheckConstraint("parent_tenant_id <> id", name="parent_tenant_id"),
        # '-': in another database. '': on the way from one place to another.
        CheckConstraint("place ~ '^(public|t_[0-9a-f]{32}|-|)$'", name="place"),
        CheckConstraint("place <> '-' OR database_name IS NOT NULL", name="database_name"),
    )

    slug: Mapped[str] = mapped_column(unique=True)
    name: Mapped[str]
    type: Mapped[str] = one_of(
        "SOLO_PRACTICE",
        "GROUP_PRACTICE",
        "DSO",
        "ACADEMIC",
        "PAYER",
        "REGULATOR",
        "AI_VENDOR",
        "OTHER",
        default="SOLO_PRACTICE",
    )
    parent_tenant_id: Mapped[UUID | None] = global_link("tenants")
    primary_region: Mapped[str | None]
    partition_strategy: Mapped[str] = one_of("ROW_LEVEL", "SCHEMA", "DATABASE", default="ROW_LEVEL")
    # The schema of this database in which the tenant's rows lie (`storage.places`).
    place: Mapped[str] = mapped_column(server_default="public")
    # Its database where it has one for itself; without a URL one on the server of the platform,
    # reached with the platform's logins.
    database_name: Mapped[str | None]
    database_url_encrypted: Mapped[str | None] = phi(Sensitivity.RESTRICTED)
    status: Mapped[str] = one_of("ACTIVE", "SUSPENDED", "CLOSED", default="ACTIVE")
    ae_title: Mapped[str | None] = mapped_column(unique=True)
    status_reason: Mapped[str | None]
    status_changed_at: Mapped[datetime | None]


class TenantClosure(Base):
    """Every tenant with itself and with each tenant above it; kept by a trigger on tenants."""

    __tablename__ = "tenant_closure"
    __section__ = SECTION

    ancestor_id: Mapped[UUID] = global_link("tenants", cascade=True, primary_key=True)
    descendant_id: Mapped[UUID] = global_link("tenants", cascade=True, primary_key=True)
    depth: Mapped[int] = bounded(0, None, Integer())


class TenantGrant(TenantTable, Base):
    """What members of this tenant may do in a subtree below it, for a time.

    It counts only while the root lies below this tenant: a practice that leaves the group takes
    its data with it at once.
    """

    __tablename__ = "tenant_grants"
    __section__ = SECTION
    __table_args__ = (
        exactly_one("user_id", "role_id"),
        period("valid_from", "valid_until"),
        CheckConstraint("root_tenant_id <> tenant_id", name="root_tenant_id"),
    )

    root_tenant_id: Mapped[UUID] = global_link("tenants")
    user_id: Mapped[UUID | None] = member_link()
    role_id: Mapped[UUID | None] = platform_link("roles")
    level: Mapped[str] = one_of("READ", "MANAGE", default="READ")
    valid_from: Mapped[datetime] = mapped_column(server_default=text("now()"))
    valid_until: Mapped[datetime | None]


class TenantDeletion(TenantTable, Base):
    """The deletion of everything a tenant owned: how far it is, and at the end its certificate.

    It outlives the data, as the audit trail does.
    """

    __tablename__ = "tenant_deletions"
    __section__ = SECTION
    __table_args__ = (
        UniqueConstraint("tenant_id"),
        CheckConstraint("(state = 'DONE') = (certificate IS NOT NULL)", name="certificate"),
    )

    state: Mapped[str] = one_of(
        "REQUESTED", "OBJECTS", "KEYS", "ROWS", "VERIFYING", "DONE", default="REQUESTED"
    )
    not_before: Mapped[datetime]
    requested_by: Mapped[str]
    deleted_objects: Mapped[int] = count()
    deleted_bytes: Mapped[int] = count()
    deleted_rows: Mapped[Json] = mapped_column(server_default=text("'{}'"))
    completed_at: Mapped[datetime | None]
    certificate: Mapped[str | None]


class TenantSettings(TenantTable, Base):
    """Configuration and preferences of one tenant."""

    __tablename__ = "tenant_settings"
    __section__ = SECTION
    __table_args__ = (
        UniqueConstraint("tenant_id"),
        CheckConstraint(
            "default_retention_max_years >= default_retention_min_years", name="retention"
        ),
    )

    data_residency_region: Mapped[str | None]
    is_data_residency_enforced: Mapped[bool] = flag()
    default_retention_min_years: Mapped[int] = bounded(0, 200, Integer(), server_default=text("10"))
    default_retention_max_years: Mapped[int | None] = bounded(0, 200, Integer())
    locale: Mapped[str] = mapped_column(server_default=text("'en'"))
    time_zone: Mapped[str] = mapped_column(server_default=text("'UTC'"))
    currency: Mapped[str] = mapped_column(server_default=text("'USD'"))
    tooth_numbering_system: Mapped[str] = one_of("FDI", "UNIVERSAL", "PALMER", default="FDI")
    requires_ai_review: Mapped[bool] = flag(True)
    clinical_workflow: Mapped[Json] = mapped_column(server_default=text("'{}'"))
    allow_any_calling_ae: Mapped[bool] = flag()
    quiet_window_seconds: Mapped[int | None] = bounded(0, 86400, Integer())
    require_reference_resolution: Mapped[bool] = flag()
    # FHIR: a PUT or PATCH of what is there must name the version that it changes.
    require_if_match: Mapped[bool] = flag()
    # FHIR: what is asked of a resource beyond its structure (interop/fhir/validation).
    validation_level: Mapped[str] = one_of("NONE", "BASE", "PROFILE", default="BASE")
    default_issuer_of_patient_id: Mapped[str | None]
    # Whether an instance that was deleted here is taken when a device sends it again.
    allow_storing_deleted: Mapped[bool] = flag(True)
    # How long the change feed of images remembers.
    change_feed_days: Mapped[int] = bounded(1, 36500, Integer(), server_default=text("365"))


class TenantBranding(TenantTable, Base):
    """White-label configuration: logo, colours, e-mail templates."""

    __tablename__ = "tenant_branding"
    __section__ = SECTION
    __table_args__ = (UniqueConstraint("tenant_id"),)

    display_name: Mapped[str | None]
    logo_uri: Mapped[str | None]
    color_scheme: Mapped[Json] = mapped_column(server_default=text("'{}'"))
    email_templates: Mapped[Json] = mapped_column(server_default=text("'{}'"))
    support_email: Mapped[str | None]
    website_url: Mapped[str | None]


class SubscriptionPlan(GlobalTable, Base):
    """A commercially available plan; the view billing_plans is its other name."""

    __tablename__ = "subscription_plans"
    __section__ = SECTION

    code: Mapped[str] = mapped_column(unique=True)
    name: Mapped[str]
    tier: Mapped[str] = one_of("BASIC", "PRO", "ENTERPRISE", "RESEARCH")
    description: Mapped[str | None]
    currency: Mapped[str] = mapped_column(server_default=text("'USD'"))
    price_per_month: Mapped[Money | None]
    price_per_year: Mapped[Money | None]
    included_ai_calls: Mapped[int | None] = bounded(0, None, BigInteger())
    included_seats: Mapped[int | None] = bounded(0, None, Integer())
    included_storage_bytes: Mapped[int | None] = bounded(0, None, BigInteger())
    features: Mapped[list[str]] = mapped_column(server_default=text("'{}'"))
    is_active: Mapped[bool] = flag(True)


class TenantSubscription(TenantTable, Base):
    """One subscription of one tenant to one plan."""

    __tablename__ = "tenant_subscriptions"
    __section__ = SECTION
    __table_args__ = (period("start_at", "end_at"), period("start_at", "trial_ends_at"))

    plan_id: Mapped[UUID] = global_link("subscription_plans")
    start_at: Mapped[datetime]
    end_at: Mapped[datetime | None]
    status: Mapped[str] = one_of(
        "TRIALING", "ACTIVE", "PAST_DUE", "CANCELLED", "EXPIRED", default="ACTIVE"
    )
    billing_cycle: Mapped[str] = one_of("MONTHLY", "YEARLY", default="MONTHLY")
    is_trial: Mapped[bool] = flag()
    trial_ends_at: Mapped[datetime | None]
    auto_renew: Mapped[bool] = flag(True)
    cancelled_at: Mapped[datetime | None]


class TenantFeature(TenantTable, Base):
    """One capability that is switched on (or explicitly off) for one tenant."""

    __tablename__ = "tenant_features"
    __section__ = SECTION
    __table_args__ = (
        UniqueConstraint("tenant_id", "feature"),
        period("valid_from", "valid_until"),
        CheckConstraint("feature ~ '^[A-Z][A-Z0-9_]{1,63}$'", name="feature"),
    )

    feature: Mapped[str]
    is_enabled: Mapped[bool] = flag(True)
    configuration: Mapped[Json] = mapped_column(server_default=text("'{}'"))
    valid_from: Mapped[datetime | None]
    valid_until: Mapped[datetime | None]


class TenantQuota(TenantTable, Base):
    """Limits of one tenant; a NULL limit is no limit."""

    __tablename__ = "tenant_quotas"
    __section__ = SECTION
    __table_args__ = (UniqueConstraint("tenant_id"),)

    max_users: Mapped[int | None] = bounded(0, None, Integer())
    max_storage_bytes: Mapped[int | None] = bounded(0, None, BigInteger())
    max_ai_inferences_per_month: Mapped[int | None] = bounded(0, None, BigInteger())
    # Units of interop/access/costs.py: a read costs 1, a write 100.
    api_rate_limit_per_minute: Mapped[int | None] = bounded(0, None, Integer())
    api_rate_limit_per_user_per_minute: Mapped[int | None] = bounded(0, None, Integer())
    max_dicom_associations: Mapped[int | None] = bounded(0, None, Integer())
    max_locations: Mapped[int | None] = bounded(0, None, Integer())
    max_concurrent_exports: Mapped[int | None] = bounded(0, None, Integer())


class TenantStorageUsage(Base):
    """Bytes of stored objects, in slots whose sum counts (see migrations/tenants.sql).

    Writers of a tenant without a limit use different slots, so that they never wait for each
    other; those of a tenant with one share slot 0.
    """

    __tablename__ = "tenant_storage_usage"
    __section__ = SECTION

    tenant_id: Mapped[UUID] = mapped_column(primary_key=True)
    slot: Mapped[int] = bounded(0, 31, SmallInteger(), primary_key=True)
    # One slot alone may be negative: objects are deleted by other processes than store them.
    bytes: Mapped[int] = mapped_column(BigInteger(), server_default=text("0"))


class RateLimitBucket(Base):
    """What is left of a rate limit that several processes share (storage/rate_limits.py).

    Not logged: after a crash of the database every bucket is full again.
    """

    __tablename__ = "rate_limit_buckets"
    __section__ = SECTION
    __table_args__ = ({"prefixes": ["UNLOGGED"]},)

    tenant_id: Mapped[UUID] = mapped_column(primary_key=True)
    # 'tenant', 'client <id>' or 'user <id>'.
    subject: Mapped[Exact] = mapped_column(primary_key=True)
    tokens: Mapped[float]
    filled_at: Mapped[datetime]


class Location(TenantTable, Base):
    """A physical or virtual site: clinic, teaching clinic, research unit."""

    __tablename__ = "locations"
    __section__ = SECTION
    __table_args__ = (Index(None, "tenant_id", "name"),)

    name: Mapped[str]
    type: Mapped[str] = one_of(
        "CLINIC", "TEACHING_CLINIC", "RESEARCH_UNIT", "LABORATORY", "VIRTUAL", default="CLINIC"
    )
    parent_location_id: Mapped[UUID | None] = link("locations")
    status: Mapped[str] = one_of("ACTIVE", "SUSPENDED", "INACTIVE", default="ACTIVE")
    description: Mapped[str | None]
    address_line1: Mapped[str | None]
    address_line2: Mapped[str | None]
    city: Mapped[str | None]
    state: Mapped[str | None]
    postal_code: Mapped[str | None]
    country: Mapped[str | None]
    phone: Mapped[str | None]
    email: Mapped[str | None]
    time_zone: Mapped[str | None]
    latitude: Mapped[float | None] = bounded(-90, 90)
    longitude: Mapped[float | None] = bounded(-180, 180)


class Team(TenantTable, Base):
    """A logical group inside a tenant, such as hygiene or research."""

    __tablename__ = "teams"
    __section__ = SECTION
    __table_args__ = (UniqueConstraint("tenant_id", "name"),)

    name: Mapped[str]
    description: Mapped[str | None]
    team_type: Mapped[str] = one_of("CLINICAL", "ADMINISTRATIVE", "RESEARCH", default="CLINICAL")
    is_active: Mapped[bool] = flag(True)


class TeamMember(TenantTable, Base):
    """A user's place in a team, optionally for one location only."""

    __tablename__ = "team_members"
    __section__ = SECTION
    __table_args__ = (
        UniqueConstraint(
            "tenant_id", "team_id", "user_id", "location_id", postgresql_nulls_not_distinct=True
        ),
        period("valid_from", "valid_until"),
    )

    team_id: Mapped[UUID] = link("teams", cascade=True)
    user_id: Mapped[UUID] = member_link()
    location_id: Mapped[UUID | None] = link("locations")
    role_in_team: Mapped[str | None]
    valid_from: Mapped[datetime | None]
    valid_until: Mapped[datetime | None]
