"""Section II.2, what the authorization server remembers: launches, grants, codes, refresh tokens.

Every secret that a client holds (code, refresh token, launch value) is 256 random bits of which
only the SHA-256 lies here.
"""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from sqlalchemy import Index, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column

from storage.schema.declarative import (
    Base,
    Sensitivity,
    TenantTable,
    flag,
    link,
    member_link,
    one_of,
    phi,
)

SECTION = "II. Identity, Access Management & Audit"


class AuthorizationGrant(TenantTable, Base):
    """What a user let an app do in one launch; every token of the launch ends with it.

    A grant with offline access has no session: it outlives the one in which it was given.
    """

    __tablename__ = "authorization_grants"
    __section__ = SECTION
    __table_args__ = (Index(None, "tenant_id", "expires_at"),)

    api_client_id: Mapped[UUID] = link("api_clients", cascade=True)
    user_id: Mapped[UUID] = member_link()
    session_id: Mapped[UUID | None] = link("sessions", cascade=True)
    scopes: Mapped[list[str]] = mapped_column(server_default=text("'{}'"))
    patient_id: Mapped[UUID | None] = link("patients", cascade=True)
    encounter_id: Mapped[UUID | None] = link("encounters", cascade=True)
    need_patient_banner: Mapped[bool] = flag(True)
    intent: Mapped[str | None]
    authenticated_at: Mapped[datetime]
    expires_at: Mapped[datetime]
    revoked_at: Mapped[datetime | None]
    revocation_reason: Mapped[str | None] = one_of(
        "CODE_REPLAYED", "REFRESH_TOKEN_REUSED", "CLIENT_REQUEST", "USER_REQUEST", "ADMINISTRATOR"
    )


class AuthorizationCode(TenantTable, Base):
    """A code that an app exchanges once for tokens (RFC 6749 4.1.2)."""

    __tablename__ = "authorization_codes"
    __section__ = SECTION
    __table_args__ = (
        UniqueConstraint("tenant_id", "code_hash"),
        Index(None, "tenant_id", "expires_at"),
    )

    code_hash: Mapped[str] = phi(Sensitivity.RESTRICTED)
    grant_id: Mapped[UUID] = link("authorization_grants", cascade=True)
    redirect_uri: Mapped[str]
    code_challenge: Mapped[str]
    nonce: Mapped[str | None]
    expires_at: Mapped[datetime]
    redeemed_at: Mapped[datetime | None]


class RefreshToken(TenantTable, Base):
    """One refresh token of a grant; a used one stays, so that its second use is noticed."""

    __tablename__ = "refresh_tokens"
    __section__ = SECTION
    __table_args__ = (UniqueConstraint("tenant_id", "token_hash"),)

    token_hash: Mapped[str] = phi(Sensitivity.RESTRICTED)
    grant_id: Mapped[UUID] = link("authorization_grants", cascade=True)
    expires_at: Mapped[datetime]
    used_at: Mapped[datetime | None]


class RevokedAccessToken(TenantTable, Base):
    """An access token that ended before its time (RFC 7009); kept until it would have expired."""

    __tablename__ = "revoked_access_tokens"
    __section__ = SECTION
    __table_args__ = (
        UniqueConstraint("tenant_id", "token_id"),
        Index(None, "tenant_id", "expires_at"),
    )

    token_id: Mapped[str]
    expires_at: Mapped[datetime]


class LaunchContext(TenantTable, Base):
    """What the user had open when an EHR launched an app; used once (SMART App Launch, EHR)."""

    __tablename__ = "launch_contexts"
    __section__ = SECTION
    __table_args__ = (
        UniqueConstraint("tenant_id", "launch_hash"),
        Index(None, "tenant_id", "expires_at"),
    )

    launch_hash: Mapped[str] = phi(Sensitivity.RESTRICTED)
    api_client_id: Mapped[UUID | None] = link("api_clients", cascade=True)
    user_id: Mapped[UUID | None] = member_link()
    patient_id: Mapped[UUID | None] = link("patients", cascade=True)
    encounter_id: Mapped[UUID | None] = link("encounters", cascade=True)
    need_patient_banner: Mapped[bool] = flag(True)
    intent: Mapped[str | None]
    expires_at: Mapped[datetime]
    used_at: Mapped[datetime | None]


class ClientAssertion(TenantTable, Base):
    """The jti of a private_key_jwt that was accepted; kept until the assertion has expired."""

    __tablename__ = "client_assertions"
    __section__ = SECTION
    __table_args__ = (
        UniqueConstraint("tenant_id", "api_client_id", "assertion_hash"),
        Index(None, "tenant_id", "expires_at"),
    )

    api_client_id: Mapped[UUID] = link("api_clients", cascade=True)
    assertion_hash: Mapped[str] = phi(Sensitivity.RESTRICTED)
    expires_at: Mapped[datetime]


class ApplicationConsent(TenantTable, Base):
    """The scopes that a user has agreed to give an app, so as not to be asked each time."""

    __tablename__ = "application_consents"
    __section__ = SECTION
    __table_args__ = (UniqueConstraint("tenant_id", "user_id", "api_client_id"),)

    user_id: Mapped[UUID] = member_link()
    api_client_id: Mapped[UUID] = link("api_clients", cascade=True)
    scopes: Mapped[list[str]] = mapped_column(server_default=text("'{}'"))
