"""Who may see what: principals, SMART scopes, tokens, audit. Decides; stores nothing else."""

from __future__ import annotations

from interop.access.principals import Caller, authorize
from interop.access.scopes import InvalidScope, Letter, Scope, Scopes

__all__ = ["Caller", "InvalidScope", "Letter", "Scope", "Scopes", "authorize"]
