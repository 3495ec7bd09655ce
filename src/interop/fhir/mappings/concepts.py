"""Converters of coded values and of references.

A CodeableConcept says one thing in several ways, and so does a Reference with its display: when the
column says something else, the old ways of saying it go (`replaced`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Generic, TypeVar

from interop.fhir.mappings.converters import Text

# FHIR R4 references.html#literal: the last two segments, before a version.
_LITERAL_REFERENCE: Final = re.compile(
    r"(?P<base>https?://\S+/)?(?P<type>[A-Z][A-Za-z]+)/(?P<id>[A-Za-z0-9\-.]{1,64})"
    r"(?:/_history/[A-Za-z0-9\-.]{1,64})?"
)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Coding:
    """A code and how it is shown."""

    system: str
    code: str
    display: str | None = None

    def json(self) -> dict[str, str]:
        shown = {"system": self.system, "code": self.code}
        return {**shown, "display": self.display} if self.display else shown

    def concept(self) -> dict[str, Any]:
        return {"coding": [self.json()]}


def codings(concept: Any) -> list[dict[str, Any]]:
    """The codings of a CodeableConcept, whatever was sent."""
    items = concept.get("coding") if isinstance(concept, Mapping) else None
    return [item for item in items if isinstance(item, dict)] if isinstance(items, list) else []


def has_coding(concept: Any, *wanted: Coding) -> bool:
    """Whether a CodeableConcept says one of these codes."""
    return any(
        item.get("system") == one.system and item.get("code") == one.code
        for item in codings(concept)
        for one in wanted
    )


class Meanings(Generic[T]):
    """What the codes of a CodeableConcept mean; of several, what is listed first here."""

    def __init__(self, listed: Iterable[tuple[T, Iterable[Coding]]]) -> None:
        self._listed: list[T] = []
        self._ranks: dict[tuple[Any, Any], int] = {}
        for rank, (meaning, accepted) in enumerate(listed):
            self._listed.append(meaning)
            for coding in accepted:
                self._ranks.setdefault((coding.system, coding.code), rank)

    def of(self, concept: Any) -> T | None:
        """The meaning of a concept; None where none of its codes is known."""
        said = ((item.get("system"), item.get("code")) for item in codings(concept))
        ranks = [self._ranks[pair] for pair in said if pair in self._ranks]
        return self._listed[min(ranks)] if ranks else None


def replaced(node: Any, **elements: Any) -> dict[str, Any]:
    """`elements` in place of the node, keeping only its id and extensions.

    The codings and the text of a CodeableConcept say one thing in several ways, as the display of a
    Reference does of its target: what stays of the old value would contradict the new one.
    """
    kept = {key: node[key] for key in ("id", "extension") if key in (node or {})}
    return {**kept, **{key: value for key, value in elements.items() if value}}


@dataclass(frozen=True, slots=True)
class Concept:
    """A CodeableConcept against an enum; `accepted` are further codes that mean an enum value."""

    codes: Mapping[str, Coding]
    accepted: Mapping[str, tuple[Coding, ...]] = field(default_factory=dict)
    label: str = ""
    _meanings: Meanings[str] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not self.label:
            pairs = (f"{coding.code} = {value}" for value, coding in self.codes.items())
            object.__setattr__(self, "label", ", ".join(pairs))
        listed = ((v, (coding, *self.accepted.get(v, ()))) for v, coding in self.codes.items())
        object.__setattr__(self, "_meanings", Meanings(listed))

    def get(self, node: Any) -> str | None:
        return self._meanings.of(node)

    def put(self, value: str | None, node: Any) -> Any:
        if value is None or value not in self.codes:
            return None
        return replaced(node, coding=[self.codes[value].json()])


@dataclass(frozen=True, slots=True)
class ConceptText:
    """The text of a CodeableConcept."""

    label: str = "CodeableConcept.text"

    def get(self, node: Any) -> str | None:
        return Text().get(node.get("text")) if isinstance(node, Mapping) else None

    def put(self, value: str | None, node: Any) -> Any:
        return None if value is None else replaced(node, text=value)


@dataclass(frozen=True, slots=True)
class Reference:
    """A Reference to a resource of this server, as `Type/id`; others stay in the resource.

    Literal references of other servers, logical references by identifier and references to a
    contained resource have no row. An absolute one under `public_url` is kept whole: only with the
    tenant at hand can it be told whose it is (references.py).
    """

    types: tuple[str, ...]
    public_url: str | None = None

    @property
    def label(self) -> str:
        return f"Reference({' | '.join(self.types)})"

    def get(self, node: Any) -> str | None:
        literal = node.get("reference") if isinstance(node, Mapping) else None
        match = _LITERAL_REFERENCE.fullmatch(literal) if isinstance(literal, str) else None
        if match is None or match["type"] not in self.types:
            return None
        base = match["base"] or ""
        if base and not (self.public_url and base.startswith(f"{self.public_url}/t/")):
            return None
        return f"{base}{match['type']}/{match['id']}"

    def put(self, value: str | None, node: Any) -> Any:
        return None if value is None else replaced(node, reference=value)


@dataclass(frozen=True, slots=True)
class CodeOf:
    """The code that a CodeableConcept has in one system."""

    system: str

    @property
    def label(self) -> str:
        return f"code of {self.system}"

    def get(self, node: Any) -> str | None:
        ours = (item.get("code") for item in codings(node) if item.get("system") == self.system)
        return next((code for code in ours if isinstance(code, str) and code), None)

    def put(self, value: str | None, node: Any) -> Any:
        return value and replaced(node, coding=[Coding(self.system, value).json()])
