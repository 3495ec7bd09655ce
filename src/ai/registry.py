"""Which models there are, in which versions, and which version is active where.

Models and versions are platform tables; a deployment without a tenant holds for every tenant.
They change only through the owner's connection (an operator's command or the start of the
server), never through the application role.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg

from ai.identifiers import derived_uuid
from ai.runtime.bundle import BUNDLES, Bundle, load_bundle

Owner = psycopg.Connection[tuple[Any, ...]]


class UnknownModelVersion(LookupError):
    """There is no such registered model version."""


@dataclass(frozen=True, slots=True)
class RegisteredVersion:
    """A model version in the registry."""

    id: UUID
    name: str
    version: str


def platform_bundles() -> list[Path]:
    """The bundles that the product carries."""
    return sorted(path.parent.parent for path in BUNDLES.glob("*/configs/metadata.json"))


@contextmanager
def owner_connection(owner_url: str) -> Iterator[Owner]:
    """One transaction as the owner of the platform's tables."""
    with psycopg.connect(owner_url) as connection:
        yield connection


def register_platform_bundles(owner_url: str) -> None:
    """Make the carried bundles known and roll them out; repeating changes nothing."""
    with owner_connection(owner_url) as connection:
        for path in platform_bundles():
            bundle = load_bundle(path)
            version = register_bundle(connection, bundle)
            connection.execute(
                "INSERT INTO ai_model_deployments (id, model_version_id, status)"
                " VALUES (%s, %s, 'ROLLED_OUT') ON CONFLICT DO NOTHING",
                (derived_uuid("platform-deployment", version.id), version.id),
            )
            _ensure_rule(connection, bundle)


def register_bundle(connection: Owner, bundle: Bundle) -> RegisteredVersion:
    """Insert the model and this version; the same digest again changes nothing.

    Raises ValueError when the version exists with another digest: a version never changes.
    """
    model_id = derived_uuid("ai-model", bundle.name)
    version_id = derived_uuid("ai-model-version", bundle.name, bundle.version, bundle.digest)
    metadata = bundle.metadata
    connection.execute(
        "INSERT INTO ai_models (id, name, description, domain, vendor, regulatory_class)"
        " VALUES (%s, %s, %s, 'CDS', 'INTERNAL', 'EXPERIMENTAL') ON CONFLICT DO NOTHING",
        (model_id, bundle.name, metadata.get("description", bundle.name)),
    )
    connection.execute(
        "INSERT INTO ai_model_versions (id, model_id, version_tag, artifact_uri, artifact_digest,"
        " input_types, output_types, thresholds, performance_metrics, model_card_uri)"
        " VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s) ON CONFLICT DO NOTHING",
        (
            version_id,
            model_id,
            bundle.version,
            f"bundle:{bundle.name}",
            bundle.digest,
            ["PX"],
            ["CARIES", "PATHOLOGY", "BONE_LOSS"],
            json.dumps(dict(bundle.thresholds)),
            json.dumps(metadata.get("metrics", {})),
            f"bundle:{bundle.name}/docs/README.md",
        ),
    )
    row = connection.execute(
        "SELECT artifact_digest FROM ai_model_versions WHERE model_id = %s AND version_tag = %s",
        (model_id, bundle.version),
    ).fetchone()
    if row is None or row[0] != bundle.digest:
        raise ValueError(
            f"{bundle.name} {bundle.version} is registered with another digest; "
            "a changed bundle needs a new version"
        )
    return RegisteredVersion(version_id, bundle.name, bundle.version)


def deploy(
    connection: Owner,
    name: str,
    version: str,
    tenant_id: UUID | None,
) -> None:
    """Roll a registered version out, to one tenant or to all, replacing the earlier one there.

    Raises UnknownModelVersion.
    """
    row = connection.execute(
        "SELECT v.id, v.model_id FROM ai_model_versions v JOIN ai_models m ON m.id = v.model_id"
        " WHERE m.name = %s AND v.version_tag = %s",
        (name, version),
    ).fetchone()
    if row is None:
        raise UnknownModelVersion(f"{name} {version} is not registered; see 'interop bundle add'")
    connection.execute(
        "UPDATE ai_model_deployments SET status = 'DISABLED' WHERE status = 'ROLLED_OUT'"
        " AND tenant_id IS NOT DISTINCT FROM %s AND model_version_id IN"
        " (SELECT id FROM ai_model_versions WHERE model_id = %s)",
        (tenant_id, row[1]),
    )
    connection.execute(
        "INSERT INTO ai_model_deployments (tenant_id, model_version_id, status)"
        " VALUES (%s, %s, 'ROLLED_OUT')",
        (tenant_id, row[0]),
    )


def _ensure_rule(connection: Owner, bundle: Bundle) -> None:
    """The platform's routing rule of a bundle, as its metadata states it."""
    predicate = bundle.metadata.get("routing", {"modalities": ["PX"]})
    connection.execute(
        "INSERT INTO ai_routing_rules (id, name, predicate, model_id)"
        " VALUES (%s, %s, %s, %s) ON CONFLICT DO NOTHING",
        (
            derived_uuid("platform-rule", bundle.name),
            f"platform: {bundle.name}",
            json.dumps(predicate),
            derived_uuid("ai-model", bundle.name),
        ),
    )
