"""Which of the scopes that a client asks for it is given, and how they are written back.

Granted = asked for, and registered for the client, and of a level that the grant type can mean:
a service is nobody's user (system/ only), an app acts for one (patient/ and user/ only), and
patient/ needs a patient in context. What the user may do narrows further at every request
(interop.access.policy); a scope never widens it. Unknown scopes are left out (RFC 6749 3.3).
"""

from __future__ import annotations

from dataclasses import replace

from interop.access.scopes import InvalidScope, Level, Scope, Scopes
from interop.smart.errors import OAuthError


def asked_for(text: str) -> Scopes:
    """The known scopes of a request. Raises OAuthError for far too many."""
    try:
        return Scopes.parse(text, ignore_unknown=True)
    except InvalidScope as error:
        raise OAuthError("invalid_scope", str(error)) from error


def for_service(registered: Scopes, asked: str | None) -> Scopes:
    """The scopes of a client that acts for itself. Raises OAuthError `invalid_scope`."""
    own = registered.of_level("system")
    granted = own.narrowed_to(asked_for(asked)) if asked else own
    if not granted.granted:
        raise OAuthError("invalid_scope", f"this client is granted: {own or 'no system/ scope'}")
    return granted


def for_app(registered: Scopes, asked: Scopes, *, has_patient: bool) -> Scopes:
    """The scopes of a client that acts for a user; may be empty."""
    levels: tuple[Level, ...] = ("patient", "user") if has_patient else ("user",)
    granted = registered.narrowed_to(asked)
    kept = tuple(scope for scope in granted.granted if scope.level in levels)
    context = granted.context
    if "offline_access" in context:
        # Offline says more than online; both at once would be neither.
        context = tuple(name for name in context if name != "online_access")
    return replace(granted, granted=kept, context=context)


def narrowed(granted: Scopes, asked: str | None) -> Scopes:
    """The scopes of a refreshed token: those of the grant, or fewer (RFC 6749 6)."""
    if not asked:
        return granted
    kept = granted.narrowed_to(asked_for(asked))
    if not kept:
        raise OAuthError("invalid_scope", f"this grant holds: {granted}")
    return kept


def spelled(granted: Scopes, asked: str) -> tuple[str, ...]:
    """The granted scopes, those in the v1 form that were asked for in it (permission-v1)."""
    v1: dict[str, str] = {}
    for part in asked.split():
        if part.endswith((".read", ".write", ".*")):
            try:
                v1[str(Scope.parse(part))] = part
            except InvalidScope:
                continue
    return tuple(v1.get(text, text) for text in str(granted).split())
