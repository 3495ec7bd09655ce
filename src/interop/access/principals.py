"""Who calls, and the one question that every door asks before it acts."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from interop.access.scopes import Letter, Scopes
from interop.errors import Forbidden
from storage.tenancy import Tenant


@dataclass(frozen=True, slots=True)
class Caller:
    """An authenticated principal acting in one tenant for one request."""

    tenant: Tenant
    actor_type: str  # audit_events.actor_type: USER, SYSTEM, API_CLIENT
    actor_id: UUID | None
    actor_name: str
    scopes: Scopes
    request_id: str
    remote_address: str | None = None
    user_agent: str | None = None


def authorize(caller: Caller, resource_type: str, letter: Letter) -> None:
    """Raise Forbidden unless the caller's scopes permit `letter` (cruds) on `resource_type`."""
    # Whole-tenant access is of system/ scopes alone; the other levels mean less than the tenant.
    permitting = caller.scopes.of_level("system").permitting(resource_type, letter)
    if not any(not scope.constraints for scope in permitting):
        raise Forbidden(
            f"the token's scopes do not permit '{letter}' on {resource_type}; "
            f"a scope such as system/{resource_type}.{letter} is needed"
        )
