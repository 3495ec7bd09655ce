"""Section II: users, roles, sessions, API clients, consent and retention."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from sqlalchemy import BigInteger, CheckConstraint, Index, Integer, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column

from storage.consent_types import CONSENT_TYPES
from storage.schema.declarative import (
    Base,
    GlobalTable,
    Json,
    PlatformOrTenantTable,
    Sensitivity,
    TenantTable,
    bounded,
    flag,
    global_link,
    link,
    member_link,
    one_of,
    period,
    phi,
    platform_link,
)

SECTION = "II. Identity, Access Management & Audit"


class User(GlobalTable, Base):
    """A person or service identity; may be a member of several tenants.

    The e-mail address is NULL for a practitioner who is known from a feed and never signs in.
    """

    __tablename__ = "users"
    __section__ = SECTION
    __phi__ = Sensitivity.IDENTIFYING

    email: Mapped[str | None] = mapped_column(unique=True)
    full_name: Mapped[str]
    preferred_locale: Mapped[str | None] = phi(Sensitivity.INTERNAL)
    status: Mapped[str] = one_of(
        "ACTIVE", "INVITED", "DISABLED", default="ACTIVE", info={"phi": Sensitivity.INTERNAL}
    )


class UserAuthIdentity(GlobalTable, Base):
    """One way in which a user proves who they are."""

    __tablename__ = "user_auth_identities"
    __section__ = SECTION
    __table_args__ = (
        UniqueConstraint("provider", "issuer", "subject", postgresql_nulls_not_distinct=True),
    )

    user_id: Mapped[UUID] = global_link("users", cascade=True)
    provider: Mapped[str] = one_of("PASSWORD", "OIDC", "SAML", "OAUTH")
    issuer: Mapped[str | None]
    subject: Mapped[str] = phi(Sensitivity.IDENTIFYING)
    password_hash: Mapped[str | None] = phi(Sensitivity.RESTRICTED)
    password_algorithm: Mapped[str | None] = one_of("ARGON2ID", "BCRYPT", "SCRYPT")
    password_changed_at: Mapped[datetime | None]
    mfa_method: Mapped[str | None] = one_of("TOTP", "WEBAUTHN")
    mfa_secret_encrypted: Mapped[str | None] = phi(Sensitivity.RESTRICTED)
    mfa_enabled_at: Mapped[datetime | None]
    # The newest time step whose code was used: a code is good once (RFC 6238 5.2).
    mfa_last_step: Mapped[int | None] = mapped_column(BigInteger())
    # A secret that was shown and not yet confirmed by a code of it.
    mfa_pending_secret_encrypted: Mapped[str | None] = phi(Sensitivity.RESTRICTED)
    recovery_code_hashes: Mapped[list[str]] = phi(
        Sensitivity.RESTRICTED, server_default=text("'{}'")
    )
    recovery_email: Mapped[str | None] = phi(Sensitivity.IDENTIFYING)
    recovery_phone: Mapped[str | None] = phi(Sensitivity.IDENTIFYING)
    last_used_at: Mapped[datetime | None]


class UserTenant(TenantTable, Base):
    """The membership of a user in a tenant; what a tenant's rows point at to name a person."""

    __tablename__ = "user_tenants"
    __section__ = SECTION
    __table_args__ = (UniqueConstraint("tenant_id", "user_id"),)

    user_id: Mapped[UUID] = global_link("users")
    default_location_id: Mapped[UUID | None] = link("locations")
    user_type: Mapped[str] = one_of(
        "DENTIST",
        "HYGIENIST",
        "ASSISTANT",
        "ADMIN",
        "FRONT_DESK",
        "PATIENT",
        "PAYER_ANALYST",
        "REGULATOR",
        "DEVELOPER",
        default="DENTIST",
    )
    status: Mapped[str] = one_of("ACTIVE", "INACTIVE", default="ACTIVE")
    # Apart from `status`, which a feed of practitioners may set: whom an administrator has
    # disabled, no feed enables.
    may_sign_in: Mapped[bool] = flag(True)
    national_provider_identifier: Mapped[str | None]
    # Which patient a member of type PATIENT is; "own record" means this one.
    patient_id: Mapped[UUID | None] = link("patients")


