"""Codes of an element against the value set that it is bound to (R4 terminologies.html#binding)."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

from interop.fhir.fhirpath_engine import Item
from interop.fhir.terminology import NotExpandable, Terminology, terminology

_CODES = ("code", "string", "uri", "id", "canonical", "markdown")


class Codes:
    """Whether codes are in value sets, by one terminology; remembers the value sets it asked."""

    def __init__(self, terminology: Terminology) -> None:
        self._terminology = terminology
        self._known: dict[str, frozenset[tuple[str, str]] | None] = {}
        self._spelled: dict[str, frozenset[str]] = {}

    def contains(self, url: str, system: str | None, code: str) -> bool | None:
        """None: the value set is not known here, or it cannot be told."""
        if url not in self._known:
            self._load(url)
        members = self._known[url]
        if members is None:
            try:
                answer = self._terminology.contains(url, system, code)
                if answer is None and "|" in url:
                    answer = self._terminology.contains(url.partition("|")[0], system, code)
            except NotExpandable:
                return None
            return answer
        if system is None:
            return code in self._spelled[url]
        return (system, code) in members

    def _load(self, url: str) -> None:
        members = self._terminology.expansion(url)
        if members is None and "|" in url:  # a version that is not at hand
            members = self._terminology.expansion(url.partition("|")[0])
        # In this order: other threads read what is known.
        self._spelled[url] = frozenset(code for _, code in members or ())
        self._known[url] = members

    def has(self, item: Item, url: str) -> bool | None:
        """Whether an element has a code of a value set.

        One coding that is there suffices. None: no code at all, or it cannot be told.
        """
        answer: bool | None = None
        for system, code in codes_of(item):
            found = self.contains(url, system, code)
            if found:
                return True
            if found is None:
                return None
            answer = False
        return answer


@cache
def server_codes() -> Codes:
    """The value sets that come with the server, for every tenant and thread."""
    return Codes(terminology())


def codes_of(item: Item) -> Iterator[tuple[str | None, str]]:
    """(system, code) of an element: a code, Coding, CodeableConcept or Quantity."""
    value = item.value
    if isinstance(value, str) and item.type in _CODES:
        yield None, value
    elif isinstance(value, dict):
        codings = value.get("coding") if item.type == "CodeableConcept" else [value]
        for coding in codings if isinstance(codings, list) else ():
            if isinstance(coding, dict) and isinstance(coding.get("code"), str):
                system = coding.get("system")
                yield (system if isinstance(system, str) else ""), coding["code"]


def shown(item: Item) -> str:
    """The codes of an element, for a message."""
    codes: list[Any] = [f"{system}|{code}" if system else code for system, code in codes_of(item)]
    return ", ".join(codes)[:200] or "no code"
