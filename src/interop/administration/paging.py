"""Lists a page at a time, by the key of the last row shown: nothing is skipped or shown twice."""

from __future__ import annotations

import json
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, Generic, Protocol, TypeVar
from uuid import UUID

from fastapi import Query
from pydantic import BaseModel, Field, TypeAdapter, ValidationError

from interop.administration.desk import Desk
from interop.errors import BadRequest
from storage.database import Connection

DEFAULT_LIMIT, MOST = 50, 200
Limit = Annotated[int, Query(ge=1, le=MOST, description="Rows in a page.")]
After = Annotated[
    str | None,
    Query(max_length=1000, description="`next` of the page before, as it was given."),
]

Item = TypeVar("Item")
Row = TypeVar("Row")
Key = TypeVar("Key")
Row_co = TypeVar("Row_co", covariant=True)
Key_contra = TypeVar("Key_contra", contravariant=True)


class Page(BaseModel, Generic[Item]):
    """A page of a list."""

    items: list[Item]
    next: str | None = Field(None, description="`after` of the next page; null on the last one.")


def read_key(after: str | None, kind: type[Key]) -> Key | None:
    """The key in a cursor. Raises BadRequest for one that this server did not make."""
    if after is None:
        return None
    try:
        text = urlsafe_b64decode(after + "=" * (-len(after) % 4))
        return TypeAdapter(kind).validate_json(text)
    except (ValueError, ValidationError) as error:
        raise BadRequest("after: the `next` of an earlier page of this list") from error


def page(
    rows: Sequence[Row], limit: int, key: Callable[[Row], Any], show: Callable[[Row], Item]
) -> Page[Item]:
    """A page of `rows`, of which one more than `limit` was asked for."""
    shown = rows[:limit]
    is_last = len(rows) <= limit
    return Page(
        items=[show(row) for row in shown], next=None if is_last else _cursor(key(shown[-1]))
    )


def page_of(
    rows: Iterable[Row],
    after: str | None,
    limit: int,
    kind: type[Key],
    key: Callable[[Row], Any],
    show: Callable[[Row], Item],
) -> Page[Item]:
    """A page of a list that is short enough to be read whole; in the order of `key`."""
    last = read_key(after, kind)
    left = [row for row in sorted(rows, key=key) if last is None or key(row) > last]
    return page(left, limit, key, show)


class ListRows(Protocol[Row_co, Key_contra]):
    """Reads the rows of a tenant in the order of a key, from one key on if wanted."""

    def __call__(
        self,
        connection: Connection,
        tenant_id: UUID,
        *,
        after: Key_contra | None = None,
        limit: int | None = None,
    ) -> Sequence[Row_co]: ...


@dataclass(frozen=True, slots=True)
class Listing(Generic[Row, Key, Item]):
    """A long list, of which the database reads a page: what its rows are called in the audit
    trail, who reads them, their key, and how one is shown."""

    what: str
    rows: ListRows[Row, Key]
    kind: type[Key]
    key: Callable[[Row], Key]
    show: Callable[[Row], Item]

    def page(self, desk: Desk, after: str | None, limit: int) -> Page[Item]:
        last = read_key(after, self.kind)
        found = desk.read(
            lambda connection: self.rows(connection, desk.tenant.id, after=last, limit=limit + 1),
            self.what,
        )
        return page(found, limit, self.key, self.show)


def _cursor(key: Any) -> str:
    text = json.dumps(key, default=_text, separators=(",", ":"))
    return urlsafe_b64encode(text.encode()).decode().rstrip("=")


def _text(value: Any) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)
