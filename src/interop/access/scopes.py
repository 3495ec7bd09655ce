"""SMART App Launch 2.2 scopes: what a token may do.

Only `system/` scopes are granted: `user/` and `patient/` mean less than the whole tenant, and
until compartments are enforced, granting them would widen.

`system/Observation.rs` reads: as a system, read (r) and search (s) Observation. v1 scopes
(`.read`, `.write`, `.*`) are accepted and mean `.rs`, `.cud` and `.cruds`
(https://hl7.org/fhir/smart-app-launch/scopes-and-launch-context.html).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Letter = Literal["c", "r", "u", "d", "s"]
LETTERS = "cruds"
_V1 = {"read": "rs", "write": "cud", "*": "cruds"}
_SCOPE = re.compile(r"(system)/(\*|[A-Z][A-Za-z]{2,63})\.(read|write|\*|[cruds]{1,5})")


class InvalidScope(ValueError):
    """The scope is not one that this server grants."""


@dataclass(frozen=True, slots=True)
class Scope:
    """One granted scope. `resource_type` is a FHIR type or `*`; `letters` a subset of cruds."""

    level: str
    resource_type: str
    letters: str

    @classmethod
    def parse(cls, text: str) -> Scope:
        """Read one scope. Raises InvalidScope, naming what would be accepted."""
        match = _SCOPE.fullmatch(text)
        if match is None:
            raise InvalidScope(
                f"scope {text!r} is not understood; accepted: system/<type or *>.<letters of "
                f"'{LETTERS}' in that order>, e.g. system/Observation.rs"
            )
        level, resource_type, letters = match.groups()
        letters = _V1.get(letters, letters)
        if [LETTERS.index(x) for x in letters] != sorted({LETTERS.index(x) for x in letters}):
            raise InvalidScope(f"scope {text!r}: letters must be in the order {LETTERS!r}")
        return cls(level, resource_type, letters)

    def permits(self, resource_type: str, letter: str) -> bool:
        return letter in self.letters and self.resource_type in ("*", resource_type)

    def __str__(self) -> str:
        return f"{self.level}/{self.resource_type}.{self.letters}"


@dataclass(frozen=True, slots=True)
class Scopes:
    """All scopes of a token. An empty list permits nothing."""

    granted: tuple[Scope, ...]

    @classmethod
    def parse(cls, text: str) -> Scopes:
        return cls(tuple(Scope.parse(part) for part in text.split()))

    def permits(self, resource_type: str, letter: str) -> bool:
        return any(scope.permits(resource_type, letter) for scope in self.granted)

    def narrowed_to(self, wanted: Scopes) -> Scopes:
        """What of `wanted` these scopes cover: asking narrows, it never widens."""
        kept: list[Scope] = []
        for scope in wanted.granted:
            letters = "".join(
                x for x in scope.letters if _covers(self.granted, scope.level, scope, x)
            )
            if letters:
                kept.append(Scope(scope.level, scope.resource_type, letters))
        return Scopes(tuple(kept))

    def __str__(self) -> str:
        return " ".join(map(str, self.granted))


def _covers(granted: Iterable[Scope], level: str, wanted: Scope, letter: str) -> bool:
    return any(
        own.level == level
        and letter in own.letters
        and own.resource_type in ("*", wanted.resource_type)
        for own in granted
    )
