"""SMART App Launch 2.2 scopes: what a token may do at most; the caller's own rights narrow it.

`patient/Observation.rs?category=laboratory`: of the patient in context, read (r) and search (s)
those Observations that the search parameter admits. Levels: `patient/` (the patient in context),
`user/` (what the user may), `system/` (no user). v1 forms (`.read`, `.write`, `.*`) are accepted
and mean `.rs`, `.cud` and `.cruds`. Scopes that name no resource (`openid`, `launch/patient`, ...)
are kept apart: they permit nothing.
(https://hl7.org/fhir/smart-app-launch/scopes-and-launch-context.html)
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal
from urllib.parse import quote, unquote

Letter = Literal["c", "r", "u", "d", "s"]
Level = Literal["patient", "user", "system"]
LETTERS = "cruds"
LEVELS: tuple[Level, ...] = ("patient", "user", "system")
# Scopes about the sign-in and the launch, not about resources.
CONTEXT_SCOPES = (
    "openid",
    "fhirUser",
    "profile",
    "launch",
    "launch/patient",
    "offline_access",
    "online_access",
)
ANY_TYPE = "*"
MAX_SCOPES = 100
MAX_CONSTRAINTS = 16

_V1 = {"read": "rs", "write": "cud", "*": "cruds"}
_SCOPE = re.compile(
    r"(?P<level>patient|user|system)/(?P<type>\*|[A-Z][A-Za-z]{2,63})"
    r"\.(?P<letters>read|write|\*|[cruds]{1,5})(?:\?(?P<query>.*))?"
)
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*(:[A-Za-z][A-Za-z-]*)?")
# What RFC 6749 3.3 lets stand in a scope and a search value commonly has; the rest is escaped.
_PLAIN = ":/|,$;@!*()'._-~+?"


class InvalidScope(ValueError):
    """The scope is not one that this server grants."""


@dataclass(frozen=True, slots=True)
class Scope:
    """One granted scope. `resource_type` is a FHIR type or `*`; `letters` a subset of cruds.

    Of the resources it admits those that meet every constraint, each a search parameter (with its
    modifier) and its value; they are sorted and distinct, so equal scopes are equal.
    """

    level: str
    resource_type: str
    letters: str
    constraints: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "constraints", tuple(sorted(set(self.constraints))))

    @classmethod
    def parse(cls, text: str) -> Scope:
        """Read one scope. Raises InvalidScope, naming what would be accepted."""
        match = _SCOPE.fullmatch(text)
        if match is None:
            raise InvalidScope(
                f"scope {text[:128]!r} is not understood; accepted: <patient, user or system>/"
                f"<type or *>.<letters of {LETTERS!r} in that order>[?<parameter>=<value>&...], "
                f"e.g. system/Observation.rs, and {', '.join(CONTEXT_SCOPES)}"
            )
        letters = _V1.get(match["letters"], match["letters"])
        if [LETTERS.index(x) for x in letters] != sorted({LETTERS.index(x) for x in letters}):
            raise InvalidScope(f"scope {text!r}: letters must be in the order {LETTERS!r}")
        if match["query"] is None:
            return cls(match["level"], match["type"], letters)
        if match["letters"] in _V1:
            raise InvalidScope(f"scope {text[:128]!r}: only letters, as in .rs, go with '?'")
        return cls(match["level"], match["type"], letters, _constraints(text, match["query"]))

    def permits(self, resource_type: str, letter: str) -> bool:
        """Whether it admits the letter on some resource of the type."""
        return letter in self.letters and self.resource_type in (ANY_TYPE, resource_type)

    def covers(self, other: Scope) -> bool:
        """Whether it admits everything that `other` admits."""
        return (
            self.level == other.level
            and self.resource_type in (ANY_TYPE, other.resource_type)
            and set(other.letters) <= set(self.letters)
            and set(self.constraints) <= set(other.constraints)
        )

    def meet(self, other: Scope) -> Scope | None:
        """What both admit, None when that is nothing."""
        letters = "".join(x for x in self.letters if x in other.letters)
        types = {self.resource_type, other.resource_type} - {ANY_TYPE}
        if self.level != other.level or not letters or len(types) > 1:
            return None
        # Constraints are all required, so those of both are.
        constraints = self.constraints + other.constraints
        return Scope(self.level, types.pop() if types else ANY_TYPE, letters, constraints)

    def __str__(self) -> str:
        text = f"{self.level}/{self.resource_type}.{self.letters}"
        if self.constraints:
            pairs = (f"{name}={quote(value, safe=_PLAIN)}" for name, value in self.constraints)
            text += "?" + "&".join(pairs)
        return text


@dataclass(frozen=True, slots=True)
class Scopes:
    """All scopes of a token: `granted` are about resources, `context` are the others.

    An empty list permits nothing.
    """

    granted: tuple[Scope, ...]
    context: tuple[str, ...] = ()

    @classmethod
    def parse(cls, text: str, *, ignore_unknown: bool = False) -> Scopes:
        """Read a space-separated list. Raises InvalidScope for what this server never grants.

        An app may ask for more than a server has (RFC 6749 3.3): with `ignore_unknown` that is
        left out.
        """
        granted: list[Scope] = []
        context: list[str] = []
        parts = list(dict.fromkeys(text.split()))
        if len(parts) > MAX_SCOPES:
            raise InvalidScope(f"{len(parts)} scopes; at most {MAX_SCOPES}")
        for part in parts:
            if part in CONTEXT_SCOPES:
                context.append(part)
                continue
            try:
                granted.append(Scope.parse(part))
            except InvalidScope:
                if not ignore_unknown:
                    raise
        return cls(tuple(dict.fromkeys(granted)), tuple(context))

    def __bool__(self) -> bool:
        return bool(self.granted or self.context)

    def has(self, context_scope: str) -> bool:
        """Whether `openid`, `launch/patient` or another scope without a resource is among them."""
        return context_scope in self.context

    def permits(self, resource_type: str, letter: str) -> bool:
        """Whether some scope of any level admits the letter on some resource of the type."""
        return any(scope.permits(resource_type, letter) for scope in self.granted)

    def permitting(self, resource_type: str, letter: str) -> tuple[Scope, ...]:
        """The scopes that admit the letter on some resource of the type."""
        return tuple(scope for scope in self.granted if scope.permits(resource_type, letter))

    def of_level(self, level: Level) -> Scopes:
        """The resource scopes of one level."""
        return Scopes(tuple(scope for scope in self.granted if scope.level == level))

    def narrowed_to(self, wanted: Scopes) -> Scopes:
        """What of `wanted` these scopes cover: asking narrows, it never widens."""
        both = [
            met
            for asked in wanted.granted
            for own in self.granted
            if (met := own.meet(asked)) is not None
        ]
        return Scopes(_simplified(both), tuple(x for x in wanted.context if x in self.context))

    def __str__(self) -> str:
        return " ".join([*self.context, *map(str, self.granted)])


def _constraints(text: str, query: str) -> tuple[tuple[str, str], ...]:
    found: list[tuple[str, str]] = []
    for pair in query.split("&"):
        name, _, value = pair.partition("=")
        if not _NAME.fullmatch(name) or not value:
            raise InvalidScope(
                f"scope {text[:128]!r}: {pair[:64]!r} is not <search parameter>[:modifier]=<value>"
            )
        try:
            found.append((name, unquote(value, errors="strict")))
        except UnicodeDecodeError:
            raise InvalidScope(f"scope {text[:128]!r}: {pair[:64]!r} is not UTF-8") from None
    if len(found) > MAX_CONSTRAINTS:
        raise InvalidScope(f"scope {text[:128]!r}: at most {MAX_CONSTRAINTS} parameters")
    return tuple(found)


def _simplified(scopes: Iterable[Scope]) -> tuple[Scope, ...]:
    """The same scopes in fewer: letters of one kind together, and none that another covers."""
    letters: dict[tuple[str, str, tuple[tuple[str, str], ...]], set[str]] = {}
    for scope in scopes:
        key = (scope.level, scope.resource_type, scope.constraints)
        letters.setdefault(key, set()).update(scope.letters)
    merged = [
        Scope(level, resource_type, "".join(x for x in LETTERS if x in found), constraints)
        for (level, resource_type, constraints), found in letters.items()
    ]
    return tuple(
        scope
        for scope in merged
        if not any(other.covers(scope) and other != scope for other in merged)
    )
