"""Pages of histories: versions of a resource, a type or all resources in the order of time.

SQL in `migrations/histories.sql`; one round trip a page.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import orjson

from storage.audit import mark_audited
from storage.database import Database
from storage.encryption.columns import PREFIX
from storage.resources import Audit, Version, body_place, call, json_text, open_body


@dataclass(frozen=True, slots=True)
class Position:
    """Where a page ended: the version that the next one begins after."""

    time: datetime
    resource_type: str
    resource_id: str
    version: int


@dataclass(frozen=True, slots=True)
class Span:
    """Which versions: of what, and when. `types` None: of every type."""

    types: tuple[str, ...] | None = None
    resource_id: str | None = None
    since: datetime | None = None
    # Versions that were current at some moment of [at_low, at_high).
    at_low: datetime | None = None
    at_high: datetime | None = None
    ascending: bool = False


@dataclass(frozen=True, slots=True)
class Entry:
    """One version and whose it is. `judged_body` is what a deletion is judged by."""

    resource_type: str
    resource_id: str
    version: Version
    row_id: UUID | None = None
    judged_body: str | None = None

    @property
    def position(self) -> Position:
        return Position(
            self.version.last_updated, self.resource_type, self.resource_id, self.version.version
        )


@dataclass(frozen=True, slots=True)
class Page:
    """Entries, or that something is stale, or that there are versions and none in the span."""

    entries: list[Entry]
    is_stale: bool = False
    is_known: bool = True


async def page(
    database: Database,
    tenant_id: UUID,
    span: Span,
    after: Position | None,
    limit: int,
    audit: Audit | None,
    *,
    even_if_stale: bool = False,
) -> Page:
    """The first `limit` versions after a position, of which the last may go unshown.

    With `audit`, the audit row is written for all but the last. Without, entries come with what
    they are to be judged by.
    """
    given = {} if audit is None else dict(audit)
    if even_if_stale:
        given["even_if_stale"] = True
    rows = await call(
        database,
        tenant_id,
        "fhir_history_page",
        None if span.types is None else list(span.types),
        span.resource_id,
        span.since,
        span.at_low,
        span.at_high,
        _json(after),
        span.ascending,
        limit,
        audit is None,
        json_text(given) if "metadata" in given else orjson.dumps(given).decode(),
    )
    if rows and rows[0][0] == "stale":
        return Page([], is_stale=True)
    if audit is not None:
        mark_audited()
    if rows and rows[0][0] == "known":
        return Page([])
    entries: list[Entry] = []
    for _, type_, id_, row_id, version, moment, method, body, judged, judged_body in rows:
        opened = await _opened(database, tenant_id, (type_, id_), version, body)
        decisive = await _opened(database, tenant_id, (type_, id_), judged, judged_body)
        entries.append(
            Entry(type_, id_, Version(version, moment, method, opened), row_id, decisive or opened)
        )
    return Page(entries, is_known=bool(entries) or span.resource_id is None)


async def count(database: Database, tenant_id: UUID, span: Span, audit: Audit | None) -> int:
    """How many versions there are in the span; audited where `audit` is given."""
    rows = await call(
        database,
        tenant_id,
        "fhir_history_count",
        None if span.types is None else list(span.types),
        span.resource_id,
        span.since,
        span.at_low,
        span.at_high,
        None if audit is None else json_text(audit),
    )
    if audit is not None:
        mark_audited()
    return int(rows[0][0])


async def audit_shown(
    database: Database, tenant_id: UUID, shown: Iterable[tuple[str, str]], audit: Audit
) -> None:
    """The audit row of what showed the resources of these (type, id)."""
    keys = sorted(set(shown))
    types, ids = [key[0] for key in keys], [key[1] for key in keys]
    await call(database, tenant_id, "fhir_audit_shown", types, ids, json_text(audit))
    mark_audited()


async def _opened(
    database: Database, tenant_id: UUID, key: tuple[str, str], version: int, body: str | None
) -> str | None:
    if body is None or not body.startswith(PREFIX):
        return body
    return await open_body(database, tenant_id, body_place(*key, version), body)


def _json(position: Position | None) -> str | None:
    if position is None:
        return None
    return orjson.dumps(
        {
            "time": position.time,
            "type": position.resource_type,
            "id": position.resource_id,
            "version": position.version,
        }
    ).decode()
