"""Application entities as callers: what the registry lets them do, as scopes.

So the one policy decides for them too, in the terms in which it decides for everybody.
"""

from __future__ import annotations

from functools import lru_cache

from interop.access.principals import Caller
from interop.access.scopes import Scopes
from storage.tenancy import Tenant


def device(
    tenant: Tenant,
    ae_title: str,
    remote_address: str,
    *,
    may_send: bool,
    may_query: bool,
    required_consent: str | None = None,
) -> Caller:
    """The caller that an association acts for; `required_consent` of those whom it sees."""
    letters = ("c" if may_send else "") + ("rs" if may_query else "")
    return Caller(
        tenant=tenant,
        actor_type="SYSTEM",
        actor_id=None,
        actor_name=ae_title,
        scopes=_scopes(letters),
        request_id="",
        remote_address=remote_address,
        required_consent=required_consent,
    )


@lru_cache
def _scopes(letters: str) -> Scopes:
    return Scopes.parse(f"system/ImagingStudy.{letters}" if letters else "")
