"""Whether a complete study is analysed, and by which rule: typed predicates, never expressions.

A decision is stored for every rule with its reasons, also when the answer is no. Feature flag,
consent and quota are asked only for a study that a rule matches; each of them denies by default.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any
from uuid import UUID

from storage import patient_access
from storage.database import Connection
from storage.quotas import reserve_inferences
from storage.tenants.features import has_feature
from storage.tenants.lifecycle import is_active

FEATURE = "AI_DIAGNOSTICS"
CONSENT = "AI_ANALYSIS"


class InvalidPredicate(ValueError):
    """The rule's predicate names a condition that does not exist."""


@dataclass(frozen=True, slots=True)
class Instance:
    """What a rule may look at in one stored image."""

    imaging_object_id: UUID
    sop_instance_uid: str
    sop_class_uid: str
    modality: str
    manufacturer: str
    body_part: str
    rows: int
    columns: int


@dataclass(frozen=True, slots=True)
class Predicate:
    """All stated conditions must hold; an empty condition holds always."""

    modalities: tuple[str, ...] = ()
    sop_class_uids: tuple[str, ...] = ()
    body_parts: tuple[str, ...] = ()
    manufacturers: tuple[str, ...] = ()
    min_rows: int = 1
    min_columns: int = 1

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Predicate:
        """Read a rule's JSON. Raises InvalidPredicate, naming what there is."""
        known = {field.name for field in fields(cls)}
        unknown = sorted(set(data) - known)
        if unknown:
            raise InvalidPredicate(
                f"unknown conditions {', '.join(unknown)}; there are {', '.join(sorted(known))}"
            )
        values: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in data.items()
        }
        return cls(**values)

    def matches(self, instance: Instance) -> bool:
        return (
            _one_of(instance.modality, self.modalities)
            and _one_of(instance.sop_class_uid, self.sop_class_uids)
            and _one_of(instance.body_part, self.body_parts)
            and _one_of(instance.manufacturer, self.manufacturers)
            and instance.rows >= self.min_rows
            and instance.columns >= self.min_columns
        )


def _one_of(value: str, accepted: Sequence[str]) -> bool:
    return not accepted or value.casefold() in {x.casefold() for x in accepted}


@dataclass(frozen=True, slots=True)
class Rule:
    """An enabled rule: its predicate leads to its model."""

    id: UUID
    name: str
    predicate: Predicate
    model_id: UUID


def enabled_rules(connection: Connection, tenant_id: UUID) -> list[Rule]:
    """The tenant's rules and the platform's, highest priority first."""
    rows = connection.execute(
        "SELECT id, name, predicate, model_id FROM ai_routing_rules"
        " WHERE enabled AND (tenant_id = %(tenant_id)s OR tenant_id IS NULL)"
        " ORDER BY priority DESC, name",
        {"tenant_id": tenant_id},
    ).fetchall()
    return [Rule(row[0], row[1], Predicate.from_json(row[2]), row[3]) for row in rows]


def study_instances(connection: Connection, tenant_id: UUID, study_id: UUID) -> list[Instance]:
    """Every stored image of the study, in the order of its UIDs."""
    rows = connection.execute(
        "SELECT o.id, o.sop_instance_uid, o.sop_class_uid, coalesce(s.modality, ''),"
        " coalesce(s.manufacturer, ''), coalesce(s.body_part_examined, ''),"
        " coalesce(o.height, 0), coalesce(o.width, 0)"
        " FROM imaging_objects o LEFT JOIN imaging_series s"
        " ON s.tenant_id = o.tenant_id AND s.id = o.series_id"
        " WHERE o.tenant_id = %(tenant_id)s AND o.study_id = %(study_id)s"
        " AND o.object_type = 'DICOM' ORDER BY o.sop_instance_uid",
        {"tenant_id": tenant_id, "study_id": study_id},
    ).fetchall()
    return [Instance(*row) for row in rows]


def refusals(
    connection: Connection, tenant_id: UUID, patient_id: UUID, images: int = 1
) -> list[str]:
    """Why the tenant, the patient's consent or the quota forbid the analyses; empty: they may run.

    When they may, room for `images` jobs is held for the rest of the transaction (storage.quotas).
    """
    found = []
    if not is_active(connection, tenant_id):
        found.append("the tenant is suspended or closed")
    if not has_feature(connection, tenant_id, FEATURE):
        found.append(f"the tenant does not have the feature {FEATURE}")
    if not has_consent(connection, tenant_id, patient_id):
        found.append(f"the patient has not consented to {CONSENT}")
    if (quota := reserve_inferences(connection, tenant_id, images)) is not None:
        found.append(f"the month's {quota} AI inferences are used")
    return found


def has_consent(connection: Connection, tenant_id: UUID, patient_id: UUID) -> bool:
    """True while the newest thing that the patient said of AI analysis is an unexpired grant."""
    return patient_access.has_consent(connection, tenant_id, patient_id, CONSENT)
