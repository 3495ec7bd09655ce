"""Storing objects to a DICOMweb service of others (STOW-RS, PS3.18 10.5), through the one egress.

Only https to addresses that may be called, no redirects, bounded answers; the secret stands sealed
in the row and goes to the origin that it was registered for.
"""

from __future__ import annotations

import asyncio
import time
from base64 import b64encode
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Any, Final
from urllib.parse import quote, urlencode
from uuid import UUID, uuid4

import orjson

from interop.dicom.failures import PROCESSING_FAILURE
from interop.events import egress
from interop.events.egress import Answer, EgressFailed, EgressPolicy, EgressRefused
from interop.routing.deliveries import Due, Result
from interop.routing.web_destinations import WebDestination
from interop.services import Services
from storage.objects import ObjectStore, ObjectStoreError

Note = Callable[[Result], None]

# In one request: what fails in it is sent again together.
_MOST_OBJECTS: Final = 50
_MOST_BYTES: Final = 64 << 20
_CHUNK: Final = 256 << 10
# Patience for a request, and a pace that it must keep besides.
_SECONDS: Final = 60.0
_BYTES_PER_SECOND: Final = 64 << 10
_LONGEST_TOKEN_SECONDS: Final = 3600
_EARLY_SECONDS: Final = 30
_PARTLY, _CONFLICT = 202, 409

_REFERENCED, _FAILED = "00081199", "00081198"
_INSTANCE_UID, _FAILURE_REASON = "00081155", "00081197"


class NotSent(Exception):
    """The service was not reached, or answered with an error; the message says which."""


@dataclass(frozen=True, slots=True)
class _Token:
    value: str
    good_until: float
    # As whom it was fetched where, and for which service: it goes nowhere else.
    given_to: tuple[WebDestination, bytes]


# By destination; access tokens of client credentials (RFC 6749 4.4).
_tokens: dict[tuple[UUID, UUID], _Token] = {}


def send(
    services: Services,
    tenant_id: UUID,
    destination: WebDestination,
    secret: str | None,
    due: Sequence[Due],
    note: Note,
) -> None:
    """Store objects, some in a request; `note` hears of each. Raises NotSent."""
    settings = services.settings
    policy = EgressPolicy.parse(settings.egress_private_networks, settings.egress_ca_file)
    try:
        for group in _groups(due):
            asyncio.run(
                _store(services.objects, policy, tenant_id, destination, secret, group, note)
            )
    except (EgressRefused, EgressFailed, ObjectStoreError, OSError) as error:
        raise NotSent(str(error)) from error


def _groups(due: Sequence[Due]) -> Iterator[list[Due]]:
    group: list[Due] = []
    size = 0
    for one in due:
        if group and (len(group) == _MOST_OBJECTS or size + one.byte_size > _MOST_BYTES):
            yield group
            group, size = [], 0
        group.append(one)
        size += one.byte_size
    if group:
        yield group


async def _store(
    objects: ObjectStore,
    policy: EgressPolicy,
    tenant_id: UUID,
    destination: WebDestination,
    secret: str | None,
    group: list[Due],
    note: Note,
) -> None:
    boundary = uuid4().hex
    heads = [_part_head(boundary, one.byte_size, is_first=n == 0) for n, one in enumerate(group)]
    tail = f"\r\n--{boundary}--\r\n".encode()
    length = sum(map(len, heads)) + sum(one.byte_size for one in group) + len(tail)
    headers = {
        "Content-Type": f'multipart/related; type="application/dicom"; boundary={boundary}',
        "Content-Length": str(length),
        "Accept": "application/dicom+json",
        **await _authorization(policy, tenant_id, destination, secret),
    }
    patient = replace(policy, timeout_seconds=_SECONDS + length / _BYTES_PER_SECOND)
    answer = await egress.request(
        "POST",
        f"{destination.url.rstrip('/')}/studies",
        patient,
        headers=headers,
        content=_body(objects, group, heads, tail),
    )
    if answer.status == 401:
        _tokens.pop((tenant_id, destination.id), None)
    for result in _results(group, answer):
        note(result)


def _part_head(boundary: str, length: int, *, is_first: bool) -> bytes:
    # Without the parameter transfer-syntax: Orthanc takes a part that has it for another type. The
    # file says it itself.
    head = f"--{boundary}\r\nContent-Type: application/dicom\r\nContent-Length: {length}\r\n\r\n"
    return (head if is_first else f"\r\n{head}").encode()


