"""Blind indexes for a search: what a sensitive number would be indexed as in this tenant."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial
from uuid import UUID

from interop.fhir.search.extraction import reads_identifiers
from interop.fhir.search.request import Clause
from interop.fhir.sensitive import DOMAIN, Blind
from storage.database import Database


async def search_blinding(
    database: Database, tenant_id: UUID, clauses: Sequence[Clause], resource_type: str
) -> Blind | None:
    """None where no clause asks for an identifier, or none is indexed blindly in this tenant.

    Raises KeysUnavailable: what is sealed cannot be searched then, and must not seem to be absent.
    """
    if not any(_asks_for_identifier(clause, resource_type) for clause in clauses):
        return None
    index = database.vault.index_now(tenant_id)
    if index is None:
        index = await asyncio.to_thread(database.vault.index_of, tenant_id)
    return partial(index, DOMAIN) if index is not None else None


def _asks_for_identifier(clause: Clause, resource_type: str) -> bool:
    if clause.modifier == "identifier":
        return True
    is_token = clause.parameter.type == "token"
    return is_token and reads_identifiers(resource_type, clause.parameter.code)
