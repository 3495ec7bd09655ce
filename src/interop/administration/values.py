"""The forms of values that requests carry."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Annotated, Any

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints

# What a database date and every client can hold.
_FIRST, _LAST = datetime(1900, 1, 1, tzinfo=UTC), datetime(2200, 1, 1, tzinfo=UTC)
MOST_INTEGER = 2**31 - 1
MOST_BIG_INTEGER = 2**63 - 1


def _between(moment: datetime) -> datetime:
    if not _FIRST <= moment < _LAST:
        raise ValueError("a time between the years 1900 and 2200")
    return moment


def _plain(value: Any) -> Any:
    """Numbers as a JSON column takes them."""
    if isinstance(value, Decimal):
        return float(value)
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    return [_plain(one) for one in value] if isinstance(value, list) else value


class Body(BaseModel):
    """A request's body: a name that it does not have is an error."""

    model_config = ConfigDict(extra="forbid")


# No control characters: one line, which shows everywhere as it was typed.
Line = Annotated[str, StringConstraints(max_length=200, pattern=r"^[^\x00-\x1f\x7f]*$")]
Name = Annotated[
    str, StringConstraints(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]*$")
]
LongLine = Annotated[str, StringConstraints(max_length=2000, pattern=r"^[^\x00-\x1f\x7f]*$")]
Email = Annotated[
    str,
    StringConstraints(
        max_length=320, pattern=r"^[^@\s\x00-\x1f\x7f]{1,64}@[^@\s\x00-\x1f\x7f]{1,255}$"
    ),
]
Code = Annotated[str, StringConstraints(pattern=r"^[A-Z][A-Z0-9_]{1,63}$")]
Moment = Annotated[AwareDatetime, AfterValidator(_between)]
JsonObject = Annotated[dict[str, Any], AfterValidator(_plain)]
Count = Annotated[int, Field(strict=True, ge=0, le=MOST_INTEGER)]
BigCount = Annotated[int, Field(strict=True, ge=0, le=MOST_BIG_INTEGER)]
