"""The routing rules of a tenant: which objects go where, and when. Changed with an audit row."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, LiteralString
from uuid import UUID

from psycopg.types.json import Jsonb

from interop.dicom.routing import InvalidPredicate, Predicate
from interop.errors import BadRequest, NotFound
from interop.routing import web_destinations
from interop.routing.web_destinations import NAME
from storage.consent_types import CONSENT_TYPES
from storage.database import Connection
from storage.tenants.changes import OPERATOR, Actor, record_change

SUBJECT: Final = "ROUTING_RULE"
MOST_QUIET_SECONDS: Final = 86400
_MOST_RULES: Final = 100
_SELECT: LiteralString = (
    "SELECT r.id, r.name, r.predicate, a.ae_title, w.name, r.quiet_seconds, r.with_commitment,"
    " r.required_consent, r.enabled FROM dicom_routing_rules AS r"
    " LEFT JOIN dicom_application_entities AS a ON a.tenant_id = r.tenant_id"
    " AND a.id = r.application_entity_id"
    " LEFT JOIN dicom_web_destinations AS w ON w.tenant_id = r.tenant_id"
    " AND w.id = r.web_destination_id WHERE r.tenant_id = %s"
)
_PUT: LiteralString = (
    "INSERT INTO dicom_routing_rules (tenant_id, name, predicate, application_entity_id,"
    " web_destination_id, quiet_seconds, with_commitment, required_consent, enabled)"
    " VALUES (%(tenant_id)s, %(name)s, %(predicate)s, %(entity)s, %(web)s, %(quiet)s,"
    " %(commit)s, %(consent)s, %(enabled)s) ON CONFLICT (tenant_id, name) DO UPDATE SET"
    " predicate = excluded.predicate, application_entity_id = excluded.application_entity_id,"
    " web_destination_id = excluded.web_destination_id,"
    " quiet_seconds = excluded.quiet_seconds, with_commitment = excluded.with_commitment,"
    " required_consent = excluded.required_consent, enabled = excluded.enabled"
)
# What this process and others remember of a tenant while studies arrive is out of date as soon as
# its settings were touched (ingest.sql, ingest_resume).
_TOUCH_SETTINGS: LiteralString = (
    "INSERT INTO tenant_settings (tenant_id) VALUES (%s)"
    " ON CONFLICT (tenant_id) DO UPDATE SET tenant_id = excluded.tenant_id"
)


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule. Exactly one of `ae_title` and `web_destination` is its destination."""

    id: UUID
    name: str
    predicate: Predicate
    ae_title: str | None
    web_destination: str | None
    quiet_seconds: int
    with_commitment: bool
    required_consent: str | None
    enabled: bool

    def described(self) -> dict[str, Any]:
        """As plain data for JSON."""
        return {
            "id": str(self.id),
            "name": self.name,
            "predicate": self.predicate.to_json(),
            "ae_title": self.ae_title,
            "web_destination": self.web_destination,
            "quiet_seconds": self.quiet_seconds,
            "with_commitment": self.with_commitment,
            "required_consent": self.required_consent,
            "enabled": self.enabled,
        }


def list_all(connection: Connection, tenant_id: UUID) -> list[Rule]:
    """The rules of the tenant, by name."""
    rows = connection.execute(_SELECT + " ORDER BY r.name", (tenant_id,)).fetchall()
    return [_rule(row) for row in rows]


def find(connection: Connection, tenant_id: UUID, name: str) -> Rule | None:
    """One rule by its name."""
    row = connection.execute(_SELECT + " AND r.name = %s", (tenant_id, name)).fetchone()
    return _rule(row) if row else None


