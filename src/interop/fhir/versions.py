"""Versions of a resource: what the server itself writes into one (FHIR R4 resource.html#Meta)."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

from interop.fhir.lens import JsonObject

_SERVER_MADE = ("versionId", "lastUpdated")


@dataclass(frozen=True, slots=True)
class Version:
    """One version of a resource, ready to be sent. `body` is None where it was deleted."""

    resource_type: str
    resource_id: str
    version: int
    last_updated: datetime
    body: bytes | None
    is_new: bool = False

    @property
    def reference(self) -> str:
        return f"{self.resource_type}/{self.resource_id}"


def instant(moment: datetime) -> str:
    """A FHIR instant in milliseconds."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def http_date(moment: datetime) -> str:
    """An HTTP date, which has whole seconds."""
    return format_datetime(moment.astimezone(UTC).replace(microsecond=0), usegmt=True)


def etag(version: int) -> str:
    """FHIR R4 http.html#versioning: a weak tag around the version id."""
    return f'W/"{version}"'


def stamped(
    resource: JsonObject, resource_id: str, version: int, last_updated: datetime
) -> JsonObject:
    """The resource with the id, version and time that the server gives, whatever it said itself."""
    meta = {k: v for k, v in resource.get("meta", {}).items() if k not in _SERVER_MADE}
    return {
        "resourceType": resource["resourceType"],
        "id": resource_id,
        "meta": {"versionId": str(version), "lastUpdated": instant(last_updated), **meta},
        **{k: v for k, v in resource.items() if k not in ("resourceType", "id", "meta")},
    }


def is_same_content(one: JsonObject, other: JsonObject) -> bool:
    """Whether two versions differ in nothing but what the server wrote."""
    return _content(one) == _content(other)


def _content(resource: JsonObject) -> JsonObject:
    meta = {k: v for k, v in resource.get("meta", {}).items() if k not in _SERVER_MADE}
    return {**{k: v for k, v in resource.items() if k not in ("id", "meta")}, "meta": meta}


def next_time(now: datetime, before: datetime | None) -> datetime:
    """`now`, or just after the version before where clocks went back."""
    if before is None or now > before:
        return now
    return before + timedelta(milliseconds=1)
