"""Which capabilities a tenant has: those of its subscriptions' plans, and its own switches.

A switch (`tenant_features`) within its period decides, on or off; where there is none, the plans of
the subscriptions that run now do. A subscription whose payment is late still runs; a trial ends
with its day.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, LiteralString
from uuid import UUID

from psycopg.types.json import Jsonb

from storage.database import Connection, Database
from storage.tenants.changes import OPERATOR, Actor, record_change, take_turns

CACHE_SECONDS = 45.0
FEATURE = re.compile(r"[A-Z][A-Z0-9_]{1,63}")

# One row a feature: a switch hides what the plans say.
_EFFECTIVE: LiteralString = """
SELECT DISTINCT ON (feature) feature, is_enabled, configuration, origin FROM (
    SELECT f.feature, f.is_enabled, f.configuration, 'SWITCH' AS origin, 0 AS precedence
    FROM tenant_features AS f WHERE f.tenant_id = %(tenant_id)s
        AND (f.valid_from IS NULL OR f.valid_from <= %(now)s)
        AND (f.valid_until IS NULL OR f.valid_until > %(now)s)
    UNION ALL
    SELECT unnest(p.features), true, '{}'::jsonb, 'PLAN ' || p.code, 1
    FROM tenant_subscriptions AS s JOIN subscription_plans AS p ON p.id = s.plan_id
    WHERE s.tenant_id = %(tenant_id)s AND s.status IN ('TRIALING', 'ACTIVE', 'PAST_DUE')
        AND s.start_at <= %(now)s AND (s.end_at IS NULL OR s.end_at > %(now)s)
        AND NOT (s.is_trial AND s.trial_ends_at IS NOT NULL AND s.trial_ends_at <= %(now)s)
) AS said ORDER BY feature, precedence, origin
"""


@dataclass(frozen=True, slots=True)
class Feature:
    """What holds for one feature now, and where that comes from."""

    name: str
    is_enabled: bool
    configuration: Mapping[str, Any]
    origin: str  # SWITCH, or PLAN with the plan's code


def effective_features(
    connection: Connection, tenant_id: UUID, now: datetime | None = None
) -> dict[str, Feature]:
    """All features that a switch or a plan names, on or off. `connection` has the tenant."""
    values = {"tenant_id": tenant_id, "now": now or datetime.now(UTC)}
    return {row[0]: Feature(*row) for row in connection.execute(_EFFECTIVE, values)}


def has_feature(
    connection: Connection, tenant_id: UUID, feature: str, now: datetime | None = None
) -> bool:
    """True when the feature is on. What nobody has switched on is off."""
    found = effective_features(connection, tenant_id, now).get(feature)
    return found is not None and found.is_enabled


class Features:
    """The features of tenants as one process remembers them, for `CACHE_SECONDS` at most."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._known: dict[UUID, tuple[float, frozenset[str]]] = {}

    def has(self, tenant_id: UUID, feature: str) -> bool:
        """As `has_feature`; blocks for a query when the answer is too old."""
        known = self._known.get(tenant_id)
        if known is None or known[0] <= time.monotonic():
            with self._database.connection(tenant_id) as connection:
                found = effective_features(connection, tenant_id)
            names = frozenset(name for name, one in found.items() if one.is_enabled)
            known = self._known[tenant_id] = (time.monotonic() + CACHE_SECONDS, names)
        return feature in known[1]


def switch_feature(
    connection: Connection,
    tenant_id: UUID,
    feature: str,
    *,
    is_enabled: bool | None,
    configuration: Mapping[str, Any] | None = None,
    valid_from: datetime | None = None,
    valid_until: datetime | None = None,
    actor: Actor = OPERATOR,
) -> None:
    """Switch a feature on or off, or with None leave it to the plans again. Raises ValueError."""
    if not FEATURE.fullmatch(feature):
        raise ValueError(f"feature {feature!r}: 2 to 64 characters of A-Z, 0-9 and '_'")
    if valid_from is not None and valid_until is not None and valid_until < valid_from:
        raise ValueError("valid_until must not be before valid_from")
    take_turns(connection, tenant_id)
    if is_enabled is None:
        connection.execute(
            "DELETE FROM tenant_features WHERE tenant_id = %s AND feature = %s",
            (tenant_id, feature),
        )
    else:
        connection.execute(
            "INSERT INTO tenant_features (tenant_id, feature, is_enabled, configuration,"
            " valid_from, valid_until) VALUES (%s, %s, %s, %s, %s, %s)"
            " ON CONFLICT (tenant_id, feature) DO UPDATE SET is_enabled = excluded.is_enabled,"
            " configuration = excluded.configuration, valid_from = excluded.valid_from,"
            " valid_until = excluded.valid_until",
            (
                tenant_id,
                feature,
                is_enabled,
                Jsonb(dict(configuration or {})),
                valid_from,
                valid_until,
            ),
        )
    changes = {
        "is_enabled": is_enabled,
        "valid_from": valid_from.isoformat() if valid_from else None,
        "valid_until": valid_until.isoformat() if valid_until else None,
    }
    record_change(connection, tenant_id, "TENANT_FEATURE", feature, changes, actor)