async def _body(
    objects: ObjectStore, group: Sequence[Due], heads: Sequence[bytes], tail: bytes
) -> AsyncIterator[bytes]:
    for one, head in zip(group, heads, strict=True):
        yield head
        sent = 0
        chunks = await asyncio.to_thread(objects.open_range, one.storage_uri, 0, None, _CHUNK)
        while chunk := await asyncio.to_thread(next, chunks, b""):
            sent += len(chunk)
            yield chunk
        if sent != one.byte_size:
            raise EgressFailed(f"{one.sop_instance_uid} is not stored whole here")
    yield tail


def _results(group: Sequence[Due], answer: Answer) -> Iterator[Result]:
    """What the response says of each object (PS3.18 Annex I). Raises NotSent."""
    if answer.status not in (200, _PARTLY, _CONFLICT):
        raise NotSent(f"HTTP status {answer.status} to the STOW-RS request")
    stored, failed = _said(answer)
    for one in group:
        uid = one.sop_instance_uid
        if uid in failed:
            yield Result(one, False, failed[uid], "refused by the service")
        elif uid in stored:
            yield Result(one, True, answer.status)
        else:
            # Whatever the status: Orthanc answers 200 also when it has taken nothing.
            yield Result(one, False, answer.status, "the service does not say that it is stored")


def _said(answer: Answer) -> tuple[set[str], dict[str, int]]:
    """UIDs that were stored, and those that were not with their reasons."""
    try:
        found = orjson.loads(answer.body) if answer.body else {}
        if isinstance(found, list):
            found = found[0] if found else {}
        stored = {_value(item, _INSTANCE_UID) for item in _items(found, _REFERENCED)}
        failed = {
            str(_value(item, _INSTANCE_UID)): _reason(item) for item in _items(found, _FAILED)
        }
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        raise NotSent(f"HTTP status {answer.status} with an answer that is no JSON") from error
    return stored, failed


def _items(found: Mapping[str, Any], tag: str) -> list[Any]:
    return list(found.get(tag, {}).get("Value", []))


def _value(item: Mapping[str, Any], tag: str) -> Any:
    values = item.get(tag, {}).get("Value", [])
    return values[0] if values else None


def _reason(item: Mapping[str, Any]) -> int:
    """The Failure Reason of an object; of one that fits no US, Processing failure."""
    said = _value(item, _FAILURE_REASON)
    is_us = isinstance(said, int) and 0 <= said <= 0xFFFF
    return said if is_us else PROCESSING_FAILURE.reason


# -- who we are there ---------------------------------------------------------------------------


async def _authorization(
    policy: EgressPolicy, tenant_id: UUID, destination: WebDestination, secret: str | None
) -> dict[str, str]:
    match destination.authentication:
        case "BASIC":
            return {"Authorization": _basic(f"{destination.client_id}:{secret}")}
        case "BEARER":
            return {"Authorization": f"Bearer {secret}"}
        case "CLIENT_CREDENTIALS":
            token = await _token(policy, tenant_id, destination, secret or "")
            return {"Authorization": f"Bearer {token}"}
        case _:
            return {}


def _basic(pair: str) -> str:
    return f"Basic {b64encode(pair.encode()).decode()}"


async def _token(
    policy: EgressPolicy, tenant_id: UUID, destination: WebDestination, secret: str
) -> str:
    """An access token, kept until shortly before it ends."""
    key = (tenant_id, destination.id)
    given_to = (destination, sha256(secret.encode()).digest())
    known = _tokens.get(key)
    if known and known.given_to == given_to and known.good_until > time.monotonic():
        return known.value
    body = {"grant_type": "client_credentials"}
    if destination.scope:
        body["scope"] = destination.scope
    # RFC 6749 2.3.1: both are encoded as a form's values before they are joined.
    pair = f"{quote(destination.client_id or '', safe='')}:{quote(secret, safe='')}"
    answer = await egress.request(
        "POST",
        destination.token_url or "",
        policy,
        headers={
            "Content-Type": "application/x-www-form-urlencoded",
            "Accept": "application/json",
            "Authorization": _basic(pair),
        },
        content=urlencode(body).encode(),
    )
    try:
        said = orjson.loads(answer.body)
        value, seconds = str(said["access_token"]), float(said.get("expires_in", 300))
    except (ValueError, TypeError, KeyError) as error:
        raise NotSent(f"HTTP status {answer.status} and no access token") from error
    good_for = min(seconds, _LONGEST_TOKEN_SECONDS) - _EARLY_SECONDS
    _tokens[key] = _Token(value, time.monotonic() + good_for, given_to)
    return value