class Role(PlatformOrTenantTable, Base):
    """A role template, of the platform or of one tenant."""

    __tablename__ = "roles"
    __section__ = SECTION
    __table_args__ = (
        UniqueConstraint("tenant_id", "code", postgresql_nulls_not_distinct=True),
        CheckConstraint("code ~ '^[A-Z][A-Z0-9_]{1,63}$'", name="code"),
    )

    code: Mapped[str]
    name: Mapped[str]
    description: Mapped[str | None]
    is_system: Mapped[bool] = flag()


class Permission(GlobalTable, Base):
    """An atomic capability, such as view_patient or run_ai_analysis."""

    __tablename__ = "permissions"
    __section__ = SECTION
    __table_args__ = (CheckConstraint("code ~ '^[a-z][a-z0-9_]{1,63}$'", name="code"),)

    code: Mapped[str] = mapped_column(unique=True)
    description: Mapped[str | None]


class RolePermission(PlatformOrTenantTable, Base):
    """A permission that a role grants."""

    __tablename__ = "role_permissions"
    __section__ = SECTION
    __table_args__ = (
        UniqueConstraint(
            "tenant_id", "role_id", "permission_id", postgresql_nulls_not_distinct=True
        ),
    )

    role_id: Mapped[UUID] = platform_link("roles", cascade=True)
    permission_id: Mapped[UUID] = global_link("permissions")


class UserRole(TenantTable, Base):
    """A role that a user holds in a tenant, scoped to a location or team and to a time."""

    __tablename__ = "user_roles"
    __section__ = SECTION
    __table_args__ = (
        UniqueConstraint(
            "tenant_id",
            "user_id",
            "role_id",
            "location_id",
            "team_id",
            postgresql_nulls_not_distinct=True,
        ),
        period("valid_from", "valid_until"),
        CheckConstraint(
            "(resource_scope <> 'LOCATION' OR location_id IS NOT NULL)"
            " AND (resource_scope <> 'TEAM' OR team_id IS NOT NULL)",
            name="scope_names_its_unit",
        ),
    )

    user_id: Mapped[UUID] = member_link()
    role_id: Mapped[UUID] = platform_link("roles")
    location_id: Mapped[UUID | None] = link("locations")
    team_id: Mapped[UUID | None] = link("teams")
    resource_scope: Mapped[str] = one_of(
        "ALL_LOCATIONS", "LOCATION", "TEAM", "SELF", default="ALL_LOCATIONS"
    )
    valid_from: Mapped[datetime | None]
    valid_until: Mapped[datetime | None]


class UserSession(TenantTable, Base):
    """An active application session."""

    __tablename__ = "sessions"
    __section__ = SECTION
    __table_args__ = (
        UniqueConstraint("tenant_id", "token_hash"),
        period("created_at", "expires_at"),
    )

    user_id: Mapped[UUID] = member_link()
    token_hash: Mapped[str] = phi(Sensitivity.RESTRICTED)
    device_name: Mapped[str | None]
    device_type: Mapped[str | None]
    operating_system: Mapped[str | None]
    ip_address: Mapped[str | None] = phi(Sensitivity.IDENTIFYING)
    user_agent: Mapped[str | None]
    signed_in_at: Mapped[datetime] = mapped_column(server_default=text("now()"))
    # How the user proved who they are, in the words of RFC 8176.
    amr: Mapped[list[str]] = mapped_column(server_default=text("'{}'"))
    last_activity_at: Mapped[datetime] = mapped_column(server_default=text("now()"))
    expires_at: Mapped[datetime]
    revoked_at: Mapped[datetime | None]


