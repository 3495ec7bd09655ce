"""Accepting a request that is to be answered later: Prefer: respond-async (FHIR R4 async.html).

Reads, searches and operations by GET, searches by POST, batches and transactions may be asked so;
of any other request the preference is not followed, which a server is free to do (RFC 7240).
"""

from __future__ import annotations

import asyncio
from dataclasses import asdict, fields
from typing import Any, Final
from uuid import UUID

import orjson
from starlette.requests import Request

from interop.access import Caller
from interop.access.audit import INSERT_AUDIT, audit_parameters
from interop.access.gate import charge
from interop.access.scopes import Scopes
from interop.fhir import json
from interop.fhir.bundling.entries import MAX_BUNDLE_BYTES, read_bundle
from interop.fhir.negotiation import MEDIA_TYPE, json_body, limited_body
from interop.smart.tokens import Claims
from storage import async_requests
from storage.async_requests import Asker
from storage.database import Database

RESPOND_ASYNC: Final = "respond-async"
# Where the answer is asked for, below the base.
PLACE: Final = "_async"
_KEPT: Final = ("user-agent", "emergency-access", "if-none-match", "if-modified-since")


def is_deferrable(request: Request) -> bool:
    """Whether the client asks for an answer later, of a request that may be answered so."""
    prefer = request.headers.get("prefer")
    if prefer is None or RESPOND_ASYNC not in prefer:
        return False
    path = request.scope["path"].rstrip("/")
    if f"/{PLACE}/" in path or getattr(request.state, "claims", None) is not None:
        return False
    is_base = path.endswith("/fhir/R4")
    return request.method == "GET" or (
        request.method == "POST" and (is_base or path.endswith("/_search"))
    )


async def defer_request(request: Request, caller: Caller, own_base: str) -> str:
    """Accept a request; the URL at which its answer can be asked for.

    A Bundle is read first: what is no Bundle is refused at once, and its entries are charged.
    """
    packed = await _packed(request, own_base)
    tenant_id = caller.tenant.id
    services = request.app.state.services
    database: Database = services.database

    def accept() -> UUID:
        asker = asker_of(caller)
        with database.connection(tenant_id) as connection:
            request_id = async_requests.accept(connection, tenant_id, asker, packed)
            metadata = {"asynchronous": str(request_id)}
            audit = audit_parameters(caller, "FHIR_OPERATION", metadata=metadata)
            connection.execute(INSERT_AUDIT, audit)
        return request_id

    return f"{own_base}/{PLACE}/{await asyncio.to_thread(accept)}"


def asker_of(caller: Caller) -> Asker:
    """Who may fetch the answer."""
    return Asker(caller.client_id, caller.user_id, caller.patient_id)


async def _packed(request: Request, own_base: str) -> str:
    """All that is needed to do the request later."""
    services = request.app.state.services
    token = request.headers["authorization"].partition(" ")[2].strip()
    claims: Claims = (await services.authenticator.standing(token)).claims
    kind, body, content_type = "read", b"", MEDIA_TYPE
    if request.method == "POST" and request.scope["path"].endswith("/_search"):
        body = await limited_body(request)
        content_type = request.headers.get("content-type", "")
    elif request.method == "POST":
        body = await json_body(request, MAX_BUNDLE_BYTES)
        bundle = await asyncio.to_thread(lambda: read_bundle(json.loads(body), own_base))
        await charge(request.scope, bundle.cost)
        kind = bundle.type
    prefer = ", ".join(request.headers.getlist("prefer"))
    headers = {name: request.headers[name] for name in _KEPT if name in request.headers}
    headers |= {
        "content-type": content_type,
        "accept": MEDIA_TYPE,
        "prefer": ", ".join(
            part.strip() for part in prefer.split(",") if part.strip() != RESPOND_ASYNC
        ),
        "x-request-id": request.state.request_id,
    }
    return orjson.dumps(
        {
            "kind": kind,
            "method": request.method,
            "path": request.scope["path"],
            "query": request.scope["query_string"].decode("latin-1"),
            "headers": headers,
            "body": body.decode("utf-8", "replace"),
            "claims": {**asdict(claims), "scopes": str(claims.scopes)},
        }
    ).decode()


def claims_of(packed: dict[str, Any]) -> Claims:
    """The claims of the token that a request was accepted with."""
    given: dict[str, Any] = dict(packed["claims"])
    given["scopes"] = Scopes.parse(given["scopes"])
    for field in fields(Claims):
        if "UUID" in str(field.type) and given[field.name] is not None:
            given[field.name] = UUID(given[field.name])
    return Claims(**given)
