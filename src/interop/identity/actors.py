"""Who does something to users and sessions, as the audit log names them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

from storage.audit import INSERT_AUDIT, system_audit
from storage.database import Connection

if TYPE_CHECKING:
    from starlette.requests import Request

    from interop.access.principals import Caller
    from interop.settings import Settings


@dataclass(frozen=True, slots=True)
class Actor:
    """A person, an API client, or the operator of the machine (SYSTEM)."""

    actor_type: str
    user_id: UUID | None
    api_client_id: UUID | None
    request_id: str
    ip_address: str | None = None
    user_agent: str | None = None

    @classmethod
    def operator(cls) -> Actor:
        """Whoever may run commands on this machine."""
        return cls("SYSTEM", None, None, uuid4().hex)

    @classmethod
    def of_caller(cls, caller: Caller) -> Actor:
        """The caller of an API."""
        is_user = caller.actor_type == "USER"
        return cls(
            caller.actor_type,
            caller.actor_id if is_user else None,
            caller.actor_id if caller.actor_type == "API_CLIENT" else None,
            caller.request_id,
            caller.remote_address,
            caller.user_agent,
        )

    @classmethod
    def of_request(cls, request: Request, settings: Settings, user_id: UUID | None) -> Actor:
        """A browser, with the user that it is about, where one is known."""
        # A command has no request and should not wait for a web framework to load.
        from interop.access.http import request_id
        from interop.identity.source_address import source_address

        return cls(
            "USER",
            user_id,
            None,
            request_id(request),
            source_address(request, settings),
            request.headers.get("user-agent"),
        )


def audit(
    connection: Connection,
    tenant_id: UUID,
    actor: Actor,
    event_type: str,
    resource_type: str | None = None,
    resource_id: UUID | None = None,
    *,
    outcome: str = "SUCCESS",
    **metadata: Any,
) -> None:
    """Write the one audit row of an interaction, in its transaction; ids and codes only."""
    connection.execute(
        INSERT_AUDIT,
        system_audit(
            tenant_id,
            event_type,
            resource_type,
            str(resource_id) if resource_id else None,
            outcome=outcome,
            metadata=metadata,
            actor_type=actor.actor_type,
            user_id=actor.user_id,
            api_client_id=actor.api_client_id,
            request_id=actor.request_id,
            ip_address=actor.ip_address,
            user_agent=actor.user_agent,
        ),
    )
