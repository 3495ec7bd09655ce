"""Who may see what: principals, SMART scopes, tokens, audit. Decides; stores nothing else."""

from __future__ import annotations

from interop.access.policy import Decision, Filter, Way, authorize, decide
from interop.access.principals import Caller
from interop.access.scopes import InvalidScope, Letter, Scope, Scopes

__all__ = [
    "Caller",
    "Decision",
    "Filter",
    "InvalidScope",
    "Letter",
    "Scope",
    "Scopes",
    "Way",
    "authorize",
    "decide",
]
