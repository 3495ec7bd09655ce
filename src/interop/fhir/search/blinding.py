"""Sensitive numbers in a search: what they are indexed as, and what the audit may keep of them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from functools import partial
from uuid import UUID

from interop.fhir.search.clauses import Clause, split_values, unescape
from interop.fhir.search.extraction import reads_identifiers
from interop.fhir.search.filter_expression import term_of
from interop.fhir.search.full_text import FULL_TEXT
from interop.fhir.search.terms import FILTER, HAS, Term, leaves
from interop.fhir.sensitive import DOMAIN, Blind, is_sensitive_system, is_sensitive_type
from storage.database import Database

LEFT_OUT = "***"


async def search_blinding(
    database: Database, tenant_id: UUID, resource_type: str, terms: Sequence[Term]
) -> Blind | None:
    """None where no term asks for an identifier, or none is indexed blindly in this tenant.

    Raises KeysUnavailable: what is sealed cannot be searched then, and must not seem to be absent.
    """
    if not any(asks_for_identifier(resource_type, one) for one in terms):
        return None
    index = database.vault.index_now(tenant_id)
    if index is None:
        index = await asyncio.to_thread(database.vault.index_of, tenant_id)
    return partial(index, DOMAIN) if index is not None else None


def without_numbers(resource_type: str, pairs: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """The parameters of a search with the numbers left out that are, or may be, sensitive ones.

    The audit keeps queries for years, in clear. A number stays where its system says that it is
    neither of a state nor of an insurer.
    """
    return [(name, _without(resource_type, name, value)) for name, value in pairs]


def _without(resource_type: str, name: str, value: str) -> str:
    if name in FULL_TEXT:
        return LEFT_OUT if any(character.isdigit() for character in value) else value
    if name.startswith("_") and not name.startswith((HAS, FILTER)):
        return value
    asked = term_of(resource_type, name, value)
    if not asks_for_identifier(resource_type, asked):
        return value
    if name == FILTER:
        # Where in the text the numbers stand is not looked for.
        return LEFT_OUT
    alternatives = (split_values(alternative, "|") for alternative in split_values(value, ","))
    return ",".join(
        "|".join(parts if _is_clear(parts) else [*parts[:-1], LEFT_OUT]) for parts in alternatives
    )


def _is_clear(parts: Sequence[str]) -> bool:
    """Whether system|number, or type system|type|number, is of a kind that is not sensitive."""
    known = [unescape(part) for part in parts[:-1]]
    if len(known) == 2:
        return not is_sensitive_type(known[1])
    return bool(known) and bool(known[0]) and not is_sensitive_system(known[0])


def asks_for_identifier(resource_type: str, found: Term) -> bool:
    """Whether some clause of a term compares the numbers of identifiers."""
    return any(_compares_numbers(type_, clause) for type_, clause in leaves(resource_type, found))


def _compares_numbers(resource_type: str, clause: Clause) -> bool:
    if clause.modifier == "missing":
        return False
    if clause.modifier == "identifier" or clause.parameter.code in FULL_TEXT:
        return True
    return reads_identifiers(resource_type, clause.parameter.code)