def put(
    connection: Connection,
    tenant_id: UUID,
    name: str,
    values: Mapping[str, Any],
    actor: Actor = OPERATOR,
) -> Rule:
    """Make a rule, or replace the one of this name; what is left out has its default.

    Raises BadRequest and NotFound, naming what is wrong.
    """
    before = find(connection, tenant_id, name)
    if not NAME.fullmatch(name):
        raise BadRequest(f"name {name!r}: 1 to 63 letters, digits, spaces, dots, dashes")
    if before is None and len(list_all(connection, tenant_id)) >= _MOST_RULES:
        raise BadRequest(f"a tenant has {_MOST_RULES} routing rules at most")
    connection.execute(_PUT, _row(connection, tenant_id, name, values))
    connection.execute(_TOUCH_SETTINGS, (tenant_id,))
    made = find(connection, tenant_id, name)
    assert made is not None
    former = before.described() if before is not None else {}
    changes = {
        key: [former.get(key), value]
        for key, value in made.described().items()
        if former.get(key) != value and key != "id"
    }
    record_change(connection, tenant_id, SUBJECT, str(made.id), changes, actor)
    return made


def _row(
    connection: Connection, tenant_id: UUID, name: str, values: Mapping[str, Any]
) -> dict[str, Any]:
    """The row that the values describe. Raises BadRequest and NotFound."""
    try:
        predicate = Predicate.from_json(values.get("predicate") or {})
    except InvalidPredicate as error:
        raise BadRequest(f"predicate: {error}") from error
    quiet_seconds = values.get("quiet_seconds") or 0
    if not 0 <= quiet_seconds <= MOST_QUIET_SECONDS:
        raise BadRequest(f"quiet_seconds {quiet_seconds}: 0 to {MOST_QUIET_SECONDS}")
    consent = values.get("required_consent")
    if consent not in (None, *CONSENT_TYPES):
        raise BadRequest(
            f"required_consent {consent!r}: one of {', '.join(CONSENT_TYPES)}, or none"
        )
    entity_id, web_id = _destination(connection, tenant_id, values)
    with_commitment = bool(values.get("with_commitment"))
    if with_commitment and web_id is not None:
        raise BadRequest("with_commitment: storage commitment is a service of DICOM peers only")
    return {
        "tenant_id": tenant_id,
        "name": name,
        "predicate": Jsonb(predicate.to_json()),
        "entity": entity_id,
        "web": web_id,
        "quiet": quiet_seconds,
        "commit": with_commitment,
        "consent": consent,
        "enabled": values.get("enabled", True),
    }


def remove(connection: Connection, tenant_id: UUID, name: str, actor: Actor = OPERATOR) -> Rule:
    """Forget a rule. What is on its way by it already still goes. Raises NotFound."""
    found = find(connection, tenant_id, name)
    if found is None:
        raise NotFound(f"there is no routing rule {name!r}")
    connection.execute(
        "DELETE FROM dicom_routing_rules WHERE tenant_id = %s AND id = %s", (tenant_id, found.id)
    )
    connection.execute(_TOUCH_SETTINGS, (tenant_id,))
    record_change(connection, tenant_id, SUBJECT, str(found.id), {"removed": [name, None]}, actor)
    return found


def _destination(
    connection: Connection, tenant_id: UUID, values: Mapping[str, Any]
) -> tuple[UUID | None, UUID | None]:
    ae_title, web = values.get("ae_title"), values.get("web_destination")
    if (ae_title is None) == (web is None):
        raise BadRequest("a rule has one destination: ae_title or web_destination")
    if web is not None:
        found = web_destinations.find(connection, tenant_id, web)
        if found is None:
            raise BadRequest(f"web_destination {web!r} is not registered")
        return None, found.id
    row = connection.execute(
        "SELECT id, may_be_sent_to FROM dicom_application_entities"
        " WHERE tenant_id = %s AND ae_title = %s",
        (tenant_id, ae_title),
    ).fetchone()
    if row is None or not row[1]:
        raise BadRequest(f"ae_title {ae_title!r} is not registered as one that may be sent to")
    return row[0], None


def _rule(row: tuple[Any, ...]) -> Rule:
    return Rule(row[0], row[1], Predicate.from_json(row[2]), *row[3:])
