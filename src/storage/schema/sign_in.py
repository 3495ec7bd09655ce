"""Section II: what signing in needs beside users: providers, challenges, invitations, throttles."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from sqlalchemy import CheckConstraint, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column

from storage.schema.declarative import (
    Base,
    GlobalTable,
    Sensitivity,
    TenantTable,
    count,
    flag,
    link,
    member_link,
    one_of,
    phi,
    platform_link,
)
from storage.schema.identity import SECTION


class IdentityProvider(TenantTable, Base):
    """An OpenID Connect provider whose word a tenant takes for who its people are."""

    __tablename__ = "identity_providers"
    __section__ = SECTION
    __table_args__ = (
        UniqueConstraint("tenant_id", "name"),
        CheckConstraint("name ~ '^[a-z0-9][a-z0-9-]{0,62}$'", name="name"),
    )

    name: Mapped[str]
    display_name: Mapped[str]
    issuer: Mapped[str]
    client_id: Mapped[str]
    # Sealed. NULL: a public client, which PKCE alone protects.
    client_secret_encrypted: Mapped[str | None] = phi(Sensitivity.RESTRICTED)
    scopes: Mapped[list[str]] = mapped_column(server_default=text("'{openid,email,profile}'"))
    # Empty: any domain. It narrows who may sign in and never lets anyone in by itself.
    allowed_email_domains: Mapped[list[str]] = mapped_column(server_default=text("'{}'"))
    # Whether a verified e-mail of the provider may claim a user's account of the same address.
    may_link_by_email: Mapped[bool] = flag()
    is_enabled: Mapped[bool] = flag(True)


class SignInChallenge(TenantTable, Base):
    """A sign-in that has begun and waits for its second step, in the browser that began it."""

    __tablename__ = "sign_in_challenges"
    __section__ = SECTION
    __table_args__ = (
        UniqueConstraint("tenant_id", "token_hash"),
        CheckConstraint(
            "(kind = 'TOTP' AND user_id IS NOT NULL)"
            " OR (kind = 'OIDC' AND provider_id IS NOT NULL)",
            name="kind_names_its_party",
        ),
    )

    kind: Mapped[str] = one_of("TOTP", "OIDC")
    token_hash: Mapped[str] = phi(Sensitivity.RESTRICTED)
    user_id: Mapped[UUID | None] = member_link()
    provider_id: Mapped[UUID | None] = link("identity_providers", cascade=True)
    # state, nonce and code verifier of OpenID Connect, sealed under the master key.
    secret_encrypted: Mapped[str | None] = phi(Sensitivity.RESTRICTED)
    continue_path: Mapped[str]
    attempts: Mapped[int] = count()
    expires_at: Mapped[datetime]
    consumed_at: Mapped[datetime | None]


class Invitation(TenantTable, Base):
    """An offer of membership to whoever holds its link; says nothing about who exists already."""

    __tablename__ = "invitations"
    __section__ = SECTION
    __phi__ = Sensitivity.IDENTIFYING
    __table_args__ = (UniqueConstraint("tenant_id", "token_hash"),)

    token_hash: Mapped[str] = phi(Sensitivity.RESTRICTED)
    email: Mapped[str]
    full_name: Mapped[str]
    user_type: Mapped[str] = phi(Sensitivity.INTERNAL)
    invited_by_id: Mapped[UUID | None] = member_link()
    expires_at: Mapped[datetime]
    accepted_at: Mapped[datetime | None]
    accepted_user_id: Mapped[UUID | None] = member_link()
    revoked_at: Mapped[datetime | None]


class InvitationRole(TenantTable, Base):
    """A role that the invited person holds from acceptance on."""

    __tablename__ = "invitation_roles"
    __section__ = SECTION
    __table_args__ = (
        CheckConstraint(
            "(resource_scope <> 'LOCATION' OR location_id IS NOT NULL)"
            " AND (resource_scope <> 'TEAM' OR team_id IS NOT NULL)",
            name="scope_names_its_unit",
        ),
    )

    invitation_id: Mapped[UUID] = link("invitations", cascade=True)
    role_id: Mapped[UUID] = platform_link("roles")
    resource_scope: Mapped[str] = one_of(
        "ALL_LOCATIONS", "LOCATION", "TEAM", "SELF", default="ALL_LOCATIONS"
    )
    location_id: Mapped[UUID | None] = link("locations")
    team_id: Mapped[UUID | None] = link("teams")
    valid_from: Mapped[datetime | None]
    valid_until: Mapped[datetime | None]


class SignInThrottle(GlobalTable, Base):
    """Failed sign-ins of one account name or one source address, over all tenants.

    Keyed by a hash of what was typed, whether or not such a user exists: a name that nobody has
    is slowed down exactly as one that somebody has.
    """

    __tablename__ = "sign_in_throttles"
    __section__ = SECTION
    __table_args__ = (UniqueConstraint("scope", "key_hash"),)

    scope: Mapped[str] = one_of("ACCOUNT", "ADDRESS", "FACTOR")
    key_hash: Mapped[str] = phi(Sensitivity.RESTRICTED)
    failures: Mapped[int] = count()
    last_failure_at: Mapped[datetime] = mapped_column(server_default=text("now()"))
    blocked_until: Mapped[datetime] = mapped_column(server_default=text("now()"))
