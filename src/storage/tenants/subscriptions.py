"""Plans of the platform and the subscriptions of tenants to them.

Plans are rows of the platform: only the owner of the database writes them. A tenant has one
subscription that runs; a new one ends the former.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from uuid import UUID

from storage.database import Connection
from storage.tenants.changes import OPERATOR, Actor, record_change
from storage.tenants.features import FEATURE

TIERS = ("BASIC", "PRO", "ENTERPRISE", "RESEARCH")
BILLING_CYCLES = ("MONTHLY", "YEARLY")
RUNNING = ("TRIALING", "ACTIVE", "PAST_DUE")


class UnknownPlan(ValueError):
    """There is no plan with this code that can be subscribed to."""


def define_plan(
    connection: Connection, code: str, *, name: str, tier: str, features: Sequence[str] = ()
) -> UUID:
    """Create a plan or change it, as the owner of the database. Raises ValueError."""
    if tier not in TIERS:
        raise ValueError(f"tier {tier!r}: one of {', '.join(TIERS)}")
    for feature in features:
        if not FEATURE.fullmatch(feature):
            raise ValueError(f"feature {feature!r}: 2 to 64 characters of A-Z, 0-9 and '_'")
    row = connection.execute(
        "INSERT INTO subscription_plans (code, name, tier, features) VALUES (%s, %s, %s, %s)"
        " ON CONFLICT (code) DO UPDATE SET name = excluded.name, tier = excluded.tier,"
        " features = excluded.features, is_active = true RETURNING id",
        (code, name, tier, sorted(set(features))),
    ).fetchone()
    assert row is not None
    return UUID(str(row[0]))


def subscribe(
    connection: Connection,
    tenant_id: UUID,
    plan_code: str,
    *,
    start_at: datetime | None = None,
    end_at: datetime | None = None,
    trial_ends_at: datetime | None = None,
    billing_cycle: str = "MONTHLY",
    actor: Actor = OPERATOR,
) -> UUID:
    """Subscribe the tenant to a plan and end what it had from then on.

    Raises UnknownPlan and ValueError.
    """
    start = start_at or datetime.now(UTC)
    if billing_cycle not in BILLING_CYCLES:
        raise ValueError(f"billing cycle {billing_cycle!r}: one of {', '.join(BILLING_CYCLES)}")
    for name, moment in (("end_at", end_at), ("trial_ends_at", trial_ends_at)):
        if moment is not None and moment < start:
            raise ValueError(f"{name} {moment} must not be before start_at {start}")
    plan = connection.execute(
        "SELECT id FROM subscription_plans WHERE code = %s AND is_active", (plan_code,)
    ).fetchone()
    if plan is None:
        raise UnknownPlan(f"there is no active plan {plan_code!r}")
    connection.execute(
        "UPDATE tenant_subscriptions SET end_at = greatest(%(start)s, start_at),"
        " status = CASE WHEN %(start)s <= now() THEN 'CANCELLED' ELSE status END,"
        " cancelled_at = now(), auto_renew = false"
        " WHERE tenant_id = %(tenant_id)s AND status = ANY (%(running)s)"
        " AND (end_at IS NULL OR end_at > %(start)s)",
        {"tenant_id": tenant_id, "start": start, "running": list(RUNNING)},
    )
    row = connection.execute(
        "INSERT INTO tenant_subscriptions (tenant_id, plan_id, start_at, end_at, status,"
        " billing_cycle, is_trial, trial_ends_at) VALUES (%s, %s, %s, %s, %s, %s, %s, %s)"
        " RETURNING id",
        (
            tenant_id,
            plan[0],
            start,
            end_at,
            "TRIALING" if trial_ends_at else "ACTIVE",
            billing_cycle,
            trial_ends_at is not None,
            trial_ends_at,
        ),
    ).fetchone()
    assert row is not None
    changes = {"plan": plan_code, "start_at": start.isoformat()}
    record_change(connection, tenant_id, "TENANT_SUBSCRIPTION", str(row[0]), changes, actor)
    return UUID(str(row[0]))
