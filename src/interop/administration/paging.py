"""Lists a page at a time, by the key of the last row shown: nothing is skipped or shown twice."""

from __future__ import annotations

import json
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Generic, TypeVar

from fastapi import Query
from pydantic import BaseModel, Field, TypeAdapter, ValidationError

from interop.errors import BadRequest

DEFAULT_LIMIT, MOST = 50, 200
Limit = Annotated[int, Query(ge=1, le=MOST, description="Rows in a page.")]
After = Annotated[
    str | None,
    Query(max_length=1000, description="`next` of the page before, as it was given."),
]

Item = TypeVar("Item")
Row = TypeVar("Row")
Key = TypeVar("Key")


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


def _cursor(key: Any) -> str:
    text = json.dumps(key, default=str, separators=(",", ":"))
    return urlsafe_b64encode(text.encode()).decode().rstrip("=")
