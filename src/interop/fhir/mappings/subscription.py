"""Subscription over webhook_subscriptions: whom the organization has told of events, and of which.

The server's own, without the secret that signs what is sent, and without what an address may hold
of one. A Subscription that a client sends is kept whole.
"""

from __future__ import annotations

from typing import Any, Final
from urllib.parse import urlsplit, urlunsplit
from uuid import UUID

from interop.fhir.lens import Connection, JsonObject
from interop.fhir.mappings.converters import Codes, Text
from interop.fhir.mappings.lens import Entry, ResourceMapping, Rows
from interop.fhir.mappings.statements import query
from interop.fhir.mappings.systems import own_extension
from interop.fhir.mappings.views import Shown, ViewLens

PAYLOAD: Final = own_extension("webhook-payload")
ANY_EVENT: Final = "any event"
_STATUSES: Final = {"ACTIVE": "ACTIVE", "ERROR": "ERROR"}

MAPPING: Final = ResourceMapping(
    "Subscription",
    "webhook_subscriptions",
    [
        Entry("status", "status", Codes({"active": "ACTIVE", "error": "ERROR", "off": "OFF"})),
        Entry("name", "reason", Text()),
        Entry("event_types", "criteria", Text()),
        Entry("payload_mode", f"extension[url={PAYLOAD}].valueCode", Text()),
        Entry("channel", "channel", Shown("rest-hook to target_url; payload where it is full")),
    ],
)


def _load(connection: Connection, tenant_id: UUID, row_id: UUID) -> Rows | None:
    found = query(
        connection,
        "SELECT name, target_url, event_types, payload_mode, status FROM webhook_subscriptions"
        " WHERE tenant_id = %s AND id = %s",
        tenant_id,
        row_id,
    )
    if not found:
        return None
    webhook = found[0]
    return Rows(
        {
            "status": _STATUSES.get(webhook["status"], "OFF"),
            "name": webhook["name"],
            "event_types": ", ".join(webhook["event_types"]) or ANY_EVENT,
            "payload_mode": webhook["payload_mode"].lower().replace("_", "-"),
            "channel": _channel(webhook["target_url"], webhook["payload_mode"]),
        }
    )


def _channel(target_url: str, payload_mode: str) -> JsonObject:
    channel: dict[str, Any] = {"type": "rest-hook"}
    try:
        address = urlsplit(target_url)
        host = address.netloc.rpartition("@")[2]
        channel["endpoint"] = urlunsplit((address.scheme, host, address.path, "", ""))
    except ValueError:
        pass  # what cannot be read is not shown either
    if payload_mode == "FULL":
        channel["payload"] = "application/fhir+json"
    return channel


def lens(public_url: str | None) -> ViewLens:
    return ViewLens(MAPPING, _load, "a webhook of this organization; it is set in administration")
