"""What in a resource is especially sensitive: national and insurance numbers (data-schema XI).

A resource that holds one is stored sealed as a whole, in its current version and in its history:
the same number stands in narratives, extensions and contained resources, where no list of elements
would find it. Its search rows hold a blind index in place of the number.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from interop.fhir.lens import Connection, JsonObject
from interop.fhir.mappings.systems import IDENTIFIER_TYPE
from storage.database import vault_of
from storage.encryption.columns import SEALED_SYSTEMS

Blind = Callable[[str], str]

# The domain of the blind indexes in search rows, apart from those of columns.
DOMAIN: Final = "fhir_search.identifier"

# http://terminology.hl7.org/CodeSystem/v2-0203: numbers that a state or an insurer gives a person.
NATIONAL_TYPES: Final = frozenset({"SS", "NI", "NH", "PPN", "DL", "TAX", "CZ", "PRC", "SB"})
INSURANCE_TYPES: Final = frozenset({"MB", "SN", "MC", "MA", "HC", "JHN"})
_TYPES: Final = NATIONAL_TYPES | INSURANCE_TYPES
# "National Person Identifier where the xxx is the ISO table 3166 3-character country code"
_COUNTRY: Final = "NN"
_PASSPORT: Final = "http://hl7.org/fhir/sid/passport-"


@dataclass(frozen=True, slots=True)
class Sensitive:
    """What was found: whether anything, and the `id()` of each Identifier that is."""

    found: bool
    identifiers: frozenset[int]


def sensitive(resource: JsonObject) -> Sensitive:
    """Look at every element of a resource, extensions and contained resources included."""
    identifiers: set[int] = set()
    found = False
    todo: list[Any] = [resource]
    while todo:
        node = todo.pop()
        if isinstance(node, list):
            todo += node
            continue
        if not isinstance(node, dict):
            continue
        if _is_number(node):
            identifiers.add(id(node))
        elif node.get("resourceType") == "Coverage":
            # Its identifiers are the member's numbers, whatever they say of themselves.
            found = found or "subscriberId" in node
            identifiers |= {id(item) for item in node.get("identifier") or ()}
        elif "identifier" in node and node.get("type") == "Coverage":
            identifiers.add(id(node["identifier"]))
        reference = node.get("coverage")
        if isinstance(reference, dict) and "identifier" in reference:
            identifiers.add(id(reference["identifier"]))
        todo += node.values()
    return Sensitive(found or bool(identifiers), frozenset(identifiers))


def hidden_numbers(resource: JsonObject, found: Sensitive) -> tuple[str, ...]:
    """The sensitive numbers of a resource, each as it was sent and in lower case."""
    if not found.found:
        return ()
    numbers: set[str] = set()
    todo: list[Any] = [resource]
    while todo:
        node = todo.pop()
        if isinstance(node, list):
            todo += node
        elif isinstance(node, dict):
            if id(node) in found.identifiers:
                numbers.add(str(node.get("value", "")))
            numbers.add(str(node.get("subscriberId", "")))
            todo += node.values()
    return tuple(
        sorted({form for number in numbers if number for form in (number, number.lower())})
    )


def _is_number(node: JsonObject) -> bool:
    """An Identifier by its shape, of a kind or a system that is sensitive."""
    if not isinstance(node.get("value"), str):
        return False
    system = node.get("system")
    if isinstance(system, str) and is_sensitive_system(system):
        return True
    type_ = node.get("type")
    codings = type_.get("coding") if isinstance(type_, dict) else None
    return any(
        item.get("system") == IDENTIFIER_TYPE and is_sensitive_type(item.get("code", ""))
        for item in codings or ()
    )


def is_sensitive_system(system: str) -> bool:
    """Whether all numbers of an identifier system are national or insurance numbers."""
    return system in SEALED_SYSTEMS or system.startswith(_PASSPORT)


def is_sensitive_type(code: str) -> bool:
    """Whether a code of v2-0203 stands for a national or insurance number."""
    return code in _TYPES or (code.startswith(_COUNTRY) and len(code) == 5)


def blinding(connection: Connection, tenant_id: UUID) -> Blind:
    """What replaces a sensitive number in the search rows of a tenant."""

    def blind(number: str) -> str:
        return vault_of(connection).blind_index(tenant_id, DOMAIN, number, connection)

    return blind
