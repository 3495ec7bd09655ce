"""Versions of what two administrators could overwrite: ETag and If-Match (RFC 9110 13.1)."""

from __future__ import annotations

import hashlib
import re
from typing import Annotated

from fastapi import Header, Response
from pydantic import BaseModel

from interop.errors import PreconditionFailed, PreconditionRequired

IfMatch = Annotated[
    str | None,
    Header(
        alias="If-Match",
        description="The ETag of what was read, or * to overwrite whatever is there.",
        max_length=1000,
    ),
]
_TAG = re.compile(r'(?:W/)?"[\x21\x23-\x7e]*"')


def etag(shown: BaseModel) -> str:
    """The strong tag of a representation: equal content, equal tag."""
    return f'"{hashlib.sha256(shown.model_dump_json().encode()).hexdigest()[:32]}"'


def tag(response: Response, shown: BaseModel) -> None:
    """Say which version is shown."""
    response.headers["ETag"] = etag(shown)


def require_match(if_match: str | None, current: BaseModel) -> None:
    """Raise unless the caller has seen `current`. Call it in the transaction that changes it."""
    if if_match is None:
        raise PreconditionRequired("If-Match is needed: the ETag of what you read, or *")
    if if_match.strip() == "*":
        return
    # Weak tags never match here: the comparison is the strong one.
    if etag(current) not in _TAG.findall(if_match):
        raise PreconditionFailed("it was changed since you read it; read it again")