class ApiClient(TenantTable, Base):
    """An app or service of an integration, with the SMART scopes that it may ever be given."""

    __tablename__ = "api_clients"
    __section__ = SECTION
    __table_args__ = (UniqueConstraint("tenant_id", "client_id"),)

    client_id: Mapped[str]
    client_secret_hash: Mapped[str | None] = phi(Sensitivity.RESTRICTED)
    name: Mapped[str]
    scopes: Mapped[list[str]] = mapped_column(server_default=text("'{}'"))
    rate_limit_per_minute: Mapped[int | None] = bounded(0, None, Integer())
    jwks: Mapped[Json | None]
    jwks_uri: Mapped[str | None]
    redirect_uris: Mapped[list[str]] = mapped_column(server_default=text("'{}'"))
    # How it proves who it is at the token endpoint; a public client (NONE) has PKCE alone.
    authentication: Mapped[str] = one_of(
        "CLIENT_SECRET", "PRIVATE_KEY_JWT", "NONE", default="CLIENT_SECRET"
    )
    grant_types: Mapped[list[str]] = mapped_column(server_default=text("'{client_credentials}'"))
    # For whom it works: the care organization itself, or others, who see only the records of
    # patients who have consented (DATA_SHARING, RESEARCH).
    purpose: Mapped[str] = one_of("CARE", "DATA_SHARING", "RESEARCH", default="CARE")
    client_uri: Mapped[str | None]
    launch_uri: Mapped[str | None]
    status: Mapped[str] = one_of("ACTIVE", "DISABLED", default="ACTIVE")
    expires_at: Mapped[datetime | None]
    last_used_at: Mapped[datetime | None]


class Consent(TenantTable, Base):
    """What a patient, provider or tenant has agreed to.

    `subject_id` names a row of another table by `subject_type`, so no foreign key can hold it.
    """

    __tablename__ = "consents"
    __section__ = SECTION
    __phi__ = Sensitivity.CLINICAL
    __table_args__ = (
        Index(None, "tenant_id", "subject_type", "subject_id", "consent_type"),
        period("granted_at", "revoked_at"),
        CheckConstraint("granted_at IS NULL OR refused_at IS NULL", name="one_statement"),
    )

    subject_type: Mapped[str] = one_of("PATIENT", "PROVIDER", "TENANT", default="PATIENT")
    subject_id: Mapped[UUID]
    consent_type: Mapped[str] = one_of(*CONSENT_TYPES)
    scope: Mapped[Json] = mapped_column(server_default=text("'{}'"))
    granted_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]
    expires_at: Mapped[datetime | None]
    # When the subject said no: of a subject's statements of one type the newest counts.
    refused_at: Mapped[datetime | None]
    source: Mapped[str] = one_of("PORTAL", "IN_CLINIC", "PAPER_SCAN", "API", default="API")
    document_uri: Mapped[str | None]


class DataRetentionPolicy(TenantTable, Base):
    """How long a class of data is kept and what then happens to it."""

    __tablename__ = "data_retention_policies"
    __section__ = SECTION
    __table_args__ = (
        UniqueConstraint("tenant_id", "data_class"),
        CheckConstraint("max_years >= min_years", name="years"),
    )

    data_class: Mapped[str] = one_of("PATIENT_RECORD", "IMAGING", "LOGS", "ANALYTICS")
    min_years: Mapped[int] = bounded(0, 200, Integer())
    max_years: Mapped[int | None] = bounded(0, 200, Integer())
    archival_strategy: Mapped[str] = one_of(
        "KEEP", "COLD_STORAGE", "ANONYMIZE", "DELETE", default="KEEP"
    )


class LegalHold(TenantTable, Base):
    """An entity whose deletion is forbidden until the hold is released."""

    __tablename__ = "legal_holds"
    __section__ = SECTION
    __table_args__ = (
        Index(None, "tenant_id", "entity_type", "entity_id"),
        period("placed_at", "released_at"),
    )

    entity_type: Mapped[str]
    entity_id: Mapped[UUID]
    reason: Mapped[str]
    reference: Mapped[str | None]
    placed_at: Mapped[datetime] = mapped_column(server_default=text("now()"))
    placed_by_id: Mapped[UUID | None] = member_link()
    released_at: Mapped[datetime | None]
    released_by_id: Mapped[UUID | None] = member_link()


class SigningKey(Base):
    """A key that signs tokens; the private part is sealed with the master key.

    A retired key signs nothing new and verifies until the last token that it signed has expired.
    """

    __tablename__ = "signing_keys"
    __section__ = SECTION

    kid: Mapped[str] = mapped_column(primary_key=True)
    algorithm: Mapped[str]
    private_jwk: Mapped[str] = phi(Sensitivity.RESTRICTED)
    public_jwk: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(server_default=text("now()"))
    retired_at: Mapped[datetime | None]
    verifies_until: Mapped[datetime | None]
