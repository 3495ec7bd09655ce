"""Reading the log: by time, patient, actor, thing and kind, newest first, a page at a time.

Rows are ordered by the transaction that wrote them, which is their order in time but for
transactions that ran side by side. A range of times becomes a range of transactions through the
seals, which know both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, LiteralString
from uuid import UUID

COLUMNS: LiteralString = (
    "e.id, e.transaction_id::text::bigint, e.user_id, e.api_client_id, e.actor_type, e.event_type,"
    " e.resource_type, e.resource_id, e.outcome, e.timestamp, e.request_id, e.ip_address,"
    " e.user_agent, e.metadata"
)
# The patients of an event by their logical ids, and why their data was opened.
_ACCESSES: LiteralString = (
    ", (SELECT jsonb_agg(jsonb_build_array(coalesce(r.resource_id, p.patient_id::text),"
    " p.purpose_of_use, p.is_break_glass) ORDER BY p.patient_id) FROM ("
    " SELECT * FROM phi_access_logs AS l WHERE l.tenant_id = e.tenant_id"
    " AND l.audit_event_id = e.id AND (%(only)s::uuid IS NULL OR l.patient_id = %(only)s)"
    " ORDER BY l.patient_id LIMIT 100) AS p LEFT JOIN fhir_resources AS r"
    " ON r.tenant_id = e.tenant_id AND r.resource_type = 'Patient' AND r.row_id = p.patient_id)"
)


@dataclass(frozen=True, slots=True)
class AuditRow:
    """One event; `accesses` are (Patient id, purpose of use, is break glass)."""

    id: UUID
    transaction: int
    user_id: UUID | None
    api_client_id: UUID | None
    actor_type: str
    event_type: str
    resource_type: str | None
    resource_id: str | None
    outcome: str | None
    timestamp: datetime
    request_id: str | None
    ip_address: str | None
    user_agent: str | None
    metadata: dict[str, Any] | None
    accesses: list[tuple[str, str | None, bool]] | None


@dataclass(slots=True)
class AuditQuery:
    """What is looked for; every condition holds. `after` is (transaction, id) of the last row."""

    tenant_id: UUID
    limit: int
    ids: Sequence[UUID] | None = None
    patient_id: UUID | None = None
    user_id: UUID | None = None
    api_client_id: UUID | None = None
    things: Sequence[tuple[str | None, str]] = ()
    event_types: Sequence[str] | None = None
    outcomes: Sequence[str] = ()  # FHIR codes: 0, 4, 8
    low: datetime | None = None  # low <= timestamp
    high: datetime | None = None  # timestamp < high
    after: tuple[int, UUID] | None = None
    only_patient_id: UUID | None = None  # of the patients shown, none but this
    values: dict[str, Any] = field(default_factory=dict)

    def statement(self) -> tuple[str, dict[str, Any]]:
        """SQL and its values. Every text in it is ours; what is looked for is bound."""
        self.values |= {
            "tenant_id": self.tenant_id,
            "limit": self.limit,
            "only": self.only_patient_id,
        }
        where = " AND ".join(["e.tenant_id = %(tenant_id)s", *self._conditions()])
        source = "audit_events AS e"
        if self.patient_id is not None:
            self.values["patient_id"] = self.patient_id
            source = (
                "phi_access_logs AS seen JOIN audit_events AS e ON e.tenant_id = %(tenant_id)s"
                " AND e.id = seen.audit_event_id"
            )
            of_patient = "seen.tenant_id = %(tenant_id)s AND seen.patient_id = %(patient_id)s"
            where = f"{of_patient} AND {where}"
        sql = (
            f"SELECT {COLUMNS}{_ACCESSES} FROM {source} WHERE {where}"
            " ORDER BY e.transaction_id DESC, e.id DESC LIMIT %(limit)s"
        )
        return sql, self.values

    def _conditions(self) -> list[str]:
        found = [*self._times()]
        for column in ("user_id", "api_client_id"):
            if (value := getattr(self, column)) is not None:
                self.values[column] = value
                found.append(f"e.{column} = %({column})s")
        if self.ids is not None:
            self.values["ids"] = list(self.ids)
            found.append("e.id = ANY (%(ids)s)")
        if self.event_types is not None:
            self.values["event_types"] = list(self.event_types)
            found.append("e.event_type = ANY (%(event_types)s)")
        if self.things:
            found.append(f"({' OR '.join(self._thing(*thing) for thing in self.things)})")
        if self.outcomes:
            found.append(f"({' OR '.join(_OUTCOMES[code] for code in self.outcomes)})")
        if self.after is not None:
            self.values |= {"after": self.after[0], "after_id": self.after[1]}
            found.append("(e.transaction_id, e.id) < (%(after)s::text::xid8, %(after_id)s)")
        return found

    def _thing(self, resource_type: str | None, resource_id: str) -> str:
        number = len(self.values)
        self.values[f"thing{number}"] = resource_id
        if resource_type is None:
            return f"e.resource_id = %(thing{number})s"
        self.values[f"kind{number}"] = resource_type
        return f"(e.resource_type = %(kind{number})s AND e.resource_id = %(thing{number})s)"

    def _times(self) -> list[str]:
        found: list[str] = []
        if self.low is not None:
            self.values["low"] = self.low
            # Older seals hold nothing of that time; without such a seal, only what is not sealed.
            found += [
                "e.timestamp >= %(low)s",
                "e.transaction_id >= coalesce("
                f"(SELECT min(s.first_transaction) {_SEALS} AND s.newest_at >= %(low)s),"
                f" (SELECT max(s.next_transaction) {_SEALS}), 0)::text::xid8",
            ]
        if self.high is not None:
            self.values["high"] = self.high
            found.append("e.timestamp < %(high)s")
        return found


_SEALS = "FROM audit_seals AS s WHERE s.tenant_id = %(tenant_id)s AND s.kind = 'ROWS'"
_STATUS = "coalesce((e.metadata ->> 'status')::int, 400)"
_OUTCOMES = {
    "0": "e.outcome = 'SUCCESS'",
    "4": f"(e.outcome IS DISTINCT FROM 'SUCCESS' AND {_STATUS} < 500)",
    "8": f"(e.outcome IS DISTINCT FROM 'SUCCESS' AND {_STATUS} >= 500)",
    "12": "false",
}

PATIENT_ROW: LiteralString = (
    "SELECT row_id FROM fhir_resources WHERE tenant_id = %s AND resource_type = 'Patient'"
    " AND resource_id = %s AND row_id IS NOT NULL"
)


def row_of(found: tuple[Any, ...]) -> AuditRow:
    """A row of the statement."""
    accesses = [tuple(one) for one in found[-1]] if found[-1] else None
    return AuditRow(*(*found[:14], accesses))
